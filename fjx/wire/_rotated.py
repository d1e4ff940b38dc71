"""The payload of random rotations."""

import dataclasses

import jax

from fjx._base import Array, Tree
from fjx.wire._codebooks import LloydMax, MixedLloydMax
from fjx.wire._payload import (
    Payload,
    require_axes,
    require_float,
    require_float32,
    require_seed,
    require_within,
    shape_of,
    size_of,
    static,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rotated(Payload):
    """Coefficients of an array after a random rotation, whose seed travels with them.

    The receiver inverts the rotation block by block.  The resulting vector begins with the array.

    Attributes:
        vector: ``f32[d']``, whole blocks of coefficients, or a payload of it.
        seed: ``u32[n]``, key data of the sender's rotation.
        shape: shape of the array.
        dtype: dtype of the array.
        rounds: number of rounds of the rotation.
        impl: how the seed is read: the name of a PRNG, and for Threefry its order of numbers.
        block: number of coordinates that are rotated together, a power of two.
    """

    vector: Tree
    seed: Array
    shape: tuple[int, ...] = static()
    dtype: str = static()
    rounds: int = static()
    impl: str = static()
    block: int = static()

    def check(self) -> None:
        """The vector consists of whole blocks and is at least as long as the array."""
        require_within("Rotated.rounds", self.rounds, 1, 64)
        require_within("Rotated.block", self.block, 1, 2**31)
        if self.block & (self.block - 1):
            raise ValueError(f"Rotated.block must be a power of two, got {self.block}")
        require_seed(self.seed, self.impl)
        require_float(self.dtype)
        require_float32("Rotated.vector", self.vector)
        if isinstance(self.vector, LloydMax | MixedLloydMax):
            return  # with a scale for each block, it sends the blocks as rows
        require_axes("Rotated.vector", self.vector, 1)
        length = (shape_of(self.vector) or (self.block * -(-size_of(self.shape) // self.block),))[
            -1
        ]
        if length < size_of(self.shape) or length % self.block:
            raise ValueError(
                f"Rotated.vector must have whole blocks of {self.block} coordinates for "
                f"{self.shape}, got {length}"
            )
