"""Payloads of codecs that take a message apart: into a vector, leaves, blocks, or two."""

import dataclasses
from typing import ClassVar

import jax

from fjx._base import Array, Tree
from fjx._tree import Structure
from fjx.wire._coders import require_coder
from fjx.wire._payload import (
    ARRAYS,
    Payload,
    Ragged,
    require_count,
    require_integers,
    size_of,
    static,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flat(Payload):
    """The floating leaves of a tree as one vector, and its other leaves as they are.

    Attributes:
        vector: ``f[d]``, or a payload of it.
        others: the tree with None in their places.
        structure: of the tree.
    """

    vector: Tree
    others: Tree
    structure: Structure = static()

    def check(self) -> None:
        """The vector has a coordinate for each float of the structure."""
        shapes = [shape for shape, _ in filter(None, self.structure.floats)]
        size = sum(map(size_of, shapes))
        if isinstance(self.vector, ARRAYS) and self.vector.shape != (size,):
            raise ValueError(f"Flat.vector must have {size} coordinates, got {self.vector.shape}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Leaves(Payload):
    """A tree as the payloads of its floating leaves, and its other leaves as they are.

    Attributes:
        leaves: one payload each, in order.
        others: the tree with None in their places.
        structure: of the tree.
    """

    leaves: tuple[Tree, ...]
    others: Tree
    structure: Structure = static()

    def check(self) -> None:
        """There is a payload for each floating leaf of the structure."""
        wanted = sum(described is not None for described in self.structure.floats)
        if len(self.leaves) != wanted:
            raise ValueError(f"Leaves needs {wanted} payloads, got {len(self.leaves)}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blocks(Payload):
    """An array in blocks of one size, the last padded with zeros.

    Attributes:
        rows: ``f[b, size]``, or the payload of a block with an axis of b blocks in front.
        shape: of the array.
        size: of a block.
    """

    rows: Tree
    shape: tuple[int, ...] = static()
    size: int = static()

    @property
    def count(self) -> int:
        """b, the number of blocks."""
        return -(-size_of(self.shape) // self.size)

    def check(self) -> None:
        """Every array of the rows has one entry for each block."""
        # What a later codec made of a part of the rows has an axis of its own.
        for part in jax.tree.leaves(self.rows, is_leaf=lambda part: part is not self.rows):
            if isinstance(part, ARRAYS) and part.shape[:1] != (self.count,):
                raise ValueError(f"Blocks has {self.count} blocks, got rows of {part.shape}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Selected(Payload):
    """A tree in two: the leaves that a codec was given, and those it was not.

    Attributes:
        inside: a payload of ``{path: leaf}``, the selected leaves.
        outside: the tree with None in their places.
    """

    inside: Tree
    outside: Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Coded(Payload):
    """A payload whose integers travel in a lossless code.

    Attributes:
        inner: the payload.  In it, what is coded are integers whose type says how many bits they need.
        coder: as :func:`fjx.wire.encode_integers` names it.
    """

    inner: Tree
    coder: str = static()

    def check(self) -> None:
        """The coder is known."""
        require_coder(self.coder)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Summed(Payload):
    """A tree as a sum of others.

    Attributes:
        parts: a payload for each term, of the floating leaves.
        others: the tree with None in their places.
    """

    parts: tuple[Tree, ...]
    others: Tree


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
class SubModel(Ragged):
    """The coordinates of a sub-model, one after another.

    Attributes:
        count: ``i32[]``, how many there are.
        values: ``f32[d]``, in the order of the leaves and of their coordinates, zeros behind.
        choice: what tells the receiver which they are.
    """

    count: Array
    values: Tree
    choice: Tree

    coordinates: ClassVar[tuple[str, ...]] = ("values",)

    def check(self) -> None:
        """There are no more than there is room for."""
        if isinstance(self.values, ARRAYS):
            require_count(self, self.values.shape[0])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SideInformation(Payload):
    """What the receiver has already: it costs nothing, and no byte of it is written.

    Attributes:
        value: any arrays; None where the payload was read from bytes, until the receiver puts its own.
            What decides what else is there, the receiver gives in the ``like`` of ``from_bytes``.
    """

    value: Tree

    def check(self) -> None:
        """Nothing was read."""


def is_known(part: Tree) -> bool:
    """Whether a part of a payload is the receiver's own."""
    return isinstance(part, SideInformation)


def without_known(payload: Tree) -> Tree:
    """The payload as bytes have it: every :class:`SideInformation` empty."""
    return jax.tree.map(
        lambda part: SideInformation(None) if is_known(part) else part, payload, is_leaf=is_known
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shifted(Payload):
    """How a message differs from what its receiver remembers.

    Attributes:
        change: a payload of the difference.
        memory: what the receiver remembers.
    """

    change: Tree
    memory: SideInformation

    def check(self) -> None:
        """The memory is the receiver's own."""
        if not isinstance(self.memory, SideInformation):
            raise ValueError("Shifted.memory must be a SideInformation")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Observed(Payload):
    """A payload beside facts about the client that are not sent, for the metrics of a simulation.

    Attributes:
        sent: the payload.
        seen: a :class:`SideInformation` of the facts: it costs nothing, and a receiver of bytes has
            None in its place.
    """

    sent: Tree
    seen: SideInformation

    def check(self) -> None:
        """The facts are not sent."""
        if not isinstance(self.seen, SideInformation):
            raise ValueError("Observed.seen must be a SideInformation")
