"""Payloads of quantisers with uniformly spaced levels."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import numpy as np

from fjx._base import Array, Tree
from fjx.wire._payload import (
    Payload,
    index_width,
    require_below,
    require_float,
    require_narrowest,
    require_scale,
    require_seed,
    require_within,
    static,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized(Payload):
    """Integers on a uniform grid around zero: x is about ``scale * codes``.

    Attributes:
        codes: ``i8`` or ``i16``, in the shape of the array, each in ``[-L, L]`` with
            L = 2^(bits-1) - 1.
        scale: ``f32[]``, distance between two levels, or a payload of it.
        bits: width of a code.
        dtype: dtype of the array.
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
        """Codes lie in ``[-L, L]``, although two's complement could represent -L - 1 as well."""
        require_within("Quantized.bits", self.bits, 2, 16)
        require_narrowest("Quantized.codes", self.codes, "i", self.bits)
        require_scale(self.scale)
        require_float(self.dtype)
        codes, top = np.asarray(self.codes), 2 ** (self.bits - 1) - 1
        if codes.size and np.abs(codes.astype(np.int64)).max() > top:
            raise ValueError(f"Quantized.codes must lie in [-{top}, {top}]")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SubtractivelyDithered(Payload):
    """Integers on a uniform grid with a random offset from a seed: x is about ``scale * (codes - u)``.

    Attributes:
        codes: ``i8`` or ``i16``, in the shape of the array, each in ``[-L, L]`` with
            L = 2^(bits-1) - 1.
        scale: ``f32[]``, distance between two levels, or a payload of it.
        seed: ``u32[n]``, key data from which u is drawn, uniform in [-1/2, 1/2).
        bits: width of a code.
        dtype: dtype of the array.
        impl: how the seed is read: the name of a PRNG, and for Threefry its order of numbers.
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
        """Codes lie in ``[-L, L]``, although two's complement could represent -L - 1 as well."""
        require_within("SubtractivelyDithered.bits", self.bits, 2, 16)
        require_narrowest("SubtractivelyDithered.codes", self.codes, "i", self.bits)
        require_scale(self.scale)
        require_seed(self.seed, self.impl)
        require_float(self.dtype)
        codes, top = np.asarray(self.codes), 2 ** (self.bits - 1) - 1
        if codes.size and np.abs(codes.astype(np.int64)).max() > top:
            raise ValueError(f"SubtractivelyDithered.codes must lie in [-{top}, {top}]")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FixedStep(Payload):
    """Integers on a uniform grid that is agreed in advance: x is ``step * codes``.

    Attributes:
        codes: ``i8`` or ``i16``, in the shape of the array.  The code -2^(bits-1) marks a value
            that the grid does not reach.
        step: distance between two levels.
        bits: width of a code.
        dtype: dtype of the array.
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
        """The step is positive and finite, and codes are signed integers of a legal width."""
        require_within("FixedStep.bits", self.bits, 2, 16)
        require_narrowest("FixedStep.codes", self.codes, "i", self.bits)
        if not 0 < self.step < math.inf:
            raise ValueError(f"FixedStep.step must be positive and finite, got {self.step}")
        require_float(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KLevel(Payload):
    """Numbers of uniformly spaced levels above a first one: x is about ``least + step * codes``.

    Attributes:
        codes: ``u8`` or ``u16``, in the shape of the array, each below ``levels``.
        least: ``f32[]``, the first level, or a payload of it.
        step: ``f32[]``, distance between two levels, or a payload of it.
        levels: number of levels.
        dtype: dtype of the array.
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
        """Codes are less than ``levels``."""
        require_within("KLevel.levels", self.levels, 2, 2**16)
        require_narrowest("KLevel.codes", self.codes, "u", index_width(self.levels))
        require_scale(self.least)
        require_scale(self.step)
        require_float(self.dtype)
        require_below("KLevel.codes", self.codes, self.levels)
