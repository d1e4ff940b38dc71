"""One generic round, into whose slots every algorithm fits."""

import functools
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate, wire
from fjx._base import (
    STACK,
    SUM,
    Aggregator,
    Algorithm,
    Array,
    ClientUpdate,
    Cohort,
    Compressor,
    Examples,
    Executor,
    Key,
    Metrics,
    Public,
    ServerUpdate,
    Steps,
    Traffic,
    Tree,
    TreeLike,
)
from fjx.aggregators import mean
from fjx.compressors import identity
from fjx.compressors._shapes import payload_like
from fjx.rounds._executors import vectorized
from fjx.servers import from_optax
from fjx.wire._bits import is_ragged


class Codecs(TypedDict, total=False):
    """The codec slots of :func:`compose`, which every recipe passes on."""

    uplink: Compressor
    downlink: Compressor


class Slots(Codecs, total=False):
    """The slots of :func:`compose` that a recipe leaves open."""

    aggregator: Aggregator


class RoundState(NamedTuple):
    """The server's side of an algorithm between rounds.

    Attributes:
        server: the server update's state.
        aggregator: the aggregator's state.
        downlink: the downlink codec's state.
    """

    server: Any
    aggregator: Tree
    downlink: Tree

    @property
    def params(self) -> Tree:
        """The current model."""
        return self.server.params


class ClientRow(NamedTuple):
    """One client's state between rounds: a row of the table of all clients.

    Attributes:
        client: the client update's state.
        uplink: the uplink codec's state, shaped like the message.
    """

    client: Tree
    uplink: Tree


class _Shared(NamedTuple):
    """What every client of the round is given."""

    key_clients: Key
    key_public: Key
    broadcast: Tree
    arrays: Tree
    aggregator: Tree
    invited: Array


class _Slot(NamedTuple):
    """What one client of the cohort is given.  All zeros is a slot that does nothing."""

    id: Array
    weight: Array
    present: Array
    offset: Array
    size: Array
    rank: Array
    row: ClientRow


