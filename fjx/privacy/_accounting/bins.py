"""Privacy of a client that takes part in one random bin of rounds: a Renyi curve, and losses."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_LARGEST_ORDER = 64  # moments of larger orders are costly, and the unsampled curve is as good there
_POINTS = 1000  # of a variable; more are tighter, and cost their square
_DEVIATIONS = 9.0  # of the normal variable, beyond which its exponential counts as infinite
_ROUNDING = (
    1e-13,
    1e-6,
)  # absolute and relative errors that a profile is raised by; float64 makes fewer
_NOTHING = 1e-20  # losses whose mass is smaller in all are counted as infinite


def bins_curve(bins: int, shift: float) -> Callable[[np.ndarray], np.ndarray]:
    """Curve of Gaussian noise in every round, with a client in one random bin of rounds.

    The curve is finite at integer orders from 2 to 64 and inf elsewhere.  Let L be the number of bins,
    and s the norm of the client's contributions to the rounds of its bin, in standard deviations of the
    noise.  The run is post-processing of one draw of P, with the client, or of Q, without it:

    P = (1/L) sum_b N(s e_b, I),    Q = N(0, I)  in R^L.

    The curve at order a is the larger of D_a(P || Q) and this bound on D_a(Q || P):

    (a - 1) s^2 / (2 L) + s^2 / 2.

    The derivation of both directions is in :doc:`/privacy_proofs`.

    References:
        Feldman, Shenfeld, *Privacy Amplification by Random Allocation*, 2025 (arXiv:2502.08202).
        Chua, Ghazi, Harrison, Leeman, Kamath, Kumar, Manurangsi, Sinha, Zhang, *Balls-and-Bins Sampling
        for DP-SGD*, AISTATS 2025 (arXiv:2412.16802), for the dominating pair.
    """

    def curve(orders: np.ndarray) -> np.ndarray:
        from scipy import special

        whole = (orders == np.round(orders)) & (orders >= 2) & (orders <= _LARGEST_ORDER)
        result = np.full(orders.shape, np.inf)
        if not whole.any():
            return result
        most = int(orders[whole].max())
        c = np.arange(most + 1)
        series = _power(c * (c - 1) * shift**2 / 2 - special.gammaln(c + 1), bins)
        moments = series + special.gammaln(c + 1) - c * np.log(bins)
        a = orders[whole]
        there = moments[a.astype(int)] / (a - 1)
        back = (a - 1) * shift**2 / (2 * bins) + shift**2 / 2
        result[whole] = np.maximum(there, back)
        return result

    return curve


def _power(log_series: np.ndarray, exponent: int) -> np.ndarray:
    """Truncated power of a power series, given and returned as logarithms of its coefficients."""
    result = np.full(log_series.shape, -np.inf)
    result[0] = 0.0
    while exponent:
        if exponent & 1:
            result = _product(result, log_series)
        log_series, exponent = _product(log_series, log_series), exponent >> 1
    return result


def _product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Truncated product of two power series, given as logarithms of their coefficients."""
    return np.array([np.logaddexp.reduce(x[: n + 1] + y[n::-1]) for n in range(len(x))])


# --------------------------------------------------------------------------------------------------
# Privacy loss distribution
# --------------------------------------------------------------------------------------------------


class _Atoms(NamedTuple):
    """Variable with finitely many values."""

    values: np.ndarray
    masses: np.ndarray


