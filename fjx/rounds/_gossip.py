"""Gossip: clients that talk to their neighbours, and no server."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

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
)
from fjx.compressors._shapes import payload_like, require_compressor
from fjx.rounds._client import guard, training
from fjx.rounds._executors import vectorized
from fjx.rounds._metrics import bytes_sent, report, tally_of
from fjx.rounds._state import Context, RoundKeys, Slot, invited, require_rows, slots_of


class ChocoState(NamedTuple):
    """The state of an observer of all nodes; no node holds it.

    Attributes:
        params: the mean of all nodes' models.
        round: ``i32[]``, the number of rounds that were played.
    """

    params: Tree
    round: Array


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
    if not isinstance(client, ClientUpdate):
        raise TypeError(f"choco needs a fjx.ClientUpdate, got {client!r}")
    if client.on_sent is not None or client.on_aggregate is not None:
        raise ValueError(
            "choco has no server of which a client could hear: on_sent and on_aggregate must be None"
        )
    require_compressor("choco", codec)
    _validate.number("step_size", step_size, above=0)
    matrix = _validate.mixing(mixing)
    neighbours = (matrix != 0).sum(1) - (matrix.diagonal() != 0)

    def init(params: Tree) -> ChocoState:
        return ChocoState(jax.tree.map(jnp.asarray, params), jnp.int32(0))

    def init_client(params: Tree) -> ChocoRow:
        if not all(map(_tree.is_float, jax.tree.leaves(params))):
            raise TypeError("models that gossip are averaged: they must hold floating leaves only")
        message = client.message(params)
        nothing = _tree.wide_zeros_like(params)
        return ChocoRow(params, nothing, client.init(params), codec.init(message))

    def tell(
        context: Context, slot: Slot, trained: tuple[Tree, Tree, Metrics]
    ) -> tuple[Tree, Tree]:
        """y_i = x_i + message_i, and z_i moves by the decoded difference."""
        message, memory, metrics = trained
        row = slot.row
        moved = _tree.add(row.model, message)
        difference = _tree.subtract(_tree.widened(moved), row.public)
        difference = _tree.in_dtypes_of(difference, message)
        payload, inner = codec.encode(context.keys(slot.id).uplink, difference, row.codec)
        known = _tree.add(row.public, codec.decode(payload))
        counts, failed = guard(slot, moved, known, takes_part=slot.present)
        after = _tree.where(counts, ChocoRow(moved, known, memory, inner), row)
        tally = tally_of(counts, failed, slot.size, metrics)
        heard_by = jnp.asarray(neighbours, jnp.int32)[slot.id]
        # A message that is not finite was sent all the same, and is billed.
        tally["sent"] = bytes_sent(payload, jnp.where(slot.present, heard_by, 0))
        return tally, (after, counts)

    def gossip(rows: ChocoRow, ids: Array, counts: Array) -> ChocoRow:
        """x_i = y_i + gamma sum_j w_ij (z_j - z_i), over the nodes that are there."""
        among = jnp.asarray(matrix, jnp.result_type(float))[ids[:, None], ids[None, :]]
        weights = jnp.where(counts[:, None] & counts[None, :], among, 0.0)

        def mixed(model: Array, public: Array) -> Array:
            z = _tree.wide(public).reshape(public.shape[0], -1)
            # Nodes exchange differences.  The mean is subtracted first, because sums of large equal
            # numbers would lose the digits of small differences.
            z, w = z - jnp.mean(z, axis=0, keepdims=True), weights.astype(z.dtype)
            pull = w @ z - jnp.sum(w, axis=1)[:, None] * z
            moved = jnp.asarray(step_size, z.dtype) * pull
            return model + moved.reshape(model.shape).astype(model.dtype)

        return rows._replace(model=jax.tree.map(mixed, rows.model, rows.public))

    def play(
        key: Key,
        state: ChocoState,
        rows: ChocoRow,
        cohort: Cohort,
        *,
        executor: Executor | None = None,
    ) -> tuple[ChocoState, ChocoRow, Metrics]:
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
        is_node = (cohort.ids < len(matrix)) & (cohort.ids < cohort.population)
        slots = slots._replace(present=(cohort.weights > 0) & is_node)
        one_node = training(client.update, model=lambda context, row: row.model)(tell)
        tally, (after, counts) = execute(one_node, context, slots, slots.size)
        after = gossip(after, cohort.ids, counts)

        step = _tree.scale(1 / cohort.population, _tree.subtract(after.model, rows.model))
        mean = _tree.add(state.params, jax.tree.map(lambda x: jnp.sum(x, axis=0), step))
        strangers = jnp.sum((cohort.weights > 0) & ~slots.present, dtype=jnp.int32)
        cohort = cohort._replace(rejected=cohort.rejected + strangers)
        return ChocoState(mean, state.round + 1), after, report(cohort, tally, (), {})

    def traffic(params: Tree) -> Traffic:
        payload = payload_like(codec, client.message(params))
        return Traffic(uplink=wire.bits(payload) * int(neighbours.max()), downlink=0)

    return Algorithm(init, init_client, play, traffic)
