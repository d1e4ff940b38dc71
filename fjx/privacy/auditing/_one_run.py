"""Bound from one run with many canaries, each included by its own coin."""

import math
from typing import Any

import numpy as np

from fjx import _validate
from fjx.privacy.auditing._bound import LowerBound, as_scores, powers, require_levels


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
    scores, included = as_scores("scores", scores), np.asarray(included)
    if included.dtype != bool:
        raise TypeError(f"included must be bools, one for each canary, got {included.dtype}")
    if included.shape != scores.shape:
        raise ValueError(
            f"included must have one bool for each of {scores.size} scores, got {included.shape}"
        )
    require_levels(delta, significance, at_least=0)
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
        found.append((_least_epsilon(m, r, v, delta, significance / len(tried)), v, r))
    epsilon, v, r = max(found)
    best = f", best of {len(tried)} numbers" if len(tried) > 1 else ""
    return LowerBound(
        epsilon,
        delta=float(delta),
        significance=float(significance),
        words=f"one run, {v} of {r} guesses of {m} canaries{best}",
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
