"""FedAdagrad, FedAdam, FedYogi: adaptive server optimisers (Reddi et al. 2021, algorithm 2)."""

from typing import Unpack

from fjx._base import Algorithm, Array
from fjx.clients import LossFn
from fjx.clients._minibatch import client_sgd
from fjx.rounds._compose import Slots, compose
from fjx.servers import adagrad, adam, adaptive, yogi


def fedadagrad(
    loss_fn: LossFn,
    *,
    client_lr: float | Array,
    server_lr: float | Array,
    batch_size: int,
    epochs: int = 1,
    beta1: float | Array = 0.0,
    tau: float | Array = 1e-3,
    **slots: Unpack[Slots],
) -> Algorithm:
    """FedAdagrad: v_t = v_{t-1} + Delta_t^2.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: eta_l.
        server_lr: eta.
        batch_size: examples in a batch.
        epochs: local passes.
        beta1: decay of the first moment.
        tau: degree of adaptivity; the paper recommends 1e-3.
        **slots: other slots of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

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
    server = adaptive(adagrad, learning_rate=server_lr, beta1=beta1, tau=tau)
    return compose(client=client, server=server, **slots)


def fedadam(
    loss_fn: LossFn,
    *,
    client_lr: float | Array,
    server_lr: float | Array,
    batch_size: int,
    epochs: int = 1,
    beta1: float | Array = 0.9,
    beta2: float | Array = 0.99,
    tau: float | Array = 1e-3,
    **slots: Unpack[Slots],
) -> Algorithm:
    """FedAdam: v_t = beta2 v_{t-1} + (1 - beta2) Delta_t^2, without bias correction.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: eta_l.
        server_lr: eta.
        batch_size: examples in a batch.
        epochs: local passes.
        beta1, beta2: decay of the first and of the second moment.
        tau: degree of adaptivity; the paper recommends 1e-3.
        **slots: other slots of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

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
    server = adaptive(adam(beta2), learning_rate=server_lr, beta1=beta1, tau=tau)
    return compose(client=client, server=server, **slots)


def fedyogi(
    loss_fn: LossFn,
    *,
    client_lr: float | Array,
    server_lr: float | Array,
    batch_size: int,
    epochs: int = 1,
    beta1: float | Array = 0.9,
    beta2: float | Array = 0.99,
    tau: float | Array = 1e-3,
    **slots: Unpack[Slots],
) -> Algorithm:
    """FedYogi: v_t = v_{t-1} - (1 - beta2) Delta_t^2 sign(v_{t-1} - Delta_t^2).

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: eta_l.
        server_lr: eta.
        batch_size: examples in a batch.
        epochs: local passes.
        beta1, beta2: decay of the first and of the second moment.
        tau: degree of adaptivity; the paper recommends 1e-3.
        **slots: other slots of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

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
    server = adaptive(yogi(beta2), learning_rate=server_lr, beta1=beta1, tau=tau)
    return compose(client=client, server=server, **slots)
