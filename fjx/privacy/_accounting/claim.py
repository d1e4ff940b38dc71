"""Epsilon together with everything that it claims."""

import decimal
import math
from typing import Any, Literal

from fjx.privacy._types import Relation

Method = Literal["pld", "rdp", "best"]
"""Numerical privacy loss distributions (tight), Renyi differential privacy, or the lower of the two."""

Unit = Literal["client", "example"]
"""Unit of protection: everything that one client id contributes, or one example."""

COVERS = (
    "Covers the models of all rounds, and not what is without noise: losses, norms, the fraction that "
    "was clipped, the clients of a round and their number, clients' own states, evaluations on clients' "
    "data, and what is chosen or stopped by them"
)

APART = (
    "Other runs on the same clients cost more: add them to a ledger.  Each needs a key of its own, "
    "because two runs from one key share their noise, and the difference of their models has none"
)

INTEGERS = "Sums and noise are integers, so that the last bits of floats leak nothing"


class Epsilon(float):
    """Epsilon that states its claim: a float with delta, unit, relation, sampling and caveats.

    It is a float in every respect; ``str`` gives the whole :meth:`statement`.

    Attributes:
        delta: delta of the claim, which is (epsilon, delta)-differential privacy.
        unit: unit of protection, a :data:`~fjx.privacy.Unit`; ``"client"`` protects everything that one
            client id contributes.
        relation: relation between neighbouring populations, a :data:`~fjx.privacy.Relation`.
        sampling: the sampler, in words.
        rounds: number of rounds that were accounted.
        method: ``"pld"`` or ``"rdp"``, the method that gave the number.
        caveats: sentences that a reader of the number should be told beside it.
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
        """Return the same claim with more caveats."""
        return Epsilon(self, **{**vars(self), "caveats": (*self.caveats, *caveats)})

    def statement(self) -> str:
        """Return the claim in words, with epsilon rounded up to four digits."""
        plural = "" if self.rounds == 1 else "s"
        claim = (
            f"epsilon = {rounded_up(self)} at delta = {self.delta:g} ({self.unit}-level, "
            f"{self.relation.replace('_', '-')}, {self.sampling}, {self.rounds} round{plural}, "
            f"{self.method.upper()})"
        )
        return ". ".join([claim, *self.caveats])

    __str__ = statement


def rounded_up(value: float) -> str:
    """Format a value with four digits, rounded so that they are never below it."""
    if not math.isfinite(value):
        return str(float(value))
    digits = decimal.Context(prec=4, rounding=decimal.ROUND_CEILING)
    return f"{digits.create_decimal_from_float(float(value)):f}"
