"""Methods that compress both directions, on clients that keep a replica of the server."""

from fjx import clients
from fjx._base import (
    Algorithm,
    Array,
    Compressor,
)
from fjx.clients import LossFn
from fjx.compressors import shifted
from fjx.rounds._compose import compose
from fjx.rounds._difference import difference
from fjx.rounds._replicated import replicated
from fjx.servers._sgd import server_sgd


def ef21_bc(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    num_clients: int,
    learning_rate: float | Array,
    batch_size: int,
    server_codec: Compressor | None = None,
) -> Algorithm:
    """EF21-BC: :func:`ef21` whose estimate h of the gradient travels down as EF21 would send it up.

    Clients send C(grad f_i(x) - h_i) and h_i, h follow; the server sends C_s(h - g) down, g follows on
    both ends, and all step x = x - gamma g.

    Guarantees: with full gradients it converges to the optimum at a constant step, linearly under strong
        convexity, though both directions are compressed with bias; bits: those of the codecs.  Of
        partial cohorts it is EF21-PP with the same downlink.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a mean over the batch.
        codec: C, with delta > 0, such as ``top_k``.
        num_clients: of the whole population.
        learning_rate: gamma; :func:`fjx.theory.ef21_bc` gives one that is proved.
        batch_size: examples at a time; it bounds memory only (see :func:`fjx.rounds.minibatch`).
        server_codec: C_s, with delta > 0; C by default.

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
    """Artemis: :func:`diana` whose aggregate g travels down as C_s(g), by which all step.

    Guarantees: with full gradients of all clients and lam > 0 it converges to the optimum at a constant
        step: there g is zero, and with it what C_s loses.  With lam = 0 both directions are compressed
        without a memory, and it comes to rest beside the optimum.  Bits: those of the codecs.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a mean over the batch.
        codec: C, unbiased with an omega.
        num_clients: of the whole population, all of whom take part.
        learning_rate: gamma; :func:`fjx.theory.artemis` gives one that is proved.
        batch_size: examples at a time; it bounds memory only (see :func:`fjx.rounds.minibatch`).
        lam: of the memories, at most 1 / (1 + omega); the paper's alpha.
        server_codec: C_s, unbiased with an omega; C by default.

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
