"""Payloads of quantisers whose levels or centres are entries of a table."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import numpy as np

from fjx._base import Array, Tree
from fjx.wire._payload import (
    ARRAYS,
    Payload,
    around,
    axes_in_front,
    index_width,
    require_axes,
    require_below,
    require_float,
    require_float32,
    require_narrowest,
    require_scale,
    require_within,
    size_of,
    static,
)


def _front(codes: Array) -> tuple[int, ...]:
    """Shape of the scales: one for each row of a rotated vector in blocks, else one for all codes."""
    in_rows = around() and type(around()[-1]).__name__ == "Rotated"
    front = axes_in_front()
    return np.shape(codes)[:-1] if in_rows and np.ndim(codes) == len(front) + 2 else front


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LloydMax(Payload):
    """Codes of the Lloyd-Max quantiser of a Gaussian: x is about ``scale * levels[codes]``.

    The levels follow from ``bits`` and do not travel.

    Attributes:
        codes: ``u8``, in the shape of the array, each below 2^bits.
        scale: ``f32[]``, or a payload of it.
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
        """A table of levels exists for this number of bits, and codes are unsigned."""
        require_within("LloydMax.bits", self.bits, 1, 8)
        require_narrowest("LloydMax.codes", self.codes, "u", 8)
        require_scale(self.scale, _front(self.codes))
        require_float(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MixedLloydMax(Payload):
    """Codes of two Lloyd-Max quantisers of a Gaussian: x is about ``scale * levels[codes]``.

    The levels follow from ``bits`` and do not travel.  A quantiser of no bits has the one level zero.

    Attributes:
        fine: ``u8[k]``, codes of ``bits`` bits for the first k coordinates.
        coarse: ``u8[d - k]``, codes of ``bits - 1`` bits for the others; empty if ``bits`` is 1.
        scale: ``f32[]``, or a payload of it.
        bits: width of a fine code.
        shape: shape of the array.
        dtype: dtype of the array.
    """

    fine: Array
    coarse: Array
    scale: Tree
    bits: int = static()
    shape: tuple[int, ...] = static()
    dtype: str = static()

    def widths(self) -> Mapping[str, int]:
        """A fine code costs ``bits``, a coarse one a bit less."""
        return {"fine": self.bits, "coarse": self.bits - 1}

    def check(self) -> None:
        """Each coordinate has one code, or none if a coarse code has no bits."""
        require_within("MixedLloydMax.bits", self.bits, 1, 8)
        require_float(self.dtype)
        require_scale(self.scale, _front(self.fine))
        size = size_of(self.shape)
        for name, codes in (("fine", self.fine), ("coarse", self.coarse)):
            require_narrowest(f"MixedLloydMax.{name}", codes, "u", 8)
            require_axes(
                f"MixedLloydMax.{name}", codes, 1 + len(_front(codes)) - len(axes_in_front())
            )
        if isinstance(self.fine, ARRAYS) and isinstance(self.coarse, ARRAYS):
            if self.fine.shape[:-1] != self.coarse.shape[:-1]:
                raise ValueError(
                    f"MixedLloydMax has {self.fine.shape[:-1]} and {self.coarse.shape[:-1]} rows"
                )
            fine, coarse = self.fine.shape[-1], self.coarse.shape[-1]
            if fine > size or coarse != (size - fine if self.bits > 1 else 0):
                raise ValueError(f"MixedLloydMax has {fine} and {coarse} codes for {self.shape}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Codebook(Payload):
    """Array in blocks, each replaced by one of K centres: x is about ``centres[codes]``.

    Attributes:
        codes: ``u8`` or ``u16``, ``[ceil(d / B)]``, number of the centre of each block.
        centres: ``f32[K, B]``, or a payload of them.
        count: number of centres K.
        shape: shape of the array.
        dtype: dtype of the array.
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
        """Codes are below K, and there is one code for each block."""
        require_within("Codebook.count", self.count, 1, 2**16)
        require_narrowest("Codebook.codes", self.codes, "u", index_width(self.count))
        require_axes("Codebook.codes", self.codes, 1)
        require_axes("Codebook.centres", self.centres, 2)
        require_float32("Codebook.centres", self.centres)
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
