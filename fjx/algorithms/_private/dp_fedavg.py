"""DP-FedAvg: FedAvg with client-level differential privacy."""

from typing import Unpack

import optax

from fjx import privacy
from fjx._base import Algorithm, Array
from fjx.aggregators import private
from fjx.algorithms._refuse import PRIVATE, fixes
from fjx.clients import LossFn
from fjx.clients._minibatch import client_sgd
from fjx.rounds._compose import Codecs, compose
from fjx.servers._sgd import server_sgd


@fixes(aggregator=PRIVATE)
def dp_fedavg(
    loss_fn: LossFn,
    *,
    clip_norm: float | Array,
    noise_multiplier: float | Array,
    cohort_size: float | Array,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array = 1.0,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    r"""DP-FedAvg: FedAvg with clipped updates, Gaussian noise and a fixed denominator.

    The server steps by the noised sum of the clipped updates over the expected cohort q W:

    .. math:: w \leftarrow w + \eta \, (\sum_k \mathrm{clip}(\Delta_k) + N(0, z^2 S^2 I)) / (q W)

    Guarantees:
        - :func:`fjx.privacy.epsilon` of ``privacy.gaussian(clip_norm=S, noise_multiplier=z)`` and
          ``samplers.poisson(q)`` covers the models of all rounds.
        - Epsilon does not cover the un-noised metrics of a round.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        clip_norm: bound S on the norm of each client's whole message.
        noise_multiplier: noise multiplier z.
        cohort_size: expected cohort q W, a public number and not the number of clients that came.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size eta of the server.
        **codecs: ``uplink`` and ``downlink`` of :func:`fjx.compose`; clipping follows decoding.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.dp_fedavg(
        ...     lambda w, x, key: (w - x).mean(), client_lr=0.1, batch_size=10,
        ...     clip_norm=0.5, noise_multiplier=1.0, cohort_size=20)

    References:
        McMahan, Ramage, Talwar, Zhang, ICLR 2018 (arXiv:1710.06963), algorithm 1.
    """
    mechanism = privacy.gaussian(clip_norm=clip_norm, noise_multiplier=noise_multiplier)
    return compose(
        client=client_sgd(loss_fn, client_lr, epochs, batch_size),
        aggregator=private(mechanism, denominator=cohort_size),
        server=server_sgd(server_lr),
        **codecs,
    )
