"""Hierarchical rounds: clients, edge servers, and a cloud."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fjx import _tree, _validate
from fjx._base import (
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
    Steps,
    Template,
    Tree,
    TreeLike,
    Turn,
)
from fjx.aggregators import grouped, mean
from fjx.aggregators._around import require_aggregator
from fjx.clients._clusters import row_of
from fjx.compressors import identity
from fjx.compressors._shapes import require_compressor
from fjx.rounds._client import met, training, upload
from fjx.rounds._executors import vectorized
from fjx.rounds._metrics import bytes_of_a_cohort, bytes_sent, report
from fjx.rounds._shapes import received_like, require_trainable, traffic_of
from fjx.rounds._state import (
    ClientRow,
    Context,
    Parts,
    RoundKeys,
    invited,
    require_rows,
    slots_of,
)
from fjx.servers import from_optax
from fjx.wire import SideInformation
from fjx.wire._bits import is_ragged


class HierarchicalState(NamedTuple):
    """The state of the cloud and of E edge servers.

    Attributes:
        server: the cloud's server update's state.
        edges: the edges between two rounds of the cloud.
        aggregator: states of the edges' aggregators, ``[E, ...]``.
        downlink: states of the edges' downlink codecs, ``[E, ...]``.
        round: ``i32[]``, the number of rounds that were played.
    """

    server: Any
    edges: "Edges"
    aggregator: Tree
    downlink: Tree
    round: Array

    @property
    def params(self) -> Tree:
        """The cloud's model."""
        return self.server.params


class Edges(NamedTuple):
    """E edge servers since the last round of the cloud.

    Attributes:
        drift: difference between each edge's model and the cloud's, ``[E, ...]``.
        weight: ``f32[E]``, the sum of the weights of the clients that took part.
        codec: states of the codecs between edges and cloud, ``[E, ...]``.
    """

    drift: Tree
    weight: Array
    codec: Tree


