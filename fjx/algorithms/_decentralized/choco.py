"""CHOCO-SGD and CHOCO-Gossip."""

import optax

from fjx import _tree, _validate, clients
from fjx._base import (
    Algorithm,
    Array,
    ClientUpdate,
    Compressor,
    Examples,
    Key,
    Metrics,
    Tree,
    Turn,
)
from fjx.algorithms._refuse import CODEC, SERVERLESS, fixes
from fjx.clients import LossFn
from fjx.rounds._gossip import choco


@fixes(aggregator=SERVERLESS, uplink=CODEC)
def choco_sgd(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    mixing: Array,
    step_size: float | Array,
    learning_rate: float | Array,
    batch_size: int,
) -> Algorithm:
    """CHOCO-SGD: decentralised SGD with compressed gossip, one gradient step a round.

    It is :func:`fjx.rounds.choco` with one stochastic gradient step as local work.

    Guarantees:
        - Those of :func:`fjx.rounds.choco`.
        - At a constant learning rate nodes come to rest near the optimum.  Their distances from it and
          from one another are of the order of the learning rate.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        codec: codec C of the messages, contractive.
        mixing: mixing matrix W, ``f[n, n]``, symmetric with rows that sum to one.
        step_size: step size gamma of the gossip.
        learning_rate: step size eta of the gradient step.
        batch_size: number of examples in a batch.

    Returns:
        An :class:`fjx.Algorithm` like that of :func:`fjx.rounds.choco`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.choco_sgd(
        ...     lambda w, x, key: (w - x).mean(), compressors.top_k(0.1),
        ...     mixing=jnp.full((3, 3), 1 / 3), step_size=0.1, learning_rate=0.1, batch_size=10)

    References:
        Koloskova, Stich, Jaggi, ICML 2019 (arXiv:1902.00340), algorithm 2.
    """
    _validate.number("learning_rate", learning_rate, above=0)
    return choco(
        clients.local_sgd(loss_fn, optax.sgd(learning_rate), steps=1, batch_size=batch_size),
        codec,
        mixing=mixing,
        step_size=step_size,
    )


@fixes(aggregator=SERVERLESS, uplink=CODEC)
def choco_gossip(codec: Compressor, *, mixing: Array, step_size: float | Array) -> Algorithm:
    """CHOCO-Gossip: nodes that agree on their mean by compressed messages.

    It is :func:`fjx.rounds.choco` without local work.

    Guarantees:
        - The mean of all nodes is preserved, to rounding.
        - With the step of :func:`fjx.theory.choco_gossip` nodes converge to the mean linearly.

    Args:
        codec: codec C of the messages, contractive.
        mixing: mixing matrix W, ``f[n, n]``, symmetric with rows that sum to one.
        step_size: step size gamma of the gossip.

    Returns:
        An :class:`fjx.Algorithm` like that of :func:`fjx.rounds.choco`.  The vector that node i holds at
        first is the ``model`` of its row; give the mean of these vectors to ``init``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.choco_gossip(
        ...     compressors.top_k(0.1), mixing=jnp.full((3, 3), 1 / 3), step_size=0.1)

    References:
        Koloskova, Stich, Jaggi, ICML 2019 (arXiv:1902.00340), algorithm 1.
    """

    def rest(
        key: Key, model: Tree, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        return _tree.zeros_like(model), state, {}

    still = ClientUpdate(lambda params: (), rest, _tree.like)
    return choco(still, codec, mixing=mixing, step_size=step_size)
