"""Shapes of what travels in a round, and its price, without running anything."""

import jax
import jax.numpy as jnp

from fjx import _tree, wire
from fjx._base import (
    STACK,
    Aggregator,
    Key,
    Public,
    ServerUpdate,
    Stateful,
    Traffic,
    Tree,
    TreeLike,
)
from fjx.aggregators._around import KEY_LIKE, sent
from fjx.compressors._shapes import payload_like
from fjx.rounds._server import on_wire
from fjx.rounds._state import Parts


def received_like(parts: Parts, params: Tree) -> TreeLike:
    """One client's decoded message: the input of the aggregator."""
    return jax.eval_shape(
        parts.uplink.decode, payload_like(parts.uplink, parts.client.message(params))
    )


def sent_like(aggregator: Aggregator, message_like: TreeLike) -> TreeLike:
    """One client's payload of an aggregator; the message itself if the aggregator has no ``encode``."""

    def encode(key: Key, message: Tree) -> Tree:
        return sent(aggregator, key, message, _alone(key, aggregator, message))

    return jax.eval_shape(encode, KEY_LIKE, message_like)


def aggregate_like(aggregator: Aggregator, message_like: TreeLike) -> TreeLike:
    """The aggregate message."""

    def meet(key: Key, message: Tree) -> Tree:
        public = _alone(key, aggregator, message)
        payload = sent(aggregator, jax.random.clone(key), message, public)
        total = aggregator.contribute(payload, jnp.float32(1), public)
        if aggregator.combine is STACK:
            total = jax.tree.map(lambda x: x[None], total)
        return aggregator.finish(key, total, public._replace(rank=None))[0]

    return jax.eval_shape(meet, KEY_LIKE, message_like)


def broadcast_like(server: ServerUpdate, params: Tree) -> TreeLike:
    """The broadcast, before the downlink codec."""
    return jax.eval_shape(lambda p: server.broadcast(server.init(p)), params)


def traffic_of(parts: Parts, params: Tree) -> Traffic:
    """Bits that one client moves in a round, from shapes alone."""
    require_trainable(params)
    if parts.aggregator.encode is None:
        up = payload_like(parts.uplink, parts.client.message(params))
    else:
        up = sent_like(parts.aggregator, received_like(parts, params))
    down = payload_like(parts.downlink, broadcast_like(parts.server, params))
    aggregate: TreeLike = ()
    if parts.client.on_aggregate is not None:
        aggregate = on_wire(aggregate_like(parts.aggregator, received_like(parts, params)))
    return Traffic(uplink=wire.bits(up), downlink=wire.bits(down) + wire.bits(aggregate))


def require_trainable(model: TreeLike) -> None:
    """Raise unless the parameters are floating, and the state beside them consists of numbers.

    Raises:
        TypeError: a leaf is neither trained nor a number that can be averaged; the error names it.
    """
    params = model.params if isinstance(model, Stateful) else model
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not _tree.is_float(leaf):
            name = _tree.name_of(path) or "the only leaf"
            raise TypeError(
                f"params must be floats, got {jnp.result_type(leaf)} at {name!r}: nothing trains this "
                "leaf, so it must not be sent, noised and billed.  Keep it in the model by "
                f"rounds.frozen(loss_fn, make, pattern={name!r}), close the loss over it, or put what "
                "the loss counts into the state of a fjx.Stateful"
            )
    state = model.state if isinstance(model, Stateful) else ()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not (_tree.is_float(leaf) or jnp.issubdtype(jnp.result_type(leaf), jnp.integer)):
            raise TypeError(
                f"the state of a model must be floats and integers, which can be averaged; got "
                f"{jnp.result_type(leaf)} at {_tree.name_of(path)!r}.  Close the loss over masks and "
                "keys, freeze them by fjx.rounds.frozen, or store integers"
            )


def _alone(key: Key, aggregator: Aggregator, message: Tree) -> Public:
    """The facts that the only client of a first round knows."""
    return Public.first(aggregator, message, jax.random.clone(key))
