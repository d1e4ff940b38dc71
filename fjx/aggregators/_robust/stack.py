"""The frame of a robust rule: stack the messages, leave out what is no message, and apply the rule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import STACK, Aggregator, Array, Key, Metrics, Public, Tree


class Stack(NamedTuple):
    """The messages of a cohort side by side.

    Attributes:
        tree: tree of ``[m, ...]``, each leaf in the dtype of sums.  A message that does not count may be
            anything, NaN as well; it is replaced block by block, because a copy of all would be slow.
        present: ``bool[m]``, true for the messages that count.
    """

    tree: Tree
    present: Array

    @property
    def slots(self) -> int:
        """The length m of the stack."""
        return len(self.present)

    @property
    def came(self) -> Array:
        """The number of messages that count."""
        return jnp.sum(self.present, dtype=jnp.int32)

    @property
    def dtype(self) -> Any:
        """The dtype of norms and distances: float64 if a leaf has it, else float32."""
        leaves = jax.tree.leaves(self.tree)
        return jnp.dtype("float64" if any(x.dtype == jnp.float64 for x in leaves) else "float32")


Rule = Callable[[Stack], tuple[Tree, Metrics]]
"""A rule without memory, for at least one slot: ``(stack) -> (message, metrics)``."""


def contribute(message: Tree, weight: Array, public: Public) -> Tree:
    """The share of every robust rule: the message, and whether it counts."""
    return message, weight > 0


def stacking(rule: Rule, *, by_norm: bool = True) -> Aggregator:
    """The aggregator of a rule.

    Args:
        rule: the rule.
        by_norm: the rule needs squared norms, so a message whose squared norm overflows is left out.
    """

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        stack, metrics = checked(total, by_norm=by_norm)
        message, own = applied(rule, stack)
        return message, public.state, {**metrics, **own}

    return Aggregator(lambda message_like: (), contribute, finish, STACK)


def applied(rule: Rule, stack: Stack) -> tuple[Tree, Metrics]:
    """The message of a rule, and its metrics; zeros if nobody came."""
    if stack.slots == 0:
        # A slot in which nobody is gives the rule its shapes.
        one = jax.tree.map(lambda x: jnp.zeros((1, *x.shape[1:]), x.dtype), stack.tree)
        stack = Stack(one, jnp.zeros(1, bool))
    message, metrics = rule(stack)
    return _tree.where(stack.came > 0, message, _tree.zeros_like(message)), metrics


def checked(total: Tree, *, by_norm: bool = True) -> tuple[Stack, Metrics]:
    """The stack of the shares of :func:`contribute`, and the number of messages left out."""
    messages, sent = total
    tree = jax.tree.map(_tree.wide, messages)
    sound = _sound(tree, len(sent), by_norm)
    left_out = jnp.sum(sent & ~sound, dtype=jnp.int32)
    return Stack(tree, sent & sound), {"left_out": left_out}


def _sound(tree: Tree, slots: int, by_norm: bool) -> Array:
    """``bool[m]``: the messages that are finite, and near enough for squares of distances.

    Every square of a distance is at most four times the largest square of a norm, and it is computed
    from numbers that are at most four times as large again.
    """
    sound = jnp.ones(slots, bool)
    if not by_norm:
        for x in jax.tree.leaves(tree):
            sound &= jnp.all(jnp.isfinite(x), axis=range(1, x.ndim))
        return sound
    squares = jnp.zeros(slots, Stack(tree, sound).dtype)
    for x in jax.tree.leaves(tree):
        squares += jnp.sum(x * x, axis=range(1, x.ndim)).astype(squares.dtype)
    return squares <= jnp.finfo(squares.dtype).max / 16


def rows(vector: Array, x: Array) -> Array:
    """``vector`` with as many axes as ``x``, for products with its rows."""
    return vector.reshape(-1, *[1] * (x.ndim - 1))


def byzantine(name: str, f: Any) -> Any:
    """The number f of a rule called ``name``, checked: a Python int at least 0, or a traced integer."""
    _validate.integer(f"{name}: f", f, at_least=0)
    return int(f) if _validate.concrete(f) else f


def admitted(
    name: str, f: Any, stack: Stack, *, times: int = 2, plus: int = 1
) -> tuple[Array, Metrics]:
    """The number f that a rule can take from those who came, and whether it had to be lowered.

    The rule needs at least ``times * f + plus`` messages.

    Raises:
        ValueError: even if everybody came there would be too few.
    """
    # Shapes of a result are inferred from a stack of one message, so that one is not refused.
    if isinstance(f, int) and 1 < stack.slots < times * f + plus:
        most = max((stack.slots - plus) // times, 0)
        raise ValueError(
            f"{name}: f must be at most {most} for a cohort of {stack.slots} slots, got {f}: the rule "
            f"needs at least {times} f + {plus} messages; lower f, or let more clients take part"
        )
    allowed = jnp.maximum((stack.came - plus) // times, 0)
    lowered = jnp.minimum(jnp.asarray(f, jnp.int32), allowed)
    return lowered, {"f_lowered": (lowered < f).astype(jnp.int32)}
