"""Narrow integers in 32-bit words inside a compiled program, by shifts and masks."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array


def pack_words(codes: Array, width: int) -> Array:
    """Narrow codes packed into 32-bit words, on any device.

    Code i occupies the bits ``i * width`` to ``(i + 1) * width`` of the words, with the lowest first.

    Guarantees:
        - The little-endian bytes of the words begin with the section that :func:`to_bytes` writes for
          codes of this width.
        - The padding is zero.

    Args:
        codes: integers or bools of any shape; signed ones keep their two's complement.
        width: bits of a code, 1 to 32.

    Returns:
        ``u32[ceil(d * width / 32)]``.

    Raises:
        TypeError: ``width`` is not an integer, or ``codes`` are floating.
        ValueError: ``width`` is out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import wire
        >>> words = wire.pack_words(jnp.array([1, -1, 2], jnp.int8), 4)
        >>> hex(int(words[0])), wire.unpack_words(words, 4, 3).tolist()
        ('0x2f1', [1, 15, 2])
    """
    width = _validate.static_integer("width", width, at_least=1, at_most=32)
    codes = jnp.asarray(codes)
    if jnp.issubdtype(codes.dtype, jnp.floating):
        raise TypeError(f"codes must be integers or bools, got {codes.dtype}")
    flat, size = codes.reshape(-1).astype(jnp.uint32) & _mask(width), codes.size
    count, words = -(-size * width // 32), _group(width) * width // 32
    rows = jnp.pad(flat, (0, -size % _group(width))).reshape(-1, _group(width))
    starts = width * np.arange(_group(width))
    # No two codes share a bit, so their sum is their union; the sum is one pass over the codes.
    packed = [
        jnp.sum(_moved(rows, starts - 32 * word), axis=1, dtype=jnp.uint32) for word in range(words)
    ]
    return jnp.stack(packed, axis=1).reshape(-1)[:count]


def unpack_words(words: Array, width: int, size: int) -> Array:
    """Narrow codes from 32-bit words, the inverse of :func:`pack_words`.

    Args:
        words: ``u32[ceil(size * width / 32)]``.
        width: bits of a code, 1 to 32.
        size: number of codes.

    Returns:
        ``u32[size]``; signed codes are in two's complement, without sign extension.

    Raises:
        TypeError: ``width`` or ``size`` is not an integer.
        ValueError: a number is out of range, or ``size`` does not fit the number of words.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import wire
        >>> wire.unpack_words(jnp.array([0b110100], jnp.uint32), 2, 3).tolist()
        [0, 1, 3]
    """
    width = _validate.static_integer("width", width, at_least=1, at_most=32)
    size = _validate.static_integer("size", size, at_least=0)
    if words.shape != (-(-size * width // 32),):
        raise ValueError(
            f"{size} codes of {width} bits are {-(-size * width // 32)} words, got {words.shape}"
        )
    words_of_row = _group(width) * width // 32
    rows = jnp.pad(words, (0, -words.size % words_of_row)).reshape(-1, words_of_row)
    starts = width * np.arange(_group(width))
    parts = [_moved(rows[:, word, None], 32 * word - starts) for word in range(words_of_row)]
    codes = functools.reduce(jnp.bitwise_or, parts) & _mask(width)
    return codes.reshape(-1)[:size]


def _moved(rows: Array, shifts: np.ndarray) -> Array:
    """Columns shifted to the left, each by its own number of bits; negative numbers shift to the right.

    Bits that leave the word are lost; a shift by 32 bits or more gives zero.
    """
    left, right = (np.clip(s, 0, 32).astype(np.uint32)[None] for s in (shifts, -shifts))
    shape = jnp.broadcast_shapes(rows.shape, left.shape)
    rows, left, right = (jnp.broadcast_to(a, shape) for a in (rows, left, right))
    # In XLA, unlike in C, a shift by the whole word is defined and gives zero.
    return jax.lax.shift_right_logical(jax.lax.shift_left(rows, left), right)


def _mask(width: int) -> Array:
    """Word with the lowest ``width`` bits set."""
    return jnp.uint32((1 << width) - 1)


def _group(width: int) -> int:
    """The smallest number of codes that fill whole words."""
    return 32 // math.gcd(width, 32)
