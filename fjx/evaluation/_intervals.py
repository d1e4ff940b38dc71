"""Intervals of a mean over runs, and of the mean difference of runs that share their seeds."""

from typing import Any, NamedTuple

import jax
import numpy as np

from fjx import _validate
from fjx._base import Key


class Interval(NamedTuple):
    """A mean over runs and its interval.

    Attributes:
        mean: mean over the runs.
        low: lower end; NaN if there are fewer than two runs.
        high: upper end.
        runs: number of runs.
        level: level of the interval.
    """

    mean: Any
    low: Any
    high: Any
    runs: int
    level: float

    def __str__(self) -> str:
        if np.ndim(self.mean):
            return f"intervals of {np.shape(self.mean)} means over {self.runs} runs"
        return (
            f"{float(self.mean):.4g} ({self.level:.0%} interval {float(self.low):.4g} to "
            f"{float(self.high):.4g}, {self.runs} run{'' if self.runs == 1 else 's'})"
        )


def t_interval(values: Any, *, level: float = 0.95, axis: int = -1) -> Interval:
    r"""Student's interval of a mean.

    With n runs of mean m and sample standard deviation s (divided by n - 1) it is

    .. math:: m \pm t_{n-1, (1 + level) / 2} \, s / \sqrt{n}

    Guarantees:
        - It covers the mean with probability ``level`` if runs are independent and normal.
        - One run has no interval: its ends are NaN.  A run that is NaN makes everything NaN, because a
          mean over the runs that did not fail would be a mean of something else.  An infinite mean has
          no interval.

    Args:
        values: one number a run.
        level: probability that the interval covers the mean, between 0 and 1.
        axis: axis of the runs.

    Returns:
        An :class:`Interval`.

    Raises:
        ValueError: ``level`` is out of range, or ``values`` has no axis.

    Examples:
        >>> from fjx import evaluation
        >>> print(evaluation.t_interval([0.70, 0.72, 0.71]))
        0.71 (95% interval 0.6852 to 0.7348, 3 runs)
    """
    from scipy import special

    level, runs = _checked(level, values, axis)
    mean, count = _mean(runs), runs.shape[-1]
    if count < 2:
        return _without_ends(mean, count, level)
    with np.errstate(invalid="ignore"):  # a run that is infinite has no deviation
        deviation = runs.std(axis=-1, ddof=1)
    half = special.stdtrit(count - 1, (1 + level) / 2) * deviation / count**0.5
    return Interval(mean, mean - half, mean + half, count, level)


def bootstrap_interval(
    values: Any, *, key: Key, level: float = 0.95, resamples: int = 10_000, axis: int = -1
) -> Interval:
    """Percentile-bootstrap interval of a mean.

    Runs are drawn with replacement, as many as there are, ``resamples`` times.  The ends are
    quantiles of the means that were drawn.

    It assumes no normal distribution, but it is too short for few runs: it covers the mean of normal
    runs with probability 0.84 instead of 0.95 with 5 of them, and 0.90 with 10.  Prefer
    :func:`t_interval` below about 20.

    Guarantees:
        - The same key gives the same interval.
        - One run has no interval: its ends are NaN.  A run that is NaN makes everything NaN.

    Args:
        values: one number a run.
        key: key of the draws.
        level: nominal probability that the interval covers the mean, between 0 and 1.
        resamples: number of draws.
        axis: axis of the runs.

    Returns:
        An :class:`Interval`.

    Raises:
        TypeError: a legacy key.
        ValueError: a number is out of range, or ``values`` has no axis.

    Examples:
        >>> import jax
        >>> from fjx import evaluation
        >>> runs = [0.70, 0.72, 0.71, 0.69, 0.74]
        >>> found = evaluation.bootstrap_interval(runs, key=jax.random.key(0))
        >>> round(float(found.low), 2), round(float(found.high), 2)
        (0.7, 0.73)

    References:
        Efron, Tibshirani, *An Introduction to the Bootstrap*, 1993, section 13.3.
    """
    _validate.key("key", key)
    resamples = _validate.static_integer("resamples", resamples, at_least=1)
    level, runs = _checked(level, values, axis)
    mean, count = _mean(runs), runs.shape[-1]
    if count < 2:
        return _without_ends(mean, count, level)
    drawn = np.asarray(jax.random.randint(key, (resamples, count), 0, count))
    # How often each run was drawn, so that the means are one product of matrices.
    place = (drawn + count * np.arange(resamples)[:, None]).ravel()
    times = np.bincount(place, minlength=resamples * count).reshape(resamples, count) / count
    tails = (1 - level) / 2, (1 + level) / 2
    # A NaN or an infinity would spread to other means by the product.
    finite = np.where(np.isfinite(runs), runs, 0.0)
    means = np.where(np.isfinite(mean)[..., None], finite @ times.T, np.nan)
    low, high = np.quantile(means, tails, axis=-1)
    return Interval(mean, low, high, count, level)


def paired_difference(
    a: Any, b: Any, *, level: float = 0.95, key: Key | None = None, axis: int = -1
) -> Interval:
    """Interval of the mean of ``a - b``, run by run.

    Runs of one seed share the initial model, the cohorts and the batches.  What a seed does to both is
    not in their difference, so that its interval is often much shorter than those of ``a`` and ``b``.

    Args:
        a: one number a run.
        b: numbers of the same seeds, in the same order.
        level: level of the interval.
        key: key of a bootstrap; by default the interval is Student's.
        axis: axis of the runs.

    Returns:
        An :class:`Interval`.

    Raises:
        ValueError: ``a`` and ``b`` do not have as many runs, or ``level`` is out of range.

    Examples:
        >>> from fjx import evaluation
        >>> print(evaluation.paired_difference([0.70, 0.80, 0.90], [0.69, 0.78, 0.88]))
        0.01667 (95% interval 0.002324 to 0.03101, 3 runs)
    """
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    if a.shape != b.shape:
        raise ValueError(
            f"a and b must have the same runs, got shapes {list(a.shape)} and {list(b.shape)}"
        )
    difference = a - b
    if key is None:
        return t_interval(difference, level=level, axis=axis)
    return bootstrap_interval(difference, key=key, level=level, axis=axis)


def _checked(level: float, values: Any, axis: int) -> tuple[float, np.ndarray]:
    level = _validate.static_number("level", level, above=0, below=1)
    runs = np.asarray(values, np.float64)
    if runs.ndim == 0:
        raise ValueError("values must have an axis of runs, got a scalar; one run is [value]")
    return level, np.moveaxis(runs, axis, -1)


def _without_ends(mean: np.ndarray, count: int, level: float) -> Interval:
    nothing = np.full(mean.shape, np.nan)
    return Interval(mean, nothing, nothing, count, level)


def _mean(runs: np.ndarray) -> np.ndarray:
    """Mean over the last axis; NaN of no runs."""
    if runs.shape[-1] == 0:
        return np.full(runs.shape[:-1], np.nan)
    return np.asarray(runs.mean(axis=-1))
