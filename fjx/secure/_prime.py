"""Vectors over a prime field of Mersenne size, 2^31 - 1 or 2^61 - 1."""

import functools

import numpy as np

from fjx.secure._crypto import Stream

Words = np.ndarray
"""Elements of the field as ``u64``, each below the prime."""


def width_for(largest: int) -> int:
    """The width w of the smallest prime 2^w - 1 above a number, or 0 if there is none."""
    return next((width for width in (31, 61) if largest < 2**width - 1), 0)


def reduce(x: Words, width: int) -> Words:
    """Any words as elements of the field: 2^w = 1."""
    prime = np.uint64((1 << width) - 1)
    shift = np.uint64(width)
    x = (x & prime) + (x >> shift)
    x = (x & prime) + (x >> shift)
    return np.where(x == prime, np.uint64(0), x)


def times(x: Words, factor: int, width: int) -> Words:
    """The product with one element."""
    if width == 31:
        return reduce(x * np.uint64(factor), width)
    # Both in halves of 31 and 30 bits: 2^62 = 2, and 2^31 m = (m >> 30) + 2^31 (m mod 2^30).
    low, high = x & np.uint64(2**31 - 1), x >> np.uint64(31)
    f0, f1 = np.uint64(factor & (2**31 - 1)), np.uint64(factor >> 31)
    middle = low * f1 + high * f0
    carried = (middle >> np.uint64(30)) + ((middle & np.uint64(2**30 - 1)) << np.uint64(31))
    return reduce(np.uint64(2) * (high * f1) + carried + low * f0, width)


def add(x: Words, y: Words, width: int) -> Words:
    """The sum."""
    return reduce(x + y, width)


def subtract(x: Words, y: Words, width: int) -> Words:
    """The difference."""
    return reduce(x + (np.uint64((1 << width) - 1) - y), width)


def uniform(key: bytes, shape: tuple[int, ...], width: int) -> Words:
    """Uniform elements from one key, by rejection."""
    stream, prime = Stream(key), np.uint64((1 << width) - 1)
    word = np.dtype("<u4" if width == 31 else "<u8")

    def draw(count: int) -> Words:
        return np.frombuffer(stream.take(word.itemsize * count), word).astype(np.uint64) & prime

    found = draw(int(np.prod(shape)))
    while (again := np.flatnonzero(found == prime)).size:
        found[again] = draw(again.size)
    return found.reshape(shape)


def combined(weights: tuple[int, ...], rows: Words, width: int) -> Words:
    """The sum of rows ``[k, ...]``, each times its weight."""
    total = np.zeros(rows.shape[1:], np.uint64)
    for weight, row in zip(weights, rows, strict=True):
        total = add(total, times(row, weight, width), width)
    return total


@functools.lru_cache(maxsize=4096)
def lagrange(known: tuple[int, ...], wanted: int, width: int) -> tuple[int, ...]:
    """Weights of the values at some points, for the value at another."""
    prime, weights = (1 << width) - 1, []
    for i in known:
        above = below = 1
        for j in known:
            if i != j:
                above = above * (wanted - j) % prime
                below = below * (i - j) % prime
        weights.append(above * pow(below, -1, prime) % prime)
    return tuple(weights)
