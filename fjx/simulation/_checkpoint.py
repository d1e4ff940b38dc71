"""Checkpoints of a run, written by orbax."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Key
from fjx.simulation._program import History, SimulationState


class Checkpoints:
    """The newest two checkpoints of one run, in a folder.

    A checkpoint holds the root key, the state (with the table of clients, wherever it lives) and
    the history so far.  A run that is resumed from it is bitwise the run that was never
    interrupted.
    """

    def __init__(self, manager: Any, ocp: Any) -> None:
        self._manager, self._ocp = manager, ocp

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: str | os.PathLike[str]) -> Iterator["Checkpoints"]:
        try:
            import orbax.checkpoint as ocp
        except ImportError as error:
            raise ImportError("checkpoints need orbax: pip install 'fjx[checkpoint]'") from error
        options = ocp.CheckpointManagerOptions(max_to_keep=2)
        with ocp.CheckpointManager(
            os.path.abspath(os.path.expanduser(folder)), options=options
        ) as manager:
            yield cls(manager, ocp)

    def save(self, done: int, key: Key, state: SimulationState, history: History) -> None:
        # NumPy arrays, because the first of several processes writes them for all.
        parts = (jax.random.key_data(key), state, history._asdict())
        content = dict(zip(("key", "state", "history"), jax.device_get(parts), strict=True))
        self._manager.save(done, args=self._ocp.args.StandardSave(content))
        self._manager.wait_until_finished()  # the next block overwrites the state in place

    def resume(self, key: Key, start: SimulationState) -> tuple[SimulationState, list[History]]:
        """State and history of the newest checkpoint, or ``start`` if there is none.

        Raises:
            ValueError: the checkpoint belongs to another key, model, codec or number of clients.
        """
        newest = self._manager.latest_step()
        if newest is None:
            return start, []
        where = f"the checkpoint in {self._manager.directory}"
        found = self._manager.restore(newest, args=self._ocp.args.StandardRestore())
        if not np.array_equal(found["key"], jax.random.key_data(key)):
            raise ValueError(
                f"{where} belongs to a run with another key; use that key or another folder"
            )
        another = ValueError(
            f"{where} belongs to a run with another model, algorithm or number of clients; "
            "give the same ones or another folder"
        )
        # Orbax would silently cut, pad and cast arrays to the requested shapes and dtypes.
        if _leaves(found["state"]) != _leaves(start):
            raise another
        wanted = {
            "key": np.asarray(jax.random.key_data(key)),
            "state": jax.tree.map(_in_memory, start),
            "history": jax.tree.map(_in_memory, found["history"]),
        }
        try:
            found = self._manager.restore(newest, args=self._ocp.args.StandardRestore(wanted))
        except ValueError as error:
            raise another from error
        history = History(**jax.tree.map(np.asarray, found["history"]))
        return jax.tree.map(_put_back, start, found["state"]), [history]


def _leaves(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shapes and dtypes by path, the same for fields and keys, because orbax returns dicts."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (x.shape, x.dtype.name)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def _in_memory(x: Any) -> np.ndarray:
    """Array with the shape and dtype of ``x`` that uses no memory itself."""
    return np.broadcast_to(np.zeros((), x.dtype), x.shape)


def _put_back(x: Any, found: Any) -> Any:
    """Restored array in the place of ``x``; an array on the host, or in a map, is filled in place."""
    if isinstance(x, np.ndarray):
        x[...] = found
        return x
    return jnp.asarray(found)
