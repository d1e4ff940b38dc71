"""All clients, or fixed disjoint blocks of clients in turn."""

import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Key
from fjx._remembered import remembered
from fjx.samplers._poisson import poisson
from fjx.samplers._slots import OVERFLOW
from fjx.samplers._types import Cyclic, CyclicPoisson, Full, Sample, Sampler


@remembered
def full() -> Sampler:
    """Every client in every round, in the order of ids.

    Guarantees:
        - ``ids == arange(num_clients)``; there is no padding.
        - The key is not used.

    Returns:
        A :class:`~fjx.samplers.Sampler` described as ``Full()``.  Privacy is not amplified.

    Examples:
        >>> import jax
        >>> full().sample(jax.random.key(0), 0, 4).ids.tolist()
        [0, 1, 2, 3]
    """
    return _blocks(1)._replace(subsampling=Full())


@remembered
def cyclic(num_blocks: int) -> Sampler:
    """Fixed disjoint blocks of clients in turn: client i takes part in rounds t = i mod num_blocks.

    Guarantees:
        - In any ``num_blocks`` consecutive rounds every client takes part exactly once.
        - The key is not used.
        - If ``num_blocks`` does not divide ``num_clients``, the last slot of the smaller blocks is
          padding.

    Args:
        num_blocks: number of blocks, which is also the period, at least 1.  If it exceeds
            ``num_clients``, some rounds are empty.

    Returns:
        A :class:`~fjx.samplers.Sampler` described as ``Cyclic(num_blocks)``.  Privacy is not amplified,
        but ``rounds`` rounds cost each client only ``ceil(rounds / num_blocks)`` releases.

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


@remembered
def cyclic_poisson(num_blocks: int, *, rate: float, overflow: float = OVERFLOW) -> Sampler:
    """Fixed disjoint blocks in turn; a client of the block takes part with probability ``rate``.

    Client i is in block i mod ``num_blocks``.  The turn of that block is every round t = i mod
    ``num_blocks``.  Within its turn a block is sampled by :func:`poisson`, with the capacity for one
    block.

    Guarantees:
        - Two rounds of a client are a multiple of ``num_blocks`` apart.
        - Clients take part independently of each other.

    Args:
        num_blocks: number of blocks, which is also the period, at least 1.
        rate: probability of taking part in a turn, in [2^-32, 1].
        overflow: as in :func:`poisson`.

    Returns:
        A :class:`~fjx.samplers.Sampler` described as ``CyclicPoisson(period, rate, overflow)``.  If the
        noise is independent between rounds, or has no more than ``num_blocks`` bands
        (:func:`fjx.privacy.toeplitz`), ``rounds`` rounds cost as much privacy as
        ``ceil(rounds / num_blocks)`` rounds of ``poisson(rate)``.

    Raises:
        TypeError: an argument is not a Python number.
        ValueError: an argument is out of range.

    Examples:
        >>> import jax
        >>> ids = cyclic_poisson(3, rate=0.5).sample(jax.random.key(0), 1, 9).ids
        >>> {int(i) % 3 for i in ids if i < 9}
        {1}

    References:
        Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu, *(Amplified) Banded Matrix
        Factorization: A Unified Approach to Private Training*, NeurIPS 2023 (arXiv:2306.08153), for the
        amplification.
    """
    num_blocks = _validate.static_integer("num_blocks", num_blocks, at_least=1)
    inner = poisson(rate, overflow=overflow)

    def block(num_clients: int) -> int:
        return -(-_validate.static_integer("num_clients", num_clients, at_least=1) // num_blocks)

    def sample(key: Key, round: Array | int, num_clients: int) -> Sample:
        drawn = inner.sample(key, round, block(num_clients))
        turn = jnp.asarray(round, jnp.int32) % num_blocks
        ids = jnp.where(drawn.ids < block(num_clients), turn + num_blocks * drawn.ids, num_clients)
        return drawn._replace(ids=jnp.minimum(ids, num_clients))

    subsampling = CyclicPoisson(num_blocks, inner.subsampling.rate, overflow)
    return Sampler(sample, lambda num_clients: inner.capacity(block(num_clients)), subsampling)


def _blocks(period: int) -> Sampler:
    """Sampler of fixed blocks with the given period."""

    def capacity(num_clients: int) -> int:
        num_clients = _validate.static_integer("num_clients", num_clients, at_least=1)
        return -(-num_clients // period)

    def sample(key: Key, round: Array | int, num_clients: int) -> Sample:
        turn = jnp.asarray(round, jnp.int32) % period
        ids = turn + period * jnp.arange(capacity(num_clients), dtype=jnp.int32)
        ids = jnp.minimum(ids, num_clients)
        return Sample(ids, jnp.ones(ids.shape, bool), jnp.zeros((), jnp.int32))

    return Sampler(sample, capacity, Cyclic(period))
