"""Local steps whose drift is corrected: the client that Scaffnew and its kin share."""

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
    """Steps x_i = x_i - gamma (g_i - h_i), and then h_i = h_i + (eta / gamma) q_i (m - m_i).

    m_i is what the server received of x_i - x, with x the broadcast, and m the aggregate of the
    round, of which q_i masks what is this client's.  The client lets go of its own part once its
    message is encoded, and hears the other at the end of the round.

    Guarantees: where m is the mean of the m_i over those who own a coordinate and came, the h_i of all
        clients keep their sum, which is zero at first: a client that did not come keeps its own.  They
        are kept in float32 at least, whatever the model is in.

    Args:
        descent: without state; its message is -g_i.
        learning_rate: gamma.
        gain: eta.
        steps: ``(turn) -> i32[]``, the number of local steps.
        send: from x_i and x to the message.
        owns: q_i; all of it by default.
    """

    def init(params: Tree) -> Tree:
        if isinstance(params, Stateful) or not all(map(_tree.is_float, jax.tree.leaves(params))):
            raise TypeError(
                "the drift of every parameter is corrected: the model must hold floating parameters "
                "and nothing else (no fjx.Stateful, no integer leaves)"
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
        return _tree.scale(jnp.asarray(gain / learning_rate), message)

    def on_sent(received: Tree, control: Tree, public: Public) -> Tree:
        return _tree.subtract(control, corrections(received, public))

    def on_aggregate(aggregate: Tree, control: Tree, public: Public) -> Tree:
        return _tree.add(control, corrections(aggregate, public))

    def message(params: Tree) -> TreeLike:
        return jax.eval_shape(send, _tree.like(params), _tree.like(params))

    return ClientUpdate(init, Steps(begin, step, end), message, on_sent, on_aggregate)
