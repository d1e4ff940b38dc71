"""Power-of-choice: FedAvg with the clients whose losses are largest."""

from typing import Unpack

import optax

from fjx import rounds
from fjx._base import Algorithm, Array
from fjx.algorithms._averaging.fedavg import fedavg
from fjx.algorithms._refuse import fixes
from fjx.clients import LossFn, mean_loss
from fjx.rounds._compose import Codecs


@fixes(
    aggregator="the losses of candidates decide who takes part, without noise; for privacy use "
    "algorithms.dp_fedavg with a sampler that does not look at data, such as samplers.poisson"
)
def power_of_choice(
    loss_fn: LossFn,
    *,
    cohort_size: int,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array | optax.Schedule = 1.0,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    """Power-of-choice: FedAvg with those of d candidates whose losses are largest.

    The sampler draws the d candidates, as ``samplers.uniform(d)`` does.  Each returns its loss at the
    model, and the ``cohort_size`` clients with the largest train.  It is
    ``rounds.selecting(fedavg(...), clients.mean_loss(...), choose=rounds.highest)``.

    Guarantees:
        - With d = ``cohort_size`` it is FedAvg.
        - The mean update is biased towards clients with large losses, on purpose.  For an unbiased
          choice by importance see :func:`fjx.rounds.proportional`.

    Bits:
        As in :func:`fjx.rounds.selecting`.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        cohort_size: number of clients that train in a round.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size of the server, or a schedule ``(round) -> step size``.
        **codecs: ``uplink`` and ``downlink`` of :func:`fjx.compose`.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        TypeError: ``aggregator`` is given.
        ValueError: (when traced) the sampler draws fewer candidates than ``cohort_size``.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.power_of_choice(
        ...     lambda w, x, key: ((w - x) ** 2).mean(), cohort_size=3, client_lr=0.1, batch_size=10)

    References:
        Cho, Wang, Joshi, AISTATS 2022 (arXiv:2010.01243), section 4.
    """
    algorithm = fedavg(
        loss_fn,
        client_lr=client_lr,
        batch_size=batch_size,
        epochs=epochs,
        server_lr=server_lr,
        **codecs,
    )
    score = mean_loss(loss_fn, batch_size=batch_size)
    return rounds.selecting(algorithm, score, choose=rounds.highest, size=cohort_size)
