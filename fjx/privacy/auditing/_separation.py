"""Measures of how well an attack separates; none of them bounds epsilon."""

import math
from typing import Any

import numpy as np

from fjx import _validate
from fjx.privacy.auditing._bound import as_scores


def auroc(inside: Any, outside: Any) -> float:
    """Area under the ROC curve: P[score inside > score outside], with ties counting half.

    Args:
        inside: scores of runs (or canaries) with the canary.
        outside: scores without it.

    Returns:
        The area.  It is 0.5 if the attack sees nothing, and 1 if it is always right.

    Raises:
        TypeError: the scores are not numbers.
        ValueError: there are no scores, or one is not finite.

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
    """Largest true positive rate of a threshold whose false positive rate is at most ``fpr``.

    An attack that is right about few canaries, and sure of them, is a leak that no average shows.

    Args:
        inside: scores of runs (or canaries) with the canary.
        outside: scores without it.
        fpr: largest false positive rate allowed, in [0, 1].

    Returns:
        The true positive rate, an estimate from the same scores.

    Raises:
        TypeError: the scores are not numbers.
        ValueError: there are no scores, one is not finite, or ``fpr`` is out of range.

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
