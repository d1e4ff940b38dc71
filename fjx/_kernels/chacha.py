"""The stream of ChaCha20 as traced words, for public randomness that hosts draw as well."""

import jax
import jax.numpy as jnp

from fjx._base import Array

_CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)


def words(key: Array, count: int) -> Array:
    """The first words of the stream of a key, with a nonce of zeros and a counter from zero.

    They are those of RFC 8439, little-endian.  A secret does not belong here: traced programs and their
    caches keep copies of what they compute.

    Args:
        key: ``u32[8]``, the key.
        count: number of words.
    """
    blocks = max(-(-count // 16), 1)
    rows = [jnp.full((4, blocks), jnp.array(_CONSTANTS, jnp.uint32)[:, None])]
    rows += [jnp.broadcast_to(half[:, None], (4, blocks)) for half in (key[:4], key[4:])]
    counter = jnp.zeros((4, blocks), jnp.uint32).at[0].set(jnp.arange(blocks, dtype=jnp.uint32))
    first = jnp.stack([*rows, counter])

    def double_round(_: int, state: Array) -> Array:
        a, b, c, d = _quarter(*state)  # of columns
        b, c, d = (jnp.roll(x, -i, 0) for i, x in enumerate((b, c, d), start=1))
        a, b, c, d = _quarter(a, b, c, d)  # of diagonals
        b, c, d = (jnp.roll(x, i, 0) for i, x in enumerate((b, c, d), start=1))
        return jnp.stack([a, b, c, d])

    mixed = jax.lax.fori_loop(0, 10, double_round, first)
    return (mixed + first).reshape(16, blocks).T.reshape(-1)[:count]


def _quarter(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, Array, Array, Array]:
    """The quarter round of section 2.1, on four columns at once."""
    for left, right in ((16, 12), (8, 7)):
        a = a + b
        d = _turned(d ^ a, left)
        c = c + d
        b = _turned(b ^ c, right)
    return a, b, c, d


def _turned(x: Array, bits: int) -> Array:
    return (x << bits) | (x >> (32 - bits))
