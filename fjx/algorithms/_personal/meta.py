"""Per-FedAvg and Reptile: a common model that a few local steps adapt."""

from typing import Any, Unpack

import jax
import optax

from fjx import _validate, aggregators, clients
from fjx._base import Algorithm, Array, ClientUpdate, Examples, Key, Steps, Tree, Turn
from fjx._kernels.permutation import shuffle
from fjx.algorithms._refuse import ALIKE, fixes
from fjx.clients import LossFn
from fjx.clients._by_round import following
from fjx.clients._envelopes import Paired, adapted_loss, require_stateless
from fjx.clients._minibatch import client_sgd
from fjx.rounds._compose import Codecs, OpenParts, compose
from fjx.servers._sgd import server_sgd


def per_fedavg(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    alpha: float | Array = 0.01,
    first_order: bool = False,
    server_lr: float | Array = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    r"""Per-FedAvg: FedAvg on the loss after one gradient step, the objective of MAML.

    Each local step uses two batches, D' to adapt the model and D to judge it:

    .. math::
        w \leftarrow w - \beta (I - \alpha \nabla^2 f(w; D')) \,
        \nabla f(w - \alpha \nabla f(w; D'); D)

    Batches D are those of :func:`fedavg`.  D' has as many examples, drawn independently of D.

    Guarantees:
        - With alpha = 0 it is :func:`fedavg`.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size beta of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in each of the two batches.
        epochs: number of local passes.
        alpha: step size alpha of the adaptation.
        first_order: True leaves out the Hessian (FO-MAML); by default its exact product with the
            gradient is taken, at about three times the cost of a gradient.
        server_lr: step size of the server.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

    Returns:
        An :class:`fjx.Algorithm`.  A client's personal model is one step of size alpha away from
        ``params``: ``clients.fine_tuned(clients.local_sgd(loss_fn, optax.sgd(alpha), steps=1, ...))``.

    Raises:
        ValueError: a number is out of range.
        TypeError: the model has mutable state (from ``init_client``).

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.per_fedavg(
        ...     lambda w, x, key: (w - x).mean(), alpha=0.05, client_lr=0.1, batch_size=10)

    References:
        Fallah, Mokhtari, Ozdaglar, *Personalized Federated Learning with Theoretical Guarantees*,
        NeurIPS 2020 (arXiv:2002.07948), algorithm 1.
    """
    _validate.number("alpha", alpha, at_least=0)
    train = client_sgd(
        adapted_loss(loss_fn, alpha, first_order=first_order), client_lr, epochs, batch_size
    )

    def init(params: Tree) -> Tree:
        require_stateless("per_fedavg", params)
        return ()

    def inputs(
        key: Key, broadcast: Tree, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Any, ...]:
        key_pairs = jax.random.fold_in(jax.random.clone(key), 2**32 - 1)
        return key, broadcast, state, Paired(examples, shuffle(key_pairs)), turn

    update = Steps.of(train.update).around(inputs, lambda *all: all[-1])
    client = train._replace(init=init, update=update)
    return compose(client=client, server=server_sgd(server_lr), **parts)


@fixes(aggregator=ALIKE)
def reptile(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    steps: int = 5,
    server_lr: float | Array = 0.1,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    """Reptile: the common model moves a part of the way to where clients get by a few steps of SGD.

    Every client of the round counts alike: w <- w + epsilon mean_k (w_k - w).

    Guarantees:
        - With epsilon = 1 it is FedAvg with k local steps and equal weights.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        steps: number k of local steps.
        server_lr: part epsilon of the way that the common model goes.
        **codecs: ``uplink`` and ``downlink`` of :func:`fjx.compose`.

    Returns:
        An :class:`fjx.Algorithm`.  A client's personal model is a few local steps away from ``params``;
        see :func:`fjx.clients.fine_tuned`.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.reptile(
        ...     lambda w, x, key: (w - x).mean(), client_lr=0.1, batch_size=10)

    References:
        Nichol, Achiam, Schulman, *On First-Order Meta-Learning Algorithms*, 2018 (arXiv:1803.02999),
        algorithm 2.
    """
    if not callable(client_lr):
        _validate.number("client_lr", client_lr, above=0)

    def client(rate: float | Array) -> ClientUpdate:
        descent = optax.sgd(lambda _: rate)
        return clients.local_sgd(loss_fn, descent, steps=steps, batch_size=batch_size)

    return compose(
        client=following(client_lr, client),
        aggregator=aggregators.uniform(aggregators.mean()),
        server=server_sgd(server_lr),
        **codecs,
    )
