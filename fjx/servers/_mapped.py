"""A server that is given a function of the aggregate message."""

from collections.abc import Callable

import optax

from fjx._base import ServerUpdate, Tree
from fjx.servers._optax import from_optax


def mapped(
    function: Callable[[Tree], Tree], server: ServerUpdate | optax.GradientTransformation
) -> ServerUpdate:
    """Server update by a function of the aggregate message.

    Clients may send numbers beside their update (:func:`fjx.clients.telling`), on whose means the
    server's step depends: a step length, or a normalisation.

    Args:
        function: ``(aggregate) -> message`` of ``server``.
        server: a :class:`fjx.ServerUpdate` or an optax transformation.

    Returns:
        A :class:`fjx.ServerUpdate` with the state and the broadcast of ``server``.

    Raises:
        TypeError: ``function`` is not callable; ``server`` is something else.

    Examples:
        A step that is as long as clients say:

        >>> import jax.numpy as jnp, optax
        >>> from fjx import servers
        >>> server = servers.mapped(lambda m: m["length"] * m["update"], optax.sgd(1.0))
        >>> state = server.init(jnp.zeros(2))
        >>> told = {"update": jnp.array([1.0, 2.0]), "length": jnp.float32(3.0)}
        >>> server.update(state, told).params.tolist()
        [3.0, 6.0]
    """
    if not callable(function):
        raise TypeError(f"function must be a function (aggregate) -> message, got {function!r}")
    inner = server if isinstance(server, ServerUpdate) else from_optax(server)
    return inner._replace(
        update=lambda state, message: inner.update(state, function(message)),
    )
