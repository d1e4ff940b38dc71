"""Payloads of quantisers with two or three levels."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax

from fjx._base import Array, Tree
from fjx.wire._payload import (
    ARRAYS,
    Payload,
    require_axes,
    require_below,
    require_float,
    require_integers,
    require_narrowest,
    require_scale,
    size_of,
    static,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Signs(Payload):
    """Signs of an array: x is about ``-scale`` where ``negative``, else ``scale``.

    Attributes:
        negative: ``bool``, in the shape of the array.
        scale: ``f32[]``, or a payload of it.
        dtype: dtype of the array.
    """

    negative: Array
    scale: Tree
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("negative",)

    def widths(self) -> Mapping[str, int]:
        """A sign costs one bit."""
        return {"negative": 1}

    def check(self) -> None:
        """Signs are booleans, and there is one scale."""
        require_integers("Signs.negative", self.negative, "b")
        require_scale(self.scale)
        require_float(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TwoMeans(Payload):
    """Array of two values: x is about ``below`` where ``negative``, else ``above``.

    Attributes:
        negative: ``bool``, in the shape of the array.
        below: ``f32[]``, or a payload of it.
        above: ``f32[]``, or a payload of it.
        dtype: dtype of the array.
    """

    negative: Array
    below: Tree
    above: Tree
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("negative",)

    def widths(self) -> Mapping[str, int]:
        """A sign costs one bit."""
        return {"negative": 1}

    def check(self) -> None:
        """Signs are booleans, and there is one value for each sign."""
        require_integers("TwoMeans.negative", self.negative, "b")
        require_scale(self.below)
        require_scale(self.above)
        require_float(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ternary(Payload):
    """Array of the values -scale, 0 and scale, five coordinates in a byte.

    Attributes:
        packed: ``u8[n]`` with n = ceil(d / 5).  Byte j holds, as digits of base 3 with the lowest
            first, one plus the signs of the coordinates j, j + n, ..., j + 4 n.  The digit 1 pads.
        scale: ``f32[]``, or a payload of it.
        shape: shape of the array.
        dtype: dtype of the array.
    """

    packed: Array
    scale: Tree
    shape: tuple[int, ...] = static()
    dtype: str = static()

    def check(self) -> None:
        """Each byte is below 3^5, and there are as many bytes as the array needs."""
        require_narrowest("Ternary.packed", self.packed, "u", 8)
        require_axes("Ternary.packed", self.packed, 1)
        require_scale(self.scale)
        require_float(self.dtype)
        wanted = -(-size_of(self.shape) // 5)
        if isinstance(self.packed, ARRAYS) and self.packed.shape[-1:] != (wanted,):
            raise ValueError(f"Ternary.packed must be {wanted} bytes, got {self.packed.shape}")
        require_below("Ternary.packed", self.packed, 3**5)
