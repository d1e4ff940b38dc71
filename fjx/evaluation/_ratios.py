"""Ratios such as recall, F1 and AUC, of counts that were added over examples and clients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fjx import _validate


class Auc(NamedTuple):
    """Area under the ROC curve, from a histogram.

    Attributes:
        value: estimate, in which two scores of one bin are a tie.
        error: largest distance to the area of the scores themselves.
    """

    value: Any
    error: Any


def auc(histogram: Any) -> Auc:
    r"""Area under the ROC curve: the probability that a positive example has the larger score.

    Let p_i and n_i be the positives and negatives in bin i, and P and N their sums.  Pairs in two bins
    are in the right order or the wrong one, and the order of pairs in one bin is not known:

    .. math:: \sum_i \frac{p_i (\sum_{j<i} n_j + n_i / 2)}{P N} \pm \sum_i \frac{p_i n_i}{2 P N}

    Guarantees:
        - The area of the scores themselves, with ties counted half, is within ``error`` of ``value``.
        - Histograms of clients are added before.  A mean of clients' areas is another number, because
          it compares no pair of examples of two clients.

    Args:
        histogram: counts ``[..., 2, bins + 1]`` of :func:`score_histogram`.

    Returns:
        An :class:`Auc`; it is NaN if one class has no example, or if a score is NaN.

    Raises:
        ValueError: ``histogram`` has another shape.

    Examples:
        >>> import numpy as np
        >>> from fjx import evaluation
        >>> area = evaluation.auc(np.array([[3, 1, 0], [0, 2, 0]]))
        >>> float(area.value), float(area.error)
        (0.875, 0.125)
    """
    of, xp = _table(histogram)
    if of.ndim < 2 or of.shape[-2] != 2:
        raise ValueError(
            f"histogram must have the shape [..., 2, bins + 1] of score_histogram, got {of.shape}"
        )
    negative, positive = of[..., 0, :-1], of[..., 1, :-1]
    pairs = xp.sum(negative, axis=-1) * xp.sum(positive, axis=-1)
    pairs = xp.where(xp.any(of[..., -1] > 0, axis=-1), 0.0, pairs)  # a NaN is in no order
    same = xp.sum(positive * negative, axis=-1) / 2
    below = xp.sum(positive * (xp.cumsum(negative, axis=-1) - negative), axis=-1)
    return Auc(_ratio(xp, below + same, pairs), _ratio(xp, same, pairs))


def accuracy(table: Any) -> Any:
    """Fraction of the examples that are predicted right.

    Args:
        table: confusion matrices ``[..., classes, classes]``, added over examples and clients.

    Returns:
        An array ``[...]``; NaN if there are no examples.

    Examples:
        >>> import numpy as np
        >>> from fjx import evaluation
        >>> float(evaluation.accuracy(np.array([[3, 1], [0, 4]])))
        0.875
    """
    right, _, real, _ = _parts(table)
    _, xp = _table(table)
    return _ratio(xp, xp.sum(right, axis=-1), xp.sum(real, axis=-1))


def recall(table: Any, *, average: str | None = "macro") -> Any:
    """Recall: the part of the examples of a class that are predicted as that class.

    Args:
        table: confusion matrices ``[..., classes, classes]``, added over examples and clients.
        average: ``"macro"`` for the mean over classes, in which classes that do not occur are left
            out; ``"micro"`` to add the counts of all classes first; None for each class.

    Returns:
        An array ``[...]``, or ``[..., classes]``; NaN where there is nothing to recall.

    Raises:
        ValueError: ``table`` is not square, or ``average`` is another word.

    Examples:
        >>> import numpy as np
        >>> from fjx import evaluation
        >>> evaluation.recall(np.array([[3, 1], [0, 4]]), average=None).tolist()
        [0.75, 1.0]
    """
    return _averaged(table, average, lambda right, wrong, real, said: (right, real))


def precision(table: Any, *, average: str | None = "macro") -> Any:
    """Precision: the part of the predictions of a class that are right.

    Args:
        table: confusion matrices ``[..., classes, classes]``, added over examples and clients.
        average: ``"macro"``, ``"micro"`` or None, as in :func:`recall`; a class that is never
            predicted is left out.

    Returns:
        An array ``[...]``, or ``[..., classes]``; NaN where nothing is predicted.

    Raises:
        ValueError: ``table`` is not square, or ``average`` is another word.

    Examples:
        >>> import numpy as np
        >>> from fjx import evaluation
        >>> evaluation.precision(np.array([[3, 1], [0, 4]]), average=None).tolist()
        [1.0, 0.8]
    """
    return _averaged(table, average, lambda right, wrong, real, said: (right, said))


def f1(table: Any, *, average: str | None = "macro") -> Any:
    """F1: twice the right ones over all that are of the class or are predicted as it.

    It is the harmonic mean of precision and recall, from their counts.

    Args:
        table: confusion matrices ``[..., classes, classes]``, added over examples and clients.
        average: ``"macro"``, ``"micro"`` or None, as in :func:`recall`; a class that neither occurs
            nor is predicted is left out.

    Returns:
        An array ``[...]``, or ``[..., classes]``.

    Raises:
        ValueError: ``table`` is not square, or ``average`` is another word.

    Examples:
        >>> import numpy as np
        >>> from fjx import evaluation
        >>> evaluation.f1(np.array([[3, 1], [0, 4]]), average=None).round(3).tolist()
        [0.857, 0.889]
    """
    return _averaged(table, average, lambda right, wrong, real, said: (2 * right, real + said))


def _averaged(table: Any, average: str | None, parts: Callable[..., tuple[Any, Any]]) -> Any:
    if average not in ("macro", "micro", None):
        raise ValueError(f'average must be "macro", "micro" or None, got {average!r}')
    _, xp = _table(table)
    above, below = parts(*_parts(table))
    if average == "micro":
        return _ratio(xp, xp.sum(above, axis=-1), xp.sum(below, axis=-1))
    each = _ratio(xp, above, below)
    if average is None:
        return each
    defined = below > 0
    total = xp.sum(xp.where(defined, each, 0.0), axis=-1)
    return _ratio(xp, total, xp.sum(defined, axis=-1).astype(total.dtype))


def _parts(table: Any) -> tuple[Any, Any, Any, Any]:
    """For each class: the right ones, the wrong ones, those of the class, those predicted as it."""
    of, xp = _table(table)
    if of.ndim < 2 or of.shape[-1] != of.shape[-2]:
        raise ValueError(
            f"table must be a confusion matrix [..., classes, classes], got shape {list(of.shape)}; "
            "a mean of ratios cannot be averaged again: add the counts of evaluation.confusion"
        )
    right = xp.diagonal(of, axis1=-2, axis2=-1)
    real, said = xp.sum(of, axis=-1), xp.sum(of, axis=-2)
    return right, real - right, real, said


def _table(table: Any) -> tuple[Any, Any]:
    """Counts as floats, and the module that computes with them."""
    if not _validate.concrete(table):
        return jnp.asarray(table).astype(jnp.float32), jnp
    return np.asarray(table, np.float64), np


def _ratio(xp: Any, above: Any, below: Any) -> Any:
    """A quotient; NaN, which is selected and not computed, of nothing."""
    some = below > 0
    quotient = above / xp.where(some, below, xp.ones_like(below))
    return xp.where(some, quotient, xp.full_like(quotient, np.nan))[()]
