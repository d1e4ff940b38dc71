"""Adaptive server optimisers: FedAdagrad, FedAdam and FedYogi (Reddi et al. 2021, algorithm 2)."""

from collections.abc import Callable
from typing import Unpack

import optax

from fjx._base import Algorithm, Array
from fjx.clients import LossFn
from fjx.clients._minibatch import client_sgd
from fjx.rounds._compose import OpenParts, compose
from fjx.servers import adagrad, adam, adaptive, yogi
from fjx.servers._sgd import by_round


def fedadagrad(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    server_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    beta1: float | Array = 0.0,
    tau: float | Array = 1e-3,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    r"""FedAdagrad: FedAvg with Adagrad on the server.

    The second moment of the mean update Delta_t is a sum:

    .. math:: v_t = v_{t-1} + \Delta_t^2

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size eta_l of the clients' SGD, or a schedule ``(round) -> step size``.
        server_lr: step size eta of the server, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        beta1: decay of the first moment.
        tau: degree of adaptivity; the paper recommends 1e-3.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedadagrad(
        ...     lambda w, x, key: (w - x).mean(), client_lr=0.1, server_lr=0.1, batch_size=10)

    References:
        Reddi et al., ICLR 2021 (arXiv:2003.00295), algorithm 2.
    """
    client = client_sgd(loss_fn, client_lr, epochs, batch_size)
    return compose(client=client, server=_server(adagrad, server_lr, beta1, tau), **parts)


def fedadam(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    server_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    beta1: float | Array = 0.9,
    beta2: float | Array = 0.99,
    tau: float | Array = 1e-3,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    r"""FedAdam: FedAvg with Adam on the server, without bias correction.

    The second moment of the mean update Delta_t is an average:

    .. math:: v_t = \beta_2 v_{t-1} + (1 - \beta_2) \Delta_t^2

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size eta_l of the clients' SGD, or a schedule ``(round) -> step size``.
        server_lr: step size eta of the server, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        beta1, beta2: decays of the first and of the second moment.
        tau: degree of adaptivity; the paper recommends 1e-3.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedadam(
        ...     lambda w, x, key: (w - x).mean(), client_lr=0.1, server_lr=0.1, batch_size=10)

    References:
        Reddi et al., ICLR 2021 (arXiv:2003.00295), algorithm 2.
    """
    client = client_sgd(loss_fn, client_lr, epochs, batch_size)
    return compose(client=client, server=_server(adam(beta2), server_lr, beta1, tau), **parts)


def fedyogi(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    server_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    beta1: float | Array = 0.9,
    beta2: float | Array = 0.99,
    tau: float | Array = 1e-3,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    r"""FedYogi: FedAvg with Yogi on the server.

    The second moment follows the mean update Delta_t by bounded steps:

    .. math:: v_t = v_{t-1} - (1 - \beta_2) \Delta_t^2 \, \mathrm{sign}(v_{t-1} - \Delta_t^2)

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size eta_l of the clients' SGD, or a schedule ``(round) -> step size``.
        server_lr: step size eta of the server, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        beta1, beta2: decays of the first and of the second moment.
        tau: degree of adaptivity; the paper recommends 1e-3.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedyogi(
        ...     lambda w, x, key: (w - x).mean(), client_lr=0.1, server_lr=0.1, batch_size=10)

    References:
        Reddi et al., ICLR 2021 (arXiv:2003.00295), algorithm 2.
    """
    client = client_sgd(loss_fn, client_lr, epochs, batch_size)
    return compose(client=client, server=_server(yogi(beta2), server_lr, beta1, tau), **parts)


def _server(
    second_moment: Callable[[Array, Array], Array],
    server_lr: float | Array | optax.Schedule,
    beta1: float | Array,
    tau: float | Array,
) -> optax.GradientTransformation:
    """The adaptive step, whose size may be a schedule of the round."""
    if not callable(server_lr):
        return adaptive(second_moment, learning_rate=server_lr, beta1=beta1, tau=tau)
    direction = adaptive(second_moment, learning_rate=1.0, beta1=beta1, tau=tau)
    return optax.chain(direction, optax.scale_by_schedule(by_round(server_lr)))
