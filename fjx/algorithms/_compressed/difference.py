"""Methods that compress changes of gradients: EF-BV, EF21, DIANA, and methods built on them."""

from fjx import clients
from fjx._base import (
    Algorithm,
    Array,
    Compressor,
)
from fjx.algorithms._refuse import CODEC, MEMORY, fixes
from fjx.clients import LossFn
from fjx.clients._minibatch import batch_gradient
from fjx.compressors import shifted
from fjx.rounds._compose import compose
from fjx.rounds._difference import difference
from fjx.servers._sgd import server_sgd


@fixes(aggregator=MEMORY, uplink=CODEC)
def ef_bv(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    num_clients: int,
    learning_rate: float | Array,
    batch_size: int,
    lam: Array | float,
    nu: Array | float,
    downlink: Compressor | None = None,
) -> Algorithm:
    """EF-BV: gradient descent with compressed changes of gradients, for biased and unbiased codecs.

    :func:`fjx.rounds.difference` makes the codec and the aggregator.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        codec: codec C of the messages.
        num_clients: population size N.
        learning_rate: step size gamma; :func:`fjx.theory.ef_bv` gives one that is proved.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        lam: step size of the memories.
        nu: step size of the aggregate.
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.ef_bv(
        ...     lambda w, x, key: (w - x).mean(), compressors.rand_k(0.1), num_clients=100,
        ...     learning_rate=0.1, batch_size=10, lam=0.1, nu=0.9)

    References:
        Condat, Yi, Richtarik, NeurIPS 2022 (arXiv:2205.04180), algorithm 1.
    """
    return compose(
        client=clients.gradient(loss_fn, batch_size=batch_size),
        server=server_sgd(learning_rate),
        downlink=downlink,
        **difference(codec, num_clients=num_clients, lam=lam, nu=nu),
    )


@fixes(aggregator=MEMORY, uplink=CODEC)
def ef21(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    num_clients: int,
    learning_rate: float | Array,
    batch_size: int,
    downlink: Compressor | None = None,
) -> Algorithm:
    """EF21: error feedback by compressed changes of gradients, for contractive codecs.

    It is :func:`ef_bv` with lam = nu = 1.  With partial cohorts it is EF21-PP.

    Guarantees:
        - With full gradients it converges to the optimum at a constant step, linearly under strong
          convexity.  :func:`ef14` comes to rest beside the optimum.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        codec: codec C of the messages, with delta > 0, such as ``top_k``.
        num_clients: population size N.
        learning_rate: step size gamma; :func:`fjx.theory.ef21` gives one that is proved.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.ef21(
        ...     lambda w, x, key: (w - x).mean(), compressors.top_k(0.1), num_clients=100,
        ...     learning_rate=0.1, batch_size=10)

    References:
        Richtarik, Sokolov, Fatkhullin, *EF21: A New, Simpler, Theoretically Better, and Practically
        Faster Error Feedback*, NeurIPS 2021 (arXiv:2106.05203); Fatkhullin, Sokolov, Gorbunov, Li,
        Richtarik, *EF21 with Bells & Whistles*, JMLR 2025 (arXiv:2110.03294), for partial cohorts.
    """
    return ef_bv(
        loss_fn,
        codec,
        num_clients=num_clients,
        learning_rate=learning_rate,
        batch_size=batch_size,
        lam=1.0,
        nu=1.0,
        downlink=downlink,
    )


