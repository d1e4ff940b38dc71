"""Bounds from many runs: scores of runs with the canary, and of runs without it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fjx import _validate
from fjx.privacy.auditing._bound import LowerBound, as_scores, powers, require_levels


def clopper_pearson(
    inside: Any,
    outside: Any,
    *,
    delta: float,
    significance: float = 0.05,
    threshold: float | None = None,
) -> LowerBound:
    """Lower bound on epsilon of any mechanism, from the error rates of "score > t" over many runs.

    (epsilon, delta)-privacy requires TPR <= e^epsilon FPR + delta and TNR <= e^epsilon FNR + delta.
    Hence

    epsilon >= max(log((TPR - delta) / FPR), log((1 - FPR - delta) / (1 - TPR))).

    The rates are replaced by exact binomial confidence limits (Clopper and Pearson): TPR from below and
    FPR from above, each at half the significance.

    *Threshold.*  Choosing the best of many thresholds on the same scores would be wrong without a
    correction.  Without ``threshold`` several tests are made, and the significance is divided by their
    number.  Their thresholds t are the j-th largest score outside, j = 1, 4, 16, ..., and, with signs
    and roles exchanged, the j-th smallest score inside.  Such a t depends on the scores, and its limit
    is still exact (proof in :doc:`/privacy_proofs`).  No scores are held out.

    Guarantees:
        - P[bound > epsilon] <= ``significance`` for independent scores of any distribution, ties
          included.

    Args:
        inside: scores of runs with the canary.
        outside: scores of runs without it.
        delta: delta in [0, 1).
        significance: probability of a wrong bound, in (0, 1).
        threshold: threshold t, if it was chosen without looking at these scores.

    Returns:
        A :class:`LowerBound`; 0 if nothing was found.

    Raises:
        TypeError: the scores are not numbers.
        ValueError: there are no scores, a score is not finite, or a number is out of range.

    Examples:
        >>> import numpy as np
        >>> bound = clopper_pearson(np.ones(1000), np.zeros(1000), delta=1e-5, threshold=0.5)
        >>> print(bound)
        epsilon >= 5.600 at delta = 1e-05, significance 0.05
        (Clopper-Pearson, 1000 scores with the canary and 1000 without, 1 threshold)

    References:
        Jagielski, Ullman, Oprea, *Auditing Differentially Private Machine Learning: How Private is
        Private SGD?*, NeurIPS 2020 (arXiv:2006.07709).
        Nasr, Song, Thakurta, Papernot, Carlini, *Adversary Instantiation: Lower Bounds for
        Differentially Private Machine Learning*, S&P 2021 (arXiv:2101.04535).
    """

    def bound(rates: _Rates) -> float:
        return max(
            _log_ratio(rates.true_positive - delta, rates.false_positive),
            _log_ratio(1 - rates.false_positive - delta, 1 - rates.true_positive),
        )

    inside, outside = as_scores("inside", inside), as_scores("outside", outside)
    require_levels(delta, significance, at_least=0)
    return _best("Clopper-Pearson", bound, inside, outside, delta, significance, threshold)


def gaussian_dp(
    inside: Any,
    outside: Any,
    *,
    delta: float,
    significance: float = 0.05,
    threshold: float | None = None,
) -> LowerBound:
    r"""Lower bound on epsilon of a *Gaussian* mechanism from its mu; much tighter, valid for no other.

    No test that tells N(mu, 1) from N(0, 1) has more power than Phi(Phi^-1(FPR) + mu).  Hence

    .. math:: \mu \ge \Phi^{-1}(\mathrm{TPR}) - \Phi^{-1}(\mathrm{FPR})

    with the confidence limits of the rates and the thresholds of :func:`clopper_pearson`.  mu becomes
    epsilon by delta(epsilon) = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu).  T rounds in
    which a client certainly takes part are one Gaussian of mu = sqrt(T) / z.  Subsampled rounds are not.

    Guarantees:
        - For a mu-GDP mechanism (a Gaussian one with any z), the bound exceeds the epsilon of mu with
          probability at most ``significance``.
        - It is no proof against a claim for another mechanism.

    Args:
        inside, outside, significance, threshold: as in :func:`clopper_pearson`.
        delta: delta in (0, 1).

    Returns:
        A :class:`LowerBound`; 0 if nothing was found.

    Raises:
        TypeError: as in :func:`clopper_pearson`.
        ValueError: as in :func:`clopper_pearson`.

    Examples:
        >>> import numpy as np
        >>> noise = np.random.default_rng(0).standard_normal((2, 10_000))
        >>> bound = gaussian_dp(noise[0] + 1, noise[1], delta=1e-5)
        >>> 3.8 < bound < 4.377  # mu = 1
        True

    References:
        Dong, Roth, Su, *Gaussian Differential Privacy*, JRSS B 2022 (arXiv:1905.02383), theorem 2.7 and
        corollary 2.13.
        Nasr, Hayes, Steinke, Balle, Tramer, Jagielski, Carlini, Terzis, *Tight Auditing of
        Differentially Private Machine Learning*, USENIX Security 2023 (arXiv:2302.07956).
    """

    def bound(rates: _Rates) -> float:
        from scipy import special

        mu = special.ndtri(rates.true_positive) - special.ndtri(rates.false_positive)
        return epsilon_of_mu(float(mu), delta)

    inside, outside = as_scores("inside", inside), as_scores("outside", outside)
    require_levels(delta, significance, above=0)
    return _best("Gaussian DP", bound, inside, outside, delta, significance, threshold)


class _Rates(NamedTuple):
    """Confidence limits of a test: true positive rate from below, false positive rate from above."""

    true_positive: float
    false_positive: float


class _Counts(NamedTuple):
    """Outcome of a test: true positives among the scores inside, false positives among those outside."""

    true_positives: int
    inside: int
    false_positives: int
    outside: int

    def rates(self, significance: float) -> _Rates:
        """Clopper-Pearson limits: quantiles of Beta, at half the significance each."""
        from scipy import special

        hits, n, false, m = self
        level = significance / 2
        lower = special.betaincinv(hits, n - hits + 1, level) if hits > 0 else 0.0
        upper = special.betaincinv(false + 1, m - false, 1 - level) if false < m else 1.0
        return _Rates(float(lower), float(upper))


def _best(
    method: str,
    bound: Callable[[_Rates], float],
    inside: np.ndarray,
    outside: np.ndarray,
    delta: float,
    significance: float,
    threshold: float | None,
) -> LowerBound:
    """Best bound of all tests, with the significance divided between them."""
    if threshold is None:
        tests = [*_by_rank(inside, outside), *_by_rank(-outside, -inside)]
    else:
        _validate.number("threshold", threshold)
        tests = [_test(inside, outside, threshold)]
    value = max(bound(test.rates(significance / len(tests))) for test in tests)
    return LowerBound(
        max(value, 0.0),
        delta=float(delta),
        significance=float(significance),
        words=f"{method}, {inside.size} scores with the canary and {outside.size} without, "
        f"{len(tests)} threshold{'s' if len(tests) > 1 else ''}",
    )


def _test(inside: np.ndarray, outside: np.ndarray, threshold: float) -> _Counts:
    hits, false = (int(np.sum(x > threshold)) for x in (inside, outside))
    return _Counts(hits, inside.size, false, outside.size)


def _by_rank(inside: np.ndarray, outside: np.ndarray) -> list[_Counts]:
    """Tests with the j-th largest score outside as threshold, for j = 1, 4, 16, ...

    The j - 1 larger scores count as false positives even if some are equal to the threshold.
    """
    descending = np.sort(outside)[::-1]
    return [
        _test(inside, outside, descending[j - 1])._replace(false_positives=j - 1)
        for j in powers(outside.size)
    ]


def _log_ratio(a: float, b: float) -> float:
    """Logarithm log(a / b), or 0 if it bounds nothing."""
    return math.log(a / b) if a > b > 0 else 0.0


def epsilon_of_mu(mu: float, delta: float) -> float:
    import dp_accounting

    return float(dp_accounting.get_epsilon_gaussian(1 / mu, delta)) if mu > 0 else 0.0
