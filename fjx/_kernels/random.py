"""Random numbers that are computed where they are used.

On a CPU, :func:`jax.random.bits` is a loop of its own, and its numbers go through memory before
they are used for rounding.  Here the twenty rounds of Threefry are written out as arithmetic, which
fuses with the code that reads the numbers.  The numbers equal those of :mod:`jax.random`, bit for
bit.
"""

import math

import jax
import jax.numpy as jnp

from fjx._base import Array, Key
from fjx._validate import MOVING

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_SMALL = 1024  # for fewer numbers the generator of JAX is as fast, and faster to trace


_ORIGINAL = "threefry2x32-original"
"""Reading of Threefry seeds if ``jax_threefry_partitionable`` is off: other numbers from one seed."""


def seed_of(key: Key) -> tuple[Array, str]:
    """Key data of a key, and how to read them: the PRNG and, for Threefry, its order of numbers.

    Args:
        key: a typed key.

    Returns:
        Pair of ``u32[n]`` and a static name for :func:`key_of`.
    """
    return jax.random.key_data(key), _reading(str(jax.random.key_impl(key)))


def key_of(seed: Array, reading: str) -> Key:
    """Key of a seed.

    Args:
        seed: key data, ``u32[n]``.
        reading: name that :func:`seed_of` gave.

    Returns:
        A typed key.

    Raises:
        ValueError: this process would draw other numbers from the seed than its sender drew.
        TypeError: the seed is not key data of the PRNG.
    """
    impl = "threefry2x32" if reading == _ORIGINAL else reading
    if impl in MOVING:
        raise ValueError(f"a seed of {impl!r} gives other numbers under jax.vmap than without it")
    if reading != _reading(impl):
        raise ValueError(
            f"the seed is to be read as {reading!r}, this process reads it as {_reading(impl)!r}; call "
            f"jax.config.update('jax_threefry_partitionable', {reading != _ORIGINAL}) first"
        )
    return jax.random.wrap_key_data(jnp.asarray(seed), impl=impl)


def _reading(impl: str) -> str:
    return _ORIGINAL if impl == "threefry2x32" and not _partitionable() else impl


def _partitionable() -> bool:
    """True if number i depends on the key and on i alone."""
    return bool(jax.config.jax_threefry_partitionable)  # type: ignore[attr-defined]


def bits(key: Key, shape: tuple[int, ...]) -> Array:
    """``jax.random.bits(key, shape, uint32)``.

    Args:
        key: a typed key.  JAX itself computes the numbers of generators other than Threefry.
        shape: static shape.

    Returns:
        ``u32[shape]``.

    References:
        Salmon, Moraes, Dror, Shaw, *Parallel Random Numbers: As Easy as 1, 2, 3*, SC 2011, for
        Threefry-2x32 with 20 rounds.
    """
    size = math.prod(shape)
    ours = str(jax.random.key_impl(key)) == "threefry2x32" and _partitionable()
    if not ours or not _SMALL <= size < 2**32:
        return jax.random.bits(key, shape, jnp.uint32)
    jax.random.bits(key, (0,), jnp.uint32)  # marks the key as used, for key reuse checking
    low = jax.lax.iota(jnp.uint32, size)
    first, second = _threefry(jax.random.key_data(key), jnp.zeros_like(low), low)
    return (first ^ second).reshape(shape)


def words(key: Key, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """64 random bits a place, as two words.

    A block of Threefry makes two words, of which :func:`jax.random.bits` returns the xor.  Both are
    used here, so that 64 bits cost what 32 bits cost there.  They are also the keys that
    :func:`jax.random.split` and ``fold_in`` make of this key, so it must have no other use.

    Args:
        key: a typed key.
        shape: static shape.

    Returns:
        Two arrays ``u32[shape]``.
    """
    size = math.prod(shape)
    if str(jax.random.key_impl(key)) != "threefry2x32" or size >= 2**32:
        high, low = jax.random.bits(key, (2, *shape), jnp.uint32)
        return high, low
    jax.random.bits(key, (0,), jnp.uint32)  # marks the key as used, for key reuse checking
    place = jax.lax.iota(jnp.uint32, size)
    high, low = _threefry(jax.random.key_data(key), jnp.zeros_like(place), place)
    return high.reshape(shape), low.reshape(shape)


def uniform(key: Key, shape: tuple[int, ...]) -> Array:
    """``jax.random.uniform(key, shape)``: multiples of 2^-23 in [0, 1)."""
    mantissa = bits(key, shape) >> 9 | jnp.uint32(0x3F800000)
    return jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1


def normal(key: Key, shape: tuple[int, ...]) -> Array:
    """``jax.random.normal(key, shape)``: sqrt(2) erf^-1(u) with u uniform in (-1, 1)."""
    least = jnp.nextafter(jnp.float32(-1), jnp.float32(0))
    u = jnp.maximum(least, uniform(key, shape) * (1 - least) + least)
    return jnp.float32(math.sqrt(2)) * jax.lax.erf_inv(u)


def _threefry(key: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Threefry-2x32: 20 rounds of add, rotate and xor, with a key injected after every fourth."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA))
    x, y = x + keys[0], y + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = x ^ (y << rotation | y >> (32 - rotation))
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y
