"""Bits of many code words at once, without a loop over words.

The textbook writes one code word after another: a length in unary, then the digits that it
announces.  This module takes the words of up to 2^16 integers apart and stores like parts together:
first all lengths, then all digits.  The number of bits is the same, and NumPy can write and read them
without a loop.  Bits fill a byte from its lowest bit on.  A number with an announced length is
written with its highest digit first.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array

WIDEST = 31
"""Bits of the largest coded integers: they fit an ``i32``, and one more still fits a ``u32``."""

BLOCK = 1 << 16  # code words whose parts are stored together


def unary(lengths: np.ndarray) -> np.ndarray:
    """Each length as that many zeros followed by a one."""
    ends = np.cumsum(lengths + 1)
    bits = np.zeros(int(ends[-1]) if ends.size else 0, np.uint8)
    bits[ends - 1] = 1
    return bits


def digits(numbers: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The lowest digits of each number, as many as its length, with the highest of them first."""
    ends = np.cumsum(lengths)
    bits = np.zeros(int(ends[-1]) if ends.size else 0, np.uint8)
    for place in range(int(lengths.max(initial=0))):  # counted from the lowest
        some = lengths > place
        bits[ends[some] - 1 - place] = numbers[some] >> place & 1
    return bits


class BitReader:
    """Reader of consecutive bits."""

    def __init__(self, data: bytes, at: int) -> None:
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        self.at = at

    def take(self, count: int) -> np.ndarray:
        """The next ``count`` bits."""
        self.require(count)
        self.at += count
        return self.bits[self.at - count : self.at]

    def require(self, count: int) -> None:
        """Raise ValueError unless ``count`` more bits exist."""
        if count > self.bits.size - self.at:
            raise too_short()

    def unary(self, count: int) -> np.ndarray:
        """The next ``count`` unary lengths."""
        self.require(count)
        found, missing, start, step = [], count, self.at, 8 * count + 64
        while missing:
            if start >= self.bits.size:
                raise too_short()
            ones = start + np.flatnonzero(self.bits[start : start + step])[:missing]
            found.append(ones)
            missing -= ones.size
            start += step
        ends = np.concatenate([[self.at - 1], *found])
        self.at = int(ends[-1]) + 1
        return np.diff(ends) - 1

    def digits(self, lengths: np.ndarray) -> np.ndarray:
        """Numbers with the given numbers of digits."""
        if lengths.max(initial=0) > WIDEST:
            raise ValueError("coded integers must be below 2^31")
        bits, starts = self.take(int(lengths.sum())), np.cumsum(lengths) - lengths
        numbers = np.zeros(lengths.size, np.int64)
        for place in range(int(lengths.max(initial=0))):
            some = lengths > place
            numbers[some] = numbers[some] << 1 | bits[starts[some] + place]
        return numbers

    def octets(self, count: int) -> bytes:
        """The next whole bytes; the padding of the current byte is skipped."""
        self.end()
        return np.packbits(self.take(8 * count), bitorder="little").tobytes()

    def end(self) -> int:
        """Number of bytes read so far, including the padding of the last one."""
        if self.take(-self.at % 8).any():
            raise ValueError("coded integers are padded with bits that are not zero")
        return self.at // 8


def joined(first: int, parts: Iterator[np.ndarray]) -> bytes:
    """Bytes of a first byte and of parts of bits, padded with zeros."""
    bits = np.concatenate([np.zeros(0, np.uint8), *parts])
    return bytes([first]) + np.packbits(bits, bitorder="little").tobytes()


def blocks(numbers: np.ndarray) -> Iterator[np.ndarray]:
    """Numbers in blocks of at most 2^16."""
    return (numbers[i : i + BLOCK].astype(np.int64) for i in range(0, numbers.size, BLOCK))


def read_in_blocks(
    read: Callable[[int], np.ndarray], bits: BitReader, count: int, width: int
) -> np.ndarray:
    """``count`` numbers of at least one bit each, read block by block."""
    bits.require(count)
    numbers = np.zeros(count, storage(width))
    for start in range(0, count, BLOCK):
        block = read(min(BLOCK, count - start))
        if int(block.max()) >> width:
            raise ValueError(f"coded integers must be below 2^{width}, got {block.max()}")
        numbers[start : start + block.size] = block
    return numbers


def storage(width: int) -> np.dtype:
    """The narrowest unsigned dtype that holds ``width`` bits."""
    return np.dtype(np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32)


def too_short() -> ValueError:
    """The error for a code that ends too early."""
    return ValueError("coded integers end too early")


def floor_log2(numbers: np.ndarray) -> np.ndarray:
    """floor(lg n) for n >= 1; 0 for n = 0."""
    return np.maximum(np.frexp(numbers.astype(np.float64))[1].astype(np.int64) - 1, 0)


def device_floor_log2(numbers: Array) -> Array:
    """floor(lg n) for n >= 1; 0 for n = 0; on any device."""
    return jnp.uint32(31) - jnp.minimum(jax.lax.clz(numbers), jnp.uint32(31))


def total(lengths: Array, counts: Array) -> Array:
    """Sum of the counted lengths over the last axis, or 2^32 - 1 if the sum is larger."""

    def add(a: Array, b: Array) -> Array:
        return jnp.where(a + b < a, jnp.uint32(2**32 - 1), a + b)

    lengths = jnp.where(counts, lengths, 0)
    return jax.lax.reduce(lengths, np.uint32(0), add, (lengths.ndim - 1,))