def compose(
    *,
    client: ClientUpdate,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    aggregator: Aggregator | None = None,
    server: ServerUpdate | optax.GradientTransformation | None = None,
) -> Algorithm:
    """A federated algorithm from its five parts.

    A round is: broadcast -> ``downlink`` -> [train -> ``uplink.encode`` -> wire -> ``uplink.decode``
    -> ``contribute`` -> ``on_sent``] for each client -> sum or stack -> ``finish`` -> ``on_aggregate``
    for each client -> server update.

    Guarantees: what a client draws depends on the round key and its id alone, so permuting, padding
        or chunking a cohort changes nothing but the order of floating sums; a client of weight zero,
        or whose message is not finite, contributes exactly nothing, keeps its row bit for bit, and is
        counted in the metrics; no codec can enlarge what the aggregator bounds, because
        ``contribute`` sees the decoded message.

    Args:
        client: local work, such as :func:`fjx.clients.local_sgd`.
        uplink: codec of the clients' messages; identity by default.
        downlink: codec of the broadcast, one payload for all clients; identity by default.
        aggregator: how messages become one; the mean weighted by examples by default.
        server: a :class:`fjx.ServerUpdate` or an optax transformation; by default the aggregate
            message is added to the model.

    Returns:
        An :class:`fjx.Algorithm`.  The metrics of a round are counts (``invited``: clients in the
        cohort, ``participants``: those that contributed, ``nonfinite``: those whose message was not
        finite, ``rejected``: slots with an impossible id), the client's metrics averaged over the
        participants' examples, the aggregator's, and, where the length of a payload depends on the
        data, ``uplink_bytes``: what the cohort sent in all, ``u32``, 2^32 - 1 standing for more; of a
        broadcast whose length does, ``downlink_bytes``: what the cohort, of less than 2^16 clients, was
        sent.

    Raises:
        TypeError: a slot holds something of another kind.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, fjx
        >>> def loss_fn(params, batch, key):
        ...     return jnp.mean((params["w"] - batch["x"]) ** 2)
        >>> algorithm = fjx.compose(
        ...     client=fjx.clients.local_sgd(loss_fn, optax.sgd(0.5), epochs=1, batch_size=4),
        ...     uplink=fjx.compressors.identity(),
        ...     server=optax.sgd(1.0),
        ... )
        >>> dataset = fjx.data.from_clients([{"x": jnp.full(4, 1.0)}, {"x": jnp.full(4, 3.0)}])
        >>> state = algorithm.init({"w": jnp.zeros(())})
        >>> rows = jax.vmap(lambda _: algorithm.init_client(state.params))(jnp.arange(2))
        >>> cohort = dataset.cohort(jnp.arange(2))
        >>> state, rows, metrics = algorithm.round(jax.random.key(0), state, rows, cohort)
        >>> float(state.params["w"]), int(metrics["participants"])
        (2.0, 2)

    References:
        McMahan et al., *Communication-Efficient Learning of Deep Networks from Decentralized Data*,
        AISTATS 2017 (arXiv:1602.05629); Reddi et al., *Adaptive Federated Optimization*, ICLR 2021
        (arXiv:2003.00295), for the server optimiser.
    """
    uplink = identity() if uplink is None else uplink
    downlink = identity() if downlink is None else downlink
    aggregator = mean() if aggregator is None else aggregator
    server = optax.sgd(1.0) if server is None else server
    if isinstance(server, optax.GradientTransformation):
        server = from_optax(server)
    _require("client", client, ClientUpdate)
    _require("uplink", uplink, Compressor)
    _require("downlink", downlink, Compressor)
    _require("aggregator", aggregator, Aggregator)
    _require("server", server, ServerUpdate)

    def init(params: Tree) -> RoundState:
        params = jax.tree.map(jnp.asarray, params)
        _require_numbers(params)
        state = server.init(params)
        return RoundState(
            server=state,
            aggregator=aggregator.init(received_like(params)),
            # Receivers have the first model: a codec that remembers begins with it.
            downlink=downlink.init(server.broadcast(state)),
        )

    def received_like(params: Tree) -> TreeLike:
        return jax.eval_shape(uplink.decode, payload_like(uplink, client.message(params)))

    def init_client(params: Tree) -> ClientRow:
        return ClientRow(client.init(params), uplink.init(client.message(params)))

    def run_round(
        aggregator: Aggregator,
        key: Key,
        state: RoundState,
        rows: ClientRow,
        cohort: Cohort,
        *,
        executor: Executor | None = None,
    ) -> tuple[RoundState, ClientRow, Metrics]:
        _validate.key("key", key)
        execute = vectorized() if executor is None else executor
        require_rows(rows, cohort)
        key_clients, key_public, key_finish, key_downlink = jax.random.split(key, 4)
        template = client.message(state.params)

        sent, downlink_state = downlink.encode(
            key_downlink, server.broadcast(state.server), state.downlink
        )
        broadcast = downlink.decode(sent)
        invited = jnp.sum(cohort.ids < cohort.population, dtype=jnp.int32)

        shared = _Shared(
            key_clients, key_public, broadcast, cohort.examples.arrays, state.aggregator, invited
        )

        def inputs(shared: _Shared, slot: _Slot) -> tuple[Key, Tree, Tree, Examples]:
            key_train, _, _ = _client_keys(shared, slot)
            examples = Examples(shared.arrays, slot.offset, slot.size)
            return key_train, shared.broadcast, slot.row.client, examples

        def deliver(shared: _Shared, slot: _Slot, trained: tuple[Tree, Tree, Metrics]) -> Tree:
            message, memory, metrics = trained
            _validate.same_structure("the client's message", message, "its template", template)
            _, key_encode, key_contribute = _client_keys(shared, slot)
            payload, residual = uplink.encode(key_encode, message, slot.row.uplink)
            received = uplink.decode(payload)

            finite = _tree.all_finite((message, received))
            counts = (slot.weight > 0) & finite
            weight = jnp.where(counts, slot.weight, 0.0)
            received = _tree.where(counts, received, _tree.zeros_like(received))

            def public() -> Public:
                # A clone, because every client draws the same from it on purpose.
                key_shared = jax.random.clone(shared.key_public)
                return Public(shared.aggregator, key_shared, slot.rank, shared.invited)

            contribution = aggregator.contribute(key_contribute, received, weight, public())
            if aggregator.combine is SUM:
                # Whatever an aggregator adds of its own (local noise, say), an absentee adds none; and
                # whether somebody who is there adds it must not depend on its data.
                nothing = _tree.zeros_like(contribution)
                contribution = _tree.where(slot.present, contribution, nothing)

            if client.on_sent is not None:
                memory = client.on_sent(received, memory, public())
            row = _tree.where(counts, ClientRow(memory, residual), slot.row)
            tally = _tally(counts, (slot.weight > 0) & ~finite, slot.size, metrics)
            if aggregator.encode is not None:
                payload = aggregator.encode(jax.random.clone(key_contribute), received, public())
            if is_ragged(payload):
                tally["sent"] = bytes_sent(payload, slot.weight > 0)
            left = row, counts
            if aggregator.combine is STACK:
                return tally, (contribution, left)
            return (contribution, tally), left

        run_client = Steps.of(client.update).around(inputs, deliver)
        slots = _Slot(
            cohort.ids,
            cohort.weights,
            cohort.weights > 0 if cohort.present is None else cohort.present,
            cohort.examples.offset,
            cohort.examples.size,
            jnp.searchsorted(jnp.sort(cohort.ids), cohort.ids).astype(jnp.int32),
            rows,
        )
        if aggregator.combine is STACK:
            tally, (total, left) = execute(run_client, shared, slots, cohort.examples.size)
        else:
            (total, tally), left = execute(run_client, shared, slots, cohort.examples.size)

        def public(rank: Array | None) -> Public:
            return Public(state.aggregator, jax.random.clone(key_public), rank, invited)

        message, aggregator_state, aggregator_metrics = aggregator.finish(
            key_finish, total, public(None)
        )

        def on_aggregate(row: ClientRow, counts: Array, rank: Array) -> ClientRow:
            assert client.on_aggregate is not None
            heard = message.decoded if isinstance(message, Encoded) else message
            memory = client.on_aggregate(heard, row.client, public(rank))
            return _tree.where(counts, row._replace(client=memory), row)

        rows, counts = left
        if client.on_aggregate is not None:
            rows = jax.vmap(on_aggregate)(rows, counts, slots.rank)
        state = RoundState(server.update(state.server, message), aggregator_state, downlink_state)
        counted = {"invited": invited, "rejected": cohort.rejected}
        down = sent, () if client.on_aggregate is None else _on_wire(message)
        if is_ragged(down):
            counted["downlink_bytes"] = bytes_of_a_cohort(*bytes_sent(down, invited))
        metrics = _validate.disjoint(
            _validate.disjoint(counted, _averages(tally)), aggregator_metrics
        )
        return state, rows, metrics

    def traffic(params: Tree) -> Traffic:
        if aggregator.encode is None:
            sent = payload_like(uplink, client.message(params))
        else:
            sent = sent_like(aggregator, received_like(params))
        broadcast, heard = payload_like(downlink, _broadcast_like(server, params)), ()
        if client.on_aggregate is not None:
            heard = _on_wire(aggregate_like(aggregator, received_like(params)))
        return Traffic(uplink=wire.bits(sent), downlink=wire.bits(broadcast) + wire.bits(heard))

    return Algorithm(init, init_client, functools.partial(run_round, aggregator), traffic)


