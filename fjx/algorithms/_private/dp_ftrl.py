"""DP-FTRL: FedAvg under noise that is correlated between rounds."""

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
def dp_ftrl(
    loss_fn: LossFn,
    *,
    strategy: privacy.Strategy,
    clip_norm: float | Array,
    noise_multiplier: float | Array,
    cohort_size: float | Array,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array = 1.0,
    momentum: float | Array = 0.0,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    r"""DP-FTRL: FedAvg under noise that is correlated between rounds, so that it partly cancels.

    With S_t the sum of the clipped updates of rounds 1 to t, m the cohort, N = A C^-1 Z the noise on the
    prefix sums and beta the momentum,

    .. math:: v_t = \beta v_{t-1} + (S_t + z C_{clip} N_t) / m, \qquad w_{t+1} = w_0 + \eta v_t

    The program runs the differences of both lines: in each round the server adds the round's sum and the
    round's noise, with momentum beta.

    Guarantees:
        - :func:`fjx.privacy.epsilon` of ``privacy.correlated(strategy, clip_norm=, noise_multiplier=)``
          and the sampler covers the models of all rounds.
        - Epsilon does not cover the un-noised metrics of a round.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        strategy: strategy C: ``privacy.tree`` as in the paper, ``toeplitz``, ``buffered_toeplitz``.
        clip_norm: bound C_clip on the norm of each client's whole message.
        noise_multiplier: noise multiplier z.
        cohort_size: number m of clients of a round, a public number and not the number that came.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size eta of the server.
        momentum: momentum beta of the server.
        **codecs: ``uplink`` and ``downlink`` of :func:`fjx.compose`; clipping follows decoding.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, privacy
        >>> algorithm = algorithms.dp_ftrl(
        ...     lambda w, x, key: (w - x).mean(), strategy=privacy.tree(64), client_lr=0.1,
        ...     batch_size=10, clip_norm=0.5, noise_multiplier=4.0, cohort_size=20)

    References:
        Kairouz et al., ICML 2021 (arXiv:2103.00039), DP-FTRLM; Choquette-Choo et al., ICML 2023
        (arXiv:2211.06530) for other C.
    """
    mechanism = privacy.correlated(strategy, clip_norm=clip_norm, noise_multiplier=noise_multiplier)
    return compose(
        client=client_sgd(loss_fn, client_lr, epochs, batch_size),
        aggregator=private(mechanism, denominator=cohort_size),
        server=server_sgd(server_lr, momentum),
        **codecs,
    )
