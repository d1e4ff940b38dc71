"""SCAFFOLD: control variates against client drift."""

from typing import Unpack

import optax

from fjx import _validate, clients, servers
from fjx._base import Algorithm, Array, ClientUpdate
from fjx.aggregators import mean, per_field, scaled_sum, uniform
from fjx.algorithms._refuse import MEMORY, fixes
from fjx.clients import LossFn
from fjx.clients._by_round import following
from fjx.rounds._compose import Codecs, compose
from fjx.servers._sgd import server_sgd


@fixes(aggregator=MEMORY)
def scaffold(
    loss_fn: LossFn,
    *,
    num_clients: int,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array | optax.Schedule = 1.0,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    """SCAFFOLD: local SGD corrected by control variates (option II of the paper).

    Clients step along g_i(y) - c_i + c, and the server averages uniformly over the cohort.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        num_clients: population size N, by which c <- c + (1/N) sum (c_i^+ - c_i).
        client_lr: step size eta_l of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size eta_g of the server, or a schedule ``(round) -> step size``.
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
    if not callable(client_lr):
        _validate.number("client_lr", client_lr, above=0)

    def client(rate: float | Array) -> ClientUpdate:
        return clients.scaffold(loss_fn, learning_rate=rate, epochs=epochs, batch_size=batch_size)

    return compose(
        client=following(client_lr, client),
        aggregator=per_field(params=uniform(mean()), control=scaled_sum(num_clients)),
        server=servers.scaffold(server_sgd(server_lr)),
        **codecs,
    )
