"""Cohorts of fixed size, without replacement."""

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Key
from fjx._kernels.permutation import permute
from fjx._remembered import remembered
from fjx.samplers._types import FixedSize, Sample, Sampler


@remembered
def uniform(size: int) -> Sampler:
    """Uniformly random subset of ``size`` clients, drawn without replacement.

    It consists of the first ``size`` values of a random permutation of the clients' ids.  Time and
    memory are O(size), independent of the number of clients.

    Guarantees:
        - Ids are distinct and in range.
        - There is no padding, and nothing is truncated.

    Args:
        size: number of clients of every round, at least 1.

    Returns:
        A :class:`~fjx.samplers.Sampler` described as ``FixedSize(size)``.  Privacy is amplified for
        *replace-one* neighbours only, see :func:`fjx.privacy.epsilon`.

    Raises:
        TypeError: ``size`` is not a Python integer.
        ValueError: ``size`` is below 1, or (from sampling) above ``num_clients``.

    Examples:
        >>> import jax
        >>> ids = uniform(3).sample(jax.random.key(0), 0, 10).ids
        >>> ids.shape, len(set(ids.tolist()))
        ((3,), 3)

    References:
        McMahan, Moore, Ramage, Hampson, Aguera y Arcas, *Communication-Efficient Learning of Deep
        Networks from Decentralized Data*, AISTATS 2017 (arXiv:1602.05629), algorithm 1.
    """
    size = _validate.static_integer("size", size, at_least=1)

    def capacity(num_clients: int) -> int:
        num_clients = _validate.static_integer("num_clients", num_clients, at_least=1)
        if size > num_clients:
            raise ValueError(
                f"size must be at most num_clients = {num_clients}, got {size}; "
                "ask for fewer clients a round, or for all of them with samplers.full()"
            )
        return size

    def sample(key: Key, round: Array | int, num_clients: int) -> Sample:
        _validate.key("key", key)
        key = jax.random.fold_in(key, round)
        ids = permute(key, jnp.arange(capacity(num_clients), dtype=jnp.int32), num_clients)
        return Sample(ids, jnp.ones(ids.shape, bool), jnp.zeros((), jnp.int32))

    return Sampler(sample, capacity, FixedSize(size))
