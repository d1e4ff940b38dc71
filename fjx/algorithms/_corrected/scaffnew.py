"""Scaffnew: local steps whose drift is corrected, and averages at random times."""

from typing import Any

import jax
import jax.numpy as jnp

from fjx import _validate, clients
from fjx._base import Algorithm, Array, ClientUpdate, Compressor
from fjx.aggregators import mean, uniform
from fjx.algorithms._refuse import CORRECTED, MEMORY, fixes
from fjx.clients import LossFn
from fjx.clients._corrected import corrected
from fjx.rounds._compose import compose


@fixes(aggregator=MEMORY, uplink=CORRECTED)
def scaffnew(
    loss_fn: LossFn,
    *,
    p: float | Array,
    learning_rate: float | Array,
    batch_size: int,
    seed: int | Array = 0,
    downlink: Compressor | None = None,
) -> Algorithm:
    """Scaffnew (ProxSkip): corrected gradient steps, after each of which all average with probability p.

    Each client steps x_i = x_i - gamma (grad f_i(x_i) - h_i).  After each step a coin, the same for all
    clients, decides with probability p that they average: x = mean x_i, and
    h_i = h_i + (p / gamma) (x - x_i).

    A round lasts from one average to the next.  Its number of steps is geometric and follows from
    ``seed`` and the number of the round, so all clients and the server know it.

    Guarantees:
        - With full gradients of all clients it converges to the optimum, however much clients differ.
        - For p = sqrt(mu / L) it needs of the order of sqrt(L / mu) rounds, where gradient descent needs
          L / mu.
        - The sum of the h_i of all clients stays zero, whichever clients come.

    Bits:
        Up, those of the model.  Down, the model when a round begins and the average when it ends.  Both
        are billed; they are one and the same where all clients take part in all rounds.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        p: probability of an average after a step, in (0, 1].
        learning_rate: step size gamma; :func:`fjx.theory.scaffnew` gives one that is proved, and p.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        seed: seed of the coin.
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`, whose clients' state is h_i.

    Raises:
        ValueError: a number is out of range.
        TypeError: (from ``init_client``) the model holds more than floating parameters.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.scaffnew(
        ...     lambda w, x, key: (w - x).mean(), p=0.1, learning_rate=0.1, batch_size=10)

    References:
        Mishchenko, Malinovsky, Stich, Richtarik, *ProxSkip: Yes! Local Gradient Steps Provably Lead to
        Communication Acceleration! Finally!*, ICML 2022 (arXiv:2202.09357), algorithm 2.
    """
    gradient = clients.gradient(loss_fn, batch_size=batch_size)
    return compose(
        client=between_coins(gradient, p, learning_rate, seed, gain=p),
        aggregator=uniform(mean()),
        downlink=downlink,
    )


def between_coins(
    descent: ClientUpdate,
    p: float | Array,
    learning_rate: float | Array,
    seed: int | Array,
    **more: Any,
) -> ClientUpdate:
    """Corrected steps from one average to the next, at times that a shared coin decides."""
    _validate.number("p", p, above=0, at_most=1)
    _validate.number("learning_rate", learning_rate, above=0)

    return corrected(
        descent,
        learning_rate=learning_rate,
        steps=lambda turn: steps_of(seed, turn.round, p),
        **more,
    )


def steps_of(seed: int | Array, round: Array, p: float | Array) -> Array:
    """Number of steps of a round, ``i32[]``: geometric, at least one, of mean 1 / p."""
    key = jax.random.fold_in(jax.random.key(seed), round)
    return jax.random.geometric(key, p, dtype=jnp.int32)
