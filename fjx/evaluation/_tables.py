"""Tables of a sweep: means, intervals, and what is better than everything else."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fjx._base import Key
from fjx.evaluation._intervals import Interval, bootstrap_interval, paired_difference, t_interval
from fjx.evaluation._rows import _shown
from fjx.evaluation._sweep import Sweep


def latex_table(
    sweep: Sweep,
    metrics: str | Sequence[str] | Mapping[str, str],
    *,
    lower_is_better: Sequence[str] | None = None,
    percent: bool = False,
    level: float = 0.95,
    key: Key | None = None,
) -> str:
    r"""LaTeX table of the last scores of a sweep: mean and interval over seeds, a row for each setting.

    It needs the package ``booktabs``.

    Guarantees:
        - A mean is bold only if it is better than that of every other setting, and each paired interval
          of the differences excludes zero.  The level is that of one comparison, and not corrected
          for their number.
        - One seed has no interval, and nothing is bold then.

    Args:
        sweep: result of :func:`sweep`.
        metrics: name of a score or metric, several names, or their titles by name.
        lower_is_better: names of metrics whose least mean is the best; by default those that end in
            "loss" or "error".
        percent: True to multiply all numbers by 100.
        level: level of the intervals.
        key: key of bootstrap intervals; by default they are Student's.

    Returns:
        The table, to be printed or written to a file.  Digits are those that the interval warrants.

    Raises:
        KeyError: there is no such score or metric.
        ValueError: a metric is no scalar of a run.

    Examples:
        >>> import numpy as np
        >>> from fjx import evaluation, simulation
        >>> accuracy = np.array([[0.70, 0.72, 0.71], [0.80, 0.81, 0.82]])[..., None]
        >>> history = simulation.History({}, {"accuracy": accuracy}, np.full((2, 3, 1), 10))
        >>> result = evaluation.Sweep(
        ...     ({"lr": 0.1}, {"lr": 0.3}), (0, 1, 2), history, (None, None), np.ones((2, 3)), None, 1)
        >>> print(evaluation.latex_table(result, "accuracy", percent=True))
        \begin{tabular}{lr}
        \toprule
        lr & accuracy (\%) \\
        \midrule
        0.1 & $71.0 \pm 2.5$ \\
        0.3 & $\mathbf{81.0 \pm 2.5}$ \\
        \bottomrule
        \end{tabular}
    """
    if isinstance(metrics, str):
        metrics = [metrics]
    titles = dict(metrics) if isinstance(metrics, Mapping) else {name: name for name in metrics}
    columns = []
    for name in titles:
        values = scalars(sweep, name) * (100 if percent else 1)
        is_cost = name.endswith(("loss", "error"))
        lower = is_cost if lower_is_better is None else name in lower_is_better
        winner = best(values, lower=lower, level=level, key=key)
        cells = [_cell(interval_of(x, level, key), key is not None) for x in values]
        columns.append([_math(cell, i == winner) for i, cell in enumerate(cells)])
    names = list(sweep.settings[0])
    unit = r" (\%)" if percent else ""
    head = [*map(_escaped, names), *(f"{_escaped(title)}{unit}" for title in titles.values())]
    lines = [
        [*(_escaped(_shown(setting[name])) for name in names), *cells]
        for setting, *cells in zip(sweep.settings, *columns, strict=True)
    ]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'l' * len(names)}{'r' * len(titles)}}}",
            r"\toprule",
            _line(head),
            r"\midrule",
            *map(_line, lines),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def interval_of(values: np.ndarray, level: float, key: Key | None) -> Interval:
    """Student's interval over the last axis, or a bootstrap's if there is a key."""
    if key is None:
        return t_interval(values, level=level)
    return bootstrap_interval(values, key=jax.random.clone(key), level=level)


def scalars(sweep: Sweep, metric: str) -> np.ndarray:
    """Last values of a metric, ``f64[settings, seeds]``.

    Raises:
        KeyError: there is no such metric.
        ValueError: it is no scalar.
    """
    values = sweep.final(metric)
    if values.ndim != 2:
        raise ValueError(
            f"{metric!r} is no number of a run but has shape {list(values.shape[2:])}: reduce it "
            "inside evaluate, or on sweep.final, as evaluation.worst and evaluation.f1 do"
        )
    return values.astype(np.float64)


def best(values: np.ndarray, *, lower: bool, level: float, key: Key | None) -> int | None:
    """Place of the setting that is better than every other one, each paired interval without zero."""
    ran = np.isfinite(values).all(axis=1)  # a setting that diverged is worse than any number
    if len(values) < 2 or values.shape[1] < 2 or not ran.any():
        return None
    means = np.where(ran, values.mean(axis=1), np.inf if lower else -np.inf)
    first = int(means.argmin() if lower else means.argmax())
    for i, other in enumerate(values):
        if i == first or not ran[i]:
            continue
        fresh = None if key is None else jax.random.clone(key)
        gap = paired_difference(values[first], other, level=level, key=fresh)
        if not (gap.high < 0 if lower else gap.low > 0):
            return None
    return first


def _cell(interval: Interval, ends: bool) -> str:
    mean, low, high = (float(x) for x in interval[:3])
    if math.isnan(mean):
        return ""
    if math.isinf(mean):
        return r"\infty" if mean > 0 else r"-\infty"
    if math.isnan(low):
        number, _, power = f"{mean:.4g}".partition("e")
        return rf"{number} \cdot 10^{{{int(power)}}}" if power else number
    digits = _digits(max(high - mean, mean - low))
    if ends:
        return f"{mean:.{digits}f}\\ [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{mean:.{digits}f} \\pm {high - mean:.{digits}f}"


def _digits(half: float) -> int:
    """Decimals that leave two digits of half the interval; four if it has no length."""
    if half <= 0 or not math.isfinite(half):
        return 4
    return max(0, 1 - math.floor(math.log10(half)))


def _math(cell: str, bold: bool) -> str:
    if not cell:
        return "--"
    return rf"$\mathbf{{{cell}}}$" if bold else f"${cell}$"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{x: f"\\{x}" for x in "&%$#_{}"},
}


def _escaped(text: Any) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in str(text))
