"""Payloads of codecs that take a message apart: into a vector, leaves, blocks, or two."""

import dataclasses

import jax

from fjx._base import Tree
from fjx._tree import Structure
from fjx.wire._coders.integers import require_coder
from fjx.wire._payload import (
    ARRAYS,
    Payload,
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
