"""Poisson cohorts: every client tosses its own coin."""

import functools
import math

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Key
from fjx._permutation import permute
from fjx.samplers._types import Poisson, Sample, Sampler

_OVERFLOW = 2.0**-40
_WORD = 2**32


def poisson(rate: float, cap: int | None = None) -> Sampler:
    r"""Each client takes part independently with probability ``rate``.

    Client i is drawn iff the i-th word of 32 random bits is below ``round(rate * 2**32)``: an exact
    comparison of integers, so that the probability is a multiple of 2^-32 (half of that is the
    largest change to ``rate``) and known to the last bit.

    Arrays need a fixed number of slots m.  If K > m clients are drawn, a uniformly random m of them
    are kept and K - m are counted in ``truncated``.  With ``cap`` given, m is ``cap``.  Without it,
    m is the smallest number with P[Binomial(num_clients, rate) >= m] <= 2^-40, or ``num_clients``;
    what the accountant pays for that tail is derived in :func:`fjx.privacy.epsilon`.

    Guarantees: ids are distinct and in range, padding comes last; a round without any client is
        legal and is all padding; while nothing is truncated, clients are independent.

    Args:
        rate: the probability of taking part, in [2^-32, 1].
        cap: the most clients a round may have, at least 1; None to derive it.

    Returns:
        A :class:`~fjx.samplers.Sampler`, described as ``Poisson(rate, cap, overflow)``.

    Raises:
        TypeError: a traced ``rate`` or ``cap``: they decide shapes.
        ValueError: out of bounds.

    Examples:
        >>> import jax
        >>> sampler = poisson(0.01)
        >>> sampler.capacity(1000)
        40
        >>> ids = sampler.sample(jax.random.key(0), 0, 1000).ids
        >>> int((ids < 1000).sum())  # 10 are expected
        9

    References:
        Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, *Deep Learning with Differential
        Privacy*, CCS 2016 (arXiv:1607.00133).  Truncation: Ganesh, *Tighter Privacy Analysis for
        Truncated Poisson Sampling* (arXiv:2508.15089).
    """
    _validate.static_number("rate", rate, at_least=1 / _WORD, at_most=1)
    if cap is not None:
        _validate.static_integer("cap", cap, at_least=1)
    threshold = round(float(rate) * _WORD)
    realised = threshold / _WORD

    def capacity(num_clients: int) -> int:
        _validate.static_integer("num_clients", num_clients, at_least=1)
        return _capacity(num_clients, realised) if cap is None else cap

    def sample(key: Key, round: Array | int, num_clients: int) -> Sample:
        _validate.key("key", key)
        slots = jnp.arange(capacity(num_clients), dtype=jnp.int32)
        key_draw, key_keep = jax.random.split(key)
        words = jax.random.bits(key_draw, (num_clients,), jnp.uint32)
        drawn = jnp.cumsum(words <= jnp.uint32(threshold - 1), dtype=jnp.int32)
        # Slot j takes the pi(j)-th of the K drawn clients, pi a random permutation of 0 .. K - 1:
        # if K exceeds the slots, those that are left out are a uniformly random subset.
        ranks = permute(key_keep, slots, drawn[-1])
        ids = jnp.searchsorted(drawn, ranks + 1).astype(jnp.int32)
        return Sample(
            ids=jnp.where(slots < drawn[-1], ids, num_clients),
            taking_part=jnp.ones(slots.shape, bool),
            truncated=jnp.maximum(drawn[-1] - slots.size, 0),
        )

    overflow = _OVERFLOW if cap is None else 0.0
    return Sampler(sample, capacity, Poisson(realised, cap, overflow))


@functools.lru_cache
def _capacity(num_clients: int, rate: float) -> int:
    """The smallest m with P[Binomial(num_clients, rate) >= m] <= 2^-40, at most ``num_clients``."""
    low, high = math.floor(num_clients * rate), num_clients
    while high - low > 1:
        middle = (low + high) // 2
        # The part in ten thousand is for the rounding errors of lgamma.
        if _upper_tail(num_clients, rate, middle) <= _OVERFLOW * (1 - 1e-4):
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
