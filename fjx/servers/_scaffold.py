"""The server of SCAFFOLD."""

from typing import NamedTuple

import optax

from fjx import _tree
from fjx._base import ServerUpdate, Tree
from fjx.servers._optax import OptaxState, from_optax


class ScaffoldServerState(NamedTuple):
    """State of :func:`scaffold`.

    Attributes:
        model: the current model x and the state of its optax transformation.
        control: control variate c of the server, the mean of all clients' c_i.
    """

    model: OptaxState
    control: Tree

    @property
    def params(self) -> Tree:
        """The current model."""
        return self.model.params


def scaffold(transformation: optax.GradientTransformation) -> ServerUpdate:
    """Server update of SCAFFOLD: an optax step for the model, and a sum for the control variate.

    The server broadcasts ``{"params": x, "control": c}``.  It expects the aggregate message
    ``{"params": mean of y_i - x, "control": sum of c_i^+ - c_i, divided by the number of all
    clients}``.

    Guarantees:
        - c stays the mean of the clients' control variates.

    Args:
        transformation: optax transformation of the model; ``optax.sgd(eta_g)`` in the paper.

    Returns:
        A :class:`fjx.ServerUpdate`.

    Raises:
        TypeError: ``transformation`` is not an optax transformation.
        ValueError: (when traced) the aggregate message does not have that form.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from fjx import servers
        >>> server = servers.scaffold(optax.sgd(1.0))
        >>> state = server.update(
        ...     server.init(jnp.zeros(2)), {"params": jnp.ones(2), "control": jnp.full(2, 0.25)})
        >>> {k: v.tolist() for k, v in server.broadcast(state).items()}
        {'params': [1.0, 1.0], 'control': [0.25, 0.25]}

    References:
        Karimireddy et al., *SCAFFOLD*, ICML 2020 (arXiv:1910.06378), algorithm 1, lines 16 and 17.
    """
    model = from_optax(transformation)

    def init(params: Tree) -> ScaffoldServerState:
        return ScaffoldServerState(model.init(params), _tree.wide_zeros_like(params))

    def broadcast(state: ScaffoldServerState) -> Tree:
        return {"params": state.params, "control": _tree.in_dtypes_of(state.control, state.params)}

    def update(state: ScaffoldServerState, message: Tree) -> ScaffoldServerState:
        if not (isinstance(message, dict) and set(message) == {"params", "control"}):
            raise ValueError(
                'servers.scaffold needs messages {"params": ..., "control": ...}, which '
                f"clients.scaffold sends; got {message}"
            )
        return ScaffoldServerState(
            model.update(state.model, message["params"]),
            _tree.add(state.control, message["control"]),
        )

    return ServerUpdate(init, broadcast, update)