def bins_distribution(bins: int, shift: float, *, grid: float) -> Any:
    """Privacy loss distribution of the pair P, Q of :func:`bins_curve`, rounded up.

    Under Q the likelihood ratio dP/dQ is the mean S of L independent variables W = exp(s x - s^2 / 2),
    with x standard normal.  Both profiles of the pair are means of convex functions of S:

    E[max(S - e^epsilon, 0)],    E[max(1 - e^epsilon S, 0)].

    They do not fall if the mass of a variable is moved to two neighbouring points with the same mean.
    So W is moved to a few points, and each sum of two variables as well.  Sums of 2, 4, 8, ... variables
    follow from each other.  The largest values of W are cut, and counted as an infinite loss.

    Args:
        bins: number of bins L.
        shift: norm s of the client's contributions to the rounds of its bin, in deviations of the noise;
            at most 20.
        grid: step of the privacy loss.

    Returns:
        A ``PrivacyLossDistribution`` of dp-accounting.

    References:
        Chua et al., AISTATS 2025 (arXiv:2412.16802), for the pair, which is sampled there.
        Doroshenko et al., PoPETs 2022 (arXiv:2207.04380), for points that preserve the mean.
    """
    from dp_accounting.pld import pld_pmf, privacy_loss_distribution

    ratio, mass, infinite = _mean_ratio(bins, shift)

    def rounded(loss: np.ndarray, here: np.ndarray, there: np.ndarray, infinite: float) -> Any:
        """Distribution of a loss in rising order, with the masses of its atoms under both laws."""
        above, below = (np.append(np.cumsum(part[::-1])[::-1], 0.0) for part in (here, there))
        most = loss[(above[:-1] > _NOTHING) & np.isfinite(loss)][-1]
        least = loss[np.searchsorted(np.cumsum(here), _NOTHING)]
        low, high = math.floor(least / grid) - 1, math.ceil(most / grid) + 1
        x = np.arange(low, high + 1) * grid
        first = np.searchsorted(loss, x, side="right")
        deltas = above[first] - np.exp(x) * below[first] + infinite
        deltas = np.clip(deltas * (1 + _ROUNDING[1]) + _ROUNDING[0], 0.0, 1.0)
        return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(
            grid, low, high, np.minimum.accumulate(deltas)
        )

    with np.errstate(divide="ignore"):
        loss = np.log(ratio)
    return privacy_loss_distribution.PrivacyLossDistribution(
        rounded(loss, ratio * mass, mass, infinite),
        rounded(-loss[::-1], mass[::-1], (ratio * mass)[::-1], 0.0),
    )


@functools.lru_cache(maxsize=8)
def _mean_ratio(bins: int, shift: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Values and masses of S, and the part of its mean that is cut."""
    one, infinite = _likelihood_ratio(shift)
    total = _sum_of(bins, one)
    return total.values / bins, total.masses, infinite


def _likelihood_ratio(shift: float) -> tuple[_Atoms, float]:
    """W on few points, and the part of its mean that is cut.

    E[max(k - W, 0)] and E[max(W - k, 0)] are linear between the points.  The mass on a point is the
    change of their slope there; each has its digits on its own side of the mean.
    """
    from scipy import special

    x = np.linspace(-_DEVIATIONS, _DEVIATIONS + shift, _POINTS)
    points = np.append(0.0, np.exp(shift * x - shift**2 / 2))
    near, far = (np.append(-np.inf, x), np.append(-np.inf, x - shift))
    below = points * special.ndtr(near) - special.ndtr(far)
    above = special.ndtr(-far) - points * special.ndtr(-near)
    rising = np.diff(np.concatenate([[0.0], np.diff(below) / np.diff(points), [1.0]]))
    falling = -np.diff(np.concatenate([[1.0], -np.diff(above) / np.diff(points), [0.0]]))
    masses = np.maximum(np.where(points <= 1, rising, falling), 0.0)
    return _Atoms(points, masses / masses.sum()), float(above[-1])


def _sum_of(count: int, one: _Atoms) -> _Atoms:
    """Sum of independent copies, by its binary digits."""
    total, power = None, one
    while True:
        if count & 1:
            total = power if total is None else _sum(total, power)
        count >>= 1
        if not count:
            assert total is not None
            return total
        power = _sum(power, power)


def _sum(a: _Atoms, b: _Atoms) -> _Atoms:
    """Sum of two independent variables, moved to few points with the same mean."""
    values = np.add.outer(a.values, b.values).ravel()
    masses = np.multiply.outer(a.masses, b.masses).ravel()
    mean, high = values @ masses, values[masses > 1e-30].max()
    spread = 9 * math.sqrt((values - mean) ** 2 @ masses)
    low = max(values[masses > 1e-30].min(), 1e-20 * mean)
    ends = [values.min(), values.max()]
    near = np.linspace(max(low, mean - spread), min(high, mean + spread), _POINTS // 3)
    # Every scale matters if the variables are heavy-tailed: large sums are single large variables.
    points = np.unique(np.concatenate([ends, near, np.geomspace(low, high, 2 * _POINTS // 3)]))
    left = np.clip(np.searchsorted(points, values, side="right") - 1, 0, points.size - 2)
    right_part = masses * (values - points[left]) / (points[left + 1] - points[left])
    moved = np.bincount(left, masses - right_part, points.size)
    return _Atoms(points, moved + np.bincount(left + 1, right_part, points.size))
