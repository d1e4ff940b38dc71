"""Payloads of rotations."""

import dataclasses

import jax

from fjx._base import Array, Tree
from fjx.wire._payload import (
    ARRAYS,
    Payload,
    padded_size,
    require_float,
    require_seed,
    require_within,
    size_of,
    static,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rotated(Payload):
    """An array, padded with zeros and rotated by a seed, which travels with it.

    Attributes:
        vector: ``f32[d']``, d' the next power of two, or a payload of it.
        seed: ``u32[n]``, the key data of the sender's rotation.
        shape: of the array.
        dtype: of the array.
        rounds: of the rotation.
        impl: the name of the PRNG that reads the seed.
    """

    vector: Tree
    seed: Array
    shape: tuple[int, ...] = static()
    dtype: str = static()
    rounds: int = static()
    impl: str = static()

    def check(self) -> None:
        """The vector has the size of the padded array."""
        require_within("Rotated.rounds", self.rounds, 1, 64)
        require_seed(self.seed, self.impl)
        require_float(self.dtype)
        padded = padded_size(size_of(self.shape))
        if isinstance(self.vector, ARRAYS) and self.vector.shape[-1:] != (padded,):
            raise ValueError(f"Rotated.vector must have {padded} coordinates, for {self.shape}")
