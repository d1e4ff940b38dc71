"""The round of recipes whose clients send numbers beside their update."""

from collections.abc import Callable
from typing import Any

import optax

from fjx import _tree
from fjx._base import Aggregator, Algorithm, ClientUpdate, Compressor, ServerUpdate, Stateful, Tree
from fjx.aggregators import mean
from fjx.compressors import on
from fjx.rounds._compose import compose
from fjx.servers import mapped


def told(
    *,
    client: ClientUpdate,
    server: ServerUpdate | optax.GradientTransformation,
    step: Callable[[dict[str, Any]], Tree] | None = None,
    aggregator: Aggregator | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
) -> Algorithm:
    """The algorithm of clients that send ``{"update": tree, **numbers}``.

    The codec compresses the update; numbers travel as they are.

    Args:
        client: client of :func:`fjx.clients.telling`.
        server: server update, or optax transformation.
        step: ``(aggregate) -> message`` of the server; None if the aggregate is that already.
        aggregator: aggregator of the dicts; their mean, weighted by examples, by default.
        uplink: codec of the update.
        downlink: codec of the broadcast.

    Raises:
        ValueError: the aggregator is private.
    """
    aggregator = mean() if aggregator is None else aggregator
    if getattr(aggregator, "mechanisms", ()):
        raise ValueError(
            "aggregator is private, and clients of this method send numbers beside their update (a "
            "loss, a norm, a count of steps), which share one clip norm with it: the noise of one would "
            "drown the other: use a method whose message is the update alone, such as "
            "algorithms.fedavg, fedprox or fedsam, or fjx.plan"
        )
    return compose(
        client=client,
        uplink=None if uplink is None else on("^update", uplink),
        downlink=downlink,
        aggregator=aggregator,
        server=server if step is None else mapped(step, server),
    )


def on_params(function: Callable[[Tree], Tree], message: Tree) -> Tree:
    """The message with a function applied to the parameters' part, and not to mutable state."""
    if isinstance(message, Stateful):
        return message._replace(params=function(message.params))
    return function(message)


def square_of(message: Tree) -> Any:
    """Squared norm of the parameters' part of a message."""
    return _tree.square_norm(message.params if isinstance(message, Stateful) else message)


def scaled(factor: Any, message: Tree) -> Tree:
    """The message with the floats of its parameters' part times a factor, in their dtypes."""

    def product(tree: Tree) -> Tree:
        floats, others = _tree.split_floats(tree)
        return _tree.merge(_tree.in_dtypes_of(_tree.scale(factor, floats), floats), others)

    return on_params(product, message)
