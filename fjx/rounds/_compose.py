"""The generic round, with a part for each choice that an algorithm makes."""

import functools
from typing import TypedDict

import jax
import jax.numpy as jnp
import optax

from fjx import _validate
from fjx._base import (
    Aggregator,
    Algorithm,
    ClientUpdate,
    Cohort,
    Compressor,
    Executor,
    Key,
    Metrics,
    Runs,
    ServerUpdate,
    Stateful,
    Template,
    Tree,
    TreeLike,
)
from fjx.aggregators import mean
from fjx.compressors import identity
from fjx.rounds._client import met, training, upload
from fjx.rounds._executors import by_shapes
from fjx.rounds._metrics import report
from fjx.rounds._server import heard, on_wire
from fjx.rounds._shapes import received_like, require_trainable, traffic_of
from fjx.rounds._state import (
    ClientRow,
    Context,
    Parts,
    RoundKeys,
    RoundState,
    invited,
    require_rows,
    slots_of,
)
from fjx.servers import from_optax


class Codecs(TypedDict, total=False):
    """The codecs of :func:`compose`, which every recipe passes on."""

    uplink: Compressor
    downlink: Compressor


class OpenParts(Codecs, total=False):
    """The parts of :func:`compose` that a recipe leaves open."""

    aggregator: Aggregator


