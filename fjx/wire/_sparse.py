"""Payloads of sparsifiers: some coordinates, and the means to find their positions."""

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
    axes_in_front,
    index_width,
    require_axes,
    require_count,
    require_seed,
    require_shape,
    require_words,
    size_of,
    static,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sparse(Payload):
    """Some coordinates of an array with their positions.

    Attributes:
        values: ``f[k]``, or a payload of them.
        indices: ``u32[k]``, distinct positions in the flattened array.
        shape: shape of the array.
    """

    values: Tree
    indices: Array
    shape: tuple[int, ...] = static()

    ascending: ClassVar[tuple[str, ...]] = ("indices",)

    def widths(self) -> Mapping[str, int]:
        """An index costs ``ceil(log2(d))`` bits."""
        return {"indices": index_width(math.prod(self.shape))}

    def check(self) -> None:
        """Indices lie inside the array and are distinct, and there is one value for each."""
        require_words("Sparse.indices", self.indices)
        indices, size = np.asarray(self.indices), size_of(self.shape)
        if isinstance(self.values, ARRAYS) and self.values.size != indices.size:
            raise ValueError(f"Sparse has {self.values.size} values and {indices.size} indices")
        require_shape("Sparse.values", self.values, *np.shape(self.indices)[len(axes_in_front()) :])
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
        seed: ``u32[n]``, key data of the sender's mask.
        shape: shape of the array.
        impl: how the seed is read: the name of a PRNG, and for Threefry its order of numbers.
    """

    values: Tree
    seed: Array
    shape: tuple[int, ...] = static()
    impl: str = static()

    def check(self) -> None:
        """There are at most as many values as coordinates."""
        size = size_of(self.shape)
        require_axes("Masked.values", self.values, 1)
        if isinstance(self.values, ARRAYS) and self.values.shape[-1] > size:
            raise ValueError(f"Masked has {self.values.shape[-1]} values for {size} coordinates")
        require_seed(self.seed, self.impl)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kept(Ragged):
    """Coordinates of an array with their positions, as many as the data require.

    Attributes:
        count: ``i32[]``, number of coordinates that are sent.
        values: ``f[room]``, or a payload of them; zeros after the first ``count``.
        indices: ``u32[room]``, ascending positions in the flattened array; zeros after the first
            ``count``.
        shape: shape of the array.
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
        """The first ``count`` indices ascend inside the array, and there is one value for each."""
        require_words("Kept.indices", self.indices)
        size = size_of(self.shape)
        require_count(self, len(self.indices))
        indices = np.asarray(self.indices)[: int(self.count)].astype(np.int64)
        if isinstance(self.values, ARRAYS) and self.values.shape != np.shape(self.indices):
            raise ValueError(f"Kept has {self.values.size} values and {len(self.indices)} indices")
        if indices.size and not (indices[-1] < size and (np.diff(indices) > 0).all()):
            raise ValueError(f"Kept.indices must ascend in [0, {size})")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BernoulliMasked(Ragged):
    """Coordinates that a seed keeps independently with probability p; the positions do not travel.

    Attributes:
        count: ``i32[]``, number of coordinates that are kept.
        values: ``f[d]``, or a payload of them; zeros after the first ``count``.
        seed: ``u32[n]``, key data of the sender's mask.
        p: probability of keeping a coordinate.
        shape: shape of the array.
        impl: how the seed is read: the name of a PRNG, and for Threefry its order of numbers.
    """

    count: Array
    values: Tree
    seed: Array
    p: float = static()
    shape: tuple[int, ...] = static()
    impl: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("values",)

    def check(self) -> None:
        """There is room for all d values, and ``count`` is at most d."""
        size = size_of(self.shape)
        require_shape("BernoulliMasked.values", self.values, size)
        require_count(self, size)
        require_seed(self.seed, self.impl)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SubModel(Ragged):
    """Coordinates of a sub-model, one after another.

    Attributes:
        count: ``i32[]``, number of coordinates of the sub-model.
        values: ``f32[d]``, in the order of the leaves and of their coordinates; zeros after the first
            ``count``.
        choice: information from which the receiver finds the positions.
    """

    count: Array
    values: Tree
    choice: Tree

    coordinates: ClassVar[tuple[str, ...]] = ("values",)

    def check(self) -> None:
        """``count`` is at most the number of values."""
        if isinstance(self.values, ARRAYS):
            require_count(self, self.values.shape[0])
