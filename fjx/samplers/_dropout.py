"""Simulated drop-outs: clients that are chosen and then fail."""

import jax

from fjx import _validate
from fjx._base import Array, Key
from fjx._remembered import remembered
from fjx.samplers._types import Sample, Sampler


@remembered
def dropout(sampler: Sampler, rate: Array | float) -> Sampler:
    """Drop-outs: each client that ``sampler`` chooses fails with probability ``rate``.

    A client's coin comes from ``fold_in(key, id)``.  It depends neither on the client's slot nor on the
    other clients of the round.

    The description, and with it the accounting, is that of the inner sampler: drop-outs are drawn
    independently of all data, so every claim for the inner sampler still holds.  See
    :doc:`/privacy_proofs`.  This covers *simulated* drop-outs only.  A device that fails because of the
    data that it computes on leaks something about them.

    Guarantees:
        - The chosen ids are those of the inner sampler, under a key of its own.
        - ``taking_part`` of padding stays True.

    Args:
        sampler: the inner sampler.
        rate: probability of dropping out, in [0, 1]; may be traced.

    Returns:
        A :class:`~fjx.samplers.Sampler`.

    Raises:
        TypeError: ``rate`` is not a real number.
        ValueError: ``rate`` is not in [0, 1].

    Examples:
        >>> import jax
        >>> from fjx import samplers
        >>> sampler = dropout(samplers.full(), 0.5)
        >>> sampler.sample(jax.random.key(0), 0, 6).taking_part.tolist()
        [True, True, True, True, False, True]
    """
    _validate.number("rate", rate, at_least=0, at_most=1)

    def sample(key: Key, round: Array | int, num_clients: int) -> Sample:
        _validate.key("key", key)
        key_sample, key_drop = jax.random.split(key)
        chosen = sampler.sample(key_sample, round, num_clients)
        key_drop = jax.random.fold_in(key_drop, round)
        drops = jax.vmap(lambda id: jax.random.bernoulli(jax.random.fold_in(key_drop, id), rate))
        stays = ~drops(chosen.ids) | (chosen.ids == num_clients)
        return chosen._replace(taking_part=chosen.taking_part & stays)

    return sampler._replace(sample=sample, inner=sampler)
