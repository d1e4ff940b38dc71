"""A server whose model stays in a set."""

from collections.abc import Callable

import optax

from fjx import _tree, _validate
from fjx._base import ServerUpdate, Tree
from fjx.servers._optax import OptaxState, from_optax


def projected(
    transformation: optax.GradientTransformation, project: Callable[[Tree], Tree]
) -> ServerUpdate:
    """Server update whose model is projected after each step.

    The set may be a constraint on the parameters, or the domain of mutable state.  Sums of compressed
    messages may leave it: ``rand_k`` sends a difference d / k times as large, and so may make a running
    variance negative.

    Guarantees:
        - The model after a round is ``project`` of what :func:`from_optax` makes of it.

    Args:
        transformation: optax transformation of the model.
        project: ``(model) -> model``, traced; the model is a :class:`fjx.Stateful` if the initial one
            was.

    Returns:
        A :class:`fjx.ServerUpdate` that broadcasts the model.

    Raises:
        TypeError: ``transformation`` is not an optax transformation; ``project`` is no function.
        ValueError: (when traced) ``project`` changes the structure, a shape or a dtype.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from fjx import Stateful, servers
        >>> def positive(model):
        ...     return model._replace(state=jax.tree.map(lambda x: jnp.maximum(x, 0.0), model.state))
        >>> server = servers.projected(optax.sgd(1.0), positive)
        >>> state = server.init(Stateful(jnp.ones(1), {"var": jnp.ones(2)}))
        >>> state = server.update(state, Stateful(-jnp.ones(1), {"var": jnp.array([0.5, -4.0])}))
        >>> state.params.state["var"].tolist()
        [1.5, 0.0]
    """
    inner = from_optax(transformation)
    if not callable(project):
        raise TypeError(f"project must be a function (model) -> model, got {project!r}")

    def update(state: OptaxState, message: Tree) -> OptaxState:
        moved = inner.update(state, message)
        model = project(moved.params)
        like = _tree.like(moved.params)
        _validate.same_structure("the projected model", model, "the model", like)
        return moved._replace(params=model)

    return inner._replace(update=update)
