"""Golomb-Rice code."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from fjx._base import Array
from fjx.wire._coders.bits import BitReader, blocks, digits, joined, read_in_blocks, total, unary
from fjx.wire._coders.method import Method


def _encode(numbers: np.ndarray, width: int) -> bytes:
    def cost(low: int) -> int:
        return numbers.size * (1 + low) + int(np.sum(numbers >> low, dtype=np.int64))

    low = min(range(width), key=cost)
    if cost(low) >= numbers.size * width:
        return bytes(2 + numbers.size * width // 8)  # too long to be written

    def parts() -> Iterator[np.ndarray]:
        for block in blocks(numbers):
            yield unary(block >> low)
            yield digits(block, np.full(block.size, low))

    return joined(1 + low, parts())


def _decode(bits: BitReader, count: int, width: int, low: int) -> np.ndarray:
    if low >= width:
        raise ValueError(f"a Golomb code of {width} bits has no parameter 2^{low}")

    def read(size: int) -> np.ndarray:
        return bits.unary(size) << low | bits.digits(np.full(size, low))

    return read_in_blocks(read, bits, count, width)


def _measure(numbers: Array, counts: Array, width: int) -> Array:
    low = jnp.arange(width, dtype=jnp.uint32)[:, None]
    return jnp.min(total((numbers[None] >> low) + 1 + low, counts[None]))


GOLOMB = Method(_encode, _decode, _measure)