_KEY_LIKE = jax.eval_shape(jax.random.key, 0)


class Encoded(NamedTuple):
    """An aggregate message that travels down as a payload: who hears it hears what it decodes to.

    Attributes:
        payload: of the message.
        decoded: what receivers make of it.
    """

    payload: Tree
    decoded: Tree


def _on_wire(message: Tree) -> Tree:
    """What travels of an aggregate message."""
    return message.payload if isinstance(message, Encoded) else message


def aggregate_like(aggregator: Aggregator, message_like: TreeLike) -> TreeLike:
    """What becomes of messages of a template."""

    def meet(key: Key, message: Tree) -> Tree:
        public = _alone(key, aggregator, message)
        total = aggregator.contribute(key, message, jnp.float32(1), public)
        if aggregator.combine is STACK:
            total = jax.tree.map(lambda x: x[None], total)
        return aggregator.finish(key, total, public._replace(rank=None))[0]

    return jax.eval_shape(meet, _KEY_LIKE, message_like)


def sent_like(aggregator: Aggregator, message_like: TreeLike) -> TreeLike:
    """What is on the wire of an aggregator that says so itself."""
    coder = aggregator.encode
    assert coder is not None

    def encode(key: Key, message: Tree) -> Tree:
        return coder(key, message, _alone(key, aggregator, message))

    return jax.eval_shape(encode, _KEY_LIKE, message_like)


