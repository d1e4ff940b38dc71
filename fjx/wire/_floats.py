"""Payloads in narrow floating formats or in powers of two."""

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
    axes_in_front,
    require_float,
    require_integers,
    require_narrowest,
    require_scale,
    require_within,
    static,
)

MX_FORMATS = ("float8_e4m3fn", "float8_e5m2", "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn")
"""Formats of the numbers in a :class:`Microscaled`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cast(Payload):
    """Array in a narrower floating dtype, divided by a power of two if the range requires it.

    Attributes:
        values: the narrow array.
        exponent: ``i16[]``, x is about ``values * 2**exponent``; None if no scaling is needed.
        dtype: dtype of the array.
    """

    values: Array
    exponent: Array | None
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("values",)

    def check(self) -> None:
        """Both dtypes are floating, the second is wider, and an exponent is there if the range is."""
        require_float(self.dtype)
        require_integers("Cast.exponent", self.exponent, "i")
        if isinstance(self.exponent, ARRAYS):
            found, front = (self.exponent.dtype.name, self.exponent.shape), axes_in_front()
            if found != ("int16", front):
                raise ValueError(f"Cast.exponent must be int16 of shape {front}, got {found}")
        if not isinstance(self.values, ARRAYS):
            return  # a later codec has rounded the narrow values once more
        require_float(self.values.dtype.name)
        info = jnp.finfo(self.values.dtype)
        if info.bits >= jnp.finfo(self.dtype).bits:
            raise ValueError(f"Cast narrows {self.dtype}, got values of {self.values.dtype}")
        if (self.exponent is not None) != (float(info.max) < 2.0**127):
            raise ValueError(
                f"Cast.exponent must be there for dtypes of few exponents only, not {info}"
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Microscaled(Payload):
    """Array in a tiny floating format, with one power of two for every 32 coordinates.

    Attributes:
        codes: ``u8``, in the shape of the array: the bits of each number in the format.
        exponents: ``u8[ceil(d / 32)]``.  Coordinates of block b are multiplied by
            2^(exponents[b] - 127); they are NaN if the exponent is 255.
        format: name of the format.
        dtype: dtype of the array.
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
        """The format is one of microscaling, and there is one exponent for each 32 codes."""
        if self.format not in MX_FORMATS:
            raise ValueError(f"Microscaled.format must be one of {MX_FORMATS}, got {self.format!r}")
        require_float(self.dtype)
        require_narrowest("Microscaled.codes", self.codes, "u", 8)
        require_narrowest("Microscaled.exponents", self.exponents, "u", 8)
        if isinstance(self.codes, ARRAYS) and isinstance(self.exponents, ARRAYS):
            front = axes_in_front()
            wanted = (*front, -(-math.prod(self.codes.shape[len(front) :]) // 32))
            if self.exponents.shape != wanted:
                raise ValueError(
                    f"Microscaled.exponents must have shape {wanted}, got {self.exponents.shape}"
                )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Natural(Payload):
    """Array of powers of two: the sign and exponent of each float32.

    Attributes:
        codes: ``u16``, in the shape of the array: the first nine bits of a float32.
        dtype: dtype of the array.
    """

    codes: Array
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("codes",)

    def widths(self) -> Mapping[str, int]:
        """A code costs 9 bits: one for the sign, eight for the exponent."""
        return {"codes": 9}

    def check(self) -> None:
        """Codes are unsigned integers."""
        require_narrowest("Natural.codes", self.codes, "u", 9)
        require_float(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dithered(Payload):
    """Integers on a grid of powers of two: |x| is 0 or about ``scale * 2**(|codes| - 1)``.

    Attributes:
        codes: ``i8``, in the shape of the array, each in ``[-levels, levels]``, with the sign of x.
        scale: ``f32[]``, the smallest positive level, or a payload of it.
        levels: number of levels of one sign, without zero.
        dtype: dtype of the array.
    """

    codes: Array
    scale: Tree
    levels: int = static()
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("codes",)

    def widths(self) -> Mapping[str, int]:
        """A code costs one bit for the sign and ``ceil(log2(levels + 1))`` bits."""
        return {"codes": 1 + self.levels.bit_length()}

    def check(self) -> None:
        """Codes lie in ``[-levels, levels]``."""
        require_within("Dithered.levels", self.levels, 1, 31)
        require_narrowest("Dithered.codes", self.codes, "i", 8)
        require_scale(self.scale)
        require_float(self.dtype)
        codes = np.asarray(self.codes)
        if codes.size and np.abs(codes.astype(np.int64)).max() > self.levels:
            raise ValueError(f"Dithered.codes must lie in [-{self.levels}, {self.levels}]")
