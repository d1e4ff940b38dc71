"""Renyi curves for integer noise and for sampling, where dp-accounting has no event.

D2 and D1 denote the sensitivity of a vector of integers: neighbours differ by at most D2 in the L2 norm
and by at most D1 in the L1 norm.  D1 <= min(sqrt(d) D2, D2^2), because the absolute value of an integer
is at most its square.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

Curve = Callable[[np.ndarray], np.ndarray]


def rounded_norm(norm: float, *, dimension: int, beta: float) -> float:
    """L2 norm that conditional rounding guarantees for a vector of norm c, rounded to integers.

    min(c + sqrt(d), sqrt(c^2 + d/4 + sqrt(2 ln(1/beta)) (c + sqrt(d)/2))).  The first term always holds.
    The second holds with probability at least 1 - beta, so rounding until it holds takes at most 1 / (1
    - beta) tries on average.

    References:
        Kairouz, Liu, Steinke, ICML 2021 (arXiv:2102.06387), theorem 1.
    """
    certain = norm + math.sqrt(dimension)
    if beta == 0:
        return certain
    likely = norm + math.sqrt(dimension) / 2
    square = norm**2 + dimension / 4 + math.sqrt(2 * math.log(1 / beta)) * likely
    return min(certain, math.sqrt(square))


def rounded_sum(norm: float, dimension: int) -> float:
    """Largest L1 norm of integers of the given L2 norm."""
    return norm * min(math.sqrt(dimension), norm)


def discrete_gaussians(l2: float, l1: float, *, sd: float, shares: int, dimension: int) -> Curve:
    """Curve of the sum of n discrete Gaussians of parameter s, which is not exactly one of n s^2.

    Take D2 and D1 in units of sqrt(n) s, and tau = 10 sum_{k=1}^{n-1} exp(-2 pi^2 s^2 k / (k + 1)).  At
    order a the curve is

    min(a D2^2 / 2 + tau d, a / 2 (D2^2 + 2 D1 tau + tau^2 d), a / 2 (D2 + sqrt(d) tau)^2).

    It is known at orders of at least 2.

    References:
        Kairouz, Liu, Steinke, ICML 2021 (arXiv:2102.06387), theorem 1.
    """
    total = math.sqrt(shares) * sd
    l2, l1, tau = l2 / total, l1 / total, _distance(sd, shares)
    per_order = min(
        l2**2 + 2 * l1 * tau + tau**2 * dimension, (l2 + math.sqrt(dimension) * tau) ** 2
    )

    def rdp(orders: np.ndarray) -> np.ndarray:
        orders = np.asarray(orders, float)
        bounds = np.minimum(orders / 2 * l2**2 + tau * dimension, orders / 2 * per_order)
        return np.where(orders >= 2, bounds, np.inf)

    return rdp


@functools.cache
def _distance(sd: float, shares: int) -> float:
    """Distance tau of the sum from a discrete Gaussian."""
    k = np.arange(1, shares)
    return float(10 * np.sum(np.exp(-2 * (math.pi * sd) ** 2 * (k / (k + 1)))))


def skellam(l2: float, l1: float, *, variance: float) -> Curve:
    """Curve of Skellam noise of variance v on integers, for any number of clients that share it.

    a D2^2 / (2 v) + min(((2 a - 1) D2^2 + 6 D1) / (4 v^2), 3 D1 / (2 v)) at integer orders a.

    References:
        Agarwal, Kairouz, Liu, NeurIPS 2021 (arXiv:2110.04995), theorem 3.5.
    """

    def rdp(orders: np.ndarray) -> np.ndarray:
        orders = np.asarray(orders, float)
        quadratic = ((2 * orders - 1) * l2**2 + 6 * l1) / (4 * variance**2)
        excess = np.minimum(quadratic, 3 * l1 / (2 * variance))
        known = (orders >= 2) & (orders == np.floor(orders))
        return np.where(known, orders * l2**2 / (2 * variance) + excess, np.inf)

    return rdp


def poisson_binomial(
    low: float, other: float, *, trials: int, shares: int, dimension: int
) -> Curve:
    """Curve of sums of Binomial(m, p_i), if one client's p moves between 1 - low and ``other``.

    It is d times the larger divergence D_a between the two sums, in either direction, with all other
    clients at p = low or all at p = 1 - low.

    That these are the worst others is partly proved and partly searched.  A Bernoulli variable of any p
    in between is a mixture of the two ends, and divergence is quasi-convex; hence in the worst case
    every trial is at one of the ends.  That all of them are at the *same* end was found by searching all
    splits, for all small n and m.

    Examples:
        >>> curve = poisson_binomial(0.25, 0.5, trials=1, shares=2, dimension=1)
        >>> curve(np.array([2.0])).round(4).tolist()  # log(0.75 + 0.4 + 0.0833)
        [0.2097]

    References:
        Chen, Ozgur, Kairouz, ICML 2022 (arXiv:2207.09916), for the reduction to the ends.
    """
    from scipy import special, stats

    def logs(count: int, p: float) -> np.ndarray:
        return stats.binom.logpmf(np.arange(count + 1), count, p)

    def plus(others: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Logarithm of a convolution, computed so that no probability underflows."""
        padded = np.pad(others, len(own) - 1, constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(own))
        return special.logsumexp(windows + own[::-1], axis=1)

    def divergence(order: float) -> float:
        if order <= 1:
            return math.inf
        pairs = [(p, q) for b in bases for p, q in (b, b[::-1])]
        sums = [special.logsumexp(order * p + (1 - order) * q) for p, q in pairs]
        return max(0.0, dimension * max(sums) / (order - 1))

    others = (logs((shares - 1) * trials, p) for p in (low, 1 - low))
    bases = [(plus(o, logs(trials, 1 - low)), plus(o, logs(trials, other))) for o in others]
    return np.vectorize(divergence, otypes=[float])


