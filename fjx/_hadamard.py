"""The randomised Hadamard transform: a rotation that costs d log d and a seed."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array, Key


def hadamard(x: Array) -> Array:
    """The orthonormal Walsh-Hadamard transform along the last axis, a power of two; its own inverse.

    The matrix is a Kronecker product of 4 x 4 factors, each a pass over memory, and written as sums:
    a matrix product would lose digits on some devices, and its rounding changes under ``vmap``.
    """
    *lead, size = x.shape
    # A product fused with the first sums would not be rounded, and decode to other bits elsewhere.
    inner, y = 1, jax.lax.optimization_barrier(x)
    while inner < size:
        side = min(4, size // inner)
        y = y.reshape(*lead, size // (side * inner), side, inner)
        y = jnp.stack(_sylvester([y[..., i, :] for i in range(side)]), axis=-2)
        inner *= side
    return y.reshape(x.shape) * np.float32(1 / math.sqrt(max(size, 1)))


def _sylvester(parts: list[Array]) -> list[Array]:
    """H applied to a list of n arrays, by H_2n = [[H_n, H_n], [H_n, -H_n]]."""
    if len(parts) == 1:
        return parts
    half = len(parts) // 2
    pairs = list(zip(parts[:half], parts[half:], strict=True))
    return _sylvester([a + b for a, b in pairs]) + _sylvester([a - b for a, b in pairs])


def rotate(key: Key, x: Array, *, rounds: int) -> Array:
    """``H D_rounds ... H D_1 x`` for a float32 vector of 2^m coordinates, D_r signs from the key."""
    for signs in _signs(key, x.size, rounds):
        x = hadamard(signs * x)
    return x


def unrotate(key: Key, x: Array, *, rounds: int) -> Array:
    """The inverse of :func:`rotate`."""
    for signs in reversed(_signs(key, x.size, rounds)):
        x = signs * hadamard(x)
    return x


def _signs(key: Key, size: int, rounds: int) -> list[Array]:
    """The diagonals of D_1 to D_rounds, a bit of the stream each."""
    words = jax.random.bits(key, (rounds, -(-size // 32), 1), jnp.uint32)
    bits = (words >> jnp.arange(32, dtype=jnp.uint32)[None, None]) & 1
    signs = (1.0 - 2.0 * bits.astype(jnp.float32)).reshape(rounds, -1)[:, :size]
    return [signs[r] for r in range(rounds)]
