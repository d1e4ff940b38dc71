"""Compressing what changed: a memory on each client, and its mean on the server."""

from typing import NamedTuple, TypedDict

import jax.numpy as jnp

from fjx import _tree, _validate, clients
from fjx._base import (
    SUM,
    Aggregator,
    Algorithm,
    Array,
    Compressor,
    Contract,
    Key,
    Metrics,
    Public,
    Tree,
    TreeLike,
)
from fjx.rounds._compose import compose
from fjx.clients._minibatch import batch_gradient
from fjx.clients._minibatch import server_sgd
from fjx.clients import LossFn
from fjx.compressors import tracked
from fjx.compressors._chain import require_compressor


class Link(TypedDict):
    """The two ends of a wire, as slots of :func:`fjx.compose`."""

    uplink: Compressor
    aggregator: Aggregator


class DifferenceState(NamedTuple):
    """The client's state of :func:`difference`.

    Attributes:
        memory: h_i, shaped like the message.
        inner: the codec's state.
    """

    memory: Tree
    inner: Tree


def difference(
    codec: Compressor,
    *,
    num_clients: int,
    lam: Array | float = 1.0,
    nu: Array | float = 1.0,
) -> Link:
    r"""The two ends of a wire on which only changes travel: EF-BV, of which EF21 and DIANA are settings.

    With client memories h_i and their mean h on the server, N clients in all, and C the codec, each
    client of the round with message x_i sends m_i = C(x_i - h_i), and

        g = h + (nu / N) sum m_i,   h_i = h_i + lam m_i,   h = h + (lam / N) sum m_i,

    the sums over those who came; g is the aggregate message.  lam = nu = 1 is EF21, for contractive
    codecs; nu = 1 with lam at most 1 / (1 + omega) is DIANA, for unbiased ones.  Of a cohort of m drawn
    uniformly, nu = N / m makes g unbiased where C is; nu = lam = 1 is EF21-PP.

    Guarantees: h stays the mean of the memories of all clients, to rounding: a client that did not come,
        or whose message was not finite, changes neither; as the memories near the messages, what is sent
        tends to zero, and the error of a codec with it; bits: those of the codec.

    Args:
        codec: contractive or unbiased, applied to differences.
        num_clients: N, the whole population.
        lam: of the memories, in [0, 1]; may be traced.
        nu: of the aggregate, positive; may be traced.

    Returns:
        The slots ``uplink`` and ``aggregator`` of :func:`fjx.compose`, made together because they must
        agree: ``compose(client=..., server=..., **difference(codec, num_clients=100))``.

    Raises:
        TypeError: ``codec`` is not a Compressor, or another argument not a number.
        ValueError: a number is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, fjx
        >>> from fjx import algorithms, clients, compressors
        >>> slots = algorithms.difference(compressors.top_k(0.5), num_clients=2)
        >>> x = jnp.array([4.0, 1.0])
        >>> first, state = slots["uplink"].encode(jax.random.key(0), x, slots["uplink"].init(x))
        >>> second, state = slots["uplink"].encode(jax.random.key(1), x, state)
        >>> [compressors.top_k(0.5).decode(m).tolist() for m in (first, second)]
        [[4.0, 0.0], [0.0, 1.0]]

    References:
        Condat, Yi, Richtarik, *EF-BV: A Unified Theory of Error Feedback and Variance Reduction
        Mechanisms for Biased and Unbiased Compression in Distributed Optimization*, NeurIPS 2022
        (arXiv:2205.04180), algorithm 1.
    """
    require_compressor("difference", codec)
    _validate.number("lam", lam, at_least=0, at_most=1)

    def init(message_like: TreeLike) -> DifferenceState:
        return DifferenceState(_tree.zeros_like(message_like), codec.init(message_like))

    def encode(key: Key, message: Tree, state: DifferenceState) -> tuple[Tree, DifferenceState]:
        change = _tree.subtract(message, state.memory)
        payload, inner = codec.encode(key, change, state.inner)
        moved = _tree.scale(jnp.asarray(lam), codec.decode(payload))
        return payload, DifferenceState(_tree.add(state.memory, moved), inner)

    uplink = Compressor(init, encode, codec.decode, lambda message_like: Contract())
    return Link(uplink=uplink, aggregator=accumulated(num_clients, lam=lam, nu=nu))


def accumulated(
    num_clients: int, *, lam: Array | float = 1.0, nu: Array | float = 1.0
) -> Aggregator:
    """The server's end of :func:`difference`: h is its state."""
    num_clients = _validate.static_integer("num_clients", num_clients, at_least=1)
    _validate.number("nu", nu, above=0)

    def init(message_like: TreeLike) -> Tree:
        return _tree.scale(jnp.float32(0), _tree.zeros_like(message_like))

    def contribute(key: Key, message: Tree, weight: Array, public: Public) -> Tree:
        return _tree.scale(weight > 0, message)

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        mean = _tree.scale(jnp.asarray(1 / num_clients), total)
        aggregate, memory = (
            _tree.add(public.state, _tree.scale(jnp.asarray(factor), mean)) for factor in (nu, lam)
        )
        return aggregate, memory, {}

    return Aggregator(init, contribute, finish, SUM)


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
        batch_size: examples at a time; bounds memory alone (:func:`stochastic` makes mini-batches).
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
        batch_size: examples at a time; bounds memory alone (:func:`stochastic` makes mini-batches).
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
    rate: float | Array,
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
        rate: eta in (0, 1]; 1 is EF21 with stochastic gradients.
        downlink: codec of the broadcast.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.ef21_sgdm(
        ...     lambda w, x, key: (w - x).mean(), compressors.top_k(0.1), num_clients=100,
        ...     learning_rate=0.1, batch_size=10, rate=0.1)

    References:
        Fatkhullin, Tyurin, Richtarik, *Momentum Provably Improves Error Feedback!*, NeurIPS 2023
        (arXiv:2305.15155), algorithm 1.
    """
    batch = batch_gradient(loss_fn, batch_size)
    return compose(
        client=clients.averaged(batch, rate=rate),
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
        batch_size: examples at a time; bounds memory alone (:func:`stochastic` makes mini-batches).
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
        batch_size: examples at a time; bounds memory alone (:func:`stochastic` makes mini-batches).
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
        batch_size=batch_size, lam=lam, downlink=tracked(codec, lam=lam),
    )  # fmt: skip
