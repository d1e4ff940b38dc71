"""Methods that compress how gradients change: EF-BV, EF21, DIANA, and what is built on them."""

from fjx import clients
from fjx._base import (
    Algorithm,
    Array,
    Compressor,
)
from fjx.clients import LossFn
from fjx.clients._minibatch import batch_gradient
from fjx.compressors import shifted
from fjx.rounds._compose import compose
from fjx.rounds._difference import difference
from fjx.servers._sgd import server_sgd


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
    """EF-BV: gradient descent on gradients whose changes are compressed.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a mean over the batch.
        codec: C.
        num_clients: of the whole population.
        learning_rate: gamma; :func:`fjx.theory.ef_bv` gives one that is proved.
        batch_size: examples at a time; it bounds memory only (see :func:`fjx.rounds.minibatch`).
        lam: of the memories.
        nu: of the aggregate.
        downlink: codec of the broadcast.

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


def ef21(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    num_clients: int,
    learning_rate: float | Array,
    batch_size: int,
    downlink: Compressor | None = None,
) -> Algorithm:
    """EF21: :func:`ef_bv` with lam = nu = 1, for contractive codecs; of partial cohorts, EF21-PP.

    Guarantees: with full gradients it converges to the optimum at a constant step, linearly under strong
        convexity, where :func:`ef14` comes to rest beside it.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a mean over the batch.
        codec: C, with delta > 0, such as ``top_k``.
        num_clients: of the whole population.
        learning_rate: gamma; :func:`fjx.theory.ef21` gives one that is proved.
        batch_size: examples at a time; it bounds memory only (see :func:`fjx.rounds.minibatch`).
        downlink: codec of the broadcast.

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
        loss_fn, codec, num_clients=num_clients, learning_rate=learning_rate,
        batch_size=batch_size, lam=1.0, nu=1.0, downlink=downlink,
    )  # fmt: skip


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
    """EF21-SGDM: :func:`ef21` on averages of stochastic gradients, of one batch a round.

    v_i = (1 - eta) v_i + eta grad f_i(x, batch), and the changes of v_i are compressed.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a mean over the batch.
        codec: C, with delta > 0, such as ``top_k``.
        num_clients: of the whole population.
        learning_rate: gamma; :func:`fjx.theory.ef21_sgdm` gives one that is proved.
        batch_size: examples in a batch.
        eta: in (0, 1]; 1 is EF21 with stochastic gradients.
        downlink: codec of the broadcast.

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
    """DIANA: :func:`ef_bv` with nu = 1, for unbiased codecs.

    Guarantees: with full gradients of all clients it converges to the optimum at a constant step, where
        compressed gradient descent only comes near it.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a mean over the batch.
        codec: C, unbiased with an omega.
        num_clients: of the whole population, all of whom take part.
        learning_rate: gamma; :func:`fjx.theory.diana` gives one that is proved.
        batch_size: examples at a time; it bounds memory only (see :func:`fjx.rounds.minibatch`).
        lam: of the memories, at most 1 / (1 + omega); the paper's alpha.
        downlink: codec of the broadcast.

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
        loss_fn, codec, num_clients=num_clients, learning_rate=learning_rate,
        batch_size=batch_size, lam=lam, nu=1.0, downlink=downlink,
    )  # fmt: skip


def mcm(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    num_clients: int,
    learning_rate: float | Array,
    batch_size: int,
    lam: Array | float,
) -> Algorithm:
    """MCM: :func:`diana` in the uplink, and differences of models in the downlink.

    The server keeps the model x itself; clients compute at H + C(x - H), H a memory of both ends.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a mean over the batch.
        codec: C, unbiased with an omega, of both directions.
        num_clients: of the whole population, all of whom take part.
        learning_rate: gamma; :func:`fjx.theory.mcm` gives one that is proved.
        batch_size: examples at a time; it bounds memory only (see :func:`fjx.rounds.minibatch`).
        lam: of the memories of both ends, at most 1 / (1 + omega).

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
        loss_fn, codec, num_clients=num_clients, learning_rate=learning_rate,
        batch_size=batch_size, lam=lam, downlink=shifted(codec, lam=lam),
    )  # fmt: skip
