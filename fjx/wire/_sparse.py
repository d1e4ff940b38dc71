"""Payloads of sparsifiers: some coordinates, and how to know which."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import numpy as np

from fjx._base import Array, Tree
from fjx.wire._payload import (
    ARRAYS,
    Payload,
    Ragged,
    index_width,
    require_count,
    require_integers,
    require_seed,
    size_of,
    static,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sparse(Payload):
    """Some coordinates of an array, by position.

    Attributes:
        values: ``f[k]``, or a payload of them.
        indices: ``u32[k]`` into the flattened array, distinct.
        shape: of the array.
    """

    values: Tree
    indices: Array
    shape: tuple[int, ...] = static()

    ascending: ClassVar[tuple[str, ...]] = ("indices",)

    def widths(self) -> Mapping[str, int]:
        """An index costs ``ceil(log2(d))`` bits."""
        return {"indices": index_width(math.prod(self.shape))}

    def check(self) -> None:
        """Indices lie inside the array, each at most once, and each has its value."""
        require_integers("Sparse.indices", self.indices, "u")
        indices, size = np.asarray(self.indices), size_of(self.shape)
        if isinstance(self.values, ARRAYS) and self.values.size != indices.size:
            raise ValueError(f"Sparse has {self.values.size} values and {indices.size} indices")
        if indices.size and not (indices.min() >= 0 and indices.max() < size):
            raise ValueError(f"Sparse.indices must lie in [0, {size}), got up to {indices.max()}")
        ordered = np.sort(indices, axis=-1)
        if (ordered[..., 1:] == ordered[..., :-1]).any():
            raise ValueError("Sparse.indices must be distinct, got a repeated index")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Masked(Payload):
    """Coordinates that a seed chooses; the seed travels, the positions do not.

    Attributes:
        values: ``f[k]``, or a payload of them.
        seed: ``u32[n]``, the key data of the sender's mask.
        shape: of the array.
        impl: the name of the PRNG that reads the seed.
    """

    values: Tree
    seed: Array
    shape: tuple[int, ...] = static()
    impl: str = static()

    def check(self) -> None:
        """There are no more values than coordinates."""
        size = size_of(self.shape)
        if isinstance(self.values, ARRAYS) and self.values.shape[-1] > size:
            raise ValueError(f"Masked has {self.values.shape[-1]} values for {size} coordinates")
        require_seed(self.seed, self.impl)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kept(Ragged):
    """As many coordinates of an array as the data has, by position.

    Attributes:
        count: ``i32[]``, how many.
        values: ``f[room]``, or a payload of them; zeros behind those that count.
        indices: ``u32[room]`` into the flattened array, ascending; zeros behind those that count.
        shape: of the array.
    """

    count: Array
    values: Tree
    indices: Array
    shape: tuple[int, ...] = static()

    coordinates: ClassVar[tuple[str, ...]] = ("values", "indices")
    ascending: ClassVar[tuple[str, ...]] = ("indices",)

    def widths(self) -> Mapping[str, int]:
        """An index costs ``ceil(log2(d))`` bits."""
        return {"indices": index_width(math.prod(self.shape))}

    def check(self) -> None:
        """Indices that count lie inside the array and ascend, and each has its value."""
        require_integers("Kept.indices", self.indices, "u")
        size = size_of(self.shape)
        require_count(self, len(self.indices))
        indices = np.asarray(self.indices)[: int(self.count)].astype(np.int64)
        if isinstance(self.values, ARRAYS) and self.values.shape != np.shape(self.indices):
            raise ValueError(f"Kept has {self.values.size} values, {len(self.indices)} indices")
        if indices.size and not (indices[-1] < size and (np.diff(indices) > 0).all()):
            raise ValueError(f"Kept.indices must ascend in [0, {size})")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BernoulliMasked(Ragged):
    """Coordinates that a seed keeps, each with probability p; the seed travels, the positions do not.

    Attributes:
        count: ``i32[]``, how many.
        values: ``f[d]``, or a payload of them; zeros behind those that count.
        seed: ``u32[n]``, the key data of the sender's choice.
        p: the probability.
        shape: of the array.
        impl: the name of the PRNG that reads the seed.
    """

    count: Array
    values: Tree
    seed: Array
    p: float = static()
    shape: tuple[int, ...] = static()
    impl: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("values",)

    def check(self) -> None:
        """There are no more values than coordinates, which have room for them."""
        size = size_of(self.shape)
        if isinstance(self.values, ARRAYS) and self.values.shape != (size,):
            raise ValueError(
                f"BernoulliMasked needs room for {size} values, got {self.values.shape}"
            )
        require_count(self, size)
        require_seed(self.seed, self.impl)


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
