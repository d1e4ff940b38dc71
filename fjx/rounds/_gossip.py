"""Gossip: clients that talk to their neighbours, and no server."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _tree, _validate, wire
from fjx._base import (
    Algorithm,
    Array,
    ClientUpdate,
    Cohort,
    Compressor,
    Executor,
    Key,
    Metrics,
    Traffic,
    Tree,
    TreeLike,
)
from fjx.compressors._shapes import payload_like, require_compressor
from fjx.rounds._client import guard, training
from fjx.rounds._executors import vectorized
from fjx.rounds._metrics import bytes_sent, report, tally_of
from fjx.rounds._state import Context, RoundKeys, Slot, invited, require_rows, slots_of


class NodesState(NamedTuple):
    """The state of an observer of all nodes; no node holds it.

    Attributes:
        params: the mean of all nodes' models.
        round: ``i32[]``, the number of rounds that were played.
    """

    params: Tree
    round: Array


class Told(NamedTuple):
    """A node after its local work.

    Attributes:
        row: its state.
        checked: trees that must be finite for the node to count.
        payload: what it sends to each neighbour.
    """

    row: Any
    checked: Tree
    payload: Tree


def network(
    name: str,
    client: ClientUpdate,
    matrices: np.ndarray,
    *,
    begin: Callable[[Tree], Any],
    tell: Callable[[Key, Any, Tree, Tree], Told],
    listen: Callable[[Any, Array], Any],
    payload_like: Callable[[Tree], TreeLike],
) -> Algorithm:
    """A round of nodes: local work begun at a node's own model, then gossip among those that are there.

    The rows have a field ``model``, the node's own, and a field ``client``, the state of its local work.

    Args:
        name: name of the method, for errors.
        client: local work.
        matrices: mixing matrices of a period, ``f64[T, n, n]``.
        begin: function of the parameters, a node's first row.
        tell: function ``(key, row, message, memory)`` of a node after its local work.
        listen: function of the rows ``[m, ...]`` and of the weights ``f[m, m]`` among the nodes that are
            there, the rows after the gossip.
        payload_like: function of the parameters, the shapes of a payload.
    """
    if not isinstance(client, ClientUpdate):
        raise TypeError(f"{name} needs a fjx.ClientUpdate, got {client!r}")
    if client.on_sent is not None or client.on_aggregate is not None:
        raise ValueError(
            f"{name} has no server of which a client could hear: on_sent and on_aggregate must be None"
        )
    nodes = matrices.shape[1]
    diagonal = np.diagonal(matrices, axis1=1, axis2=2)
    neighbours = (matrices != 0).sum(2) - (diagonal != 0)

    def init(params: Tree) -> NodesState:
        return NodesState(jax.tree.map(jnp.asarray, params), jnp.int32(0))

    def init_client(params: Tree) -> Any:
        if not all(map(_tree.is_float, jax.tree.leaves(params))):
            raise TypeError("models that gossip are averaged: they must hold floating leaves only")
        return begin(params)

    def after(
        context: Context, slot: Slot, trained: tuple[Tree, Tree, Metrics]
    ) -> tuple[Tree, Tree]:
        message, memory, metrics = trained
        told = tell(context.keys(slot.id).uplink, slot.row, message, memory)
        counts, failed = guard(slot, told.checked, takes_part=slot.present)
        tally = tally_of(counts, failed, slot.size, metrics)
        heard_by = _in_round(neighbours, context.round)[slot.id].astype(jnp.int32)
        # A message that is not finite was sent all the same, and is billed.
        tally["sent"] = bytes_sent(told.payload, jnp.where(slot.present, heard_by, 0))
        return tally, (_tree.where(counts, told.row, slot.row), counts)

    def play(
        key: Key,
        state: NodesState,
        rows: Any,
        cohort: Cohort,
        *,
        executor: Executor | None = None,
    ) -> tuple[NodesState, Any, Metrics]:
        _validate.key("key", key)
        require_rows(rows, cohort)
        execute = vectorized() if executor is None else executor
        keys = RoundKeys.of(key)
        context = Context(
            key_clients=keys.clients,
            key_public=keys.public,
            broadcast=(),
            arrays=cohort.examples.arrays,
            aggregator=(),
            size=invited(cohort),
            round=state.round,
            template=None,
        )
        slots = slots_of(cohort, rows)
        is_node = (cohort.ids < nodes) & (cohort.ids < cohort.population)
        slots = slots._replace(present=(cohort.weights > 0) & is_node)
        one_node = training(client.update, model=lambda context, row: row.model)(after)
        tally, (told, counts) = execute(one_node, context, slots, slots.size)

        among = _in_round(matrices, state.round)[cohort.ids[:, None], cohort.ids[None, :]]
        heard = listen(told, jnp.where(counts[:, None] & counts[None, :], among, 0.0))

        step = _tree.scale(1 / cohort.population, _tree.subtract(heard.model, rows.model))
        mean = _tree.add(state.params, jax.tree.map(lambda x: jnp.sum(x, axis=0), step))
        strangers = jnp.sum((cohort.weights > 0) & ~slots.present, dtype=jnp.int32)
        cohort = cohort._replace(rejected=cohort.rejected + strangers)
        return NodesState(mean, state.round + 1), heard, report(cohort, tally, (), {})

    def traffic(params: Tree) -> Traffic:
        bits = wire.bits(payload_like(params))
        return Traffic(uplink=bits * int(neighbours.max()), downlink=0)

    return Algorithm(
        init,
        init_client,
        play,
        traffic,
        rounds=client.rounds,
        personal=lambda state, row: row.model,
    )


def pull(weights: Array, rows: Array) -> Array:
    """sum_j w_ij (z_j - z_i) of each node i, in the dtype of sums.

    The mean is subtracted first, because sums of large equal numbers would lose the digits of small
    differences.
    """
    z = _tree.wide(rows).reshape(rows.shape[0], -1)
    z, w = z - jnp.mean(z, axis=0, keepdims=True), weights.astype(z.dtype)
    return (w @ z - jnp.sum(w, axis=1)[:, None] * z).reshape(rows.shape)


def _in_round(per_round: np.ndarray, round: Array) -> Array:
    """The entry of a period that belongs to a round."""
    dtype = jnp.result_type(float) if per_round.dtype == np.float64 else jnp.int32
    return jnp.asarray(per_round, dtype)[round % len(per_round)]


class ChocoRow(NamedTuple):
    """One node's state.

    Attributes:
        model: model x_i.
        public: z_i, the model of this node that its neighbours have; the node knows it as well.
        client: state of the client update.
        codec: state of the codec.
    """

    model: Tree
    public: Tree
    client: Tree
    codec: Tree


def choco(
    client: ClientUpdate, codec: Compressor, *, mixing: Array, step_size: float | Array
) -> Algorithm:
    """CHOCO: nodes step locally and gossip, and send compressed differences from their public models.

    In each round every node makes a local step and tells its neighbours how far it has come,

        y_i = x_i + message_i,   q_i = C(y_i - z_i),   z_i = z_i + q_i,

    and moves towards them, x_i = y_i + gamma sum_j w_ij (z_j - z_i).  Each neighbour keeps a copy of
    z_i, for which it needs nothing but q_i.

    Guarantees:
        - The mean of all models moves by the mean of the messages, to rounding, whatever the codec
          loses.
        - A node that is absent in a round, or whose message is not finite, rests.  Its neighbours'
          weight of it falls to themselves, and the mean stays.

    Bits:
        Those of the codec, once for each neighbour.  A neighbour that is absent is sent the payload
        later, and it is billed as well.

    Args:
        client: local work, begun at x_i; its message is added to x_i.
        codec: contractive codec C.
        mixing: mixing matrix W, ``f[n, n]``, symmetric with rows that sum to one.  Nodes i and j are
            neighbours if w_ij is not zero.
        step_size: step size gamma of the gossip; :func:`fjx.theory.choco_gossip` gives one that is
            proved.

    Returns:
        An :class:`fjx.Algorithm` without a server.  Its ``params`` is the mean of all models, and each
        client's row holds its own.  Client i of the population is node i; a client without a row in W
        is counted as rejected.

    Raises:
        TypeError: ``client`` or ``codec`` is something else; the model holds more than floating
            parameters (from ``init_client``).
        ValueError: ``mixing`` is not such a matrix, or ``step_size`` is not positive; ``client`` has an
            ``on_sent`` or ``on_aggregate``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import clients, compressors, rounds
        >>> ring = jnp.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
        >>> algorithm = rounds.choco(
        ...     clients.gradient(lambda w, x, key: (w - x).mean(), batch_size=1),
        ...     compressors.top_k(0.1), mixing=ring, step_size=0.1)
        >>> algorithm.traffic(jnp.zeros(100))
        Traffic(uplink=784, downlink=0)

    References:
        Koloskova, Stich, Jaggi, *Decentralized Stochastic Optimization and Gossip Algorithms with
        Compressed Communication*, ICML 2019 (arXiv:1902.00340), algorithms 1 and 2.
    """
    require_compressor("choco", codec)
    _validate.number("step_size", step_size, above=0)

    def begin(params: Tree) -> ChocoRow:
        message = client.message(params)
        nothing = _tree.wide_zeros_like(params)
        return ChocoRow(params, nothing, client.init(params), codec.init(message))

    def tell(key: Key, row: ChocoRow, message: Tree, memory: Tree) -> Told:
        """y_i = x_i + message_i, and z_i moves by the decoded difference."""
        moved = _tree.add(row.model, message)
        difference = _tree.subtract(_tree.widened(moved), row.public)
        difference = _tree.in_dtypes_of(difference, message)
        payload, inner = codec.encode(key, difference, row.codec)
        known = _tree.add(row.public, codec.decode(payload))
        return Told(ChocoRow(moved, known, memory, inner), (moved, known), payload)

    def listen(rows: ChocoRow, weights: Array) -> ChocoRow:
        """x_i = y_i + gamma sum_j w_ij (z_j - z_i)."""

        def mixed(model: Array, public: Array) -> Array:
            pulled = pull(weights, public)
            return model + (jnp.asarray(step_size, pulled.dtype) * pulled).astype(model.dtype)

        return rows._replace(model=jax.tree.map(mixed, rows.model, rows.public))

    return network(
        "choco",
        client,
        _validate.mixing(mixing)[None],
        begin=begin,
        tell=tell,
        listen=listen,
        payload_like=lambda params: payload_like(codec, client.message(params)),
    )
