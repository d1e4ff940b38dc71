"""Bounds from one run with many canaries, each included by its own coin."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fjx import _validate
from fjx.privacy.auditing._bound import LowerBound, as_scores, powers, require_levels
from fjx.privacy.auditing._runs import epsilon_of_mu


def one_run(
    scores: Any,
    included: Any,
    *,
    delta: float,
    significance: float = 0.05,
    guesses: int | None = None,
) -> LowerBound:
    """Lower bound on epsilon from one run with m canaries, each included by its own fair coin.

    The auditor guesses r coins: "in" for the r/2 highest scores, "out" for the r/2 lowest.  It abstains
    from the others.  Let v guesses be right.  Under (epsilon, delta)-privacy, with W ~ Binomial(r, p)
    and p = e^epsilon / (1 + e^epsilon),

    P[at least v right] <= P[W >= v] + 2 m delta max_{1 <= i <= m} P[v > W >= v - i] / i,

    for any dependence between the canaries.  The bound is the least epsilon at which the right-hand side
    exceeds the significance.  Equal scores are guessed so that as many guesses as possible are wrong.

    *Number of guesses.*  r must not depend on the coins.  Without ``guesses``, r = m, m/4, m/16, ... are
    all tried, and the significance is divided by their number.

    Guarantees:
        - P[bound > epsilon] <= ``significance``, if the coins were fair, and independent of each other
          and of everything else that the mechanism saw.

    Args:
        scores: one score for each canary.
        included: booleans, one for each canary: True if it took part, as from
            ``jax.random.bernoulli(key, 0.5, (m,))``.
        delta: delta in [0, 1).  The bound becomes weak if m delta is not small against the significance.
        significance: probability of a wrong bound, in (0, 1).
        guesses: number of guesses r, if it was chosen without looking at the scores and coins.

    Returns:
        A :class:`LowerBound`; 0 if nothing was found.

    Raises:
        TypeError: ``scores`` are not numbers, or ``included`` are not booleans.
        ValueError: their lengths differ, a score is not finite, or a number is out of range.

    Examples:
        >>> import numpy as np
        >>> included = np.arange(100) % 2 == 0  # let us say that coins fell like this
        >>> print(one_run(included.astype(float), included, delta=0.0, guesses=100))
        epsilon >= 3.492 at delta = 0, significance 0.05 (one run, 100 of 100 guesses of 100 canaries)

    References:
        Steinke, Nasr, Jagielski, *Privacy Auditing with One (1) Training Run*, NeurIPS 2023
        (arXiv:2305.08846), theorem 5.2 and algorithm 1.
    """
    require_levels(delta, significance, at_least=0)

    def bound(m: int, r: int, v: int, level: float) -> float:
        return _least_epsilon(m, r, v, delta, level)

    return _best_of_guesses("one run", bound, scores, included, delta, significance, guesses)


def one_run_gaussian_dp(
    scores: Any,
    included: Any,
    *,
    delta: float,
    significance: float = 0.05,
    guesses: int | None = None,
) -> LowerBound:
    """Lower bound on epsilon of a *Gaussian* mechanism from one run with m canaries.

    The guesses are those of :func:`one_run`.  The bound uses the whole tradeoff curve of a mu-GDP
    mechanism in place of one pair (epsilon, delta), which is tighter, and valid for no other mechanism.
    Let p_j be the probability that j of r guesses are right.  For every k, with sums over j >= k,

    (1/m) sum_j j p_j <= Phi(Phi^-1((1/m) sum_j (r - j + 1) p_{j-1}) + mu).

    If at least v right guesses had the probability ``significance``, these inequalities would force
    probability on v - 1, v - 2, ... as well.  mu is refuted if more than 1 is forced in all.  The bound
    is the epsilon of the largest mu that is refuted.  The proof is in :doc:`/privacy_proofs`.

    Guarantees:
        - For a mu-GDP mechanism (a Gaussian one with any z), the bound exceeds the epsilon of mu with
          probability at most ``significance``, if the coins were fair, and independent of each other and
          of everything else that the mechanism saw.
        - It is no proof against a claim for another mechanism.

    Args:
        scores, included, significance, guesses: as in :func:`one_run`.
        delta: delta in (0, 1).

    Returns:
        A :class:`LowerBound`; 0 if nothing was found.

    Raises:
        TypeError: as in :func:`one_run`.
        ValueError: as in :func:`one_run`.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> included = rng.random(10_000) < 0.5
        >>> scores = included + rng.standard_normal(10_000)  # mu = 1
        >>> bounds = [bound(scores, included, delta=1e-5) for bound in (one_run, one_run_gaussian_dp)]
        >>> print(*[f"{bound:.1f}" for bound in bounds])  # 4.4 is the truth
        1.9 2.4

    References:
        Mahloujifar, Melis, Chaudhuri, *Auditing f-Differential Privacy in One Run*, ICML 2025
        (arXiv:2410.22235).
        Dong, Roth, Su, *Gaussian Differential Privacy*, JRSS B 2022 (arXiv:1905.02383).
    """
    require_levels(delta, significance, above=0)

    def bound(m: int, r: int, v: int, level: float) -> float:
        return epsilon_of_mu(_largest_refuted(m, r, v, level), delta)

    return _best_of_guesses(
        "one run, Gaussian DP", bound, scores, included, delta, significance, guesses
    )


def _best_of_guesses(
    words: str,
    bound: Callable[[int, int, int, float], float],
    scores: Any,
    included: Any,
    delta: float,
    significance: float,
    guesses: int | None,
) -> LowerBound:
    """Largest ``bound(m, r, v, significance)`` over the numbers of guesses r, of which v are right."""
    scores, included = as_scores("scores", scores), np.asarray(included)
    if included.dtype != bool:
        raise TypeError(f"included must be bools, one for each canary, got {included.dtype}")
    if included.shape != scores.shape:
        raise ValueError(
            f"included must have one bool for each of {scores.size} scores, got {included.shape}"
        )
    m = scores.size
    if guesses is None:
        tried = [max(m // power, 1) for power in powers(m)]
    else:
        tried = [_validate.static_integer("guesses", guesses, at_least=1, at_most=m)]
    # Sorted from the highest score down.  Among equal scores "out" comes first, so that guesses err.
    right = included[np.lexsort((included, -scores))]
    found = []
    for r in tried:
        low = r // 2
        v = int(right[: r - low].sum() + low - right[m - low :].sum())
        found.append((bound(m, r, v, significance / len(tried)), v, r))
    epsilon, v, r = max(found)
    best = f", best of {len(tried)} numbers" if len(tried) > 1 else ""
    return LowerBound(
        epsilon,
        delta=float(delta),
        significance=float(significance),
        words=f"{words}, {v} of {r} guesses of {m} canaries{best}",
    )


def _least_epsilon(m: int, r: int, v: int, delta: float, significance: float) -> float:
    """Least epsilon under which ``v`` of ``r`` right guesses are not too improbable."""
    from scipy import optimize, stats

    def excess(epsilon: float) -> float:
        right = stats.binom(r, 1 / (1 + math.exp(-epsilon)))
        below = np.cumsum(right.pmf(np.arange(v - 1, -1, -1)))  # P[v > W >= v - i], i = 1, ..., v
        worst = float(np.max(below / np.arange(1, v + 1))) if v else 0.0
        return float(right.sf(v - 1)) + 2 * m * delta * worst - significance

    # Small steps find the first crossing, so later ones do not matter.
    high = 0.0
    while excess(high) <= 0:
        high += 0.25
    if high == 0:
        return 0.0
    return float(optimize.brentq(excess, high - 0.25, high, xtol=1e-9))


def _largest_refuted(m: int, r: int, v: int, significance: float) -> float:
    """Largest mu that ``v`` of ``r`` right guesses refute, to 1e-6 from below; 0 if there is none."""
    if not _refuted(0.0, m, r, v, significance):
        return 0.0
    low, high = 0.0, 1.0
    while _refuted(high, m, r, v, significance):
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _refuted(middle, m, r, v, significance) else (low, middle)
    return low


def _refuted(mu: float, m: int, r: int, v: int, significance: float) -> bool:
    """True if a mu-GDP mechanism has fewer than v right guesses, but for that significance.

    ``hits`` and ``misses`` are (1/m) sum_j j p_j and (1/m) sum_j (r - j) p_j over j >= k, at least.
    """
    from scipy import special

    hits, misses = significance * v / m, significance * (r - v) / m
    for k in range(v - 1, -1, -1):
        forced = float(special.ndtr(special.ndtri(min(hits, 1.0)) - mu))
        if forced <= misses:
            break  # nothing changes any more
        hits, misses = hits + k / (r - k) * (forced - misses), forced
        if hits + misses > r / m:
            return True
    return hits + misses > r / m
