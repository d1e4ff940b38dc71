"""Payloads of rotations, and of quantisers that are made for what is rotated."""

import dataclasses
from collections.abc import Mapping

import jax

from fjx._base import Array, Tree
from fjx.wire._payload import (
    ARRAYS,
    Payload,
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
class Rotated(Payload):
    """The coefficients of an array in a random frame, whose seed travels with them.

    The array is the beginning of the vector that turns into these coefficients when each block of it
    is rotated.

    Attributes:
        vector: ``f32[d']``, whole blocks of it, or a payload of it.
        seed: ``u32[n]``, the key data of the sender's rotation.
        shape: of the array.
        dtype: of the array.
        rounds: of the rotation.
        impl: the name of the PRNG that reads the seed.
        block: the coordinates that are rotated with one another, a power of two.
    """

    vector: Tree
    seed: Array
    shape: tuple[int, ...] = static()
    dtype: str = static()
    rounds: int = static()
    impl: str = static()
    block: int = static()

    def check(self) -> None:
        """The vector consists of whole blocks, and is as long as the array at least."""
        require_within("Rotated.rounds", self.rounds, 1, 64)
        require_within("Rotated.block", self.block, 1, 2**31)
        if self.block & (self.block - 1):
            raise ValueError(f"Rotated.block must be a power of two, got {self.block}")
        require_seed(self.seed, self.impl)
        require_float(self.dtype)
        size = size_of(self.shape)
        if isinstance(self.vector, ARRAYS):
            length = self.vector.shape[-1] if self.vector.ndim else 0
            if length < size or length % self.block:
                raise ValueError(
                    f"Rotated.vector must have whole blocks of {self.block} coordinates for "
                    f"{self.shape}, got {length}"
                )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MixedLloydMax(Payload):
    """Codes of two Lloyd-Max quantisers of a Gaussian: x is about ``scale * levels[codes]``.

    The levels follow from ``bits`` and do not travel.  One level, of no bits, is zero.

    Attributes:
        fine: ``u8[k]``, codes of ``bits`` bits, of the first k coordinates.
        coarse: ``u8[d - k]``, codes of one bit less, of the others; none where that is no bit.
        scale: ``f32[]``, or a payload of it.
        bits: of a fine code.
        shape: of the array.
        dtype: of the array.
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
        """Every coordinate has one code, or none where that has no bits."""
        require_within("MixedLloydMax.bits", self.bits, 1, 8)
        require_float(self.dtype)
        require_scale(self.scale, self.fine)
        size = size_of(self.shape)
        for name, codes in (("fine", self.fine), ("coarse", self.coarse)):
            require_integers(f"MixedLloydMax.{name}", codes, "u")
        if isinstance(self.fine, ARRAYS) and isinstance(self.coarse, ARRAYS):
            fine, coarse = self.fine.shape[-1], self.coarse.shape[-1]
            if fine > size or coarse != (size - fine if self.bits > 1 else 0):
                raise ValueError(f"MixedLloydMax has {fine} and {coarse} codes for {self.shape}")
