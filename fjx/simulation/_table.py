"""The table of all clients' states: one row a client, gathered for a cohort and scattered back."""

import itertools
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array, Tree

TableOf = Callable[[Tree, int], Tree]
"""``(row, num_clients) -> table``, a pytree of ``[num_clients, ...]``; it decides where that lives."""


def make_table(row: Tree, num_clients: int) -> Tree:
    """A table whose every row is ``row``: a pytree of ``[num_clients, ...]``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> simulation.make_table({"residual": jnp.zeros(3)}, 10)["residual"].shape
        (10, 3)
    """
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_clients, *jnp.shape(x))), row)


def host_table(row: Tree, num_clients: int) -> Tree:
    """A table in host memory, for ``simulate(table=host_table)``; otherwise like :func:`make_table`.

    Guarantees: of rows that are zero at first no memory is used before it is written.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> table = simulation.host_table({"residual": jnp.zeros(3)}, 10)
        >>> type(table["residual"]), table["residual"].shape
        (<class 'numpy.ndarray'>, (10, 3))
    """
    return jax.tree.map(lambda x: _fill(x, np.zeros((num_clients, *x.shape), x.dtype)), _numpy(row))


def mapped_table(folder: str | os.PathLike[str]) -> TableOf:
    """A table in memory maps, for ``simulate(table=mapped_table(folder))``: one file for each leaf.

    The files are the run's working memory, new at its start; what a run is resumed from is its
    checkpoint.  The operating system keeps in memory what there is room for.

    Guarantees: rows that are zero at first take no place on the disk before they are written, where
        the file system knows sparse files.

    Args:
        folder: is made if need be; its files ``0.npy``, ``1.npy``, ... are overwritten.  Of several
            processes each uses a folder in it, called by its number.

    Returns:
        ``(row, num_clients) -> table``.

    Examples:
        >>> import tempfile, jax.numpy as jnp
        >>> from fjx import simulation
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = simulation.mapped_table(folder)({"residual": jnp.ones(3)}, 10)
        ...     type(table["residual"]), table["residual"].shape
        (<class 'numpy.memmap'>, (10, 3))
    """

    def make(row: Tree, num_clients: int) -> Tree:
        # Each of several processes keeps a table of its own.
        own = (str(jax.process_index()),) if jax.process_count() > 1 else ()
        place = os.path.join(folder, *own)
        os.makedirs(place, exist_ok=True)
        files = (os.path.join(place, f"{i}.npy") for i in itertools.count())

        def mapped(x: np.ndarray) -> np.ndarray:
            shape = (num_clients, *x.shape)
            if not x.size:  # an empty file cannot be mapped
                return np.zeros(shape, x.dtype)
            return _fill(x, np.lib.format.open_memmap(next(files), "w+", x.dtype, shape))

        return jax.tree.map(mapped, _numpy(row))

    return make


def _numpy(row: Tree) -> Tree:
    return jax.tree.map(np.asarray, row)


def _fill(row: np.ndarray, table: np.ndarray) -> np.ndarray:
    """A table of zeros with ``row`` in every row."""
    if row.tobytes().strip(b"\0"):
        table[:] = row
    return table


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


def is_hosted(table: Tree) -> bool:
    """Whether a table is on the host; one without leaves is nowhere."""
    return any(isinstance(x, np.ndarray) for x in jax.tree.leaves(table))


class HostTable:
    """A table on the host beside rounds that run ahead of it.

    Attributes:
        table: pytree of ``[num_clients, ...]``, changed in place.
    """

    def __init__(self, table: Tree) -> None:
        self.table = table
        self._before = np.zeros(0, np.int32)

    def read(self, ids: np.ndarray, out: Tree) -> np.ndarray:
        """Reads the rows of the next round into ``out``; padding reads zeros.

        Returns:
            ``i32[m]``, the slots that the same clients had in the round read for before, whose rows
            are newer than these; m for the others.
        """

        def take(x: np.ndarray, rows: np.ndarray) -> None:
            np.take(x, ids, axis=0, out=rows, mode="clip")
            rows[ids >= len(x)] = 0

        jax.tree.map(take, self.table, out)
        population = len(jax.tree.leaves(self.table)[0])
        before, self._before = self._before, ids
        if not before.size:
            return np.full(ids.shape, len(ids), np.int32)
        order = np.argsort(before)
        at = order[np.minimum(np.searchsorted(before, ids, sorter=order), len(before) - 1)]
        same = (before[at] == ids) & (ids < population)
        return np.where(same, at, len(ids)).astype(np.int32)

    def write(self, ids: np.ndarray, rows: Tree) -> None:
        """Writes the rows that a round returned; padding writes nowhere."""

        def put(x: np.ndarray, new: np.ndarray) -> None:
            known = ids < len(x)
            x[ids[known]] = new[known]

        jax.tree.map(put, self.table, rows)


def refresh(rows: Tree, previous: Tree, fresh: Array) -> Tree:
    """The rows of a round, those at ``fresh`` being replaced by rows of the round before."""

    def newer(row: Array, before: Array) -> Array:
        found = (fresh < fresh.shape[0]).reshape(-1, *[1] * (row.ndim - 1))
        return jnp.where(found, before.at[fresh].get(mode="clip"), row)

    return jax.tree.map(newer, rows, previous)
