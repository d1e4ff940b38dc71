"""FedSGD and FedAvg, with and without server momentum or a proximal term."""

from typing import Unpack

import optax

from fjx import clients
from fjx._base import Algorithm, Array
from fjx.clients import LossFn
from fjx.clients._minibatch import client_sgd
from fjx.rounds._compose import OpenParts, compose
from fjx.servers._sgd import server_sgd


def fedsgd(
    loss_fn: LossFn,
    *,
    learning_rate: float | Array,
    batch_size: int = 32,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    r"""FedSGD: gradient descent on the loss of all examples.

    Each client sends the gradient over all of its examples, and the server steps along their mean:

    .. math:: w \leftarrow w - \eta \sum_k (n_k / n) \nabla F_k(w)

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        learning_rate: step size eta.
        batch_size: number of examples at a time; the gradient is that of all examples in any case.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedsgd(lambda w, x, key: (w - x).mean(), learning_rate=0.1)

    References:
        McMahan et al., AISTATS 2017 (arXiv:1602.05629), section 2.
    """
    return compose(
        client=clients.gradient(loss_fn, batch_size=batch_size),
        server=server_sgd(learning_rate),
        **parts,
    )


def fedavg(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array | optax.Schedule = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    """FedAvg: E epochs of local SGD, averaged by numbers of examples.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size eta of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number B of examples in a batch.
        epochs: number E of local passes.
        server_lr: step size of the server along the mean update, or a schedule
            ``(round) -> step size``; the paper's is 1.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedavg(
        ...     lambda w, x, key: (w - x).mean(), client_lr=0.1, batch_size=10)

    References:
        McMahan et al., AISTATS 2017 (arXiv:1602.05629), algorithm 1.
    """
    return compose(
        client=client_sgd(loss_fn, client_lr, epochs, batch_size),
        server=server_sgd(server_lr),
        **parts,
    )


def fedavgm(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array | optax.Schedule = 1.0,
    momentum: float | Array = 0.9,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    """FedAvgM: FedAvg with momentum on the server.

    With Delta the mean update of the clients, v <- beta v + Delta and w <- w + eta v.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size eta of the server, or a schedule ``(round) -> step size``.
        momentum: decay beta of the momentum.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedavgm(
        ...     lambda w, x, key: (w - x).mean(), client_lr=0.1, batch_size=10, momentum=0.9)

    References:
        Hsu, Qi, Brown, *Measuring the Effects of Non-Identical Data Distribution*, 2019
        (arXiv:1909.06335), section 4.
    """
    return compose(
        client=client_sgd(loss_fn, client_lr, epochs, batch_size),
        server=server_sgd(server_lr, momentum),
        **parts,
    )


def fedprox(
    loss_fn: LossFn,
    *,
    mu: float | Array,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    """FedProx: FedAvg whose clients are held near the global model by a proximal term.

    Clients descend F_k(w) + mu/2 ||w - w_t||^2 by SGD, and the server averages.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        mu: strength of the proximal term; 0 is FedAvg.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedprox(
        ...     lambda w, x, key: (w - x).mean(), mu=0.1, client_lr=0.1, batch_size=10)

    References:
        Li et al., MLSys 2020 (arXiv:1812.06127), algorithm 2.
    """
    return compose(
        client=client_sgd(loss_fn, client_lr, epochs, batch_size, clients.proximal(mu)),
        server=server_sgd(1.0),
        **parts,
    )