@fixes(aggregator=MEMORY, uplink=CODEC)
def ef21_sgdm(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    num_clients: int,
    learning_rate: float | Array,
    batch_size: int,
    eta: float | Array,
    downlink: Compressor | None = None,
) -> Algorithm:
    r"""EF21-SGDM: EF21 on averages of stochastic gradients, with one batch a round.

    Each client averages its gradients, and the changes of v_i are compressed as in :func:`ef21`:

    .. math:: v_i \leftarrow (1 - \eta) v_i + \eta \nabla f_i(x, batch)

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        codec: codec C of the messages, with delta > 0, such as ``top_k``.
        num_clients: population size N.
        learning_rate: step size gamma; :func:`fjx.theory.ef21_sgdm` gives one that is proved.
        batch_size: number of examples in a batch.
        eta: weight of a new gradient in the average, in (0, 1]; 1 is EF21 with stochastic gradients.
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.ef21_sgdm(
        ...     lambda w, x, key: (w - x).mean(), compressors.top_k(0.1), num_clients=100,
        ...     learning_rate=0.1, batch_size=10, eta=0.1)

    References:
        Fatkhullin, Tyurin, Richtarik, *Momentum Provably Improves Error Feedback!*, NeurIPS 2023
        (arXiv:2305.15155), algorithm 1.
    """
    batch = batch_gradient(loss_fn, batch_size)
    return compose(
        client=clients.averaged(batch, eta=eta),
        server=server_sgd(learning_rate),
        downlink=downlink,
        **difference(codec, num_clients=num_clients),
    )


@fixes(aggregator=MEMORY, uplink=CODEC)
def diana(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    num_clients: int,
    learning_rate: float | Array,
    batch_size: int,
    lam: Array | float,
    downlink: Compressor | None = None,
) -> Algorithm:
    """DIANA: gradient descent with compressed changes of gradients, for unbiased codecs.

    It is :func:`ef_bv` with nu = 1.

    Guarantees:
        - With full gradients of all clients it converges to the optimum at a constant step.  Compressed
          gradient descent only comes near it.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        codec: codec C of the messages, unbiased with an omega.
        num_clients: population size N; all clients take part.
        learning_rate: step size gamma; :func:`fjx.theory.diana` gives one that is proved.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        lam: step size of the memories, at most 1 / (1 + omega); the paper's alpha.
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.diana(
        ...     lambda w, x, key: (w - x).mean(), compressors.rand_k(0.1), num_clients=100,
        ...     learning_rate=0.1, batch_size=10, lam=0.1)

    References:
        Mishchenko, Gorbunov, Takac, Richtarik, *Distributed Learning with Compressed Gradient
        Differences*, 2019 (arXiv:1901.09269); Horvath, Kovalev, Mishchenko, Stich, Richtarik,
        *Stochastic Distributed Learning with Gradient Quantization and Variance Reduction*, 2019
        (arXiv:1904.05115).
    """
    return ef_bv(
        loss_fn,
        codec,
        num_clients=num_clients,
        learning_rate=learning_rate,
        batch_size=batch_size,
        lam=lam,
        nu=1.0,
        downlink=downlink,
    )


@fixes(aggregator=MEMORY, uplink=CODEC)
def mcm(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    num_clients: int,
    learning_rate: float | Array,
    batch_size: int,
    lam: Array | float,
) -> Algorithm:
    """MCM: DIANA in the uplink, compressed changes of the model in the downlink.

    The server keeps the model x itself.  Clients compute at H + C(x - H), with H a memory of both ends.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        codec: codec C of both directions, unbiased with an omega.
        num_clients: population size N; all clients take part.
        learning_rate: step size gamma; :func:`fjx.theory.mcm` gives one that is proved.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        lam: step size of the memories of both ends, at most 1 / (1 + omega).

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.mcm(
        ...     lambda w, x, key: (w - x).mean(), compressors.rand_k(0.1), num_clients=100,
        ...     learning_rate=0.1, batch_size=10, lam=0.1)

    References:
        Philippenko, Dieuleveut, *Preserved Central Model for Faster Bidirectional Compression in
        Distributed Settings*, NeurIPS 2021 (arXiv:2102.12528).
    """
    return diana(
        loss_fn,
        codec,
        num_clients=num_clients,
        learning_rate=learning_rate,
        batch_size=batch_size,
        lam=lam,
        downlink=shifted(codec, lam=lam),
    )
