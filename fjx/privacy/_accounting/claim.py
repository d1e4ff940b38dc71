"""What an epsilon is a claim about."""

import decimal
import math
from typing import Any, Literal

from fjx.privacy._types import Relation

Method = Literal["pld", "rdp", "best"]
"""Numerical privacy loss distributions (tight), Renyi differential privacy, or the lower of the two."""

Unit = Literal["client", "example"]
"""Whose data are protected: what one client id contributes, or one example."""

COVERS = (
    "Covers the models of all rounds, and not what is without noise: losses, norms, the fraction that "
    "was clipped, the number of clients of a round, evaluations on clients' data"
)


class Epsilon(float):
    """An epsilon that knows what it is a claim about.

    It is a float in every respect; ``str`` gives the whole :meth:`statement`.

    Attributes:
        delta: the claim is (epsilon, delta)-differential privacy.
        unit: whose data are protected, a :data:`~fjx.privacy.Unit`: ``"client"`` is everything that one
            client id contributes.
        relation: which populations are neighbours, a :data:`~fjx.privacy.Relation`.
        sampling: the sampler, in words.
        rounds: how many rounds were accounted.
        method: ``"pld"`` or ``"rdp"``, the one that gave the number.
        caveats: what a reader of the number should be told beside it.
    """

    delta: float
    unit: Unit
    relation: Relation
    sampling: str
    rounds: int
    method: Method
    caveats: tuple[str, ...]

    def __new__(cls, value: float, **claim: Any) -> "Epsilon":
        self = super().__new__(cls, value)
        vars(self).update(claim)
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[float], dict[str, Any]]:
        return (float(self),), vars(self)

    def but(self, *caveats: str) -> "Epsilon":
        """The same claim with more to be told beside it."""
        return Epsilon(self, **{**vars(self), "caveats": (*self.caveats, *caveats)})

    def statement(self) -> str:
        """The claim in words, with epsilon rounded up to four digits."""
        plural = "" if self.rounds == 1 else "s"
        claim = (
            f"epsilon = {rounded_up(self)} at delta = {self.delta:g} ({self.unit}-level, "
            f"{self.relation.replace('_', '-')}, {self.sampling}, {self.rounds} round{plural}, "
            f"{self.method.upper()})"
        )
        return ". ".join([claim, *self.caveats])

    __str__ = statement


def rounded_up(value: float) -> str:
    """Four digits that are never below the value."""
    if not math.isfinite(value):
        return str(float(value))
    digits = decimal.Context(prec=4, rounding=decimal.ROUND_CEILING)
    return f"{digits.create_decimal_from_float(float(value)):f}"
