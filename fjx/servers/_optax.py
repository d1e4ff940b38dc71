"""Server updates from optax transformations."""

from typing import Any, NamedTuple

import jax
import optax

from fjx import _tree, _validate
from fjx._base import ServerUpdate, Stateful, Tree


class OptaxState(NamedTuple):
    """State of :func:`from_optax`.

    Attributes:
        params: the current model; a :class:`fjx.Stateful` if the initial model was one.
        optimizer: state of the optax transformation.
    """

    params: Tree
    optimizer: Any


def from_optax(transformation: optax.GradientTransformation) -> ServerUpdate:
    """Server update by an optax transformation, with the negative aggregate message as its gradient.

    A message is ``after - before``, and an optimiser expects a gradient.  This function is the one
    place where the sign changes.  ``optax.sgd(1.0)`` thus adds the message to the model.

    The transformation moves the floating parameters.  Integer leaves and the mutable state of a
    :class:`fjx.Stateful` model have no gradients; the aggregate message is added to them, rounded for
    integers.

    Args:
        transformation: any optax transformation.

    Returns:
        A :class:`fjx.ServerUpdate` that broadcasts the model.

    Raises:
        TypeError: ``transformation`` is not an optax transformation; or (when traced) it needs the loss,
            which a server does not have.
        ValueError: (when traced) the aggregate message and the model differ in structure or shapes.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from fjx import servers
        >>> server = servers.from_optax(optax.sgd(1.0))
        >>> state = server.update(server.init({"w": jnp.ones(2)}), {"w": jnp.array([0.5, -0.5])})
        >>> server.broadcast(state)["w"].tolist()
        [1.5, 0.5]

    References:
        Reddi et al., *Adaptive Federated Optimization*, ICLR 2021 (arXiv:2003.00295), algorithm 1.
    """
    if not isinstance(transformation, optax.GradientTransformation):
        raise TypeError(
            "from_optax needs an optax transformation such as optax.sgd(1.0), "
            f"got {transformation!r}"
        )

    def init(params: Tree) -> OptaxState:
        return OptaxState(params, transformation.init(_movable(params)[0]))

    def update(state: OptaxState, message: Tree) -> OptaxState:
        _validate.same_shapes("the aggregate message", message, "the model", state.params)
        floats, others = _movable(state.params)
        message_floats, message_others = _movable_like(state.params, message)
        gradients = jax.tree.map(lambda p, m: -_tree.to_dtype(m, p.dtype), floats, message_floats)
        try:
            updates, optimizer = transformation.update(gradients, state.optimizer, floats)
        except (AttributeError, TypeError) as error:
            raise TypeError(
                f"the server's optax transformation failed: {error}.  A server gives it the negative "
                "aggregate message, its state and the parameters; it has no loss to give as value"
            ) from error
        moved = optax.apply_updates(floats, updates)
        return OptaxState(_tree.merge(moved, _tree.add(others, message_others)), optimizer)

    return ServerUpdate(init, lambda state: state.params, update)


def _movable(model: Tree) -> tuple[Tree, Tree]:
    """Floating parameters of a model, and its other leaves."""
    return _movable_like(model, model)


def _movable_like(model: Tree, tree: Tree) -> tuple[Tree, Tree]:
    """Leaves of ``tree`` at the floating parameters of ``model``, and its other leaves.

    ``tree`` has the structure of ``model``.
    """
    inside = jax.tree.map(_tree.is_float, model)
    if isinstance(model, Stateful):
        inside = inside._replace(state=jax.tree.map(lambda _: False, model.state))
    return _tree.split(tree, inside)