def poisson_bound(curve: Curve, rate: float, *, symmetric: bool) -> Curve:
    """Curve of a mechanism on Poisson cohorts, from its curve without sampling.

    The curve is finite at integer orders and inf elsewhere.  Let q be the sampling rate and e the curve
    of the mechanism.  At integers a >= 2, under add-or-remove-one,

    (a - 1) e'(a) <= log((1 - q)^(a-1) (a q - q + 1) + C(a, 2) q^2 (1 - q)^(a-2) exp(e(2))
    + w sum_{l=3}^a C(a, l) q^l (1 - q)^(a-l) exp((l - 1) e(l))).

    For general mechanisms w = 3.  For symmetric noise w = 1: the divergence of the mixture from the
    mechanism without the client is then the larger of the two, and the sum is its binomial expansion.
    The proof is in :doc:`/privacy_proofs`.

    References:
        Zhu, Wang, ICML 2019, for the bound with w = 3.
        Mironov, Talwar, Zhang, 2019 (arXiv:1908.10530), theorem 5, for densities with w = 1.
    """
    log_q, log_1q = math.log(rate), math.log1p(-rate)

    def terms(a: int, order: np.ndarray, log_choose: np.ndarray, each: np.ndarray) -> np.ndarray:
        rest = log_choose + order * log_q + (a - order) * log_1q + (order - 1) * each
        if not symmetric:
            rest[1:] += math.log(3)
        return np.append(rest, (a - 1) * log_1q + math.log1p((a - 1) * rate))

    return _at_integers(curve, terms)


def fixed_size_bound(curve: Curve, rate: float) -> Curve:
    """Curve of any mechanism on cohorts of fixed size, from its curve without sampling.

    The curve is finite at integer orders and inf elsewhere.  Let q be the fraction of the population in
    a cohort and e the curve of the mechanism.  At integers a >= 2, under replace-one,

    (a - 1) e'(a) <= log(1 + q^2 C(a, 2) min(4 (exp(e(2)) - 1), 2 exp(e(2)))
    + 2 sum_{j=3}^a q^j C(a, j) exp((j - 1) e(j))).

    References:
        Wang, Balle, Kasiviswanathan, AISTATS 2019 (arXiv:1808.00087), theorem 9.
    """

    def terms(a: int, order: np.ndarray, log_choose: np.ndarray, each: np.ndarray) -> np.ndarray:
        weights = math.log(2) + (order - 1) * each
        with np.errstate(divide="ignore"):
            # In logarithms, exp(e) - 1 = exp(e) (1 - exp(-e)) does not overflow.
            weights[0] = each[0] + min(math.log(2), math.log(4) + np.log(-np.expm1(-each[0])))
        return np.append(log_choose + order * math.log(rate) + weights, 0.0)

    return _at_integers(curve, terms)


def _at_integers(
    curve: Curve, terms: Callable[[int, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
) -> Curve:
    """Curve log(sum exp(terms)) / (a - 1) at integer orders a >= 2, and inf elsewhere.

    ``terms`` is called with a, the orders j = 2, ..., a, log C(a, j), and the values of ``curve`` at j.
    """

    def bound(orders: np.ndarray) -> np.ndarray:
        from scipy import special

        whole = (orders == np.round(orders)) & (orders >= 2)
        result = np.full(orders.shape, np.inf)
        if not whole.any():
            return result
        every = np.arange(2, int(orders[whole].max()) + 1)
        values = np.asarray(curve(every.astype(np.float64)), np.float64)
        for i in np.flatnonzero(whole):
            a = int(orders[i])
            order = every[: a - 1]
            log_choose = -np.log(a + 1) - special.betaln(a - order + 1, order + 1)
            logs = terms(a, order, log_choose, values[: a - 1])
            result[i] = special.logsumexp(logs) / (a - 1)
        return np.maximum(result, 0)

    return bound