def hierarchical(
    *,
    client: ClientUpdate,
    edges: int | Sequence[int] | np.ndarray,
    edge_rounds: int = 1,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    aggregator: Aggregator | None = None,
    edge_uplink: Compressor | None = None,
    server: optax.GradientTransformation | None = None,
) -> Algorithm:
    """Two levels of averaging: of clients on their edge server, and of the edge servers in the cloud.

    In each round a client is sent the model of its edge, and the edge adds the aggregate of its clients'
    messages to its model.  After every ``edge_rounds`` rounds each edge sends how its model differs from
    the cloud's; the cloud takes the mean, weighted by the clients that took part on each edge, and all
    edges begin again at its new model.

    Guarantees:
        - With one edge and ``edge_rounds=1`` it is :func:`fjx.compose` of the other parts.
        - With exact codecs and ``edge_rounds=1``, the edges of a weighted mean change nothing but the
          order of sums.
        - An edge none of whose clients took part since the last round of the cloud sends nothing, and
          its codec's state stays.

    Bits:
        ``traffic`` and the ledger are those of clients.  The metric ``cloud_bytes`` counts what the
        edges sent to the cloud.

    Args:
        client: local work, such as :func:`fjx.clients.local_sgd`.
        edges: number E of edges, of which client i belongs to edge i mod E; or the edge of each client,
            integers from 0 to E - 1.
        edge_rounds: number of rounds between two rounds of the cloud.
        uplink: codec of the clients' messages; identity by default.
        downlink: codec of an edge's model to its clients; identity by default.
        aggregator: aggregator of an edge, which sums; the mean weighted by examples by default.
        edge_uplink: codec of an edge's message to the cloud; identity by default.
        server: optax transformation of the cloud; by default the mean is added to the model.

    Returns:
        An :class:`fjx.Algorithm` whose ``params`` is the cloud's model.

    Raises:
        TypeError: an argument is something else.
        ValueError: a number is out of range; an edge has no client; ``aggregator`` stacks, or is
            private; ``client`` has an ``on_sent`` or an ``on_aggregate``; ``edges`` is for another
            number of clients (when a round is traced).

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from fjx import clients, compressors, rounds
        >>> algorithm = rounds.hierarchical(
        ...     client=clients.local_sgd(
        ...         lambda w, x, key: (w - x).mean(), optax.sgd(0.1), epochs=1, batch_size=10),
        ...     edges=[0, 0, 1, 1, 1], edge_rounds=4, edge_uplink=compressors.quantize(bits=8))
        >>> algorithm.traffic(jnp.zeros(100))
        Traffic(uplink=3200, downlink=3200)

    References:
        Liu, Zhang, Song, Letaief, *Client-Edge-Cloud Hierarchical Federated Learning*, ICC 2020
        (arXiv:1905.06641), algorithm 1.
    """
    if not isinstance(client, ClientUpdate):
        raise TypeError(f"hierarchical needs a fjx.ClientUpdate, got {client!r}")
    if client.on_sent is not None or client.on_aggregate is not None:
        raise ValueError(
            "hierarchical averages on each edge first, and a client's on_sent and on_aggregate are made "
            "for one server: they must be None"
        )
    aggregator = mean() if aggregator is None else aggregator
    require_aggregator("hierarchical", aggregator)
    if aggregator.mechanisms:
        raise ValueError(
            "hierarchical takes no private aggregator: the cloud weighs its edges by the clients that "
            "took part, which the noise does not cover; use algorithms.dp_fedavg"
        )
    edge_rounds = _validate.static_integer("edge_rounds", edge_rounds, at_least=1)
    edge_of, count = _edges(edges)
    codec = identity() if edge_uplink is None else edge_uplink
    require_compressor("hierarchical", codec)
    server = optax.sgd(1.0) if server is None else server
    parts = Parts(
        client=_on_edges(client, edge_of),
        uplink=identity() if uplink is None else uplink,
        downlink=identity() if downlink is None else downlink,
        aggregator=grouped(aggregator, count),
        server=from_optax(server),
    )

    def stacked(tree: Tree) -> Tree:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), tree)

    def init(params: Tree) -> HierarchicalState:
        params = jax.tree.map(jnp.asarray, params)
        require_trainable(params)
        message = client.message(params)
        return HierarchicalState(
            server=parts.server.init(params),
            edges=Edges(
                stacked(_tree.wide_zeros_like(message)),
                jnp.zeros(count, jnp.float32),
                stacked(codec.init(message)),
            ),
            aggregator=parts.aggregator.init(received_like(parts, params)),
            downlink=stacked(parts.downlink.init(params)),
            round=jnp.int32(0),
        )

    def init_client(params: Tree) -> ClientRow:
        return ClientRow(client.init(params), parts.uplink.init(parts.client.message(params)))

    def to_cloud(key: Key, edges: Edges, like: TreeLike) -> tuple[Tree, Edges, Array]:
        """The mean of what the edges send, the edges at their new beginning, and the bytes."""

        def one(key: Key, edge: Edges) -> tuple[Tree, Tree, tuple[Array, Array]]:
            sends = edge.weight > 0
            payload, state = codec.encode(key, _tree.in_dtypes_of(edge.drift, like), edge.codec)
            share = _tree.scale(edge.weight, codec.decode(payload))
            state = _tree.where(sends, state, edge.codec)
            return share, state, bytes_sent(payload, sends)

        shares, states, sent = jax.vmap(one)(jax.random.split(key, count), edges)
        total = jax.tree.map(lambda x: jnp.sum(x, axis=0), shares)
        weight = jnp.sum(edges.weight)
        message = _tree.divide(total, jnp.where(weight > 0, weight, 1.0))
        fresh = Edges(_tree.zeros_like(edges.drift), jnp.zeros(count, jnp.float32), states)
        return message, fresh, bytes_of_a_cohort(*(jnp.sum(x, dtype=x.dtype) for x in sent))

    def play(
        key: Key,
        state: HierarchicalState,
        rows: ClientRow,
        cohort: Cohort,
        *,
        executor: Executor | None = None,
    ) -> tuple[HierarchicalState, ClientRow, Metrics]:
        _validate.key("key", key)
        require_rows(rows, cohort)
        _require_population(cohort, edges, count)
        execute = vectorized() if executor is None else executor
        keys = RoundKeys.of(key)
        like, template = client.message(state.params), parts.client.message(state.params)

        models = jax.vmap(lambda d: _tree.add(state.params, d))(state.edges.drift)
        keys_down = jax.random.split(keys.downlink, count)
        down, downlink = jax.vmap(parts.downlink.encode)(keys_down, models, state.downlink)
        context = Context(
            key_clients=keys.clients,
            key_public=keys.public,
            broadcast=jax.vmap(parts.downlink.decode)(down),
            arrays=cohort.examples.arrays,
            aggregator=state.aggregator,
            size=invited(cohort),
            round=state.round,
            template=Template.of(template),
        )
        slots = slots_of(cohort, rows)
        one_client = training(parts.client.update)(upload(parts, template))
        summed, stacks = execute(one_client, context, slots, slots.size)
        total, tally, (rows, counts) = met(SUM, summed, stacks)
        key_edges, key_cloud = jax.random.split(keys.finish)
        messages, aggregator_state, own = parts.aggregator.finish(
            key_edges, total, context.public(None)
        )

        at = edge_of(cohort.ids)
        came = jnp.zeros(count, jnp.float32).at[at].add(jnp.where(counts, cohort.weights, 0.0))
        now = Edges(
            _tree.add(state.edges.drift, messages), state.edges.weight + came, state.edges.codec
        )
        message, fresh, sent = to_cloud(key_cloud, now, like)
        meets = (state.round + 1) % edge_rounds == 0
        moved = parts.server.update(state.server, message)
        state = HierarchicalState(
            server=_tree.where(meets, moved, state.server),
            edges=_tree.where(meets, fresh, now),
            aggregator=aggregator_state,
            downlink=downlink,
            round=state.round + 1,
        )
        told = {**own, "cloud_bytes": jnp.where(meets, sent, jnp.uint32(0))}
        if is_ragged(down):
            invited_to = jnp.zeros(count, jnp.int32).at[at].add(cohort.ids < cohort.population)
            each = jax.vmap(bytes_sent)(down, invited_to)
            told["downlink_bytes"] = bytes_of_a_cohort(*(jnp.sum(x, dtype=x.dtype) for x in each))
        return state, rows, report(cohort, tally, (), told)

    def personal(state: HierarchicalState, row: ClientRow) -> Tree:
        assert client.personal is not None
        return client.personal(state.params, row.client)

    return Algorithm(
        init,
        init_client,
        play,
        functools.partial(traffic_of, parts),
        rounds=client.rounds,
        personal=client.personal and personal,
    )


