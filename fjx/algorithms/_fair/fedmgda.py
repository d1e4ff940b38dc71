"""FedMGDA+: a step that hurts nobody."""

from typing import Any, Unpack

import jax.numpy as jnp
import optax

from fjx import _validate
from fjx._base import Algorithm, Array, Tree
from fjx.aggregators import reweighted
from fjx.aggregators._reweighted import common_descent
from fjx.algorithms._refuse import fixes
from fjx.algorithms._told import scaled, square_of, told
from fjx.clients import LossFn, Trained, telling
from fjx.clients._minibatch import client_sgd
from fjx.rounds._compose import Codecs
from fjx.servers._sgd import server_sgd


@fixes(
    aggregator="the weights follow from the angles between all updates, without noise; for privacy use "
    "algorithms.dp_fedavg, or fjx.plan"
)
def fedmgda(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    server_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    epsilon: float | Array = 0.1,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    r"""FedMGDA+: the server walks along a common descent direction of the clients.

    Clients send their updates normalised, d_k = Delta_k / ||Delta_k||.  The server takes the weights

    .. math::
        \lambda^* = \arg\min_\lambda \Bigl\lVert \sum_k \lambda_k d_k \Bigr\rVert^2, \quad
        \lambda \ge 0, \; \sum_k \lambda_k = 1, \; \lvert \lambda_k - 1/m \rvert \le \epsilon

    and steps by the step size times sum_k lambda*_k d_k.

    Guarantees:
        - With ``epsilon`` 1 the step d has <d, d_k> >= ||d||^2 for every client, up to the error of 300
          iterations: it descends on all their losses, or none does.
        - With ``epsilon`` 0 it is the uniform mean of normalised updates.
        - A client cannot dominate by the length of its update.

    Bits:
        Those of the update.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        server_lr: step size of the server, the length of a step if all updates agree, or a schedule
            ``(round) -> step size``; the paper lets it decay.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        epsilon: largest distance of a weight from uniform, in [0, 1].
        **codecs: ``uplink`` of the normalised update, and ``downlink``.

    Returns:
        An :class:`fjx.Algorithm`.  The server holds all updates of a cohort at once.

    Raises:
        ValueError: a number is out of range.
        TypeError: ``aggregator`` is given.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedmgda(
        ...     lambda w, x, key: (w - x).mean(), client_lr=0.1, server_lr=0.1, batch_size=10)

    References:
        Hu, Shaloudegi, Zhang, Yu, *Federated Learning Meets Multi-objective Optimization*, IEEE TNSE
        2022 (arXiv:2006.11489), algorithm 1.
    """
    _validate.number("epsilon", epsilon, at_least=0, at_most=1)

    def tell(done: Trained) -> tuple[Tree, dict[str, Any]]:
        norm = jnp.sqrt(square_of(done.update))
        return scaled(1 / jnp.where(norm > 0, norm, 1.0), done.update), {}

    return told(
        client=telling(client_sgd(loss_fn, client_lr, epochs, batch_size), tell),
        server=server_sgd(server_lr),
        aggregator=reweighted(common_descent(epsilon)),
        **codecs,
    )
