"""Payloads of quantisers: a code for each coordinate."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import numpy as np

from fjx._base import Array, Tree
from fjx.wire._payload import (
    Payload,
    require_float,
    require_integers,
    require_scale,
    require_within,
    static,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized(Payload):
    """Integers on a uniform grid around zero: x is about ``scale * codes``.

    Attributes:
        codes: ``i8`` or ``i16``, the shape of the array, each in ``[-L, L]``, L = 2^(bits-1) - 1.
        scale: ``f32[]``, the distance of two levels, or a payload of it.
        bits: of one code.
        dtype: of the array.
    """

    codes: Array
    scale: Tree
    bits: int = static()
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("codes",)

    def widths(self) -> Mapping[str, int]:
        """A code costs ``bits``."""
        return {"codes": self.bits}

    def check(self) -> None:
        """Codes lie on the grid: two's complement has one value more than ``[-L, L]``."""
        require_within("Quantized.bits", self.bits, 2, 16)
        require_integers("Quantized.codes", self.codes, "i")
        require_scale(self.scale, self.codes)
        require_float(self.dtype)
        codes, top = np.asarray(self.codes), 2 ** (self.bits - 1) - 1
        if codes.size and np.abs(codes.astype(np.int64)).max() > top:
            raise ValueError(f"Quantized.codes must lie in [-{top}, {top}]")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cast(Payload):
    """An array in a narrower floating dtype, divided by a power of two where the range needs it.

    Attributes:
        values: the narrow array.
        exponent: ``i16[]``, x is about ``values * 2**exponent``; None if the range needs no scale.
        dtype: of the array.
    """

    values: Array
    exponent: Array | None
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("values",)

    def check(self) -> None:
        """Both dtypes are floating."""
        require_float(self.values.dtype.name)
        require_float(self.dtype)


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
class Natural(Payload):
    """An array as powers of two: the sign and exponent of each float32.

    Attributes:
        codes: ``u16``, the shape of the array: the first nine bits of a float32.
        dtype: of the array.
    """

    codes: Array
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("codes",)

    def widths(self) -> Mapping[str, int]:
        """A sign is one bit, an exponent eight."""
        return {"codes": 9}

    def check(self) -> None:
        """Codes are nine bits."""
        require_integers("Natural.codes", self.codes, "u")
        require_float(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dithered(Payload):
    """Integers on a grid of powers of two: |x| is 0, or about ``scale * 2**(|codes| - 1)``.

    Attributes:
        codes: ``i8``, the shape of the array, each in ``[-levels, levels]``, with the sign of x.
        scale: ``f32[]``, the least level, or a payload of it.
        levels: of one sign, zero not counted.
        dtype: of the array.
    """

    codes: Array
    scale: Tree
    levels: int = static()
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("codes",)

    def widths(self) -> Mapping[str, int]:
        """A code costs a sign and ``ceil(log2(levels + 1))`` bits."""
        return {"codes": 1 + self.levels.bit_length()}

    def check(self) -> None:
        """Codes lie on the grid."""
        require_within("Dithered.levels", self.levels, 1, 31)
        require_integers("Dithered.codes", self.codes, "i")
        require_scale(self.scale, self.codes)
        require_float(self.dtype)
        codes = np.asarray(self.codes)
        if codes.size and np.abs(codes.astype(np.int64)).max() > self.levels:
            raise ValueError(f"Dithered.codes must lie in [-{self.levels}, {self.levels}]")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LloydMax(Payload):
    """Codes of the Lloyd-Max quantiser of a Gaussian: x is about ``scale * levels[codes]``.

    The levels follow from ``bits`` and do not travel.

    Attributes:
        codes: ``u8``, the shape of the array, each below 2^bits.
        scale: ``f32[]``, or a payload of it.
        bits: of one code.
        dtype: of the array.
    """

    codes: Array
    scale: Tree
    bits: int = static()
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("codes",)

    def widths(self) -> Mapping[str, int]:
        """A code costs ``bits``."""
        return {"codes": self.bits}

    def check(self) -> None:
        """There are levels for so many bits."""
        require_within("LloydMax.bits", self.bits, 1, 8)
        require_integers("LloydMax.codes", self.codes, "u")
        require_scale(self.scale, self.codes)
        require_float(self.dtype)
