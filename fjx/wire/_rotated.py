"""Payloads of rotations, and of quantisers that are made for what is rotated."""

import dataclasses

import jax

from fjx._base import Array, Tree
from fjx.wire._payload import (
    ARRAYS,
    Payload,
    require_float,
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
