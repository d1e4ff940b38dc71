"""Golomb-Rice code: n as floor(n / 2^b) in unary and its b lowest bits, with one b for all integers.

References:
    Rice, Plaunt, *Adaptive Variable-Length Coding for Efficient Compression of Spacecraft Television
    Data*, IEEE Trans. Commun. 1971; Golomb, *Run-Length Encodings*, IEEE Trans. Inf. Theory 1966.
"""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from fjx._base import Array
from fjx.wire._coders.bits import BitReader, blocks, digits, joined, read_in_blocks, total, unary
from fjx.wire._coders.method import Method


def _encode(numbers: np.ndarray, width: int) -> bytes:
    """Code with the b that gives the fewest bits; the first byte is 1 + b."""

    def cost(low: int) -> int:
        return numbers.size * (1 + low) + int(np.sum(numbers >> low, dtype=np.int64))

    low = min(range(width), key=cost)
    if cost(low) >= numbers.size * width:
        # Longer than the fixed width, which is then used; these bytes are never sent.
        return bytes(2 + numbers.size * width // 8)

    def parts() -> Iterator[np.ndarray]:
        for block in blocks(numbers):
            yield unary(block >> low)
            yield digits(block, np.full(block.size, low))

    return joined(1 + low, parts())


def _decode(bits: BitReader, count: int, width: int, low: int) -> np.ndarray:
    """Numbers of a code with b = ``low``."""
    if low >= width:
        raise ValueError(f"a Golomb code of {width}-bit integers has no parameter 2^{low}")

    def read(size: int) -> np.ndarray:
        return bits.unary(size) << low | bits.digits(np.full(size, low))

    return read_in_blocks(read, bits, count, width)


def _measure(numbers: Array, counts: Array, width: int) -> Array:
    """Bits of the code with the best b."""
    low = jnp.arange(width, dtype=jnp.uint32)[:, None]
    return jnp.min(total((numbers[None] >> low) + 1 + low, counts[None]))


GOLOMB = Method(_encode, _decode, _measure)
