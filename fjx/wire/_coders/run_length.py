"""Run-length code for integers that are mostly zero.

The number of non-zero integers comes first, in Elias gamma.  Each of them is then written as the
number of zeros before it (gamma), half of it, rounded up (gamma), and its lowest bit.  For a zig-zag
code the last two are magnitude and sign.

References:
    Golomb, *Run-Length Encodings*, IEEE Trans. Inf. Theory 1966, for runs; Alistarh, Grubic, Li,
    Tomioka, Vojnovic, *QSGD*, NeurIPS 2017 (arXiv:1610.02132), for Elias-coded runs and magnitudes.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array
from fjx.wire._coders.bits import BLOCK, BitReader, blocks, joined, storage, total
from fjx.wire._coders.elias import gamma_length, read_gamma, write_gamma
from fjx.wire._coders.method import Method


def _encode(numbers: np.ndarray, width: int) -> bytes:
    """Code of the runs and of the non-zero integers."""
    places = np.flatnonzero(numbers)
    runs = np.diff(places, prepend=-1) - 1

    def parts() -> Iterator[np.ndarray]:
        yield from write_gamma(np.array([places.size]))
        for at, run in zip(blocks(places), blocks(runs), strict=True):
            some = numbers[at].astype(np.int64)
            yield from write_gamma(run)
            yield from write_gamma((some + 1 >> 1) - 1)
            yield (some & 1).astype(np.uint8)

    return joined(1, parts())


def _decode(bits: BitReader, count: int, width: int, parameter: int) -> np.ndarray:
    """Numbers that :func:`_encode` wrote."""
    missing = int(read_gamma(bits, 1)[0])
    if missing > count:
        raise ValueError(f"{count} coded integers cannot have {missing} that are not zero")
    bits.require(3 * missing)
    numbers, start = np.zeros(count, storage(width)), -1
    while missing:
        size = min(BLOCK, missing)
        places = start + np.cumsum(read_gamma(bits, size) + 1)
        some = 2 * (read_gamma(bits, size) + 1) - bits.take(size)
        if places[-1] >= count:
            raise ValueError(f"a run of zeros ends after the last of {count} coded integers")
        if int(some.max()) >> width:
            raise ValueError(f"coded integers must be below 2^{width}, got {some.max()}")
        numbers[places] = some
        start, missing = int(places[-1]), missing - size
    return numbers


def _measure(numbers: Array, counts: Array, width: int) -> Array:
    """Bits of the code."""
    some = counts & (numbers > 0)
    after = jax.lax.iota(jnp.uint32, numbers.size) + 1
    last = jax.lax.cummax(jnp.where(some, after, 0))
    before = jnp.concatenate([jnp.zeros(1, jnp.uint32), last])[:-1]
    lengths = gamma_length(after - 1 - before) + gamma_length((numbers + 1 >> 1) - 1) + 1
    head = gamma_length(jnp.sum(some, dtype=jnp.uint32))
    both = jnp.concatenate([head[None], lengths])
    return total(both, jnp.concatenate([jnp.ones(1, bool), some]))


RUN_LENGTH = Method(_encode, _decode, _measure)
