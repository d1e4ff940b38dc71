"""How well an attack separates; no bound on anything."""

import math
from typing import Any

import numpy as np

from fjx import _validate
from fjx.privacy.auditing._bound import as_scores


def auroc(inside: Any, outside: Any) -> float:
    """The area under the ROC curve: P[score inside > score outside], ties counting half.

    Args:
        inside: the scores of runs (or canaries) with the canary.
        outside: the scores without it.

    Returns:
        0.5 where the attack sees nothing, 1 where it is always right.

    Raises:
        TypeError: not numbers.
        ValueError: no scores, or not finite ones.

    Examples:
        >>> auroc([1.0, 2.0, 3.0], [0.0, 2.0])
        0.75
    """
    from scipy import stats

    inside, outside = as_scores("inside", inside), as_scores("outside", outside)
    ranks = stats.rankdata(np.concatenate([inside, outside]))
    won = ranks[: inside.size].sum() - inside.size * (inside.size + 1) / 2
    return float(won / (inside.size * outside.size))


def tpr_at_fpr(inside: Any, outside: Any, *, fpr: float) -> float:
    """The most true positives that a threshold finds whose false positives are at most ``fpr``.

    An attack that is right about few and sure of them is a leak, and no average shows it.

    Args:
        inside: the scores of runs (or canaries) with the canary.
        outside: the scores without it.
        fpr: the rate of false positives allowed, in [0, 1].

    Returns:
        The rate of true positives, an estimate from the same scores.

    Raises:
        TypeError: not numbers.
        ValueError: no scores, or not finite ones; ``fpr`` out of range.

    Examples:
        >>> tpr_at_fpr([1.0, 2.0, 3.0, 4.0], [0.0, 1.5, 2.5, 0.0], fpr=0.25)
        0.75

    References:
        Carlini, Chien, Nasr, Song, Terzis, Tramer, *Membership Inference Attacks From First
        Principles*, S&P 2022 (arXiv:2112.03570).
    """
    inside, outside = as_scores("inside", inside), as_scores("outside", outside)
    _validate.number("fpr", fpr, at_least=0, at_most=1)
    allowed = math.floor(fpr * outside.size)
    if allowed == outside.size:
        return 1.0
    return float(np.mean(inside > np.sort(outside)[::-1][allowed]))
