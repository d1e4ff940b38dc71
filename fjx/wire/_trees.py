"""Payloads of codecs that take a tree apart: into a vector, leaves, blocks or groups."""

import dataclasses

import jax

from fjx._base import Tree
from fjx._tree import Structure
from fjx.wire._coders.integers import require_coder
from fjx.wire._payload import (
    ARRAYS,
    Payload,
    inside,
    require_shape,
    size_of,
    static,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flat(Payload):
    """Floating leaves of a tree as one vector; its other leaves are unchanged.

    Attributes:
        vector: ``f[d]``, or a payload of it.
        others: the tree with None in place of floating leaves.
        structure: structure of the tree.
    """

    vector: Tree
    others: Tree
    structure: Structure = static()

    def check(self) -> None:
        """The vector has one coordinate for each float of the structure."""
        shapes = [shape for shape, _ in filter(None, self.structure.floats)]
        size = sum(map(size_of, shapes))
        require_shape("Flat.vector", self.vector, size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Leaves(Payload):
    """Floating leaves of a tree as one payload each; its other leaves are unchanged.

    Attributes:
        leaves: one payload for each floating leaf, in order.
        others: the tree with None in place of floating leaves.
        structure: structure of the tree.
    """

    leaves: tuple[Tree, ...]
    others: Tree
    structure: Structure = static()

    def check(self) -> None:
        """There is one payload for each floating leaf of the structure."""
        wanted = sum(described is not None for described in self.structure.floats)
        if len(self.leaves) != wanted:
            raise ValueError(f"Leaves needs {wanted} payloads, got {len(self.leaves)}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blocks(Payload):
    """Array in blocks of equal size; the last block is padded with zeros.

    Attributes:
        rows: ``f[b, size]``, or the payload of a block with an axis of b blocks in front.
        shape: shape of the array.
        size: number of coordinates in a block.
    """

    rows: Tree
    shape: tuple[int, ...] = static()
    size: int = static()

    @property
    def count(self) -> int:
        """Number of blocks b."""
        return -(-size_of(self.shape) // self.size)

    def check(self) -> None:
        """Every array of the rows has one entry for each block."""
        with inside(self):
            require_shape("Blocks.rows", self.rows, self.size)
        # A later codec may have turned parts of the rows into payloads, which have other axes.
        for part in jax.tree.leaves(self.rows, is_leaf=lambda part: part is not self.rows):
            if isinstance(part, ARRAYS) and part.shape[:1] != (self.count,):
                raise ValueError(f"Blocks has {self.count} blocks, got rows of {part.shape}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Selected(Payload):
    """Tree in two parts: the leaves that a codec encodes, and all others.

    Attributes:
        inside: payload of ``{path: leaf}``, the selected leaves.
        outside: the tree with None in place of selected leaves.
    """

    inside: Tree
    outside: Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Coded(Payload):
    """Payload whose integers travel in a lossless code.

    Attributes:
        inner: the payload.  Its integers and bools with a declared width are coded.
        coder: name of the coder, as for :func:`fjx.wire.encode_integers`.
    """

    inner: Tree
    coder: str = static()

    def check(self) -> None:
        """The coder exists."""
        require_coder(self.coder)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Summed(Payload):
    """Tree as a sum of several terms.

    Attributes:
        parts: one payload of the floating leaves for each term.
        others: the tree with None in place of floating leaves.
    """

    parts: tuple[Tree, ...]
    others: Tree
