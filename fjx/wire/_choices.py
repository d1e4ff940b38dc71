"""Payloads with optional parts."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax

from fjx._base import Array, Tree
from fjx.wire._payload import ARRAYS, Payload, Ragged, require_count, require_integers, shape_of
from fjx.wire._side_information import SideInformation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OneOf(Payload):
    """One of several payloads; the others are zeros and do not travel.

    Attributes:
        which: ``u8[]``, number of the part that travels.  If the receiver knows it already, for example
            from a coin that everybody tosses alike, it is a :class:`SideInformation` and costs nothing.
        parts: the payloads.
    """

    which: Tree
    parts: tuple[Tree, ...]

    @property
    def number(self) -> Array:
        """Number of the part that travels, without its wrapper."""
        return self.which.value if isinstance(self.which, SideInformation) else self.which

    def check(self) -> None:
        """The number is that of one of the parts."""
        require_integers("OneOf.which", self.number, "u")
        if isinstance(self.number, ARRAYS) and int(self.number) >= len(self.parts):
            raise ValueError(f"OneOf has {len(self.parts)} parts, got number {int(self.number)}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MaybeSent(Ragged):
    """Array that is sent or not.

    Attributes:
        count: ``u8[]``, 1 if the array is sent, else 0.
        values: ``[1, ...]``, the array; zeros if it is not sent.
    """

    count: Array
    values: Tree

    coordinates: ClassVar[tuple[str, ...]] = ("values",)

    def widths(self) -> Mapping[str, int]:
        """The count costs one bit."""
        return {"count": 1}

    def check(self) -> None:
        """The count is 0 or 1."""
        require_integers("MaybeSent.count", self.count, "u")
        require_count(self, 1)
        if (found := shape_of(self.values)) is not None and found[:1] != (1,):
            raise ValueError(f"MaybeSent.values must have one entry, got shape {found}")
