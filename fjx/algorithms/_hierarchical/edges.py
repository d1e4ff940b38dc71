"""Hierarchical FedAvg."""

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import optax

from fjx._base import Algorithm, Array, Compressor
from fjx.clients import LossFn
from fjx.clients._minibatch import client_sgd
from fjx.rounds import _hierarchical
from fjx.rounds._compose import OpenParts
from fjx.servers._sgd import server_sgd


def hierarchical(
    loss_fn: LossFn,
    *,
    edges: int | Sequence[int] | np.ndarray,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    edge_rounds: int = 1,
    edge_uplink: Compressor | None = None,
    server_lr: float | Array = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    """Hierarchical FedAvg: FedAvg on each edge server, and of the edges in the cloud.

    It is :func:`fjx.rounds.hierarchical` with local epochs of SGD.

    Guarantees:
        - With one edge and ``edge_rounds=1`` it is :func:`fedavg`.
        - Those of :func:`fjx.rounds.hierarchical`.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        edges: number E of edges, of which client i belongs to edge i mod E; or the edge of each client.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        edge_rounds: number of rounds on the edges between two rounds of the cloud.
        edge_uplink: codec of an edge's message to the cloud; identity by default.
        server_lr: step size of the cloud.
        **parts: ``uplink``, ``downlink`` and ``aggregator`` between clients and edges.

    Returns:
        An :class:`fjx.Algorithm` whose ``params`` is the cloud's model.

    Raises:
        ValueError: a number is out of range; an edge has no client; ``aggregator`` stacks.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.hierarchical(
        ...     lambda w, x, key: (w - x).mean(), edges=4, edge_rounds=5, client_lr=0.1, batch_size=10)

    References:
        Liu, Zhang, Song, Letaief, ICC 2020 (arXiv:1905.06641), algorithm 1.
    """
    return _hierarchical.hierarchical(
        client=client_sgd(loss_fn, client_lr, epochs, batch_size),
        edges=edges,
        edge_rounds=edge_rounds,
        edge_uplink=edge_uplink,
        server=server_sgd(server_lr),
        **parts,
    )
