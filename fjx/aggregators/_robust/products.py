"""Inner products and distances of messages by matrix products, and combinations of messages.

Each message counts as one vector, over all leaves of its tree.  A distance is made of inner products,

    ||a - b||^2 = ||a||^2 + ||b||^2 - 2 <a, b>

with a rounding error that is a few times 1e-7 of ||a||^2 + ||b||^2.  So messages are taken about a
centre near most of them.  Far messages do not blur the distances among near ones.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fjx._base import Array, Tree
from fjx.aggregators._robust.stack import Stack, rows

COLUMNS = 1 << 10
"""Coordinates in a block: 100 clients' blocks of this size stay in the cache of a core."""

BLURRED = 1 / 16
"""Least ratio of a squared distance to the squared norms of which it is made.

The relative error of distances among most messages is then about 16 times that of float32.
"""


class Products(NamedTuple):
    """Inner products of the messages about a centre.

    Attributes:
        inner: ``[m, m]``, the products <x_i - c, x_j - c>; zeros where nobody is present.
        squares: ``[m, m]``, the squared distances; infinite where nobody is present, zero on the
            diagonal.
    """

    inner: Array
    squares: Array


def products(stack: Stack) -> Products:
    """Inner products and distances, exact enough for the messages that are near most others.

    The centre is zero.  If products about zero are too blurred for the distances of the message that
    lies nearest to most others, that message is the centre.
    """
    about_zero = _products(stack, None)
    middle = lax.stop_gradient(nearest_to_most(about_zero.squares, stack))

    def again() -> Array:
        return inner_products(stack, row(stack.tree, middle))

    inner = lax.cond(_blurred(about_zero, stack, middle), again, lambda: about_zero.inner)
    return _measured(stack, inner)


