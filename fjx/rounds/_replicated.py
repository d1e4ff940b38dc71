"""Replicas of the server on clients: its compressed messages travel down in place of the model."""

from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate, servers
from fjx._base import (
    Aggregator,
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
from fjx.aggregators._around import releasing, require_aggregator
from fjx.compressors._shapes import payload_like, require_compressor
from fjx.rounds._server import Encoded
from fjx.rounds._shapes import aggregate_like
from fjx.wire import OneOf, Shifted, SideInformation


class Replicas(TypedDict):
    """The server and its replicas on the clients, as parts of :func:`fjx.compose`."""

    aggregator: Aggregator
    server: ServerUpdate
    downlink: Compressor


class ReplicatedAggregate(NamedTuple):
    """The aggregator's state of :func:`replicated`.

    Attributes:
        inner: state of the aggregator.
        codec: state of the codec of its results.
    """

    inner: Tree
    codec: Tree


class ReplicatedServer(NamedTuple):
    """The server's state of :func:`replicated`.

    Attributes:
        inner: state of the server, and of its replicas once they have heard the last payload.
        before: current state of the replicas.
        payload: payload of the last aggregate message.
        begun: ``bool[]``, true after the first round; before it there is no message.
    """

    inner: Any
    before: Any
    payload: Tree
    begun: Array

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
    """Parts that send the aggregate message down in place of the model.

    Every client holds the server's state and takes its step.  A round's aggregate message g is encoded
    once, and the server and its replicas step by the decoded message C(g).  With ``shifted(C)`` for the
    codec they step by g~ = g~ + C(g - g~).  With ``error_feedback(C)`` the loss of one message is part
    of the next.

    Guarantees:
        - Replicas follow the server to rounding, because it steps by the message that they were sent.
        - A privacy claim of ``aggregator`` stays: the codec acts behind the noise.

    Bits:
        Down, those of the codec, once for each client that is invited.  The first round costs nothing,
        because there is no message before it; so the bits are measured, as the metric
        ``downlink_bytes``.

        That is the bill of clients that hear every broadcast.  Other costs are not billed: a client
        that was away for T rounds must be sent the T payloads that it missed, or the server's state;
        every client needs the first state; and clients that are not invited must hear the broadcast as
        well.

    Args:
        codec: codec C of aggregate messages, with any state; the model loses what it loses.
        aggregator: aggregator of the messages.
        server: a :class:`fjx.ServerUpdate` or an optax transformation, deterministic.
        message: ``(params) -> template`` of the messages that the aggregator is given, from which the
            shape of the first payload follows; that of the model by default.

    Returns:
        The parts ``aggregator``, ``server`` and ``downlink`` of :func:`fjx.compose`, made together
        because they must agree.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: the messages are not like ``message`` (when traced); the payload was read from bytes
            and has no replica yet (from the downlink's ``decode``).

    Examples:
        >>> import jax.numpy as jnp, optax, fjx
        >>> from fjx import aggregators, clients, compressors, rounds
        >>> algorithm = fjx.compose(
        ...     client=clients.gradient(lambda w, x, key: jnp.mean((w - x) ** 2), batch_size=1),
        ...     **rounds.replicated(
        ...         compressors.top_k(0.1), aggregator=aggregators.mean(), server=optax.sgd(0.1)))
        >>> algorithm.traffic(jnp.zeros(100))
        Traffic(uplink=3200, downlink=392)

    References:
        Philippenko, Dieuleveut, 2020 (arXiv:2006.14591), and Fatkhullin, Sokolov, Gorbunov, Li,
        Richtarik, JMLR 2025 (arXiv:2110.03294), algorithm 5, with such clients.
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

    def contribute(payload: Tree, weight: Array, public: Public) -> Tree:
        return aggregator.contribute(payload, weight, inside(public))

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
        return ReplicatedServer(state, state, nothing, jnp.asarray(False))

    def update(state: ReplicatedServer, sent: Encoded) -> ReplicatedServer:
        payload = sent.payload
        _validate.same_structure("the aggregate's payload", payload, "its template", state.payload)
        after = server.update(state.inner, sent.decoded)
        return ReplicatedServer(after, state.inner, payload, jnp.asarray(True))

    def send(key: Key, state: ReplicatedServer, nothing: Tree) -> tuple[Shifted, Tree]:
        # Receivers know the number of the round, so that no message costs no bit.
        begun = SideInformation(state.begun.astype(jnp.uint8))
        change = OneOf(begun, ((), state.payload))
        return Shifted(change, SideInformation((state.before, state.begun))), nothing

    def receive(sent: Shifted) -> Tree:
        if sent.memory.value is None:
            raise ValueError(
                "the payload was read from bytes: give it the receiver's replica, and whether a round "
                "was played, dataclasses.replace(payload, memory=SideInformation((replica, True)))"
            )
        replica, begun = sent.memory.value
        stepped = server.update(replica, codec.decode(sent.change.parts[1]))
        return server.broadcast(_tree.where(begun, stepped, replica))

    encoded = None if aggregator.encode is None else encode
    encoding = Aggregator(init_aggregator, contribute, finish, aggregator.combine, encoded)
    return Replicas(
        # The codec is given the result alone, behind the noise if there is any.
        aggregator=releasing(encoding, *aggregator.mechanisms),
        server=ServerUpdate(init_server, lambda state: state, update),
        downlink=Compressor(lambda like: (), send, receive, lambda like: Contract()),
    )
