"""A fixed number of slots for a random number of clients."""

import functools
import math

import jax.numpy as jnp

from fjx._base import Array, Key
from fjx._kernels import random as _random
from fjx._kernels.permutation import permute
from fjx.samplers._types import Sample

OVERFLOW = 2.0**-40
"""Default of the probability that the clients of a round do not fit into :func:`slots_for` slots."""


def into_slots(
    key: Key, candidates: Array, chosen: Array, num_slots: int, num_clients: int
) -> Sample:
    """The chosen candidates, or a uniformly random subset of them that fits into the slots."""
    slots = jnp.arange(num_slots, dtype=jnp.int32)
    drawn = jnp.cumsum(chosen, dtype=jnp.int32)
    # Slot j takes the pi(j)-th of the K drawn clients, where pi is a random permutation of
    # 0 .. K - 1.  If K exceeds the number of slots, the clients left out are a uniformly random
    # subset.
    ranks = permute(key, slots, drawn[-1])
    ids = candidates.at[jnp.searchsorted(drawn, ranks + 1)].get(mode="clip")
    return Sample(
        ids=jnp.where(slots < drawn[-1], ids, num_clients),
        taking_part=jnp.ones(slots.shape, bool),
        truncated=jnp.maximum(drawn[-1] - num_slots, 0),
    )


def numbers(key: Key, size: int, below: int) -> Array:
    """``i32[size]``, uniform on 0 .. below - 1 up to a relative error of less than 2^-64."""
    words = _random.bits(key, (2, size))
    return scale(words[0], words[1], below)


def scale(high: Array, low: Array, n: int) -> Array:
    """``floor(n (2^32 high + low) / 2^64)``, computed in halves of words because 64 bits are missing."""

    def product(word: Array) -> tuple[Array, Array]:
        a, b = (word & 0xFFFF, word >> 16), (jnp.uint32(n & 0xFFFF), jnp.uint32(n >> 16))
        middle = (a[0] * b[0] >> 16) + (a[0] * b[1] & 0xFFFF) + (a[1] * b[0] & 0xFFFF)
        upper = a[1] * b[1] + (a[0] * b[1] >> 16) + (a[1] * b[0] >> 16) + (middle >> 16)
        return upper, word * jnp.uint32(n)

    upper, lower = product(high)
    carry = product(low)[0] > ~lower
    return (upper + carry.astype(jnp.uint32)).astype(jnp.int32)


@functools.lru_cache
def slots_for(num_clients: int, rate: float, overflow: float) -> int:
    """The smallest m with P[Binomial(num_clients, rate) >= m] <= overflow, at most ``num_clients``."""
    low, high = math.floor(num_clients * rate), num_clients
    while high - low > 1:
        middle = (low + high) // 2
        # The factor 1 - 1e-4 allows for rounding errors of lgamma.
        if _upper_tail(num_clients, rate, middle) <= overflow * (1 - 1e-4):
            high = middle
        else:
            low = middle
    return high


def _upper_tail(n: int, p: float, m: int) -> float:
    """P[Binomial(n, p) >= m] for n p < m <= n, where the terms decrease."""
    log_choose = math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1)
    log_first = log_choose + m * math.log(p) + (n - m) * math.log1p(-p)
    total = term = 1.0
    for k in range(m, n):
        term *= (n - k) / (k + 1) * p / (1 - p)
        total += term
        if term < 1e-17 * total:
            break
    return math.exp(log_first) * total
