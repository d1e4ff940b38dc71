"""What an audit finds, and what all audits check."""

import decimal
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from fjx import _validate

_RATIO = 4  # between what is tried; each try costs significance


class LowerBound(float):
    """A lower bound on epsilon that knows what it rests on.

    Were the mechanism (epsilon, delta)-private, the bound would exceed epsilon with a probability of at
    most ``significance``.  It is a float in every respect; ``str`` gives the whole :meth:`statement`.

    Attributes:
        delta: of the claim that it bounds.
        significance: the probability of a bound that is wrong; over all tests that were tried.
        words: the method, and how many scores it saw.
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
        """The bound in words, rounded down to four digits."""
        digits = decimal.Context(prec=4, rounding=decimal.ROUND_FLOOR)
        epsilon = f"{digits.create_decimal_from_float(self):f}" if math.isfinite(self) else "inf"
        return (
            f"epsilon >= {epsilon} at delta = {self.delta:g}, "
            f"significance {self.significance:g} ({self.words})"
        )

    __str__ = statement


def as_scores(name: str, values: Any) -> np.ndarray:
    """A vector of finite numbers, in float64."""
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
    _validate.number("delta", delta, below=1, **bounds)
    _validate.number("significance", significance, above=0, below=1)


def powers(most: int) -> list[int]:
    """1, 4, 16, ... up to ``most``."""
    return [_RATIO**k for k in range(most.bit_length()) if _RATIO**k <= most]
