"""Methods that compress both directions, with clients that keep a replica of the server."""

from fjx import clients
from fjx._base import (
    Algorithm,
    Array,
    Compressor,
)
from fjx.algorithms._refuse import CODEC, MEMORY, fixes
from fjx.clients import LossFn
from fjx.compressors import shifted
from fjx.rounds._compose import compose
from fjx.rounds._difference import difference
from fjx.rounds._replicated import replicated
from fjx.servers._sgd import server_sgd


@fixes(aggregator=MEMORY, uplink=CODEC)
def ef21_bc(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    num_clients: int,
    learning_rate: float | Array,
    batch_size: int,
    server_codec: Compressor | None = None,
) -> Algorithm:
    """EF21-BC: EF21 in both directions.

    Clients send C(grad f_i(x) - h_i), by which h_i and their mean h follow the gradients, as in
    :func:`ef21`.  The server sends C_s(h - g), by which g follows h on both ends.  Everybody steps
    x = x - gamma g.

    Guarantees:
        - With full gradients it converges to the optimum at a constant step, linearly under strong
          convexity, although both directions are compressed with bias.
        - With partial cohorts it is EF21-PP with the same downlink.

    Bits:
        Those of ``codec`` up and of ``server_codec`` down.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        codec: codec C of the clients' messages, with delta > 0, such as ``top_k``.
        num_clients: population size N.
        learning_rate: step size gamma; :func:`fjx.theory.ef21_bc` gives one that is proved.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        server_codec: codec C_s of the server's messages, with delta > 0; C by default.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.ef21_bc(
        ...     lambda w, x, key: (w - x).mean(), compressors.top_k(0.1), num_clients=100,
        ...     learning_rate=0.1, batch_size=10)

    References:
        Fatkhullin, Sokolov, Gorbunov, Li, Richtarik, *EF21 with Bells & Whistles: Six Algorithmic
        Extensions of Modern Error Feedback*, JMLR 2025 (arXiv:2110.03294), algorithm EF21-BC.
    """
    link = difference(codec, num_clients=num_clients)
    return compose(
        client=clients.gradient(loss_fn, batch_size=batch_size),
        uplink=link["uplink"],
        **replicated(
            shifted(codec if server_codec is None else server_codec),
            aggregator=link["aggregator"],
            server=server_sgd(learning_rate),
        ),
    )


@fixes(aggregator=MEMORY, uplink=CODEC)
def artemis(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    num_clients: int,
    learning_rate: float | Array,
    batch_size: int,
    lam: float | Array,
    server_codec: Compressor | None = None,
) -> Algorithm:
    """Artemis: DIANA whose aggregate is compressed on its way down.

    Clients send as in :func:`diana`.  The server sends C_s(g), with g the aggregate, and everybody
    steps by it.

    Guarantees:
        - With full gradients of all clients and lam > 0 it converges to the optimum at a constant step.
          There g is zero, and so is the error of C_s.
        - With lam = 0 both directions are compressed without a memory, and it comes to rest beside the
          optimum.

    Bits:
        Those of ``codec`` up and of ``server_codec`` down.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        codec: codec C of the clients' messages, unbiased with an omega.
        num_clients: population size N; all clients take part.
        learning_rate: step size gamma; :func:`fjx.theory.artemis` gives one that is proved.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        lam: step size of the memories, at most 1 / (1 + omega); the paper's alpha.
        server_codec: codec C_s of the server's messages, unbiased with an omega; C by default.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.artemis(
        ...     lambda w, x, key: (w - x).mean(), compressors.rand_k(0.1), num_clients=100,
        ...     learning_rate=0.01, batch_size=10, lam=0.1)

    References:
        Philippenko, Dieuleveut, *Bidirectional Compression in Heterogeneous Settings for Distributed or
        Federated Learning with Partial Participation: Tight Convergence Guarantees*, 2020
        (arXiv:2006.14591), algorithm 1.
    """
    link = difference(codec, num_clients=num_clients, lam=lam)
    return compose(
        client=clients.gradient(loss_fn, batch_size=batch_size),
        uplink=link["uplink"],
        **replicated(
            codec if server_codec is None else server_codec,
            aggregator=link["aggregator"],
            server=server_sgd(learning_rate),
        ),
    )
