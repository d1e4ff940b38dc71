"""Checkpoints of a run, written by orbax."""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Algorithm, Key
from fjx._plan import Plan
from fjx._plan_examples import ExamplesPlan
from fjx.privacy._types import Participation, RenyiCurve
from fjx.samplers import Sampler
from fjx.samplers._types import Scheduled
from fjx.simulation._identity import difference
from fjx.simulation._program import History, SimulationState


class Checkpoints:
    """The newest two checkpoints of one run, in a folder.

    A checkpoint holds the root key, the state (with the table of clients, wherever it lives), the
    history so far, the noise and the data that its rounds had, the most rounds that were asked for, and
    what ended the run, if anything did.  A run that is resumed from it is bitwise the run that was never
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

    def save(
        self,
        done: int,
        key: Key,
        state: SimulationState,
        history: History,
        noise: Mapping[str, Any],
        data: Mapping[str, Any],
        stopped: str,
        asked: int,
    ) -> None:
        # NumPy arrays, because the first of several processes writes them for all.
        parts = (jax.random.key_data(key), state, history._asdict())
        content = dict(zip(("key", "state", "history"), jax.device_get(parts), strict=True))
        about = {"noise": noise, "data": data, "stopped": stopped, "asked": asked}
        content["about"] = _as_bytes(about)
        self._manager.save(done, args=self._ocp.args.StandardSave(content))
        self._manager.wait_until_finished()  # the next block overwrites the state in place

    def resume(
        self,
        key: Key,
        start: SimulationState,
        noise: Mapping[str, Any],
        data: Mapping[str, Any],
    ) -> tuple[SimulationState, list[History], str, int]:
        """The newest checkpoint, or ``start`` if there is none.

        Returns:
            State, history, what ended the run, and the most rounds that any call has asked for.

        Raises:
            ValueError: the checkpoint belongs to another key, model, codec or dataset; or its rounds had
                other noise or sampling, so that no claim for this run covers them.
        """
        newest = self._manager.latest_step()
        if newest is None:
            return start, [], "", 0
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
        about = json.loads(bytes(found["about"])) if "about" in found else {}
        if "data" not in about:
            raise ValueError(f"{where} is of an earlier version of fjx; give another folder")
        if _leaves(found["state"]) == _leaves(start) and about["noise"] != noise:
            raise ValueError(
                f"{where} holds rounds that were run with {_in_words(about['noise'])}, and this run "
                f"has {_in_words(noise)}, so no epsilon of this run covers them: give the same "
                "mechanism, sampler and number of clients, or another folder.  A plan for more rounds "
                "has the same mechanism if it is given noise_multiplier in place of epsilon"
            )
        if _leaves(found["state"]) == _leaves(start) and about["data"] != data:
            raise ValueError(
                f"{where} holds rounds on other data: {difference(about['data'], data)}; give the same "
                "dataset, or another folder"
            )
        # Orbax would silently cut, pad and cast arrays to the requested shapes and dtypes.
        if _leaves(found["state"]) != _leaves(start):
            raise another
        wanted = {
            "key": np.asarray(jax.random.key_data(key)),
            "state": jax.tree.map(_in_memory, start),
            "history": jax.tree.map(_in_memory, found["history"]),
            "about": _in_memory(found["about"]),
        }
        try:
            found = self._manager.restore(newest, args=self._ocp.args.StandardRestore(wanted))
        except ValueError as error:
            raise another from error
        history = History(**jax.tree.map(np.asarray, found["history"]))
        state = jax.tree.map(_put_back, start, found["state"])
        return state, [history], about["stopped"], about["asked"]


def noise_of(
    algorithm: Algorithm, sampler: Sampler, plan: Plan | ExamplesPlan | None, num_clients: int
) -> dict[str, Any]:
    """The facts on which the epsilon of a run rests, as words and numbers that can be compared.

    Functions are described by their values at a few arguments.  Runs without noise have no epsilon: of
    these only the number of clients is told.
    """
    mechanisms = algorithm.aggregator.mechanisms if algorithm.aggregator is not None else ()
    facts: dict[str, Any] = {"num_clients": num_clients}
    if plan is not None and not mechanisms:  # the noise is the clients'
        mechanisms, facts["terms"] = (plan.mechanism,), _words(plan.accounting)
    facts["mechanisms"] = [_mechanism(mechanism) for mechanism in mechanisms]
    if mechanisms:
        facts["sampler"] = _sampler(sampler)
    return facts


def _mechanism(mechanism: Any) -> str:
    events = [mechanism.event(moves) for moves in (1.0, 2.0)]
    facts: list[Any] = [
        (e.words, e.rdp(np.array([2.0, 8.0, 32.0])).tolist()) if isinstance(e, RenyiCurve) else e
        for e in events
    ]
    facts += [float(mechanism.sensitivity(r)) for r in ("add_or_remove_one", "replace_one")]
    if mechanism.correlation is not None:
        often = [Participation(rounds, 1, rounds) for rounds in (1, 2, 8)]
        facts.append([float(mechanism.correlation(one)) for one in often])
    return _words(facts)


def _sampler(sampler: Sampler) -> str:
    subsampling = sampler.subsampling
    most = getattr(subsampling, "most", None) if isinstance(subsampling, Scheduled) else None
    return _words([subsampling, most and [most(rounds) for rounds in (1, 10, 100, 1000)]])


def _words(facts: Any) -> str:
    """The same words for the same facts in every process: no addresses, and nine digits of floats."""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(facts))
    return re.sub(r"\d+\.\d+(e[+-]?\d+)?", lambda number: f"{float(number[0]):.9g}", text)


def _in_words(noise: Mapping[str, Any]) -> str:
    if not noise["mechanisms"]:
        return f"no noise, {noise['num_clients']} clients"
    return f"{noise['mechanisms']}, sampled by {noise['sampler']} of {noise['num_clients']} clients"


def _as_bytes(about: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(about).encode(), np.uint8)


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
