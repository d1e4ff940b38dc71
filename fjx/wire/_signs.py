"""Payloads of quantisers with two or three levels: signs."""

import dataclasses
from typing import ClassVar

import jax

from fjx._base import Array, Tree
from fjx.wire._payload import (
    ARRAYS,
    Payload,
    require_below,
    require_float,
    require_integers,
    require_scale,
    size_of,
    static,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Signs(Payload):
    """An array as signs: x is about ``-scale`` where ``negative``, else ``scale``.

    Attributes:
        negative: ``bool``, the shape of the array.
        scale: ``f32[]``, or a payload of it.
        dtype: of the array.
    """

    negative: Array
    scale: Tree
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("negative",)

    def check(self) -> None:
        """One bit a coordinate, and one scale."""
        require_integers("Signs.negative", self.negative, "b")
        require_scale(self.scale, self.negative)
        require_float(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TwoMeans(Payload):
    """An array as two values: x is about ``below`` where ``negative``, else ``above``.

    Attributes:
        negative: ``bool``, the shape of the array.
        below: ``f32[]``, or a payload of it.
        above: ``f32[]``, or a payload of it.
        dtype: of the array.
    """

    negative: Array
    below: Tree
    above: Tree
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("negative",)

    def check(self) -> None:
        """One bit a coordinate, and two means."""
        require_integers("TwoMeans.negative", self.negative, "b")
        require_scale(self.below, self.negative)
        require_scale(self.above, self.negative)
        require_float(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ternary(Payload):
    """An array of -scale, zero and scale, five coordinates a byte.

    Attributes:
        packed: ``u8[n]``, n = ceil(d / 5): of byte j, the digits of base 3, the least first, are one
            more than the signs of the coordinates j, j + n, ..., j + 4 n; what pads them is 1.
        scale: ``f32[]``, or a payload of it.
        shape: of the array.
        dtype: of the array.
    """

    packed: Array
    scale: Tree
    shape: tuple[int, ...] = static()
    dtype: str = static()

    def check(self) -> None:
        """A byte holds five digits, and there are as many as the array needs."""
        require_integers("Ternary.packed", self.packed, "u")
        require_scale(self.scale, self.packed)
        require_float(self.dtype)
        wanted = -(-size_of(self.shape) // 5)
        if isinstance(self.packed, ARRAYS) and self.packed.shape[-1:] != (wanted,):
            raise ValueError(f"Ternary.packed must be {wanted} bytes, got {self.packed.shape}")
        require_below("Ternary.packed", self.packed, 3**5)
