"""Payloads in narrow floating formats and in powers of two."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
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
