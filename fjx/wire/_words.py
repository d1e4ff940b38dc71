"""Narrow integers in 32-bit words, in a compiled program: shifts and masks, which every device has."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array


def pack_words(codes: Array, width: int) -> Array:
    """The low bits of each code, one after another, in words: what :func:`to_bytes` writes, on a device.

    Code i occupies the bits ``i * width`` to ``(i + 1) * width`` of the words, the lowest first.

    Guarantees: the little-endian bytes of the words begin with those of the section that
        :func:`to_bytes` writes for codes of this width; what pads them is zero.

    Args:
        codes: integers or bools of any shape; of signed ones, two's complement is kept.
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
        raise TypeError(f"pack_words packs integers, got {codes.dtype}")
    flat, size = codes.reshape(-1).astype(jnp.uint32) & _mask(width), codes.size
    count, words = -(-size * width // 32), _group(width) * width // 32
    rows = jnp.pad(flat, (0, -size % _group(width))).reshape(-1, _group(width))
    starts = width * np.arange(_group(width))
    # Codes share no bit, so that their sum is their union, and a reduction is one pass over them.
    packed = [
        jnp.sum(_moved(rows, starts - 32 * word), axis=1, dtype=jnp.uint32) for word in range(words)
    ]
    return jnp.stack(packed, axis=1).reshape(-1)[:count]


def unpack_words(words: Array, width: int, size: int) -> Array:
    """The inverse of :func:`pack_words`.

    Args:
        words: ``u32[ceil(size * width / 32)]``.
        width: bits of a code, 1 to 32.
        size: how many codes there are.

    Returns:
        ``u32[size]``; of signed codes, two's complement without its sign extended.

    Raises:
        TypeError: ``width`` or ``size`` is not an integer.
        ValueError: one is out of range, or does not fit the number of words.

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
    """Columns shifted to the left by so many bits, each by its own, or to the right by minus as many.

    What a shift moves out of the word is gone: by 32 bits and more, everything.
    """
    left, right = (np.clip(s, 0, 32).astype(np.uint32)[None] for s in (shifts, -shifts))
    shape = jnp.broadcast_shapes(rows.shape, left.shape)
    rows, left, right = (jnp.broadcast_to(a, shape) for a in (rows, left, right))
    # The operations of XLA, unlike those of C, are zero for a shift by the whole word.
    return jax.lax.shift_right_logical(jax.lax.shift_left(rows, left), right)


def _mask(width: int) -> Array:
    return jnp.uint32((1 << width) - 1)


def _group(width: int) -> int:
    """The fewest codes that fill whole words."""
    return 32 // math.gcd(width, 32)
