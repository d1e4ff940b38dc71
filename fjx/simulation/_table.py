"""The table of all clients' states: one row a client, gathered for a cohort and scattered back."""

import jax
import jax.numpy as jnp

from fjx._base import Array, Tree


def make_table(row: Tree, num_clients: int) -> Tree:
    """A table whose every row is ``row``: a pytree of ``[num_clients, ...]``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> simulation.make_table({"residual": jnp.zeros(3)}, 10)["residual"].shape
        (10, 3)
    """
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_clients, *jnp.shape(x))), row)


def gather(table: Tree, ids: Array) -> Tree:
    """The rows of ``ids`` (``i32[m]``); padding ids, which lie outside, read zeros.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> simulation.gather(jnp.array([10, 20, 30]), jnp.array([2, 0, 3])).tolist()
        [30, 10, 0]
    """
    return jax.tree.map(lambda x: x.at[ids].get(mode="fill", fill_value=0), table)


def scatter(table: Tree, ids: Array, rows: Tree) -> Tree:
    """The table with the rows of ``ids`` replaced; padding ids write nowhere.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> simulation.scatter(
        ...     jnp.array([10, 20, 30]), jnp.array([2, 3]), jnp.array([7, 99])).tolist()
        [10, 20, 7]
    """
    return jax.tree.map(lambda x, row: x.at[ids].set(row, mode="drop"), table, rows)
