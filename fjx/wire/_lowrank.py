"""Payloads of low rank, sketches and random projections."""

import dataclasses
import math

import jax
import numpy as np

from fjx._base import Array, Tree
from fjx.wire._payload import (
    ARRAYS,
    Payload,
    require_axes,
    require_float,
    require_float32,
    require_seed,
    size_of,
    static,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank(Payload):
    """Matrix as a product of two thin factors: x is about ``left @ right.T``.

    The product is then reshaped to the shape of the array.

    Attributes:
        left: ``f32[n, r]``, or a payload of it.
        right: ``f32[m, r]``, or a payload of it.
        shape: shape of the array; its first axis is n.
        dtype: dtype of the array.
    """

    left: Tree
    right: Tree
    shape: tuple[int, ...] = static()
    dtype: str = static()

    def check(self) -> None:
        """The factors have equal ranks and fit the array."""
        require_float(self.dtype)
        for name, factor in (("left", self.left), ("right", self.right)):
            require_axes(f"LowRank.{name}", factor, 2)
            require_float32(f"LowRank.{name}", factor)
        n, m = self.shape[0], math.prod(self.shape[1:])
        size_of(self.shape)
        for factor, rows in ((self.left, n), (self.right, m)):
            if isinstance(factor, ARRAYS) and factor.shape[-2:-1] != (rows,):
                raise ValueError(f"LowRank needs {rows} rows, got a factor of {factor.shape}")
        ranks = {f.shape[-1] for f in (self.left, self.right) if isinstance(f, ARRAYS)}
        if len(ranks) > 1:
            raise ValueError(f"LowRank has factors of ranks {sorted(ranks)}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sketched(Payload):
    """Array as a count-sketch.

    Attributes:
        table: ``f32[rows, columns]``, or a payload of it.
        seed: ``u32[n]``, key data of the hash functions.
        shape: shape of the array.
        dtype: dtype of the array.
        impl: how the seed is read: the name of a PRNG, and for Threefry its order of numbers.
    """

    table: Tree
    seed: Array
    shape: tuple[int, ...] = static()
    dtype: str = static()
    impl: str = static()

    def check(self) -> None:
        """The table has rows and columns, and the seed is valid."""
        require_float(self.dtype)
        require_seed(self.seed, self.impl)
        size_of(self.shape)
        require_axes("Sketched.table", self.table, 2)
        require_float32("Sketched.table", self.table)
        if isinstance(self.table, ARRAYS) and min(np.shape(self.table)[-2:], default=0) < 1:
            raise ValueError(f"Sketched needs rows and columns, got {np.shape(self.table)}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Projected(Payload):
    """Inner products of an array with random vectors.

    Attributes:
        values: ``f32[k]``, or a payload of them.
        seed: ``u32[n]``, key data of the random vectors.
        shape: shape of the array.
        dtype: dtype of the array.
        impl: how the seed is read: the name of a PRNG, and for Threefry its order of numbers.
    """

    values: Tree
    seed: Array
    shape: tuple[int, ...] = static()
    dtype: str = static()
    impl: str = static()

    def check(self) -> None:
        """There are at most as many products as coordinates."""
        require_float(self.dtype)
        require_seed(self.seed, self.impl)
        require_axes("Projected.values", self.values, 1)
        require_float32("Projected.values", self.values)
        size = size_of(self.shape)
        if isinstance(self.values, ARRAYS) and self.values.shape[-1] > size:
            raise ValueError(f"Projected has {self.values.shape[-1]} products of {size} numbers")
