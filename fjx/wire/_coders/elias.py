"""Elias gamma, delta and omega codes: universal codes of the positive integers, here of n + 1.

Gamma announces the length of n + 1 in unary, delta announces it in gamma, and omega announces it
recursively.

References:
    Elias, *Universal Codeword Sets and Representations of the Integers*, IEEE Trans. Inf. Theory
    1975.
"""

from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np

from fjx._base import Array
from fjx.wire._coders.bits import (
    BitReader,
    blocks,
    device_floor_log2,
    digits,
    floor_log2,
    joined,
    read_in_blocks,
    total,
    unary,
)
from fjx.wire._coders.method import Method


def write_gamma(numbers: np.ndarray) -> Iterator[np.ndarray]:
    """Gamma code of n + 1: its length in unary, then its digits."""
    lengths = floor_log2(numbers + 1)
    yield unary(lengths)
    yield digits(numbers + 1, lengths)


def read_gamma(bits: BitReader, count: int) -> np.ndarray:
    """Numbers that :func:`write_gamma` wrote."""
    lengths = bits.unary(count)
    return (1 << np.minimum(lengths, 32)) + bits.digits(lengths) - 1


def gamma_length(numbers: Array) -> Array:
    """2 floor(lg(n + 1)) + 1 bits."""
    return 2 * device_floor_log2(numbers + 1) + 1


def write_delta(numbers: np.ndarray) -> Iterator[np.ndarray]:
    """Delta code of n + 1: its length in gamma, then its digits."""
    lengths = floor_log2(numbers + 1)
    yield from write_gamma(lengths)
    yield digits(numbers + 1, lengths)


def read_delta(bits: BitReader, count: int) -> np.ndarray:
    """Numbers that :func:`write_delta` wrote."""
    lengths = read_gamma(bits, count)
    return (1 << np.minimum(lengths, 32)) + bits.digits(lengths) - 1


def _delta_length(numbers: Array) -> Array:
    """L + 2 floor(lg(L + 1)) + 1 bits with L = floor(lg(n + 1))."""
    length = device_floor_log2(numbers + 1)
    return length + gamma_length(length)


def _write_omega(numbers: np.ndarray) -> Iterator[np.ndarray]:
    """Omega code of n + 1: groups of digits, each of which gives the length of the next, then a zero."""
    # The chain is n + 1, its length, the length of that, ..., 1.  It is written backwards, without
    # the 1; a bit 1 announces another group and a bit 0 the end.
    chain = [numbers + 1]
    while (chain[-1] > 1).any():
        chain.append(floor_log2(chain[-1]))
    groups = np.sum([part > 1 for part in chain], axis=0)
    table = np.array(chain)
    for level in range(int(groups.max(initial=0)) + 1):
        some = np.flatnonzero(groups > level)
        yield (groups > level)[groups >= level].astype(np.uint8)
        yield (
            digits(
                table[groups[some] - 1 - level, some],
                table[np.maximum(groups[some] - level, 0), some],
            )
            if some.size
            else np.zeros(0, np.uint8)
        )


def _read_omega(bits: BitReader, count: int) -> np.ndarray:
    """Numbers that :func:`_write_omega` wrote."""
    numbers, some = np.ones(count, np.int64), np.arange(count)
    while (some := some[bits.take(some.size) > 0]).size:
        lengths = numbers[some]
        numbers[some] = (1 << np.minimum(lengths, 32)) + bits.digits(lengths)
    return numbers - 1


def _omega_length(numbers: Array) -> Array:
    """One bit, and the bits of all groups."""
    length, part = jnp.ones_like(numbers), numbers + 1
    for _ in range(4):  # 2^31, 31, 4, 2
        more = part > 1
        part = device_floor_log2(part)
        length = jnp.where(more, length + part + 1, length)
    return length


def _elias(
    write: Callable[[np.ndarray], Iterator[np.ndarray]],
    read: Callable[[BitReader, int], np.ndarray],
    length: Callable[[Array], Array],
) -> Method:
    """Coder that writes, reads and measures numbers block by block."""

    def encode(numbers: np.ndarray, width: int) -> bytes:
        return joined(1, (part for block in blocks(numbers) for part in write(block)))

    def decode(bits: BitReader, count: int, width: int, parameter: int) -> np.ndarray:
        return read_in_blocks(lambda size: read(bits, size), bits, count, width)

    def measure(numbers: Array, counts: Array, width: int) -> Array:
        return total(length(numbers), counts)

    return Method(encode, decode, measure)


ELIAS_GAMMA = _elias(write_gamma, read_gamma, gamma_length)
ELIAS_DELTA = _elias(write_delta, read_delta, _delta_length)
ELIAS_OMEGA = _elias(_write_omega, _read_omega, _omega_length)
