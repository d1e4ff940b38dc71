"""Clients that keep a replica of the server: what travels down is its message, compressed."""

from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate, clients, servers
from fjx._base import (
    Aggregator,
    Algorithm,
    Array,
    Compressor,
    Contract,
    Key,
    MessageLike,
    Metrics,
    Public,
    ServerUpdate,
    Tree,
    TreeLike,
)
from fjx.rounds._compose import Encoded
from fjx.rounds._compose import aggregate_like
from fjx.rounds._compose import compose
from fjx.aggregators._mean import require_aggregator
from fjx.rounds._difference import difference
from fjx.clients._minibatch import server_sgd
from fjx.clients import LossFn
from fjx.compressors import tracked
from fjx.compressors._chain import payload_like, require_compressor
from fjx.wire import Known, Tracked


class Replicas(TypedDict):
    """The server and its replicas on the clients, as slots of :func:`fjx.compose`."""

    aggregator: Aggregator
    server: ServerUpdate
    downlink: Compressor


class ReplicatedAggregate(NamedTuple):
    """The aggregator's state of :func:`replicated`.

    Attributes:
        inner: of the aggregator.
        codec: of the codec of what it makes.
    """

    inner: Tree
    codec: Tree


class ReplicatedServer(NamedTuple):
    """The server's state of :func:`replicated`.

    Attributes:
        inner: the server's, and that of its replicas once they have heard the last payload.
        before: what replicas are now.
        payload: of the last aggregate message.
        rounds: ``i32[]``, how many there were; before the first there is no message.
    """

    inner: Any
    before: Any
    payload: Tree
    rounds: Array

    @property
    def params(self) -> Tree:
        """The current model."""
        return self.inner.params


def replicated(
    codec: Compressor,
    *,
    aggregator: Aggregator,
    server: ServerUpdate | optax.GradientTransformation,
    message: MessageLike = _tree.like,
) -> Replicas:
    """Sends the aggregate message down in place of the model; every client takes the server's step.

    Clients hold the server's state.  A round's aggregate message g is encoded once; the server and its
    replicas step by what is decoded of it, C(g).  With ``tracked(C)`` for the codec they step by
    g~ = g~ + C(g - g~), and with ``error_feedback(C)`` what was lost of one message is part of the next.

    Guarantees: replicas follow the server to rounding, because it steps by what they were sent; bits
        down: those of the codec, once for each client that is invited.  That is the bill of clients that
        hear every broadcast, and no more is claimed of others: one that was away for T rounds must be
        sent the T payloads that it missed, or the server's state, and neither is billed; nor is the
        first state, nor what those hear who are not invited.

    Args:
        codec: C, of aggregate messages, with any state; what it loses the model loses, too.
        aggregator: how messages become one.
        server: a :class:`fjx.ServerUpdate` or an optax transformation, both deterministic.
        message: ``(params) -> template`` of the messages that the aggregator is given, by which the
            first state knows what will travel down; that of the model by default.

    Returns:
        The slots ``aggregator``, ``server`` and ``downlink`` of :func:`fjx.compose`, made together
        because they must agree.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: (when traced) the messages are not like ``message``; from the downlink's ``decode``,
            the payload was read from bytes and has no replica yet.

    Examples:
        >>> import jax.numpy as jnp, optax, fjx
        >>> from fjx import aggregators, algorithms, clients, compressors
        >>> algorithm = fjx.compose(
        ...     client=clients.gradient(lambda w, x, key: jnp.mean((w - x) ** 2), batch_size=1),
        ...     **algorithms.replicated(
        ...         compressors.top_k(0.1), aggregator=aggregators.mean(), server=optax.sgd(0.1)))
        >>> algorithm.traffic(jnp.zeros(100))
        Traffic(uplink=3200, downlink=392)

    References:
        Philippenko, Dieuleveut, 2020 (arXiv:2006.14591), and Fatkhullin, Sokolov, Gorbunov, Li,
        Richtarik, JMLR 2025 (arXiv:2110.03294), algorithm 5, whose clients do so.
    """
    require_compressor("replicated", codec)
    require_aggregator("replicated", aggregator)
    if not isinstance(server, ServerUpdate):
        server = servers.from_optax(server)

    def init_aggregator(message_like: TreeLike) -> ReplicatedAggregate:
        inner = aggregator.init(message_like)
        return ReplicatedAggregate(inner, codec.init(aggregate_like(aggregator, message_like)))

    def inside(public: Public) -> Public:
        return public._replace(state=public.state.inner)

    def contribute(key: Key, message: Tree, weight: Array, public: Public) -> Tree:
        return aggregator.contribute(key, message, weight, inside(public))

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        key_finish, key_encode = jax.random.split(key)
        aggregate, inner, metrics = aggregator.finish(key_finish, total, inside(public))
        payload, state = codec.encode(key_encode, aggregate, public.state.codec)
        sent = Encoded(payload, codec.decode(payload))
        return sent, ReplicatedAggregate(inner, state), metrics

    def encode(key: Key, message: Tree, public: Public) -> Tree:
        assert aggregator.encode is not None
        return aggregator.encode(key, message, inside(public))

    def init_server(params: Tree) -> ReplicatedServer:
        state, template = server.init(params), aggregate_like(aggregator, message(params))
        nothing = _tree.zeros_like(payload_like(codec, template))  # of no round, and never decoded
        return ReplicatedServer(state, state, nothing, jnp.int32(0))

    def update(state: ReplicatedServer, sent: Encoded) -> ReplicatedServer:
        payload = sent.payload
        _validate.same_structure("the aggregate's payload", payload, "its template", state.payload)
        after = server.update(state.inner, sent.decoded)
        return ReplicatedServer(after, state.inner, payload, state.rounds + 1)

    def send(key: Key, state: ReplicatedServer, nothing: Tree) -> tuple[Tracked, Tree]:
        return Tracked(state.payload, Known((state.before, state.rounds))), nothing

    def receive(sent: Tracked) -> Tree:
        if sent.memory.value is None:
            raise ValueError(
                "the payload was read from bytes: give it the receiver's replica and the number of "
                "rounds, dataclasses.replace(payload, memory=wire.Known((replica, rounds)))"
            )
        replica, rounds = sent.memory.value
        stepped = server.update(replica, codec.decode(sent.change))
        return server.broadcast(_tree.where(rounds > 0, stepped, replica))

    return Replicas(
        aggregator=Aggregator(
            init_aggregator, contribute, finish, aggregator.combine,
            encode if aggregator.encode else None,
        ),
        server=ServerUpdate(init_server, lambda state: state, update),
        downlink=Compressor(lambda like: (), send, receive, lambda like: Contract()),
    )  # fmt: skip


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
        batch_size: examples at a time; bounds memory alone (:func:`stochastic` makes mini-batches).
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
            tracked(codec if server_codec is None else server_codec),
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
        batch_size: examples at a time; bounds memory alone (:func:`stochastic` makes mini-batches).
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
