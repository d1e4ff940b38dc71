"""The payload of QUIC-FL."""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import numpy as np

from fjx._base import Array, Tree
from fjx.wire._payload import (
    ARRAYS,
    Ragged,
    index_width,
    require_count,
    require_float,
    require_narrowest,
    require_scale,
    require_seed,
    require_within,
    require_words,
    static,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quic(Ragged):
    """Codes of a quantiser with bounded support, and the exact coordinates beyond it.

    The levels follow from ``bits`` and the seed; the seed chooses the levels of each coordinate.

    Attributes:
        count: ``i32[]``, number of coordinates beyond the support.
        codes: ``u8[d]``, each below 2^bits.
        scale: ``f32[]``, scale of the levels, or a payload of it.
        seed: ``u32[n]``, key data of the randomness that sender and receiver share.
        values: ``f32[capacity]``, the coordinates beyond the support.
        indices: ``u32[capacity]``, their positions.
        bits: width of a code.
        impl: how the seed is read: the name of a PRNG, and for Threefry its order of numbers.
        dtype: dtype of the array.
    """

    count: Array
    codes: Array
    scale: Tree
    seed: Array
    values: Tree
    indices: Array
    bits: int = static()
    impl: str = static()
    dtype: str = static()

    coordinates: ClassVar[tuple[str, ...]] = ("values", "indices")

    def widths(self) -> Mapping[str, int]:
        """A code costs ``bits``, an index ``ceil(log2(d))``."""
        return {"codes": self.bits, "indices": index_width(math.prod(self.codes.shape[-1:]))}

    def check(self) -> None:
        """Codes have a legal width; indices that count lie below d and are distinct."""
        require_within("Quic.bits", self.bits, 1, 8)
        require_narrowest("Quic.codes", self.codes, "u", 8)
        require_words("Quic.indices", self.indices)
        require_scale(self.scale)
        require_seed(self.seed, self.impl)
        require_float(self.dtype)
        require_count(self, self.indices.shape[-1])
        if isinstance(self.values, ARRAYS) and self.values.shape != self.indices.shape:
            raise ValueError(f"Quic has {self.values.size} values and {self.indices.size} indices")
        indices = np.asarray(self.indices)[: int(self.count)]
        if indices.size and indices.max() >= self.codes.shape[-1]:
            raise ValueError(f"Quic.indices must lie below {self.codes.shape[-1]}")
        if np.unique(indices).size != indices.size:
            raise ValueError("Quic.indices must be distinct, got a repeated index")
