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
from fjx.clients import LossFn
from fjx.rounds._gossip import choco


def choco_sgd(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    mixing: Array,
    step_size: float | Array,
    learning_rate: float | Array,
    batch_size: int,
) -> Algorithm:
    """CHOCO-SGD: :func:`choco` with one stochastic gradient step a round.

    Guarantees: those of :func:`choco`; at a constant learning rate nodes come to rest near the optimum,
        at a distance, from it and from one another, that is of the order of the learning rate.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a mean over the batch.
        codec: C, contractive.
        mixing: W, ``f[n, n]``, symmetric with rows that sum to one.
        step_size: gamma, of the gossip.
        learning_rate: eta, of the gradient step.
        batch_size: examples in a batch.

    Returns:
        An :class:`fjx.Algorithm`, as :func:`choco`.

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


def choco_gossip(codec: Compressor, *, mixing: Array, step_size: float | Array) -> Algorithm:
    """CHOCO-Gossip: :func:`choco` without local work, by which nodes agree on a mean.

    Guarantees: the mean of all nodes is preserved, to rounding; with the step of
        :func:`fjx.theory.choco_gossip` nodes come to it linearly.

    Args:
        codec: C, contractive.
        mixing: W, ``f[n, n]``, symmetric with rows that sum to one.
        step_size: gamma.

    Returns:
        An :class:`fjx.Algorithm`, as :func:`choco`: what node i holds at first is the ``model`` of its
        row, and their mean is what ``init`` is to be given.

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
