"""Seeds that travel by themselves."""

import dataclasses

import jax

from fjx._base import Array, Key
from fjx._kernels import random as _random
from fjx.wire._payload import Payload, require_seed, static


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Seed(Payload):
    """Seed from which sender and receiver draw the same numbers.

    Attributes:
        words: ``u32[n]``, key data.
        impl: how the seed is read: the name of a PRNG, and for Threefry its order of numbers.
    """

    words: Array
    impl: str = static()

    @classmethod
    def of(cls, key: Key) -> "Seed":
        """Seed of a typed key."""
        return cls(*_random.seed_of(key))

    @classmethod
    def like(cls) -> "Seed":
        """Shape of the seed of a Threefry key."""
        return jax.eval_shape(lambda: cls.of(jax.random.key(0, impl="threefry2x32")))

    @property
    def key(self) -> Key:
        """Typed key of the seed; a ValueError if this process would draw other numbers from it."""
        return _random.key_of(self.words, self.impl)

    def check(self) -> None:
        """This process reads the seed as its sender did."""
        require_seed(self.words, self.impl)
