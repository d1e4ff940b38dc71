"""Payloads of quantisers: a code for each coordinate."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array, Tree
from fjx.wire._payload import (
    ARRAYS,
    Payload,
    index_width,
    require_float,
    require_integers,
    require_scale,
    require_seed,
    require_within,
    size_of,
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FixedStep(Payload):
    """Integers on a grid that is agreed: x is ``step * codes``.

    Attributes:
        codes: ``i8`` or ``i16``, the shape of the array; -2^(bits-1) stands for what the grid does not
            reach.
        step: the distance of two levels.
        bits: of one code.
        dtype: of the array.
    """

    codes: Array
    step: float = static()
    bits: int = static()
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("codes",)

    def widths(self) -> Mapping[str, int]:
        """A code costs ``bits``."""
        return {"codes": self.bits}

    def check(self) -> None:
        """There is a grid."""
        require_within("FixedStep.bits", self.bits, 2, 16)
        require_integers("FixedStep.codes", self.codes, "i")
        if not 0 < self.step < math.inf:
            raise ValueError(f"FixedStep.step must be positive and finite, got {self.step}")
        require_float(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KLevel(Payload):
    """Numbers of levels between two values: x is about ``least + step * codes``.

    Attributes:
        codes: ``u8`` or ``u16``, the shape of the array, each below ``levels``.
        least: ``f32[]``, the first level, or a payload of it.
        step: ``f32[]``, the distance of two levels, or a payload of it.
        levels: how many there are.
        dtype: of the array.
    """

    codes: Array
    least: Tree
    step: Tree
    levels: int = static()
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("codes",)

    def widths(self) -> Mapping[str, int]:
        """A code costs ``ceil(log2(levels))`` bits."""
        return {"codes": index_width(self.levels)}

    def check(self) -> None:
        """Codes are numbers of levels."""
        require_within("KLevel.levels", self.levels, 2, 2**16)
        require_integers("KLevel.codes", self.codes, "u")
        require_scale(self.least, self.codes)
        require_scale(self.step, self.codes)
        require_float(self.dtype)
        require_below("KLevel.codes", self.codes, self.levels)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SubtractivelyDithered(Payload):
    """Integers on a uniform grid that a seed displaces: x is about ``scale * (codes - u)``.

    Attributes:
        codes: ``i8`` or ``i16``, the shape of the array, each in ``[-L, L]``, L = 2^(bits-1) - 1.
        scale: ``f32[]``, the distance of two levels, or a payload of it.
        seed: ``u32[n]``, the key data from which u follows, uniform in [-1/2, 1/2).
        bits: of one code.
        dtype: of the array.
        impl: the name of the PRNG that reads the seed.
    """

    codes: Array
    scale: Tree
    seed: Array
    bits: int = static()
    dtype: str = static()
    impl: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("codes",)

    def widths(self) -> Mapping[str, int]:
        """A code costs ``bits``."""
        return {"codes": self.bits}

    def check(self) -> None:
        """Codes lie on the grid: two's complement has one value more than ``[-L, L]``."""
        require_within("SubtractivelyDithered.bits", self.bits, 2, 16)
        require_integers("SubtractivelyDithered.codes", self.codes, "i")
        require_scale(self.scale, self.codes)
        require_seed(self.seed, self.impl)
        require_float(self.dtype)
        codes, top = np.asarray(self.codes), 2 ** (self.bits - 1) - 1
        if codes.size and np.abs(codes.astype(np.int64)).max() > top:
            raise ValueError(f"SubtractivelyDithered.codes must lie in [-{top}, {top}]")


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Microscaled(Payload):
    """An array in a tiny floating format, and of each 32 coordinates a power of two.

    Attributes:
        codes: ``u8``, the shape of the array: the bits of each number in the format.
        exponents: ``u8[ceil(d / 32)]``: coordinates of block b are to be multiplied by
            2^(exponents[b] - 127), or are NaN if that is 255.
        format: its name.
        dtype: of the array.
    """

    codes: Array
    exponents: Array
    format: str = static()
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("codes",)

    def widths(self) -> Mapping[str, int]:
        """A code costs as many bits as the format has."""
        return {"codes": int(jnp.finfo(self.format).bits)}

    def check(self) -> None:
        """The format is a floating one of at most 8 bits, and each block has its exponent."""
        require_float(self.format)
        require_float(self.dtype)
        require_within("bits of Microscaled.format", int(jnp.finfo(self.format).bits), 2, 8)
        require_integers("Microscaled.codes", self.codes, "u")
        require_integers("Microscaled.exponents", self.exponents, "u")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Codebook(Payload):
    """An array in blocks, each of them one of a few: x is about ``centres[codes]``.

    Attributes:
        codes: ``u8`` or ``u16``, ``[ceil(d / B)]``, which of the centres a block is.
        centres: ``f32[K, B]``, or a payload of them.
        count: K.
        shape: of the array.
        dtype: of the array.
    """

    codes: Array
    centres: Tree
    count: int = static()
    shape: tuple[int, ...] = static()
    dtype: str = static()

    def widths(self) -> Mapping[str, int]:
        """A code costs ``ceil(log2(K))`` bits."""
        return {"codes": index_width(self.count)}

    def check(self) -> None:
        """Codes are numbers of centres, and there is one for each block."""
        require_within("Codebook.count", self.count, 1, 2**16)
        require_integers("Codebook.codes", self.codes, "u")
        require_float(self.dtype)
        require_below("Codebook.codes", self.codes, self.count)
        size = size_of(self.shape)
        if isinstance(self.centres, ARRAYS) and isinstance(self.codes, ARRAYS):
            count, block = self.centres.shape[-2:] if self.centres.ndim >= 2 else (0, 1)
            if count != self.count or self.codes.shape[-1:] != (-(-size // max(block, 1)),):
                raise ValueError(
                    f"Codebook has {self.codes.shape} codes and {self.centres.shape} centres "
                    f"for {self.shape}"
                )


def require_below(name: str, codes: Array, count: int) -> None:
    most = int(np.max(np.asarray(codes), initial=0))
    if most >= count:
        raise ValueError(f"{name} must be less than {count}, got {most}")
