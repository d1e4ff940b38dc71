"""DSGD and gradient tracking."""

import optax

from fjx import _validate
from fjx._base import Algorithm, Array
from fjx.algorithms._refuse import SERVERLESS, UNCOMPRESSED, fixes
from fjx.clients import LossFn
from fjx.clients._minibatch import batch_gradient, client_sgd
from fjx.rounds._averaging import gossip, tracking


@fixes(aggregator=SERVERLESS, uplink=UNCOMPRESSED)
def dsgd(
    loss_fn: LossFn,
    *,
    mixing: Array,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
) -> Algorithm:
    """DSGD: nodes train locally, and then average their models with their neighbours.

    It is :func:`fjx.rounds.gossip` with local epochs of SGD.  Models are sent as they are; for
    compressed messages use :func:`choco_sgd`.

    Guarantees:
        - Those of :func:`fjx.rounds.gossip`.
        - With the identity for W every node trains alone; with 1/n everywhere and equal numbers of
          examples it is :func:`fedavg` with everybody in each round.
        - At a constant step size, nodes whose data differ come to rest at different models.
          :func:`gradient_tracking` removes that.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        mixing: mixing matrix W, ``f[n, n]``, such as :func:`fjx.rounds.ring` gives, or the matrices of a
            graph that changes, ``f[T, n, n]``.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.

    Returns:
        An :class:`fjx.Algorithm`; ``params`` is the mean of all models, and
        ``algorithm.model_of(state, row)`` is a node's own.

    Raises:
        ValueError: a matrix is not symmetric with rows that sum to one, or the graph is not connected.

    Examples:
        >>> from fjx import algorithms, rounds
        >>> algorithm = algorithms.dsgd(
        ...     lambda w, x, key: (w - x).mean(), mixing=rounds.ring(8), client_lr=0.1, batch_size=10)

    References:
        Lian et al., NeurIPS 2017 (arXiv:1705.09056), algorithm 1, with the average after the step.
    """
    return gossip(client_sgd(loss_fn, client_lr, epochs, batch_size), mixing=mixing)


@fixes(aggregator=SERVERLESS, uplink=UNCOMPRESSED)
def gradient_tracking(
    loss_fn: LossFn, *, mixing: Array, learning_rate: float | Array, batch_size: int
) -> Algorithm:
    """Gradient tracking: decentralised SGD whose nodes agree on the optimum.

    It is :func:`fjx.rounds.tracking` with one stochastic gradient a round.

    Guarantees:
        - Those of :func:`fjx.rounds.tracking`.
        - With full gradients of strongly convex losses, and a small enough step size, every node
          converges to the optimum linearly, however the data differ.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        mixing: mixing matrix W, or the matrices of a period, as for :func:`dsgd`.
        learning_rate: step size gamma.
        batch_size: number of examples in a batch.

    Returns:
        An :class:`fjx.Algorithm` like that of :func:`dsgd`.

    Raises:
        ValueError: a matrix is not symmetric with rows that sum to one, or the graph is not connected.

    Examples:
        >>> from fjx import algorithms, rounds
        >>> algorithm = algorithms.gradient_tracking(
        ...     lambda w, x, key: (w - x).mean(), mixing=rounds.ring(8), learning_rate=0.1,
        ...     batch_size=10)

    References:
        Nedic, Olshevsky, Shi, SIAM Journal on Optimization 2017 (arXiv:1607.03218); Qu, Li, IEEE TCNS
        2018 (arXiv:1605.07112).
    """
    _validate.number("learning_rate", learning_rate, above=0)
    return tracking(batch_gradient(loss_fn, batch_size), mixing=mixing, step_size=learning_rate)