def nearest_to_most(squares: Array, stack: Stack) -> Array:
    """The place of the message with the smallest median distance to all messages."""
    ranked = jnp.sort(squares, axis=1)
    median = ranked[:, jnp.maximum(stack.came - 1, 0) // 2]
    return jnp.argmin(jnp.where(stack.present, median, jnp.inf))


def _blurred(found: Products, stack: Stack, middle: Array) -> Array:
    """Whether rounding is too large for the distances of ``middle`` to the nearer half."""
    norms = jnp.diagonal(found.inner)
    near = nearest(found.squares[middle][None], (stack.came + 1) // 2)[0] & stack.present
    largest = jnp.max(jnp.where(near, norms, 0.0)) + norms[middle]
    return jnp.max(jnp.where(near, found.squares[middle], 0.0)) < BLURRED * largest


def _products(stack: Stack, centre: Tree | None) -> Products:
    return _measured(stack, inner_products(stack, centre))


def _measured(stack: Stack, inner: Array) -> Products:
    return Products(inner, distances(inner, stack.present))


def distances(inner: Array, present: Array) -> Array:
    """Squared distances from inner products."""
    norms = jnp.diagonal(inner)
    squares = jnp.maximum(norms[:, None] + norms[None, :] - 2 * inner, 0.0)
    both = present[:, None] & present[None, :]
    squares = jnp.where(jnp.eye(len(present), dtype=bool), 0.0, squares)
    return jnp.where(both, squares, jnp.inf)


def inner_products(stack: Stack, centre: Tree | None) -> Array:
    """Products <x_i - c, x_j - c> of the messages that count, about zero if ``centre`` is None."""
    total = jnp.zeros((stack.slots, stack.slots), stack.dtype)
    leaves = jax.tree.leaves(stack.tree)
    centres = [None] * len(leaves) if centre is None else jax.tree.leaves(centre)
    for x, c in zip(leaves, centres, strict=True):
        flat = x.reshape(len(x), -1)
        total += _gram(flat, stack.present, None if c is None else c.reshape(-1)).astype(
            total.dtype
        )
    return total


def _gram(x: Array, present: Array, centre: Array | None) -> Array:
    """Inner products of the rows of a matrix, block by block of its columns."""

    def block(x: Array, centre: Array | None) -> Array:
        x = x if centre is None else x - centre[None]
        x = jnp.where(present[:, None], x, 0.0)
        return lax.dot_general(x, x, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)

    whole = x.shape[1] // COLUMNS
    total = block(x[:, whole * COLUMNS :], None if centre is None else centre[whole * COLUMNS :])
    if whole == 0:
        return total

    def step(total: Array, number: Array) -> tuple[Array, None]:
        start = number * COLUMNS
        part = lax.dynamic_slice_in_dim(x, start, COLUMNS, axis=1)
        here = None if centre is None else lax.dynamic_slice_in_dim(centre, start, COLUMNS)
        return total + block(part, here), None

    return lax.scan(step, total, jnp.arange(whole))[0]


def by_blocks(function: Callable[[Array], Array], stack: Stack) -> Tree:
    """The result of ``f[m, d] -> f[..., d]``, block by block of coordinates.

    A block stays in the cache, and nothing but the result is as long as the messages.
    """

    def leaf(x: Array) -> Array:
        flat = x.reshape(len(x), math.prod(x.shape[1:]))
        size = flat.shape[1]
        if size <= COLUMNS:
            found = function(flat)
            return found.reshape(*found.shape[:-1], *x.shape[1:])
        # The last block begins earlier than the others would have it, so that all are equally wide.
        starts = [*range(0, size - COLUMNS, COLUMNS), size - COLUMNS]

        def block(start: Array) -> Array:
            return function(lax.dynamic_slice_in_dim(flat, start, COLUMNS, axis=1))

        found = jnp.moveaxis(lax.map(block, jnp.asarray(starts, jnp.int32)), 0, -2)
        lead, new = found.shape[:-2], size - COLUMNS * (len(starts) - 1)
        whole = [found[..., :-1, :].reshape(*lead, -1), found[..., -1, COLUMNS - new :]]
        return jnp.concatenate(whole, axis=-1).reshape(*lead, *x.shape[1:])

    return jax.tree.map(leaf, stack.tree)


def about_message(inner: Array, place: Array) -> Array:
    """Inner products about one of the messages, whose own products are exactly zero."""
    own = inner[place]
    moved = inner - own[:, None] - own[None, :] + own[place]
    here = jnp.arange(len(inner)) == place
    return jnp.where(here[:, None] | here[None, :], 0.0, moved)


def nearest(squares: Array, count: Array) -> Array:
    """``bool`` like ``squares``: the ``count`` smallest of each row, the first of equal ones."""
    order = jnp.argsort(squares, axis=1, stable=True)
    rank = jnp.argsort(order, axis=1, stable=True)
    return rank < count


def row(tree: Tree, place: Array) -> Tree:
    """One message of a stack."""
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, place, keepdims=False), tree)


def combination(weights: Array, stack: Stack) -> Tree:
    """The message sum_i w_i x_i of those present; for weights ``[k, m]`` a stack of k messages."""

    def block(x: Array) -> Array:
        x = jnp.where(stack.present[:, None], x, 0.0)
        return jnp.matmul(weights.astype(x.dtype), x, precision=lax.Precision.HIGHEST)

    return by_blocks(block, stack)


def mean_of(chosen: Array, stack: Stack) -> Tree:
    """The mean of the chosen messages, ``bool[m]``."""
    weights = (chosen & stack.present).astype(stack.dtype)
    return combination(weights / jnp.maximum(jnp.sum(weights), 1), stack)


def squared_norms(stack: Stack) -> Array:
    """``[m]``, the squared norm of each message; anything of those that do not count."""
    total = jnp.zeros(stack.slots, stack.dtype)
    for x in jax.tree.leaves(stack.tree):
        total += jnp.sum(x * x, axis=range(1, x.ndim)).astype(total.dtype)
    return total


def scaled(factors: Array, stack: Stack) -> Tree:
    """The stack of f_i x_i; zeros where nobody is present."""

    def leaf(x: Array) -> Array:
        return jnp.where(rows(stack.present, x), rows(factors, x).astype(x.dtype) * x, 0.0)

    return jax.tree.map(leaf, stack.tree)
