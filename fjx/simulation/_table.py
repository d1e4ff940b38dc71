"""Table of all clients' states, one row a client: gathered for a cohort and scattered back."""

import itertools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fjx._base import Array, Tree

TableOf = Callable[[Tree, int], Tree]
"""A function ``(row, num_clients) -> table`` that decides where the table lives.

The table is a pytree of ``[num_clients, ...]``.
"""


def make_table(row: Tree, num_clients: int) -> Tree:
    """Table with ``row`` in every row: a pytree of ``[num_clients, ...]``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> simulation.make_table({"residual": jnp.zeros(3)}, 10)["residual"].shape
        (10, 3)
    """
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_clients, *jnp.shape(x))), row)


def host_table(row: Tree, num_clients: int) -> Tree:
    """Table in host memory, for ``simulate(table=host_table)``; otherwise like :func:`make_table`.

    Guarantees:
        - Rows that are zero at first use no memory before they are written.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> table = simulation.host_table({"residual": jnp.zeros(3)}, 10)
        >>> type(table["residual"]), table["residual"].shape
        (<class 'numpy.ndarray'>, (10, 3))
    """
    return jax.tree.map(lambda x: _fill(x, np.zeros((num_clients, *x.shape), x.dtype)), _numpy(row))


def mapped_table(folder: str | os.PathLike[str]) -> TableOf:
    """Table in memory maps, for ``simulate(table=mapped_table(folder))``: one file for each leaf.

    The files are the working memory of the run, and are new at its start; a run is resumed from its
    checkpoint.  The operating system keeps as much of them in memory as it has room for.

    Guarantees:
        - Rows that are zero at first use no disk space before they are written, if the file system
          supports sparse files.

    Args:
        folder: folder of the files, made if it does not exist; its files ``0.npy``, ``1.npy``, ...
            are overwritten.  Each of several processes uses a subfolder named by its number.

    Returns:
        A function ``(row, num_clients) -> table``.

    Examples:
        >>> import tempfile, jax.numpy as jnp
        >>> from fjx import simulation
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = simulation.mapped_table(folder)({"residual": jnp.ones(3)}, 10)
        ...     type(table["residual"]), table["residual"].shape
        (<class 'numpy.memmap'>, (10, 3))
    """

    def make(row: Tree, num_clients: int) -> Tree:
        # Each of several processes keeps its own table.
        own = (str(jax.process_index()),) if jax.process_count() > 1 else ()
        place = os.path.join(os.path.expanduser(folder), *own)
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
    """The table, zero before, with ``row`` in every row."""
    if row.tobytes().strip(b"\0"):
        table[:] = row
    return table


def gather(table: Tree, ids: Array) -> Tree:
    """Rows of ``ids`` (``i32[m]``); padding ids, which are out of range, read zeros.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> simulation.gather(jnp.array([10, 20, 30]), jnp.array([2, 0, 3])).tolist()
        [30, 10, 0]
    """
    return jax.tree.map(lambda x: x.at[ids].get(mode="fill", fill_value=0), table)


def scatter(table: Tree, ids: Array, rows: Tree) -> Tree:
    """Table in which the rows of ``ids`` are replaced; padding ids write nowhere.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> simulation.scatter(
        ...     jnp.array([10, 20, 30]), jnp.array([2, 3]), jnp.array([7, 99])).tolist()
        [10, 20, 7]
    """
    return jax.tree.map(lambda x, row: x.at[ids].set(row, mode="drop"), table, rows)


def rows_of(table: Tree, ids: int | ArrayLike) -> Tree:
    """Copies of the rows of ``ids``, of a table anywhere; every id must be that of a client."""
    ids = np.asarray(ids)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"ids must be integers, got {ids.dtype}")

    def take(x: Any) -> Any:
        strange = ids[(ids < 0) | (ids >= len(x))]
        if strange.size:
            raise ValueError(
                f"ids must be from 0 to {len(x) - 1}, because there are {len(x)} clients; got "
                f"{strange.ravel()[0]}"
            )
        return np.take(np.asarray(x), ids, axis=0) if isinstance(x, np.ndarray) else x[ids]

    return jax.tree.map(take, table)


def is_hosted(table: Tree) -> bool:
    """True if a table is on the host; False for a table without leaves."""
    return any(isinstance(x, np.ndarray) for x in jax.tree.leaves(table))


class HostTable:
    """A table on the host, for rounds that run ahead of it.

    Attributes:
        table: pytree of ``[num_clients, ...]``, changed in place.
    """

    def __init__(self, table: Tree) -> None:
        self.table = table
        self._before = np.zeros(0, np.int32)

    def read(self, ids: np.ndarray, out: Tree) -> np.ndarray:
        """Read the rows of the next round into ``out``; padding reads zeros.

        Returns:
            Array ``i32[m]``, for each slot the slot of the same client in the previously read
            round, whose rows are newer than these; m if the client was not in that round.
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
        """Write the rows that a round returned; padding writes nowhere."""

        def put(x: np.ndarray, new: np.ndarray) -> None:
            known = ids < len(x)
            x[ids[known]] = new[known]

        jax.tree.map(put, self.table, rows)


def refresh(rows: Tree, previous: Tree, fresh: Array) -> Tree:
    """Rows of a round, with those at ``fresh`` replaced by rows of the previous round."""

    def newer(row: Array, before: Array) -> Array:
        found = (fresh < fresh.shape[0]).reshape(-1, *[1] * (row.ndim - 1))
        return jnp.where(found, before.at[fresh].get(mode="clip"), row)

    return jax.tree.map(newer, rows, previous)
