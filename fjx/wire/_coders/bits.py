"""Bits written and read without a loop over words, on the host, and counted on any device."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array

WIDEST = 31
"""Bits of the largest integers that are coded: they fit an ``i32``, and one more does not overflow."""


BLOCK = 1 << 16  # words whose parts lie together


def unary(lengths: np.ndarray) -> np.ndarray:
    """As many zeros as each says, and a one."""
    ends = np.cumsum(lengths + 1)
    bits = np.zeros(int(ends[-1]) if ends.size else 0, np.uint8)
    bits[ends - 1] = 1
    return bits


def digits(numbers: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The lowest digits of each number, as many as its length says, the highest of them first."""
    ends = np.cumsum(lengths)
    bits = np.zeros(int(ends[-1]) if ends.size else 0, np.uint8)
    for place in range(int(lengths.max(initial=0))):  # counted from the lowest
        some = lengths > place
        bits[ends[some] - 1 - place] = numbers[some] >> place & 1
    return bits


class BitReader:
    """Bits to be read in order."""

    def __init__(self, data: bytes, at: int) -> None:
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        self.at = at

    def take(self, count: int) -> np.ndarray:
        """The next bits."""
        self.require(count)
        self.at += count
        return self.bits[self.at - count : self.at]

    def require(self, count: int) -> None:
        """Raises ValueError unless so many bits are left."""
        if count > self.bits.size - self.at:
            raise too_short()

    def unary(self, count: int) -> np.ndarray:
        """The zeros before each of the next ones."""
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
        """Numbers of as many digits as their lengths say."""
        if lengths.max(initial=0) > WIDEST:
            raise ValueError("coded integers must be below 2^31")
        bits, starts = self.take(int(lengths.sum())), np.cumsum(lengths) - lengths
        numbers = np.zeros(lengths.size, np.int64)
        for place in range(int(lengths.max(initial=0))):
            some = lengths > place
            numbers[some] = numbers[some] << 1 | bits[starts[some] + place]
        return numbers

    def octets(self, count: int) -> bytes:
        """The next whole bytes, after what pads the last one."""
        self.end()
        return np.packbits(self.take(8 * count), bitorder="little").tobytes()

    def end(self) -> int:
        """How many bytes have been read, what pads the last one included."""
        if self.take(-self.at % 8).any():
            raise ValueError("coded integers are padded with bits that are not zero")
        return self.at // 8


def joined(first: int, parts: Iterator[np.ndarray]) -> bytes:
    bits = np.concatenate([np.zeros(0, np.uint8), *parts])
    return bytes([first]) + np.packbits(bits, bitorder="little").tobytes()


def blocks(numbers: np.ndarray) -> Iterator[np.ndarray]:
    return (numbers[i : i + BLOCK].astype(np.int64) for i in range(0, numbers.size, BLOCK))


def read_in_blocks(
    read: Callable[[int], np.ndarray], bits: BitReader, count: int, width: int
) -> np.ndarray:
    """``count`` numbers, of which each takes at least a bit."""
    bits.require(count)
    numbers = np.zeros(count, storage(width))
    for start in range(0, count, BLOCK):
        block = read(min(BLOCK, count - start))
        if int(block.max()) >> width:
            raise ValueError(f"coded integers must be below 2^{width}, got {block.max()}")
        numbers[start : start + block.size] = block
    return numbers


def storage(width: int) -> np.dtype:
    return np.dtype(np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32)


def too_short() -> ValueError:
    return ValueError("coded integers end too early")


def floor_log2(numbers: np.ndarray) -> np.ndarray:
    """floor(lg n), of n >= 1; 0 of 0."""
    return np.maximum(np.frexp(numbers.astype(np.float64))[1].astype(np.int64) - 1, 0)


def device_floor_log2(numbers: Array) -> Array:
    return jnp.uint32(31) - jnp.minimum(jax.lax.clz(numbers), jnp.uint32(31))


def total(lengths: Array, counts: Array) -> Array:
    """The sums over the last axis of the lengths that count, or 2^32 - 1 where it is more."""

    def add(a: Array, b: Array) -> Array:
        return jnp.where(a + b < a, jnp.uint32(2**32 - 1), a + b)

    lengths = jnp.where(counts, lengths, 0)
    return jax.lax.reduce(lengths, np.uint32(0), add, (lengths.ndim - 1,))
