"""Clients that are chosen and then fail."""

import jax

from fjx import _validate
from fjx._base import Array, Key
from fjx.samplers._types import Sample, Sampler


def dropout(sampler: Sampler, rate: Array | float) -> Sampler:
    """Each client that ``sampler`` chooses drops out with probability ``rate``.

    A client's coin comes from ``fold_in(key, id)``: it depends neither on its slot nor on who else
    was chosen.

    The description stays that of the inner sampler, and so does the accounting.  Dropouts are drawn
    independently of all data; given who would drop out, the round is the inner sampler's round on a
    population in which those clients' updates are zero, and it satisfies the inner claim, be it
    amplified or not.  Averaging over a distribution that does not depend on data preserves it.
    This holds for *simulated* dropouts: devices that fail because of what they compute leak it.

    Guarantees: the chosen ids are the inner sampler's on a key of its own; padding stays True.

    Args:
        sampler: who is chosen.
        rate: the probability of dropping out, in [0, 1]; may be traced.

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

    return sampler._replace(sample=sample)
