"""SCAFFOLD."""

from typing import Unpack

from fjx import clients, servers
from fjx._base import Algorithm, Array
from fjx.aggregators import mean, per_field, scaled_sum, uniform
from fjx.clients import LossFn
from fjx.rounds._compose import Codecs, compose
from fjx.servers._sgd import server_sgd


def scaffold(
    loss_fn: LossFn,
    *,
    num_clients: int,
    client_lr: float | Array,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array = 1.0,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    """SCAFFOLD, option II: local steps along g_i(y) - c_i + c, uniform averages over the cohort.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        num_clients: N, so that c <- c + (1/N) sum (c_i^+ - c_i).
        client_lr: eta_l.
        batch_size: examples in a batch.
        epochs: local passes.
        server_lr: eta_g.
        **codecs: ``uplink`` and ``downlink`` of :func:`fjx.compose`, over ``{"params", "control"}``.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.scaffold(
        ...     lambda w, x, key: (w - x).mean(), num_clients=100, client_lr=0.1, batch_size=10)

    References:
        Karimireddy et al., ICML 2020 (arXiv:1910.06378), algorithm 1.
    """
    return compose(
        client=clients.scaffold(
            loss_fn, learning_rate=client_lr, epochs=epochs, batch_size=batch_size
        ),
        aggregator=per_field(params=uniform(mean()), control=scaled_sum(num_clients)),
        server=servers.scaffold(server_sgd(server_lr)),
        **codecs,
    )
