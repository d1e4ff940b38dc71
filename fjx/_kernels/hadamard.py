"""The randomised Hadamard transform: a rotation that costs d log d operations and a seed."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array, Key
from fjx._kernels import random as _random

_RADIX = 16
_WHOLE = 2**16  # longest row whose transform fits in a cache
_TILE = 2**20  # coordinates that a cache holds
_PLANES = 32  # bits of a word; each holds signs of another part of the vector


def rotate(key: Key, x: Array, *, rounds: int, block: int | None = None) -> Array:
    """``D_rounds H ... D_1 H D_0 x``, where the key gives random signs D_r and H is orthonormal.

    Args:
        key: key of the signs.
        x: ``f32[d]``, d a power of two, or a multiple of ``block``.
        rounds: number of times that H is applied.
        block: number of coordinates that H acts on together, a power of two; all of them by
            default.

    Returns:
        ``f32[d]``.
    """
    return _walk(_signs(key, x.size, rounds + 1), x, block, transpose=False)


def unrotate(key: Key, x: Array, *, rounds: int, block: int | None = None) -> Array:
    """The inverse of :func:`rotate`."""
    # Decoding the coefficients would be slow in one loop with the flips, which read 32 parts of them.
    x = jax.lax.optimization_barrier(x)
    return _walk(_signs(key, x.size, rounds + 1)[::-1], x, block, transpose=True)


def _walk(signs: list[Array], x: Array, block: int | None, *, transpose: bool) -> Array:
    # A product that is fused with the first sums is not rounded, so it would decode to other bits when
    # the compiler fuses differently.  Signs are flipped on integers, so the product before is rounded.
    scale = np.float32(1 / math.sqrt(max(block or x.size, 1)))
    x = _flip(x, signs[0])
    for words in signs[1:]:
        x = _flip(hadamard(x, block, transpose=transpose) * scale, words)
    return x


def hadamard(x: Array, block: int | None = None, *, transpose: bool = False) -> Array:
    """The unscaled Walsh-Hadamard transform of each block of a vector: sums and differences only.

    The matrix is Sylvester's, a Kronecker product of 16 x 16 factors.  Each factor is a pass over
    memory, and a pass over distant coordinates would miss the cache.  So a block longer than 2^16
    is seen as a matrix: first its rows are transformed, then its columns, and the matrix is left
    transposed.  For such blocks the rows of H come in another order, and H is no longer symmetric;
    ``transpose`` applies its transpose.
    """
    size = block or x.size
    if size <= _WHOLE:
        return _of_rows(x, max(size, 1))
    # 2^m as two powers of sixteen, or nearly.
    columns = _RADIX ** -(-(size.bit_length() - 1) // 8)
    shape = (size // columns, columns)
    first, second = reversed(shape) if transpose else shape
    y = _of_rows(x, second).reshape(-1, first, second)
    return _of_rows(jnp.swapaxes(y, 1, 2).reshape(-1), first)


def _of_rows(x: Array, size: int) -> Array:
    """The transform of each row of ``size`` = 2^m coordinates, done along each axis of [.., 16, 16]."""
    whole, rest = divmod(size.bit_length() - 1, 4)
    axes = (2**rest,) * (rest > 0) + (_RADIX,) * whole
    factors = [_sylvester(side) for side in axes]
    return _transform(x.reshape(x.size // size, *axes), factors).reshape(-1)


@jax.custom_batching.custom_vmap
def _transform(x: Array, factors: list[Array]) -> Array:
    """The transform along every axis but the first, in tiles that stay in the cache.

    No reshape may follow the last sum within one loop over memory, since the loop would not be
    vectorised.
    """
    rows = min(max(_TILE // math.prod(x.shape[1:]), 1), x.shape[0])
    if rows == x.shape[0]:
        return _transform_tile(x, factors)

    def tile(i: Array, out: Array) -> Array:
        first = jnp.minimum(i * rows, x.shape[0] - rows)  # the last tile may repeat some rows
        done = _transform_tile(jax.lax.dynamic_slice_in_dim(x, first, rows), factors)
        return jax.lax.dynamic_update_slice_in_dim(out, done, first, axis=0)

    return jax.lax.fori_loop(0, -(-x.shape[0] // rows), tile, jnp.zeros_like(x))


@_transform.def_vmap
def _transform_all(
    axis_size: int, in_batched: tuple[bool, list[bool]], x: Array, factors: list[Array]
) -> tuple[Array, bool]:
    # In a branch that depends on the row, JAX repeats even constants.  Inside a function with a rule of
    # its own it refuses to, so the factors are arguments.
    batched, repeated = in_batched
    factors = [
        matrix[0] if again else matrix for matrix, again in zip(factors, repeated, strict=True)
    ]
    if not batched:
        return _transform(x, factors), False
    return _transform(x.reshape(-1, *x.shape[2:]), factors).reshape(x.shape), True


def _transform_tile(x: Array, factors: list[Array]) -> Array:
    for axis, matrix in enumerate(factors, start=1):
        x = _sums(x, matrix, axis)
    return x


def _sums(x: Array, matrix: Array, axis: int) -> Array:
    """Sylvester's matrix applied along one axis.

    It is written as sums.  A matrix product would lose digits on some devices, and its rounding
    changes under ``vmap``.  Products with a sign are exact, so fusing one with a sum changes
    nothing.
    """
    side = x.shape[axis]
    signs = matrix.reshape(side, side, *(1,) * (x.ndim - 1 - axis))
    terms = [
        jax.lax.slice_in_dim(x, i, i + 1, axis=axis)
        * signs[i].reshape(*(1,) * axis, *signs[i].shape)
        for i in range(side)
    ]
    while len(terms) > 1:
        terms = [a + b for a, b in zip(terms[::2], terms[1::2], strict=True)]
    return terms[0]


@functools.cache
def _sylvester(size: int) -> np.ndarray:
    """H_1 = [1], H_2n = [[H_n, H_n], [H_n, -H_n]]."""
    if size == 1:
        return np.ones((1, 1), np.float32)
    return np.kron(np.array([[1, 1], [1, -1]], np.float32), _sylvester(size // 2))


def _signs(key: Key, size: int, count: int) -> list[Array]:
    """Random diagonals as words; each bit is the sign of a coordinate."""
    words = _random.bits(key, (count, -(-size // _PLANES)))
    # The barrier makes the words once, not again for each of the 32 coordinates of a word.
    return list(jax.lax.optimization_barrier(words))


def _flip(x: Array, words: Array) -> Array:
    """``x`` with the signs of some coordinates flipped; bit p of the words belongs to part p of x."""
    padded = jnp.pad(x, (0, words.size * _PLANES - x.size)).reshape(_PLANES, words.size)
    shifts = jnp.arange(_PLANES, dtype=jnp.uint32)[:, None]
    negative = (words[None] << shifts) & jnp.uint32(1 << 31)
    flipped = jax.lax.bitcast_convert_type(padded, jnp.uint32) ^ negative
    return jax.lax.bitcast_convert_type(flipped, jnp.float32).reshape(-1)[: x.size]
