"""FedSAM: local steps to flat minima."""

from typing import Unpack

import optax

from fjx._base import Algorithm, Array
from fjx.algorithms._averaging.fedavg import fedavg
from fjx.clients import LossFn, sharpness_aware
from fjx.rounds._compose import OpenParts


def fedsam(
    loss_fn: LossFn,
    *,
    rho: float | Array = 0.05,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array | optax.Schedule = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    """FedSAM: FedAvg whose clients minimise the loss at the worst point within a radius rho.

    It is :func:`fedavg` of :func:`fjx.clients.sharpness_aware`; any other recipe takes that loss, too.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        rho: radius; 0 is FedAvg.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size of the server, or a schedule ``(round) -> step size``.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

    Returns:
        An :class:`fjx.Algorithm`.  Its metric ``loss`` is that at the worst points.

    Raises:
        ValueError: ``rho`` is negative.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedsam(
        ...     lambda w, x, key: (w - x).mean(), client_lr=0.1, batch_size=10)

    References:
        Qu, Li, Duan, Liu, Tang, Lu, *Generalized Federated Learning via Sharpness Aware Minimization*,
        ICML 2022 (arXiv:2206.02618), algorithm 1.
    """
    return fedavg(
        sharpness_aware(loss_fn, rho=rho),
        client_lr=client_lr,
        batch_size=batch_size,
        epochs=epochs,
        server_lr=server_lr,
        **parts,
    )
