"""Poisson sampling: each client takes part or not, independently of all others."""

import decimal
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Key
from fjx._kernels import random as _random
from fjx._remembered import remembered
from fjx.samplers._slots import OVERFLOW, into_slots, scale, slots_for
from fjx.samplers._types import Poisson, Sample, Sampler

_WORD = 2**32
_RARE = 1 / 16  # below this rate balls are thrown; from it on, every client tosses a coin


@remembered
def poisson(rate: float, cap: int | None = None, *, overflow: float = OVERFLOW) -> Sampler:
    """Poisson sampling: each client takes part independently with probability ``rate``.

    Arrays need a fixed number of slots m.  It is ``cap`` if given.  Otherwise it is the smallest m with
    P[Binomial(num_clients, rate) >= m] <= ``overflow``, or ``num_clients`` if that is smaller.  If more
    than m clients are drawn, a uniformly random m of them are kept, and the number of the others is
    reported as ``truncated``.  :func:`fjx.privacy.epsilon` derives the cost of this tail.

    ``rate`` is rounded to p, a multiple of 2^-32.  For p >= 1/16 every client tosses an exact coin.  For
    smaller p the clients are drawn directly, so time and memory are O(n p) instead of O(n).  The method
    is described in :doc:`/privacy_proofs`.

    Guarantees:
        - Ids are distinct and in range; padding comes last.
        - As long as nothing is truncated, clients are independent.
        - Each client is drawn with probability p: exactly for p >= 1/16.  For smaller p the draw is off
          by less than 2^-70 in total variation, and by n 2^-64 in a client's relative rate.
        - A round without any client is legal; it consists of padding.

    Args:
        rate: probability of taking part, in [2^-32, 1].
        cap: most clients of a round, at least 1; None to derive it from the rate.
        overflow: largest probability that the clients of a round do not fit, which delta pays for in
            each round.  A smaller one needs a few more slots; take a thousandth of delta / rounds for
            a small delta.

    Returns:
        A :class:`~fjx.samplers.Sampler` described as ``Poisson(rate, cap, overflow)``.

    Raises:
        TypeError: ``rate`` or ``cap`` is traced, although it decides shapes.
        ValueError: an argument is out of range.

    Examples:
        >>> import jax
        >>> sampler = poisson(0.01)
        >>> sampler.capacity(1000)
        40
        >>> ids = sampler.sample(jax.random.key(0), 0, 1000).ids
        >>> int((ids < 1000).sum())  # 10 are expected
        6

    References:
        Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, *Deep Learning with Differential
        Privacy*, CCS 2016 (arXiv:1607.00133).  Truncation: Ganesh, *Tighter Privacy Analysis for
        Truncated Poisson Sampling* (arXiv:2508.15089).
    """
    rate = _validate.static_number("rate", rate, at_least=1 / _WORD, at_most=1)
    if cap is not None:
        cap = _validate.static_integer("cap", cap, at_least=1)
    overflow = _validate.static_number("overflow", overflow, at_least=1e-250, at_most=1e-3)
    realised = round(float(rate) * _WORD) / _WORD

    def capacity(num_clients: int) -> int:
        num_clients = _validate.static_integer("num_clients", num_clients, at_least=1)
        return slots_for(num_clients, realised, overflow) if cap is None else cap

    def sample(key: Key, round: Array | int, num_clients: int) -> Sample:
        _validate.key("key", key)
        key_draw, key_keep = jax.random.split(jax.random.fold_in(key, round))
        draw = _balls if realised < _RARE else _coins
        candidates, chosen = draw(key_draw, num_clients, realised)
        return into_slots(key_keep, candidates, chosen, capacity(num_clients), num_clients)

    paid = overflow if cap is None else 0.0
    return Sampler(sample, capacity, Poisson(realised, cap, paid))


def _coins(key: Key, num_clients: int, rate: float) -> tuple[Array, Array]:
    """All clients in order, and the mask of those that are drawn.

    Client i is drawn if the i-th word of 32 random bits is below 2^32 p, a comparison of integers.
    """
    words = _random.bits(key, (num_clients,))
    return jnp.arange(num_clients, dtype=jnp.int32), words <= jnp.uint32(rate * _WORD - 1)


def _balls(key: Key, num_clients: int, rate: float) -> tuple[Array, Array]:
    """Clients hit by balls, in order, and a mask that is True at the first ball of each.

    N ~ Poisson(-n log(1 - p)) balls fall on n clients.  The numbers of balls on the clients are
    independent Poisson(-log(1 - p)), and each is positive with probability p.
    """
    key_count, key_place = jax.random.split(key)
    fewest, thresholds = _counts(num_clients, rate)
    u = jax.random.bits(key_count, (len(thresholds),), jnp.uint32)
    passed = jnp.ones(thresholds.shape[1], bool)
    for word, least in reversed(list(zip(u, jnp.asarray(thresholds), strict=True))):
        passed = (word > least) | ((word == least) & passed)
    count = fewest + jnp.sum(passed, dtype=jnp.int32)
    words = _random.bits(key_place, (2, fewest + thresholds.shape[1]))
    fallen = jnp.arange(words.shape[1], dtype=jnp.int32) < count
    places = jnp.sort(jnp.where(fallen, scale(words[0], words[1], num_clients), num_clients))
    first = jnp.concatenate([jnp.ones(1, bool), places[1:] != places[:-1]])[: places.size]
    return places, first & (places < num_clients)


@functools.lru_cache
def _counts(num_clients: int, rate: float) -> tuple[int, np.ndarray]:
    """Smallest number of balls k, and the thresholds ``floor(2^96 P[N <= k]), ...`` in three words each.

    Numbers of balls with less than 1e-33 of the largest probability are left out.
    """
    with decimal.localcontext(prec=50):
        mean = -num_clients * (1 - decimal.Decimal(rate)).ln()
        likeliest, least = int(mean), decimal.Decimal("1e-33")
        weights = [decimal.Decimal(1)]
        k = likeliest
        while k > 0 and weights[-1] > least:
            weights.append(weights[-1] * k / mean)
            k -= 1
        weights.reverse()
        fewest, k = k, likeliest
        while weights[-1] > least:
            k += 1
            weights.append(weights[-1] * mean / k)
        total = sum(weights)
        sums = itertools.accumulate(weights[:-1])
        words = [int(x / total * 2**96) for x in sums]
    shifts = (64, 32, 0)
    return fewest, np.array([[w >> s & (_WORD - 1) for w in words] for s in shifts], np.uint32)