def _edges(edges: Any) -> tuple[Any, int]:
    """The function from ids to edges, and the number of edges."""
    if np.ndim(edges) == 0:
        count = _validate.static_integer("edges", edges, at_least=1)
        return lambda ids: ids % count, count
    table = np.asarray(edges)
    if table.ndim != 1 or not np.issubdtype(table.dtype, np.integer) or not table.size:
        raise TypeError(
            f"edges must be a number of edges, or the edge of each client, a vector of integers; got "
            f"{table.dtype}{list(table.shape)}"
        )
    count = int(table.max()) + 1
    if table.min() < 0 or (empty := np.setdiff1d(np.arange(count), table)).size:
        wrong = f"edge {table.min()}" if table.min() < 0 else f"no client on edge {empty[0]}"
        raise ValueError(
            f"edges must number the edges from 0 on, with a client on each; got {wrong}"
        )
    return lambda ids: jnp.asarray(table, jnp.int32).at[ids].get(mode="clip"), count


def _require_population(cohort: Cohort, edges: Any, count: int) -> None:
    """Raises ValueError if the population is known not to be that of the edges."""
    population = cohort.population  # a number, unless the whole cohort is an argument of jit
    if not _validate.concrete(population):
        return
    if np.ndim(edges) == 1 and len(edges) != int(population):
        raise ValueError(
            f"edges must have an entry for each client, {int(population)}; got {len(edges)}"
        )
    if count > int(population):
        raise ValueError(
            f"edges must be at most the number of clients, {int(population)}; got {count}"
        )


def _on_edges(client: ClientUpdate, edge_of: Any) -> ClientUpdate:
    """The client at the model of its edge; its message is marked with the edge, which knows it."""

    def inputs(
        key: Key, models: Tree, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Any, ...]:
        return key, row_of(models, edge_of(turn.id)), state, examples, turn

    def after(
        key: Key,
        models: Tree,
        state: Tree,
        examples: Examples,
        turn: Turn,
        trained: tuple[Tree, Tree, Metrics],
    ) -> tuple[Tree, Tree, Metrics]:
        message, state, metrics = trained
        group = SideInformation(edge_of(turn.id).astype(jnp.int32))
        return {"update": message, "group": group}, state, metrics

    def message(params: Tree) -> TreeLike:
        group = SideInformation(jax.ShapeDtypeStruct((), jnp.int32))
        return {"update": client.message(params), "group": group}

    update = Steps.of(client.update).around(inputs, after)
    return ClientUpdate(client.init, update, message)
