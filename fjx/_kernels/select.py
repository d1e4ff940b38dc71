"""The largest coordinates of a vector, exactly, at a few times the cost of reading it.

Magnitudes of floats have the same order as the integers of their bits.  Two histograms, of the
upper and of the lower half of these integers, find the k-th largest.  A mask of one bit per
coordinate, packed in words, marks the coordinates above it, and positions are read off the words.
No step sorts.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from fjx._base import Array

_SHORT = 1 << 16  # sorting a shorter vector is faster than clearing the histograms
_LOW = 15  # bits, of 31, that the second histogram tells apart
_ROWS = 256  # of a histogram, summed up before it is searched


def share_of(ratio: float, size: int) -> int:
    """ceil(ratio * size); the slack undoes 0.1 * 30 = 3.0000000000000004."""
    return math.ceil(ratio * size * (1 - 1e-12))


def largest_magnitudes(x: Array, k: int) -> Array:
    """Positions of the k coordinates of largest magnitude.

    Ties go to the lowest positions, and NaN counts as largest.

    Args:
        x: ``f[d]``.
        k: number of coordinates, at most d.

    Returns:
        ``i32[k]``, distinct, in no promised order.
    """
    if x.size < _SHORT or x.dtype == jnp.float64:
        magnitudes = jnp.where(jnp.isnan(x), jnp.inf, jnp.abs(x))
        return jax.lax.top_k(magnitudes, k)[1].astype(jnp.int32)
    ranks = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32) & 0x7FFFFFFF
    ranks = jnp.minimum(ranks, jnp.uint32(0x7F800000))  # NaN ranks as infinity, not above
    threshold, above = _threshold(ranks, k)
    larger, equal = _pack(ranks > threshold), _pack(ranks == threshold)
    return positions(larger | _first(equal, k - above), k)


def positions(words: Array, k: int) -> Array:
    """Positions of the first k set bits, ``i32[k]``.  At least k bits must be set."""
    counts = jax.lax.population_count(words).astype(jnp.int32)
    before = jnp.cumsum(counts) - counts
    # Each word writes its number at the place of its first bit; a running maximum fills in the others.
    starts = jnp.where(counts > 0, before, k)
    numbers = jnp.arange(words.size, dtype=jnp.int32)
    word = jax.lax.cummax(jnp.zeros(k, jnp.int32).at[starts].max(numbers, mode="drop"))
    rank, rest = jnp.arange(k, dtype=jnp.int32) - before[word], words[word]
    place = 32 * word
    for half in (16, 8, 4, 2, 1):  # the rank-th bit of a word, by bisection
        low = rest & jnp.uint32((1 << half) - 1)
        count = jax.lax.population_count(low).astype(jnp.int32)
        upper = rank >= count
        rest = jnp.where(upper, rest >> half, low)
        rank = jnp.where(upper, rank - count, rank)
        place = jnp.where(upper, place + half, place)
    return place


def _threshold(ranks: Array, k: int) -> tuple[Array, Array]:
    """The k-th largest rank, and the number of larger ones."""
    high, larger = _kth(_count(ranks >> _LOW, 1 << (31 - _LOW)), k)
    # Ranks with another upper half are counted in a bin of their own, behind all others.
    lower = jnp.where(ranks >> _LOW == high, ranks & ((1 << _LOW) - 1), 1 << _LOW)
    low, larger_there = _kth(_count(lower, (1 << _LOW) + 1)[:-1], k - larger)
    return high << _LOW | low, larger + larger_there


def _kth(counts: Array, k: Array | int) -> tuple[Array, Array]:
    """The bin of the k-th largest, and the number of entries in bins beyond."""
    rows = counts.reshape(_ROWS, -1)  # two short running sums cost less than a long one
    row, beyond = _reaching(jnp.sum(rows, axis=1), k)
    place, further = _reaching(rows[row], k - beyond)
    return (row * rows.shape[1] + place).astype(jnp.uint32), beyond + further


def _reaching(counts: Array, k: Array | int) -> tuple[Array, Array]:
    """The last bin from which on there are k entries, and the number of entries beyond it."""
    reached = jnp.cumsum(counts[::-1])[::-1]
    chosen = jnp.sum(reached >= k) - 1
    return chosen, reached[chosen] - counts[chosen]


def _count(bins: Array, size: int) -> Array:
    """The number of times that each of 0 .. size - 1 occurs."""
    return _add_to(jnp.zeros(size, jnp.int32), bins)


def _add(counts: Array, bins: Array) -> Array:
    return counts.at[bins].add(1, mode="promise_in_bounds")


_add_to = jax.custom_batching.custom_vmap(_add)


@_add_to.def_vmap
def _add_to_each(size: int, batched: Any, counts: Array, bins: Array) -> tuple[Array, bool]:
    if batched[0]:  # zeros, repeated by a branch that depends on the row
        counts = counts[0]
    # On a CPU one after another, since its cache holds the counts of one client, but not of a cohort.
    if jax.default_backend() == "cpu":
        return jax.lax.map(functools.partial(_add_to, counts), bins), True
    return jax.vmap(functools.partial(_add, counts))(bins), True


def _pack(mask: Array) -> Array:
    """``u32[ceil(d / 32)]``, where coordinate i is bit i mod 32 of word i div 32."""
    bits = jnp.pad(mask, (0, -mask.size % 32)).reshape(-1, 32).astype(jnp.uint32)
    return jnp.sum(bits << jnp.arange(32, dtype=jnp.uint32)[None], axis=1, dtype=jnp.uint32)


def _first(words: Array, k: Array) -> Array:
    """The words with only the first k of their bits kept."""
    counts = jax.lax.population_count(words).astype(jnp.int32)
    allowed = jnp.clip(k - (jnp.cumsum(counts) - counts), 0, counts)

    def excess(words: Array) -> Array:
        return jax.lax.population_count(words).astype(jnp.int32) > allowed

    def clear_last(words: Array) -> Array:
        last = jnp.uint32(1) << (31 - jax.lax.clz(words))
        return jnp.where(excess(words), words & ~last, words)

    return jax.lax.while_loop(lambda words: jnp.any(excess(words)), clear_last, words)