def _client_keys(shared: _Shared, slot: _Slot) -> Array:
    """A client's keys, by its id: for training, for its codec, for its contribution."""
    return jax.random.split(jax.random.fold_in(shared.key_clients, slot.id), 3)


def _alone(key: Key, aggregator: Aggregator, message: Tree) -> Public:
    """What the only client of a round knows."""
    return Public(aggregator.init(message), jax.random.clone(key), jnp.int32(0), jnp.int32(1))


def _broadcast_like(server: ServerUpdate, params: Tree) -> TreeLike:
    return jax.eval_shape(lambda p: server.broadcast(server.init(p)), params)


def _tally(counts: Array, nonfinite: Array, size: Array, metrics: Metrics) -> dict[str, Any]:
    """What is summed over clients to make a round's metrics."""
    examples = jnp.where(counts, size, 0).astype(jnp.float32)
    sums = {name: _tree.scale(examples, value) for name, value in metrics.items()}
    return {
        "participants": counts.astype(jnp.int32),
        "nonfinite": nonfinite.astype(jnp.int32),
        "examples": examples,
        "sums": _tree.where(counts, sums, _tree.zeros_like(sums)),
    }


def _averages(tally: dict[str, Any]) -> Metrics:
    examples = jnp.maximum(tally["examples"], 1.0)
    means = {name: total / examples.astype(total.dtype) for name, total in tally["sums"].items()}
    counts = {name: tally[name] for name in ("participants", "nonfinite")}
    if "sent" in tally:
        counts["uplink_bytes"] = bytes_of_a_cohort(*tally["sent"])
    return _validate.disjoint(counts, means)


def bytes_sent(payload: Tree, times: Array) -> tuple[Array, Array]:
    """The bytes of a payload, sent so many times (less than 2^16): the low 16 bits, and the others.

    A cohort's sums of either do not overflow.
    """
    bits = wire.measured_bits(payload) if is_ragged(payload) else wire.bits(payload)
    size, times = bits // 8, times.astype(jnp.uint32)
    low = jnp.asarray(size & 0xFFFF, jnp.uint32) * times
    return low & 0xFFFF, jnp.asarray(size >> 16, jnp.uint32) * times + (low >> 16)


def bytes_of_a_cohort(low: Array, high: Array) -> Array:
    """The sum of :func:`bytes_sent`, or 2^32 - 1 where it is more."""
    high = high + (low >> 16)
    whole = high << 16 | low & 0xFFFF
    return jnp.where(high < 1 << 16, whole, jnp.uint32(0xFFFFFFFF))


def _require_numbers(params: Tree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not (
            jnp.issubdtype(leaf.dtype, jnp.floating) or jnp.issubdtype(leaf.dtype, jnp.integer)
        ):
            where = jax.tree_util.keystr(path) or "the only leaf"
            raise TypeError(
                f"params must be floats and integers, which can be subtracted and averaged; at "
                f"{where} got {leaf.dtype}.  Close the loss over masks and keys, or store integers"
            )


def require_rows(rows: Tree, cohort: Cohort) -> None:
    slots = cohort.ids.shape[0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(rows):
        if leaf.ndim == 0 or leaf.shape[0] != slots:
            raise ValueError(
                f"round needs one row of client state for each of the cohort's {slots} slots; at "
                f"{jax.tree_util.keystr(path)} got {list(leaf.shape)}.  Gather them from the table "
                "of all clients: fjx.simulation.gather(table, cohort.ids)"
            )


def _require(slot: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(
            f"compose: {slot} must be a fjx.{kind.__name__}, got {type(value).__name__}; "
            "factories are called, as in compressors.identity()"
        )
