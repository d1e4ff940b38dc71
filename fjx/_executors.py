"""How a cohort is run.  Every executor computes the same round; they differ in memory and time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Executor, Tree

OneClient = Callable[[Tree], tuple[Tree, Tree]]


def vectorized() -> Executor:
    """Runs all clients of the cohort at once under ``vmap``.

    Memory grows with the cohort, and every client waits for the one with the most steps.

    Returns:
        An :class:`fjx.Executor`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> run = simulation.vectorized()
        >>> total, squares = run(lambda x: (x, x * x), jnp.arange(4), jnp.ones(4, jnp.int32))
        >>> int(total), squares.tolist()
        (6, [0, 1, 4, 9])
    """

    def execute(client: OneClient, inputs: Tree, cost: Array) -> tuple[Tree, Tree]:
        summed, stacked = jax.vmap(client)(inputs)
        return _sum(summed), stacked

    return execute


def chunked(size: int) -> Executor:
    """Runs ``size`` clients at a time, those with most work first, and adds up as it goes.

    Memory is that of ``size`` clients whatever the cohort, and a chunk takes as long as its longest
    client, which sorting makes close to its shortest.

    Args:
        size: clients at a time.

    Returns:
        An :class:`fjx.Executor`.

    Raises:
        TypeError: ``size`` is not a Python integer.
        ValueError: ``size`` is below one.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> run = simulation.chunked(3)
        >>> total, squares = run(lambda x: (x, x * x), jnp.arange(4), jnp.array([1, 5, 2, 9]))
        >>> int(total), squares.tolist()
        (6, [0, 1, 4, 9])
    """
    _validate.static_integer("size", size, at_least=1)

    def execute(client: OneClient, inputs: Tree, cost: Array) -> tuple[Tree, Tree]:
        slots = cost.shape[0]
        chunks = -(-slots // size)
        # Heaviest first; a stable sort, so that equal work keeps the order given.
        order = jnp.argsort(-cost, stable=True)

        def in_chunks(x: Array) -> Array:
            padding = [(0, chunks * size - slots)] + [(0, 0)] * (x.ndim - 1)
            return jnp.pad(x[order], padding).reshape(chunks, size, *x.shape[1:])

        def step(total: Tree, chunk: Tree) -> tuple[Tree, Tree]:
            summed, stacked = jax.vmap(client)(chunk)
            return jax.tree.map(jnp.add, total, _sum(summed)), stacked

        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), inputs)
        summed_like = jax.eval_shape(client, one)[0]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), summed_like)
        total, stacked = jax.lax.scan(step, zeros, jax.tree.map(in_chunks, inputs))
        back = jnp.argsort(order)
        return total, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:slots][back], stacked)

    return execute


def _sum(tree: Tree) -> Tree:
    """Adds over the leading axis without widening: an integer sum wraps, as a secure sum does."""
    return jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=x.dtype), tree)
