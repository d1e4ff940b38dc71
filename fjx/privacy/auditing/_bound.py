"""Result of an audit, and the checks that all audits share."""

import decimal
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from fjx import _validate

_RATIO = 4  # between the numbers that are tried; each try costs significance


class LowerBound(float):
    """Lower bound on epsilon that states its assumptions and confidence.

    If the mechanism were (epsilon, delta)-differentially private, the bound would exceed epsilon with
    probability at most ``significance``.  It is a float in every respect; ``str`` gives the whole
    :meth:`statement`.

    Attributes:
        delta: delta of the claim that is audited.
        significance: probability of a wrong bound, over all tests that were tried.
        words: the method, and the number of scores that it saw.
    """

    delta: float
    significance: float
    words: str

    def __new__(cls, value: float, **basis: Any) -> "LowerBound":
        self = super().__new__(cls, value)
        vars(self).update(basis)
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[float], dict[str, Any]]:
        return (float(self),), vars(self)

    def statement(self) -> str:
        """Return the bound in words, rounded down to four digits."""
        digits = decimal.Context(prec=4, rounding=decimal.ROUND_FLOOR)
        epsilon = f"{digits.create_decimal_from_float(self):f}" if math.isfinite(self) else "inf"
        return (
            f"epsilon >= {epsilon} at delta = {self.delta:g}, "
            f"significance {self.significance:g} ({self.words})"
        )

    __str__ = statement


def as_scores(name: str, values: Any) -> np.ndarray:
    """Vector of finite numbers, in float64.

    Raises:
        TypeError: the values are not numbers.
        ValueError: the values are not a vector, there are none, or one is not finite.
    """
    scores = np.asarray(values)
    if scores.dtype.kind not in "fiu" and not jnp.issubdtype(scores.dtype, jnp.floating):
        raise TypeError(f"{name} must be numbers, got {scores.dtype}")
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"{name} must be one score for each run or canary, got {scores.shape}")
    scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        raise ValueError(
            f"{name} must be finite, got {int((~np.isfinite(scores)).sum())} that are not: a run "
            "that diverged has released something too; give it a score, do not drop it"
        )
    return scores


def require_levels(delta: float, significance: float, **bounds: float) -> None:
    """Raise unless ``delta`` is below 1 and within ``bounds``, and ``significance`` is in (0, 1).

    Raises:
        ValueError: one is out of range.
    """
    _validate.number("delta", delta, below=1, **bounds)
    _validate.number("significance", significance, above=0, below=1)


def powers(most: int) -> list[int]:
    """Powers 1, 4, 16, ... up to ``most``."""
    return [_RATIO**k for k in range(most.bit_length()) if _RATIO**k <= most]
