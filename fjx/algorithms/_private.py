"""DP-FedAvg."""

from typing import Unpack

import optax

from fjx import clients, privacy
from fjx._base import Algorithm, Array
from fjx._compose import Codecs, compose
from fjx.aggregators import private
from fjx.clients import LossFn


def dp_fedavg(
    loss_fn: LossFn,
    *,
    clip_norm: float | Array,
    noise_multiplier: float | Array,
    cohort: float | Array,
    client_lr: float | Array,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array = 1.0,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    """DP-FedAvg with a fixed denominator: w += eta (sum clip(Delta_k) + N(0, z^2 S^2 I)) / (q W).

    Its epsilon is ``privacy.epsilon(privacy.gaussian(clip_norm=S, noise_multiplier=z), sampler,
    ...)``, for ``samplers.poisson(q)``.  The un-noised metrics of a round are not covered by it.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        clip_norm: S, of each client's whole message.
        noise_multiplier: z.
        cohort: the expected cohort q W; public, and not the number that came.
        client_lr: of the clients' SGD.
        batch_size: examples in a batch.
        epochs: local passes.
        server_lr: eta.
        **codecs: ``uplink`` and ``downlink`` of :func:`fjx.compose`; clipping follows decoding.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.dp_fedavg(
        ...     lambda w, x, key: (w - x).mean(), clip_norm=0.5, noise_multiplier=1.0, cohort=20,
        ...     client_lr=0.1, batch_size=10)

    References:
        McMahan, Ramage, Talwar, Zhang, *Learning Differentially Private Recurrent Language Models*,
        ICLR 2018 (arXiv:1710.06963), algorithm 1.
    """
    mechanism = privacy.gaussian(clip_norm=clip_norm, noise_multiplier=noise_multiplier)
    client = clients.local_sgd(loss_fn, optax.sgd(client_lr), epochs=epochs, batch_size=batch_size)
    return compose(
        client=client,
        aggregator=private(mechanism, denominator=cohort),
        server=optax.sgd(server_lr),
        **codecs,
    )
