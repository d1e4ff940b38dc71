"""DP-FedAvg."""

from typing import Unpack

from fjx import privacy
from fjx._base import Algorithm, Array
from fjx.aggregators import private
from fjx.clients import LossFn
from fjx.clients._minibatch import client_sgd
from fjx.rounds._compose import Codecs, compose
from fjx.servers._sgd import server_sgd


def dp_fedavg(
    loss_fn: LossFn,
    *,
    clip_norm: float | Array,
    noise_multiplier: float | Array,
    cohort_size: float | Array,
    client_lr: float | Array,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array = 1.0,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    """DP-FedAvg with a fixed denominator: w += eta (sum clip(Delta_k) + N(0, z^2 S^2 I)) / (q W).

    :func:`fjx.privacy.epsilon` of ``privacy.gaussian(clip_norm=S, noise_multiplier=z)`` and
    ``samplers.poisson(q)`` covers the model, and not the un-noised metrics of a round.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        clip_norm, noise_multiplier: S, of each client's whole message, and z.
        cohort_size: the expected cohort q W; public, and not the number that came.
        client_lr, batch_size, epochs: of the clients' SGD.
        server_lr: eta.
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
