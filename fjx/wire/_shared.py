"""Payloads of schemes whose grid, mask or rotation is shared by all clients of a round."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import numpy as np

from fjx._base import Array
from fjx.wire._payload import ARRAYS, Payload, require_integers, require_within, static


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Codes(Payload):
    """Integers whose meaning is agreed in advance.

    Attributes:
        codes: integers of any shape; signed ones travel in two's complement.
        bits: width of a code.
    """

    codes: Array
    bits: int = static()

    coordinates: ClassVar[tuple[str, ...]] = ("codes",)

    def widths(self) -> Mapping[str, int]:
        """A code costs ``bits``."""
        return {"codes": self.bits}

    def check(self) -> None:
        """Codes are integers, and ``bits`` is at most the width of their dtype."""
        require_integers("Codes.codes", self.codes, "u", "i")
        if isinstance(self.codes, ARRAYS):
            require_within("Codes.bits", self.bits, 1, 8 * np.dtype(self.codes.dtype).itemsize)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Words(Payload):
    """Bits packed into 32-bit words, the lowest bit first.

    Attributes:
        words: ``u32[ceil(size / 32)]``.
        size: number of bits.
    """

    words: Array
    size: int = static()

    def check(self) -> None:
        """There are as many words as the bits need, and the padding is zero."""
        require_integers("Words.words", self.words, "u")
        require_within("Words.size", self.size, 0, 2**62)
        if isinstance(self.words, ARRAYS):
            count = math.ceil(self.size / 32)
            if self.words.shape[-1:] != (count,):
                raise ValueError(f"Words needs {count} words for {self.size} bits")
            if self.size % 32 and (np.asarray(self.words)[..., -1] >> (self.size % 32)).any():
                raise ValueError("Words is padded with bits that are not zero")
