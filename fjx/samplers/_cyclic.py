"""Everybody, or disjoint blocks by turns."""

import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Key
from fjx.samplers._poisson import poisson
from fjx.samplers._types import Cyclic, CyclicPoisson, Full, Sample, Sampler


def full() -> Sampler:
    """Every client in every round, in the order of ids.

    Guarantees: ``ids == arange(num_clients)``; no padding; the key is not used.

    Returns:
        A :class:`~fjx.samplers.Sampler`, described as ``Full()``: privacy is not amplified.

    Examples:
        >>> import jax
        >>> full().sample(jax.random.key(0), 0, 4).ids.tolist()
        [0, 1, 2, 3]
    """
    return _blocks(1)._replace(subsampling=Full())


def cyclic(num_blocks: int) -> Sampler:
    """Fixed disjoint blocks of clients by turns: client i in rounds t with t = i mod num_blocks.

    Guarantees: in any ``num_blocks`` consecutive rounds every client takes part exactly once; the
        key is not used; the last slot of a block is padding where ``num_blocks`` does not divide
        ``num_clients``.

    Args:
        num_blocks: the period, at least 1.  Above ``num_clients`` some rounds are empty.

    Returns:
        A :class:`~fjx.samplers.Sampler`, described as ``Cyclic(num_blocks)``: privacy is not
        amplified, but ``rounds`` rounds cost each client ``ceil(rounds / num_blocks)`` releases.

    Raises:
        TypeError: ``num_blocks`` is not a Python integer.
        ValueError: ``num_blocks`` is below 1.

    Examples:
        >>> import jax
        >>> [cyclic(3).sample(jax.random.key(0), t, 8).ids.tolist() for t in range(3)]
        [[0, 3, 6], [1, 4, 7], [2, 5, 8]]

    References:
        Cho, Sharma, Joshi, Xu, Kale, Zhang, *On the Convergence of Federated Averaging with Cyclic
        Client Participation*, ICML 2023 (arXiv:2302.03109).
    """
    num_blocks = _validate.static_integer("num_blocks", num_blocks, at_least=1)
    return _blocks(num_blocks)


def cyclic_poisson(num_blocks: int, *, rate: float) -> Sampler:
    """Fixed disjoint blocks by turns, of which each client takes part with probability ``rate``.

    Client i is in block i mod ``num_blocks``, and its block's turn is round t = i mod ``num_blocks``;
    within the turn it is :func:`poisson`, with its capacity for a block.

    Guarantees: two rounds of a client are a multiple of ``num_blocks`` apart; coins are independent.

    Args:
        num_blocks: the period, at least 1.
        rate: the probability of taking part in a turn, in [2^-32, 1].

    Returns:
        A :class:`~fjx.samplers.Sampler`, described as ``CyclicPoisson(period, rate, overflow)``: rounds
        cost what ``ceil(rounds / num_blocks)`` rounds of ``poisson(rate)`` cost, where noise is
        independent between rounds.

    Raises:
        TypeError: not a Python number.
        ValueError: out of bounds.

    Examples:
        >>> import jax
        >>> ids = cyclic_poisson(3, rate=0.5).sample(jax.random.key(0), 1, 9).ids
        >>> {int(i) % 3 for i in ids if i < 9}
        {1}

    References:
        Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu, *(Amplified) Banded Matrix
        Factorization: A Unified Approach to Private Training*, NeurIPS 2023 (arXiv:2306.08153), whose
        amplification with independent noise this is.
    """
    num_blocks = _validate.static_integer("num_blocks", num_blocks, at_least=1)
    inner = poisson(rate)

    def block(num_clients: int) -> int:
        return -(-_validate.static_integer("num_clients", num_clients, at_least=1) // num_blocks)

    def sample(key: Key, round: Array | int, num_clients: int) -> Sample:
        drawn = inner.sample(key, round, block(num_clients))
        turn = jnp.asarray(round, jnp.int32) % num_blocks
        ids = jnp.where(drawn.ids < block(num_clients), turn + num_blocks * drawn.ids, num_clients)
        return drawn._replace(ids=jnp.minimum(ids, num_clients))

    realised, _, overflow = inner.subsampling
    subsampling = CyclicPoisson(num_blocks, realised, overflow)
    return Sampler(sample, lambda num_clients: inner.capacity(block(num_clients)), subsampling)


def _blocks(period: int) -> Sampler:
    def capacity(num_clients: int) -> int:
        num_clients = _validate.static_integer("num_clients", num_clients, at_least=1)
        return -(-num_clients // period)

    def sample(key: Key, round: Array | int, num_clients: int) -> Sample:
        turn = jnp.asarray(round, jnp.int32) % period
        ids = turn + period * jnp.arange(capacity(num_clients), dtype=jnp.int32)
        ids = jnp.minimum(ids, num_clients)
        return Sample(ids, jnp.ones(ids.shape, bool), jnp.zeros((), jnp.int32))

    return Sampler(sample, capacity, Cyclic(period))
