"""Local steps with a drift correction: the client that Scaffnew and related methods share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import (
    Array,
    ClientUpdate,
    Examples,
    Key,
    Metrics,
    Public,
    Stateful,
    Steps,
    Tree,
    TreeLike,
    Turn,
)


def corrected(
    descent: ClientUpdate,
    *,
    learning_rate: float | Array,
    gain: float | Array,
    steps: Callable[[Turn], Array | int],
    send: Callable[[Tree, Tree], Tree] = _tree.subtract,
    owns: Callable[[TreeLike, Public], Tree] | None = None,
) -> ClientUpdate:
    """Local steps x_i = x_i - gamma (g_i - h_i), then h_i = h_i + (eta / gamma) q_i (m - m_i).

    x is the broadcast, m_i is the message x_i - x as the server received it, and m is the aggregate
    of the round.  The mask q_i selects the coordinates that belong to this client.  ``on_sent``
    subtracts the client's own part q_i m_i once its message is encoded; ``on_aggregate`` adds q_i m
    at the end of the round.

    Guarantees:
        - The sum of the h_i over all clients, which is zero at first, does not change if m is the
          mean of the m_i over the participants that own a coordinate.  A client that does not take
          part keeps its h_i.
        - The h_i are kept in float32 or wider, whatever the dtype of the model.

    Args:
        descent: stateless client whose message is -g_i.
        learning_rate: step size gamma; in a round in which it is zero the h_i do not change.
        gain: step size eta of the corrections.
        steps: function of the :class:`fjx.Turn` that returns the number of local steps.
        send: function of x_i and x that returns the message.
        owns: function of the message and ``public`` that returns the mask q_i; by default
            everything.
    """

    def init(params: Tree) -> Tree:
        if isinstance(params, Stateful) or not all(map(_tree.is_float, jax.tree.leaves(params))):
            raise TypeError(
                "every parameter needs a drift correction, so the model must hold floating "
                "parameters and nothing else (no fjx.Stateful, no integer leaves)"
            )
        return _tree.scale(jnp.float32(0), _tree.zeros_like(params))

    def begin(
        key: Key, broadcast: Tree, control: Tree, examples: Examples, turn: Turn
    ) -> tuple[Array, tuple[Key, Tree, Metrics]]:
        metrics = jax.eval_shape(
            lambda: descent.update(jax.random.clone(key), broadcast, (), examples, turn)[2]
        )
        return jnp.asarray(steps(turn), jnp.int32), (key, broadcast, _tree.zeros_like(metrics))

    def step(
        key: Key,
        broadcast: Tree,
        control: Tree,
        examples: Examples,
        turn: Turn,
        t: Array,
        carry: tuple[Key, Tree, Metrics],
    ) -> tuple[Key, Tree, Metrics]:
        key_steps, x, _ = carry
        minus_g, _, metrics = descent.update(
            jax.random.fold_in(key_steps, t), x, (), examples, turn
        )
        moved = _tree.scale(jnp.asarray(learning_rate), _tree.add(control, minus_g))
        return key_steps, _tree.add(x, moved), metrics

    def end(
        key: Key,
        broadcast: Tree,
        control: Tree,
        examples: Examples,
        turn: Turn,
        carry: tuple[Key, Tree, Metrics],
    ) -> tuple[Tree, Tree, Metrics]:
        _, point, metrics = carry
        metrics = {**metrics, "steps": jnp.asarray(steps(turn), jnp.float32)}
        return send(point, broadcast), control, metrics

    def corrections(message: Tree, public: Public) -> Tree:
        if owns is not None:
            message = jax.tree.map(
                lambda x, mine: jnp.where(mine, x, jnp.zeros_like(x)),
                message,
                owns(message, public),
            )
        # A round of steps of size zero has no message, and changes nothing.
        rate = jnp.asarray(learning_rate)
        part = jnp.where(rate > 0, gain / jnp.where(rate > 0, rate, 1), 0)
        return _tree.scale(part, message)

    def on_sent(received: Tree, control: Tree, public: Public) -> Tree:
        return _tree.subtract(control, corrections(received, public))

    def on_aggregate(aggregate: Tree, control: Tree, public: Public) -> Tree:
        return _tree.add(control, corrections(aggregate, public))

    def message(params: Tree) -> TreeLike:
        return jax.eval_shape(send, _tree.like(params), _tree.like(params))

    return ClientUpdate(init, Steps(begin, step, end), message, on_sent, on_aggregate)
