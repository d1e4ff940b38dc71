"""Clients that keep a model of their own."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from fjx import _tree
from fjx._base import (
    Array,
    ClientUpdate,
    Examples,
    Key,
    Metrics,
    Public,
    Stateful,
    Tree,
    TreeLike,
    Turn,
)


def fine_tuned(client: ClientUpdate) -> Callable[[Key, Tree, Examples, Turn], Tree]:
    """Function ``(key, model, examples, turn) -> model``: the model after a client's local work.

    It is the training part of an evaluation by fine-tuning: each client takes a few steps from the
    common model on its own examples, and its new model is scored on its held-out examples.

    Args:
        client: local work without state, such as :func:`fjx.clients.local_sgd` with ``steps=k``.

    Returns:
        A function of one client, for ``jax.vmap`` or ``jax.lax.map``.

    Raises:
        TypeError: ``client`` is no client update.
        ValueError: ``client`` has a state (when traced).

    Examples:
        >>> import jax, jax.numpy as jnp, optax, fjx
        >>> from fjx import clients
        >>> tune = clients.fine_tuned(clients.local_sgd(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2) / 2, optax.sgd(0.5), steps=1, batch_size=2))
        >>> examples = fjx.Examples(jnp.array([4.0, 4.0]), jnp.int32(0), jnp.int32(2))
        >>> float(tune(jax.random.key(0), jnp.array(0.0), examples, fjx.Turn()))
        2.0

    References:
        Wang et al., *Federated Evaluation of On-device Personalization*, 2019 (arXiv:1910.10252).
    """
    if not isinstance(client, ClientUpdate):
        raise TypeError(f"fine_tuned needs a fjx.ClientUpdate, got {client!r}")

    def tune(key: Key, model: Tree, examples: Examples, turn: Turn) -> Tree:
        state = client.init(model)
        if jax.tree.leaves(state):
            raise ValueError("fine_tuned needs a client without state, such as clients.local_sgd")
        message, _, _ = client.update(key, model, state, examples, turn)
        return _tree.add(model, message)

    return tune


def held_near(anchor: Tree, strength: float | Array) -> optax.GradientTransformation:
    """Gradient transformation that adds ``strength (w - anchor)``.

    Args:
        anchor: model; its floating parameters count.
        strength: non-negative number; may be traced.
    """
    params = anchor.params if isinstance(anchor, Stateful) else anchor
    centre, _ = _tree.split_floats(params)

    def update(gradient: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        def pulled(g: Array, w: Array, w0: Array) -> Array:
            return g + (strength * _tree.wide(w - w0)).astype(g.dtype)

        return jax.tree.map(pulled, gradient, params, centre), state

    return optax.GradientTransformation(lambda params: (), update)


class OwnState(NamedTuple):
    """State of a client with a model of its own.

    Attributes:
        model: the client's own model.
        inner: state of the client that trains the common model.
    """

    model: Tree
    inner: Tree


def beside(shared: ClientUpdate, own: Callable[[Tree], ClientUpdate]) -> ClientUpdate:
    """A client that trains the common model as ``shared`` does, and a model of its own beside it.

    The own model is trained by ``own(broadcast)`` and is not sent.  So the common model is the one of
    ``shared``, bit for bit.

    Args:
        shared: local work on the common model, which the broadcast is.
        own: function of the common model, local work without state on the own model.
    """

    def init(params: Tree) -> OwnState:
        return OwnState(params, shared.init(params))

    def update(
        key: Key, broadcast: Tree, state: OwnState, examples: Examples, turn: Turn
    ) -> tuple[Tree, OwnState, Metrics]:
        key_own = _apart(key)
        message, inner, metrics = shared.update(key, broadcast, state.inner, examples, turn)
        change, _, told = own(broadcast).update(key_own, state.model, (), examples, turn)
        metrics = {**metrics, "personal_loss": told["loss"]}
        return message, OwnState(_tree.add(state.model, change), inner), metrics

    def on_sent(received: Tree, state: OwnState, public: Public) -> OwnState:
        assert shared.on_sent is not None
        return state._replace(inner=shared.on_sent(received, state.inner, public))

    def on_aggregate(aggregate: Tree, state: OwnState, public: Public) -> OwnState:
        assert shared.on_aggregate is not None
        return state._replace(inner=shared.on_aggregate(aggregate, state.inner, public))

    return ClientUpdate(
        init,
        update,
        shared.message,
        on_sent=shared.on_sent and on_sent,
        on_aggregate=shared.on_aggregate and on_aggregate,
        rounds=shared.rounds,
        personal=_own_model,
    )


def around_mean(own: Callable[[Tree], ClientUpdate]) -> ClientUpdate:
    """A client that trains its own model by ``own(broadcast)``, and sends how it differs.

    The broadcast is the mean of such models.  The message is the own model minus the broadcast.

    Args:
        own: function of the mean, local work without state on the own model.
    """

    def update(
        key: Key, broadcast: Tree, state: OwnState, examples: Examples, turn: Turn
    ) -> tuple[Tree, OwnState, Metrics]:
        change, _, metrics = own(broadcast).update(key, state.model, (), examples, turn)
        model = _tree.add(state.model, change)
        return _tree.subtract(model, broadcast), OwnState(model, ()), metrics

    def message(params: Tree) -> TreeLike:
        return own(params).message(params)

    return ClientUpdate(
        lambda params: OwnState(params, ()), update, message, personal=_own_model
    )  # fmt: skip


def _own_model(broadcast: Tree, state: OwnState) -> Tree:
    return state.model


def _apart(key: Key) -> Key:
    """A key apart from all that local work splits off, whose own draws stay as they are."""
    return jax.random.fold_in(jax.random.clone(key), 2**32 - 1)
