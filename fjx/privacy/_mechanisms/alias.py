"""Alias method: integers with exact probabilities of 192 bits, drawn from 64 random bits as a rule.

A law on few integers is a list of whole weights that add up to 2^192.  The weights fill 2^k columns of
2^(192-k) each, and a column holds at most two integers.  The first k random bits choose a column, and
the other bits choose one of its two integers: below the threshold the column's own, else its alias.

The next 32 bits nearly always decide.  They tie with the threshold with probability 2^-32 a draw, and
only then is the rest of the 192 bits drawn, for all draws at once.  A law of 192 bits therefore costs
little more than one of 64.

No logarithm of a float is involved, whose rounding an adversary could see, and there is no rejection
loop, in which a cohort would wait for its slowest client.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array, Key
from fjx._kernels import random as _random

WORDS = 6
WHOLE = 2 ** (32 * WORDS)


class Tables(NamedTuple):
    """Alias tables of one or several laws, side by side: n tables of 2^k columns.

    Attributes:
        words: ``u32[6, n 2^k]``, the thresholds, from their first 32 bits to their last; the last k bits
            are zero.
        alias: ``i32[n 2^k]``, the integers drawn above the thresholds.
        own: ``i32[n]``: column i of table j stands for ``own[j] + i``.
    """

    words: np.ndarray
    alias: np.ndarray
    own: np.ndarray


def tables(*laws: tuple[Sequence[int], int]) -> Tables:
    """Build tables by Vose's construction, on integers and therefore exactly.

    Args:
        *laws: pairs of whole weights, which add up to 2^192, and the integer of the first weight.
    """
    width = max(1, *((len(weights) - 1).bit_length() for weights, _ in laws))
    built = [_columns(weights, width) for weights, _ in laws]
    own = np.array([first for _, first in laws], np.int32)
    alias = [
        np.array(alias, np.int32) + first for (_, alias), first in zip(built, own, strict=True)
    ]
    data = b"".join(t.to_bytes(4 * WORDS, "big") for thresholds, _ in built for t in thresholds)
    words = np.frombuffer(data, ">u4").astype(np.uint32).reshape(-1, WORDS)
    return Tables(words.T.copy(), np.concatenate(alias), own)


def _columns(weights: Sequence[int], width: int) -> tuple[list[int], list[int]]:
    """Thresholds in the highest bits of 192, and the aliases, of 2^width columns."""
    left = [*weights, *[0] * (2**width - len(weights))]
    full = WHOLE >> width
    alias = list(range(len(left)))
    short = [i for i, weight in enumerate(left) if weight < full]
    long = [i for i, weight in enumerate(left) if weight > full]
    threshold = list(left)
    while short:
        lacking, giving = short.pop(), long[-1]
        threshold[lacking], alias[lacking] = left[lacking], giving
        left[giving] -= full - left[lacking]
        if left[giving] <= full:
            long.pop()
            if left[giving] < full:
                short.append(giving)
            threshold[giving] = left[giving]
    # A full column is its own alias, so its threshold does not matter.
    return [min(t, full - 1) << width for t in threshold], alias


def draw(tables: Tables, key: Key, shape: tuple[int, ...]) -> Array:
    """Draw independent integers.

    Args:
        tables: the tables of their laws.
        key: a typed key.
        shape: static shape.

    Returns:
        ``i32[n, *shape]``, draws from each of the n tables.
    """
    several = (len(tables.own), *shape)

    @jax.custom_batching.custom_vmap
    def many(keys: Key) -> Array:
        keys = jax.vmap(jax.random.split)(keys)
        drawn = jax.vmap(lambda pair: _by_64_bits(tables, pair[0], several))(keys)

        def exact() -> Array:
            return jax.vmap(lambda pair: _by_all_bits(tables, pair, several))(
                jax.random.clone(keys)
            )

        return jax.lax.cond(jnp.any(drawn == _TIE), exact, lambda: drawn)

    # Without this rule, vmap would compute both branches for every draw.
    @many.def_vmap
    def _(size: int, batched: list[bool], keys: Key) -> tuple[Array, bool]:
        return many(keys.reshape(-1)).reshape(*keys.shape, *several), True

    return many(key[None])[0]


_TIE = -(2**31)


def _by_64_bits(tables: Tables, key: Key, shape: tuple[int, ...]) -> Array:
    own, column, (word, _) = _start(tables, _random.words(key, shape), shape)
    threshold = _at(tables.words[0], column)
    other = jnp.where(word == threshold, jnp.int32(_TIE), _at(tables.alias, column))
    return jnp.where(word < threshold, own, other)


def _by_all_bits(tables: Tables, keys: Key, shape: tuple[int, ...]) -> Array:
    high, low = _random.words(keys[0], shape)
    later = jax.random.bits(keys[1], (WORDS - 2, *shape), jnp.uint32)
    own, column, stream = _start(tables, (high, low, *later), shape)
    less = jnp.zeros(shape, bool)
    for word, known in reversed(list(zip(stream, tables.words, strict=True))):
        least = _at(known, column)
        less = (word < least) | ((word == least) & less)
    return jnp.where(less, own, _at(tables.alias, column))


def _start(
    tables: Tables, words: Sequence[Array], shape: tuple[int, ...]
) -> tuple[Array, Array, list[Array]]:
    """Integers of the columns that the first k bits choose, their places, and the bits after them."""
    n, columns = len(tables.own), len(tables.alias) // len(tables.own)
    width = columns.bit_length() - 1
    column = (words[0] >> (32 - width)).astype(jnp.int32)
    following = [*words[1:], jnp.zeros_like(words[0])]
    stream = [
        word << width | after >> (32 - width) for word, after in zip(words, following, strict=True)
    ]
    table = jnp.arange(n, dtype=jnp.int32).reshape(n, *[1] * (len(shape) - 1))
    return column + tables.own.reshape(table.shape), column + table * columns, stream


def _at(values: np.ndarray, place: Array) -> Array:
    # Arrays of one axis: XLA:CPU gathers rows of two numbers ten times slower.
    return jnp.asarray(values).at[place].get(mode="promise_in_bounds")
