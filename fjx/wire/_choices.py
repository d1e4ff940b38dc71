"""Payloads that travel or not."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax

from fjx._base import Array, Tree
from fjx.wire._payload import ARRAYS, Payload, Ragged, require_count, require_integers
from fjx.wire._side_information import SideInformation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OneOf(Payload):
    """One of several payloads; the others are zeros, and do not travel.

    Attributes:
        which: ``u8[]``, the number of the one that counts; a :class:`SideInformation` of it, which
            costs nothing,
            where the receiver knows, say from a coin that all toss alike.
        parts: a payload each.
    """

    which: Tree
    parts: tuple[Tree, ...]

    @property
    def number(self) -> Array:
        """The number itself."""
        return self.which.value if isinstance(self.which, SideInformation) else self.which

    def check(self) -> None:
        """The choice is one of the parts."""
        require_integers("OneOf.which", self.number, "u")
        if isinstance(self.number, ARRAYS) and int(self.number) >= len(self.parts):
            raise ValueError(f"OneOf has {len(self.parts)} parts, got number {int(self.number)}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MaybeSent(Ragged):
    """An array that is sent or not.

    Attributes:
        count: ``u8[]``, one or zero.
        values: ``[1, ...]``, the array; zeros if it is not sent.
    """

    count: Array
    values: Tree

    coordinates: ClassVar[tuple[str, ...]] = ("values",)

    def widths(self) -> Mapping[str, int]:
        """Whether it is sent is one bit."""
        return {"count": 1}

    def check(self) -> None:
        """One array or none."""
        require_integers("MaybeSent.count", self.count, "u")
        require_count(self, 1)
