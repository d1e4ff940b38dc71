"""Statistics of clients' scores: how a model serves the best, the worst and everybody between."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fjx import _validate

Scores = Any
"""Numbers ``[..., clients]`` of NumPy or JAX; NaN for a client that has none."""


class ClientStatistics(NamedTuple):
    """Summary of the scores of all clients, made by :func:`client_statistics`.

    Attributes:
        mean: mean over clients; each client counts the same.
        worst: mean over the worst clients, as in :func:`worst`.
        best: mean over as many of the best.
        variance: variance over clients, as in :func:`variance`.
        gini: Gini coefficient, as in :func:`gini`; NaN if a score is negative.
        quantiles: quantiles, ``[..., q]``.
        clients: number of clients that have a score.
    """

    mean: Any
    worst: Any
    best: Any
    variance: Any
    gini: Any
    quantiles: Any
    clients: Any


def client_statistics(
    scores: Scores,
    *,
    fraction: float = 0.1,
    lower_is_worse: bool = True,
    q: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 0.9),
) -> ClientStatistics:
    """Mean, extremes, variance, Gini coefficient and quantiles of clients' scores.

    Arrays of NumPy are computed in float64 on the host.  Traced arrays stay in the program, so that
    the statistics can be part of an ``evaluate`` for more clients than a history should keep.

    Args:
        scores: scores ``[..., clients]``, as :func:`fjx.simulation.per_client` gives them: one row an
            evaluation.  A client with NaN is left out.
        fraction: fraction of the clients in ``worst`` and in ``best``.
        lower_is_worse: True for a score such as accuracy, False for one such as a loss.
        q: levels of the quantiles.

    Returns:
        A :class:`ClientStatistics` of arrays ``[...]``; all are NaN if no client has a score.

    Raises:
        ValueError: ``scores`` has no axis of clients, or a level is out of range.

    Examples:
        >>> import numpy as np
        >>> from fjx import evaluation
        >>> of = evaluation.client_statistics(np.array([0.5, 0.9, 0.7, np.nan]), fraction=0.3)
        >>> [round(float(x), 3) for x in (of.mean, of.worst, of.variance, of.gini, of.clients)]
        [0.7, 0.5, 0.027, 0.127, 3.0]
    """
    of, xp = _floats(scores)
    return ClientStatistics(
        mean=_mean(xp, of),
        worst=worst(of, fraction, lower_is_worse=lower_is_worse),
        best=worst(of, fraction, lower_is_worse=not lower_is_worse),
        variance=variance(of),
        gini=_gini(xp, of),
        quantiles=quantiles(of, q),
        clients=xp.sum(~xp.isnan(of), axis=-1),
    )


def quantiles(scores: Scores, q: Sequence[float]) -> Any:
    """Quantiles over clients, interpolated linearly between two of them.

    Args:
        scores: scores ``[..., clients]``; a client with NaN is left out.
        q: levels, each from 0 to 1.

    Returns:
        An array ``[..., len(q)]``; NaN if no client has a score.

    Raises:
        ValueError: ``scores`` has no axis of clients, or a level is out of range.

    Examples:
        >>> import numpy as np
        >>> from fjx import evaluation
        >>> evaluation.quantiles(np.array([1.0, 4.0, 2.0, np.nan, 3.0]), [0.0, 0.5]).tolist()
        [1.0, 2.5]
    """
    levels: Any = [_validate.static_number("q", level, at_least=0, at_most=1) for level in q]
    of, xp = _floats(scores)
    ordered = xp.sort(of, axis=-1)  # NaN last
    count = xp.sum(~xp.isnan(of), axis=-1)[..., None]
    levels = xp.asarray(levels, dtype=of.dtype).reshape((1,) * (of.ndim - 1) + (-1,))
    at = levels * xp.maximum(count - 1, 0).astype(of.dtype)
    low = xp.floor(at).astype(np.int32)
    high = xp.minimum(low + 1, xp.maximum(count - 1, 0)).astype(np.int32)
    below, above = (xp.take_along_axis(ordered, i, axis=-1) for i in (low, high))
    part = at - low.astype(of.dtype)
    # The upper neighbour counts only if the quantile lies above the lower one: it may be infinite.
    return below + xp.where(part > 0, part * (above - below), xp.zeros_like(part))


def worst(scores: Scores, fraction: float = 0.1, *, lower_is_worse: bool = True) -> Any:
    """Mean score of the worst fraction of the clients.

    A client that belongs to the fraction in part counts in part, so that the mean is continuous in
    ``fraction``: the worst 10 % of 25 clients are two clients and half of the third.

    Args:
        scores: scores ``[..., clients]``; a client with NaN is left out, and is not of the fraction.
        fraction: fraction of the clients, above 0 and at most 1.
        lower_is_worse: True for a score such as accuracy, False for one such as a loss.

    Returns:
        An array ``[...]``; NaN if no client has a score.

    Raises:
        ValueError: ``scores`` has no axis of clients, or ``fraction`` is out of range.

    Examples:
        >>> import numpy as np
        >>> from fjx import evaluation
        >>> float(evaluation.worst(np.arange(1.0, 11.0), 0.2))
        1.5

    References:
        Li, Sanjabi, Beirami, Smith, *Fair Resource Allocation in Federated Learning*, ICLR 2020
        (arXiv:1905.10497), table 1, for whole numbers of clients.
    """
    fraction = _validate.static_number("fraction", fraction, above=0, at_most=1)
    of, xp = _floats(scores)
    ordered = xp.sort(of if lower_is_worse else -of, axis=-1)
    mass = fraction * xp.sum(~xp.isnan(of), axis=-1, keepdims=True).astype(of.dtype)
    place = xp.arange(of.shape[-1], dtype=of.dtype).reshape((1,) * (of.ndim - 1) + (-1,))
    part = xp.clip(mass - place, 0.0, 1.0)
    # A fraction of less than one client is that part of the worst one.
    total = xp.sum(xp.where(part > 0, part * ordered, xp.zeros_like(part)), axis=-1)
    mean = _over(xp, total, mass[..., 0])
    return mean if lower_is_worse else -mean


def variance(scores: Scores) -> Any:
    """Variance over clients: the mean squared deviation from their mean.

    The clients are all there are and no sample, so that it is divided by their number.

    Args:
        scores: scores ``[..., clients]``; a client with NaN is left out.

    Returns:
        An array ``[...]``; NaN if no client has a score.

    Raises:
        ValueError: ``scores`` has no axis of clients.

    Examples:
        >>> import numpy as np
        >>> from fjx import evaluation
        >>> float(evaluation.variance(np.array([1.0, 3.0, np.nan])))
        1.0
    """
    of, xp = _floats(scores)
    return _mean(xp, (of - _mean(xp, of)[..., None]) ** 2)


def gini(scores: Scores) -> Any:
    r"""Gini coefficient over clients: 0 if all are equal, near 1 if one has everything.

    .. math:: G = \frac{\sum_{i,j} |x_i - x_j|}{2 n \sum_i x_i}

    With ``history.participation(num_clients)`` it measures how unevenly clients took part.

    Args:
        scores: numbers ``[..., clients]``, none negative; a client with NaN is left out.

    Returns:
        An array ``[...]``; NaN if no client has a score, and 0 if all scores are zero.

    Raises:
        ValueError: ``scores`` has no axis of clients, or a score is negative.  A traced score
            cannot raise: the result is NaN.

    Examples:
        >>> import numpy as np
        >>> from fjx import evaluation
        >>> float(evaluation.gini(np.array([0, 0, 0, 4])))
        0.75
    """
    of, xp = _floats(scores)
    if xp is np and np.any(of < 0):
        raise ValueError(
            f"scores must not be negative for a Gini coefficient, but one is {np.nanmin(of):.4g}; "
            "variance and quantiles are defined for all numbers"
        )
    return _gini(xp, of)


def _gini(xp: Any, of: Any) -> Any:
    """The coefficient from the sorted scores: the sum of (2 i - n - 1) x_i over n times their sum."""
    there = ~xp.isnan(of)
    count = xp.sum(there, axis=-1, keepdims=True).astype(of.dtype)
    place = xp.arange(1, of.shape[-1] + 1, dtype=of.dtype).reshape((1,) * (of.ndim - 1) + (-1,))
    ordered = xp.sort(of, axis=-1)
    ordered = xp.where(xp.isnan(ordered), xp.zeros_like(ordered), ordered)
    spread = xp.sum((2 * place - count - 1) * ordered, axis=-1)
    total = count[..., 0] * xp.sum(ordered, axis=-1)
    equal = xp.where(count[..., 0] > 0, xp.zeros_like(total), xp.full_like(total, np.nan))
    found = xp.where(total > 0, _over(xp, spread, total), equal)
    return xp.where(xp.any(of < 0, axis=-1), xp.full_like(total, np.nan), found)


def _floats(scores: Scores) -> tuple[Any, Any]:
    """Scores as floats, and the module that computes with them: NumPy in float64, or JAX if traced."""
    if np.ndim(scores) == 0:
        raise ValueError("scores must have an axis of clients, got a scalar")
    if not _validate.concrete(scores):
        return jnp.asarray(scores).astype(jnp.float32), jnp
    return np.asarray(scores, np.float64), np


def _mean(xp: Any, of: Any) -> Any:
    """Mean over the clients that have a score."""
    there = ~xp.isnan(of)
    total = xp.sum(xp.where(there, of, xp.zeros_like(of)), axis=-1)
    return _over(xp, total, xp.sum(there, axis=-1).astype(of.dtype))


def _over(xp: Any, total: Any, count: Any) -> Any:
    """A quotient; NaN, which is selected and not computed, where the divisor is zero."""
    some = count != 0
    quotient = total / xp.where(some, count, xp.ones_like(count))
    return xp.where(some, quotient, xp.full_like(quotient, np.nan))