def compose(
    *,
    client: ClientUpdate,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    aggregator: Aggregator | None = None,
    server: ServerUpdate | optax.GradientTransformation | None = None,
) -> Algorithm:
    """A federated algorithm from its five parts.

    A round is: broadcast -> ``downlink`` -> [train -> ``uplink.encode`` -> wire -> ``uplink.decode`` ->
    ``contribute`` -> ``on_sent``] for each client -> sum or stack -> ``finish`` -> ``on_aggregate`` for
    each client -> server update.  If the aggregator has an ``encode``, its payload is sent in place of
    the uplink codec's.

    Guarantees:
        - The draws of a client depend on the round key and its id alone.  So permuting, padding or
          chunking a cohort changes nothing but the order of floating sums.
        - A client of weight zero, or with a message that is not finite, contributes exactly nothing,
          keeps its row bit for bit, and is counted in the metrics.
        - No codec can enlarge a message that the aggregator bounds, because the aggregator is given the
          decoded message.

    Args:
        client: local work, such as :func:`fjx.clients.local_sgd`.
        uplink: codec of the clients' messages; identity by default.
        downlink: codec of the broadcast, one payload for all clients; identity by default.
        aggregator: aggregator of the messages; the mean weighted by examples by default.
        server: a :class:`fjx.ServerUpdate` or an optax transformation; by default the aggregate
            message is added to the model.

    Returns:
        An :class:`fjx.Algorithm`.  The metrics of a round are those of the aggregator, those of the
        clients averaged over the participants' examples, and

        - ``invited``, the number of clients in the cohort;
        - ``participants``, the number of those that contributed;
        - ``nonfinite``, the number of those with a message that was not finite;
        - ``rejected``, the number of slots with an impossible id;
        - ``uplink_bytes`` if the length of a payload depends on the data, the bytes that the cohort
          sent in all, ``u32``; 2^32 - 1 stands for more;
        - ``downlink_bytes`` if the length of the broadcast does, or if participants are sent the
          aggregate message as well (``on_aggregate``), the bytes that the cohort was sent.

        If the aggregator adds noise, all these names begin with ``unnoised_`` (``unnoised_loss``,
        ``unnoised_invited``): no epsilon covers what clients tell, nor who was drawn.

    Raises:
        TypeError: a slot holds something of another kind; or, when the model is given, a parameter is
            not floating.  Nothing trains it, so it is neither averaged nor noised nor billed: freeze it
            by :func:`fjx.rounds.frozen`.  Integers that a loss counts belong in the state of a
            :class:`fjx.Stateful`.  From ``init``: the model has mutable state, and the aggregator adds
            noise.

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
    server = optax.sgd(1.0) if server is None else server
    if isinstance(server, optax.GradientTransformation):
        server = from_optax(server)
    parts = Parts(
        client=client,
        uplink=identity() if uplink is None else uplink,
        downlink=identity() if downlink is None else downlink,
        aggregator=mean() if aggregator is None else aggregator,
        server=server,
    )
    for slot, kind in KINDS.items():
        _require(slot, getattr(parts, slot), kind)

    def init(params: Tree) -> RoundState:
        params = jax.tree.map(jnp.asarray, params)
        require_trainable(params)
        _require_noise_fits(parts.aggregator, client.message(params))
        state = parts.server.init(params)
        return RoundState(
            server=state,
            aggregator=parts.aggregator.init(received_like(parts, params)),
            # Receivers have the first model: a codec that remembers begins with it.
            downlink=parts.downlink.init(parts.server.broadcast(state)),
            round=jnp.int32(0),
        )

    def init_client(params: Tree) -> ClientRow:
        return ClientRow(client.init(params), parts.uplink.init(client.message(params)))

    def personal(state: RoundState, row: ClientRow) -> Tree:
        assert client.personal is not None
        return client.personal(parts.server.broadcast(state.server), row.client)

    round = functools.partial(play, parts)
    return Algorithm(
        init,
        init_client,
        round=round,
        traffic=functools.partial(traffic_of, parts),
        aggregator=parts.aggregator,
        runs=Runs(parts.aggregator, round, client),
        rounds=client.rounds,
        personal=client.personal and personal,
    )


def play(
    parts: Parts,
    key: Key,
    state: RoundState,
    rows: ClientRow,
    cohort: Cohort,
    *,
    executor: Executor | None = None,
) -> tuple[RoundState, ClientRow, Metrics]:
    """One round: broadcast, local work and upload of each client, aggregate, server step."""
    _validate.key("key", key)
    require_rows(rows, cohort)
    client, _, downlink, aggregator, server = parts
    execute = executor or by_shapes(state.params, cohort.ids.shape[0])
    keys, template = RoundKeys.of(key), client.message(state.params)

    broadcast = server.broadcast(state.server)
    sent, downlink_state = downlink.encode(keys.downlink, broadcast, state.downlink)
    context = Context(
        key_clients=keys.clients,
        key_public=keys.public,
        broadcast=downlink.decode(sent),
        arrays=cohort.examples.arrays,
        aggregator=state.aggregator,
        size=invited(cohort),
        round=state.round,
        template=Template.of(template),
    )
    slots = slots_of(cohort, rows)
    one_client = training(client.update)(upload(parts, template))
    summed, stacked = execute(one_client, context, slots, slots.size)
    total, tally, (rows, counts) = met(aggregator.combine, summed, stacked)

    message, aggregator_state, own = aggregator.finish(keys.finish, total, context.public(None))
    rows = heard(client, message, context, rows, counts, slots)
    moved = server.update(state.server, message)
    state = RoundState(moved, aggregator_state, downlink_state, state.round + 1)
    back = () if client.on_aggregate is None else on_wire(message)
    noised = bool(aggregator.mechanisms)
    return state, rows, report(cohort, tally, sent, own, heard=back, noised=noised)


KINDS = {
    "client": ClientUpdate,
    "uplink": Compressor,
    "downlink": Compressor,
    "aggregator": Aggregator,
    "server": ServerUpdate,
}
"""The type of each part."""


def _require_noise_fits(aggregator: Aggregator, message: TreeLike) -> None:
    """Raises TypeError if noise would be added to mutable state, such as a running variance."""
    noised = isinstance(message, Stateful) and jax.tree.leaves(message.state)
    if noised and aggregator.mechanisms:
        raise TypeError(
            "a private aggregator adds noise to all of the message, and mutable state such as "
            "BatchNorm's running variance becomes negative by it, so that inference is NaN: use a "
            "model without mutable state, for example GroupNorm in place of BatchNorm"
        )


def _require(slot: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(
            f"compose: {slot} must be a fjx.{kind.__name__}, got {type(value).__name__}; "
            "factories are called, as in compressors.identity()"
        )
