"""Gradient ascent on what a round does to its inputs."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import Array, Compressor, Key, Tree

Objective = Callable[[Array], Array]
"""A function ``(rows f32[k, d]) -> f32[]`` that is to be large."""


class Peak(NamedTuple):
    """The largest value of an ascent, and where it is.

    Attributes:
        rows: ``f32[k, d]``.
        value: ``f32[]``.
    """

    rows: Array
    value: Array


def ascend(
    key: Key, objective: Objective, like: Array, *, starts: int, steps: int, reach: float | Array
) -> tuple[Peak, Array]:
    """The best of several ascents from random starts of all sizes up to ``reach``.

    In a step each row goes along its own gradient, by a length in proportion to its own: half of it at
    first, a hundredth at the end.  If the gradient is zero, because the round ignores or rounds the row,
    the step goes along a random line, to the better side.  All points on the way count.

    Args:
        key: key of the starts.
        objective: function that is to be large.
        like: ``f32[k, d]``, the directions in which starts of the third and fourth kind go.
        starts: number of ascents.
        steps: steps of each.
        reach: largest norm of a row.

    Returns:
        The best point, and ``f32[starts]``, the best value of each ascent.
    """
    gradient = _gradient(objective, like)

    def value_of(rows: Array) -> Array:
        value = objective(rows)
        # A result that is not finite for finite rows is as bad as can be.
        return jnp.where(jnp.isfinite(value), value, jnp.inf)

    def within(rows: Array) -> Array:
        norms = _norms(rows)
        return rows * jnp.minimum(1.0, reach / jnp.where(norms > 0, norms, 1.0))

    def one(key: Key, number: Array) -> Peak:
        key_start, key_steps = jax.random.split(key)
        rows = within(_start(key_start, number, like, reach))

        def step(now: tuple[Array, Peak], t: Array) -> tuple[tuple[Array, Peak], None]:
            rows, best = now
            drawn = jax.random.normal(jax.random.fold_in(key_steps, t), rows.shape, rows.dtype)
            slope = gradient(rows)
            known = jnp.all(jnp.isfinite(slope), axis=1, keepdims=True)
            known &= jnp.any(slope != 0, axis=1, keepdims=True)
            rate = 0.5 * 0.02 ** (t / max(steps - 1, 1))
            length = rate.astype(rows.dtype) * (_norms(rows) + 0.1)
            here, there = (
                within(rows + length * _unit(jnp.where(known, slope, sign * drawn)))
                for sign in (1, -1)
            )
            peaks = jax.vmap(lambda rows: Peak(rows, value_of(rows)))(jnp.stack([here, there]))
            peak = jax.tree.map(lambda x: x[jnp.argmax(peaks.value)], peaks)
            return (peak.rows, _better(best, peak)), None

        first = Peak(rows, value_of(rows))
        (_, best), _ = jax.lax.scan(step, (rows, first), jnp.arange(steps, dtype=jnp.float32))
        return best

    @jax.jit
    def best(key: Key) -> tuple[Peak, Array]:
        numbers = jnp.arange(starts, dtype=jnp.int32)
        peaks = jax.vmap(one)(jax.random.split(key, starts), numbers)
        top = jnp.argmax(peaks.value)
        return jax.tree.map(lambda x: x[top], peaks), peaks.value

    return best(key)


def _better(a: Peak, b: Peak) -> Peak:
    return _tree.where(b.value > a.value, b, a)


def _norms(rows: Array) -> Array:
    """``f32[k, 1]``: the norm of each row."""
    return jnp.sqrt(jnp.sum(jnp.square(rows), axis=1, keepdims=True))


def _unit(rows: Array) -> Array:
    """The rows scaled to length one; zeros stay."""
    # By their largest entry first: squares of large slopes overflow, and those of small ones vanish.
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    rows = rows / jnp.where(largest > 0, largest, 1.0)
    norms = _norms(rows)
    return rows / jnp.where(norms > 0, norms, 1.0)


def _start(key: Key, number: Array, like: Array, reach: float | Array) -> Array:
    """A start: each row for itself, all rows alike, or along a known direction, there or back."""
    key_rows, key_size = jax.random.split(key)
    alone = jax.random.normal(key_rows, like.shape, like.dtype)
    options = jnp.stack([alone, jnp.broadcast_to(alone[:1], like.shape), like, -like])
    low, high = jnp.log(0.1), jnp.log(jnp.asarray(reach, jnp.float32))
    size = jnp.exp(jax.random.uniform(key_size, (), jnp.float32, low, jnp.maximum(low, high)))
    return size.astype(like.dtype) * _unit(options[number % 4])


def _gradient(objective: Objective, like: Array) -> Callable[[Array], Array]:
    """The gradient in reverse, or forwards where a loop of unknown length forbids reverse."""
    try:
        jax.eval_shape(jax.grad(objective), like)
    except ValueError as error:
        if "everse-mode" not in str(error):
            raise
        return jax.jacfwd(objective)
    return jax.grad(objective)


def through(codec: Compressor | None, key: Key, message: Tree) -> Tree:
    """The decoded message, with the gradient of the message itself (straight through)."""
    if codec is None:
        return message
    payload, _ = codec.encode(key, message, codec.init(_tree.like(message)))
    decoded = codec.decode(payload)
    return jax.tree.map(lambda x, y: x + jax.lax.stop_gradient(y - x), message, decoded)


class Rows(NamedTuple):
    """Messages as flat rows, and the way back.

    Attributes:
        matrix: ``f32[n, d]``.
        message_of: function ``(f32[d]) -> message``.
    """

    matrix: Array
    message_of: Callable[[Array], Tree]

    @classmethod
    def of(cls, name: str, messages: Tree) -> "Rows":
        """The rows of a tree of ``[n, ...]``.

        Raises:
            TypeError: a leaf is not floating.
        """
        messages = jax.tree.map(jnp.asarray, messages)
        _tree.require_floating(name, messages)
        sizes = {x.shape[0] if x.ndim else 0 for x in jax.tree.leaves(messages)}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"{name} must be a tree of [n, ...], one row for each client and at least one; got "
                f"leading axes {sorted(sizes)}"
            )
        first = jax.tree.map(lambda x: x[0], messages)
        _, others, structure = _tree.ravel(first)
        matrix = jax.vmap(lambda message: _tree.wide(_tree.ravel(message)[0]))(messages)
        return cls(matrix, lambda row: _tree.unravel(row, others, structure))

    def trees(self, matrix: Array) -> Tree:
        """Messages from other rows."""
        return jax.vmap(self.message_of)(matrix)
