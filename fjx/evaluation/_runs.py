"""The runs of a sweep: one program, as many runs at a time as the device likes."""

import concurrent.futures
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Algorithm, Executor, Key, Tree
from fjx.clients._premises import traced_premises
from fjx.data import FederatedData
from fjx.samplers import Sampler
from fjx.simulation import Evaluate, History
from fjx.simulation._compile import Compiler, Once, place
from fjx.simulation._memory import available, planned
from fjx.simulation._nans import scored
from fjx.simulation._premises import require_premises
from fjx.simulation._program import (
    as_operand,
    initial_state,
    round_of,
    rounds_of,
    whole_round_of,
)

OneRun = tuple[Key, Key, dict[str, float]]
"""The key of the initial model, the root key, and the traced hyper-parameters of a run."""


class Chunk(NamedTuple):
    """A program of one or several runs at a time; the fields are those of :func:`sweep`."""

    make: Callable[..., Algorithm]
    values: dict[str, Any]
    params: Tree | Callable[[Key], Tree]
    dataset: FederatedData
    sampler: Sampler
    rounds: int
    evaluate: Evaluate | None
    evaluate_every: int
    executor: Executor | None
    participant_ids: bool
    keep: Callable[[Any], Tree] | None

    def __call__(self, data: tuple[Any, ...], init_keys: Any, keys: Any, numbers: Any) -> Any:
        """Histories and what is kept, ``[runs, ...]``; a traced function of tuples, one entry a run."""
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *zip(init_keys, keys, numbers, strict=True))
        if len(keys) == 1:
            one = self._run(data, *jax.tree.map(lambda x: x[0], stacked))
            return jax.tree.map(lambda x: x[None], one)
        return jax.vmap(self._run, (None, 0, 0, 0))(data, *stacked)

    def of(self, numbers: dict[str, float]) -> "Chunk":
        """The same program with numbers of Python in place of traced ones."""
        return self._replace(values={**self.values, **numbers})

    def operands(self) -> tuple[Any, ...]:
        """Data that all runs share, which are arguments of the program and no constants of it."""
        params = () if callable(self.params) else jax.tree.map(jnp.asarray, self.params)
        return params, self.dataset, as_operand(self.evaluate)

    def _run(
        self, data: tuple[Any, ...], init_key: Key, key: Key, numbers: dict[str, Any]
    ) -> tuple[History, Tree]:
        params, dataset, evaluate = data
        if callable(self.params):
            params = self.params(init_key)
        algorithm = self._made(numbers)
        play = round_of(algorithm, self.executor, self.participant_ids)
        core = rounds_of(
            whole_round_of(play, self.sampler), self.evaluate_every, algorithm.model_of
        )
        start = initial_state(algorithm, params, dataset.num_clients)
        state, history = core(dataset, evaluate, key, start, self.rounds)
        return history, () if self.keep is None else self.keep(state)

    def _made(self, numbers: dict[str, Any]) -> Algorithm:
        """The algorithm with traced numbers; it was made with numbers of Python before."""
        try:
            return self.make(**self.values, **numbers)
        except (TypeError, ValueError, jax.errors.JAXTypeError) as error:
            raise TypeError(
                f"make cannot take traced values of {', '.join(map(repr, numbers))}: {error}.  A "
                "hyper-parameter that decides shapes or parts belongs into static="
            ) from error


def play_all(
    chunk: Chunk, runs: list[OneRun], at_a_time: int | None, advance: Callable[[int], None]
) -> tuple[tuple[History, Tree, np.ndarray], float]:
    """Play all runs.

    Args:
        chunk: program of some runs.
        runs: keys and numbers of every run.
        at_a_time: number of runs in a batch; by default one on a CPU, and on an accelerator as many
            as fit.
        advance: function that is told how many runs are done more.

    Returns:
        Histories, what is kept, and seconds of each run, ``[runs, ...]`` on the host; and the seconds
        of compiling.
    """
    is_cpu = jax.default_backend() == "cpu"
    width = min(at_a_time or (1 if is_cpu else len(runs)), len(runs))
    operands, compiler = chunk.operands(), Compiler()
    while True:
        try:
            arguments = operands, *_columns(runs[:1] * width)
            program = Once(jax.jit(chunk.__call__, keep_unused=True))
            compiled, _ = compiler("runs", program, *arguments)
            break
        except MemoryError:
            if width == 1 or at_a_time is not None:
                raise
            width = -(-width // 2)
    with compiler.clock():
        params = () if callable(chunk.params) else operands[0]
        checked = all(require_premises(x, params, chunk.dataset) for x in compiler.premises)
        if not checked and runs[0][2]:  # a loss function may have traced numbers in it
            with traced_premises() as premises:
                one = _columns([(*runs[0][:2], {})])
                jax.eval_shape(chunk.of(runs[0][2]).__call__, operands, *one)
            require_premises(premises, params, chunk.dataset)
    shardings = compiled.input_shardings[0]
    operands = place(operands, shardings[0])

    def play(batch: list[OneRun]) -> tuple[Any, ...]:
        # The last batch may be short: its first run fills it up.
        filled = batch + batch[:1] * (width - len(batch))
        rest = place(_columns(filled), shardings[1:])
        began = time.perf_counter()
        found = jax.device_get(scored(compiled, operands, *rest))
        seconds = (time.perf_counter() - began) / len(batch)
        advance(len(batch))
        cut = jax.tree.map(lambda x: x[: len(batch)], found)
        return *cut, np.full(len(batch), seconds)

    batches = [runs[i : i + width] for i in range(0, len(runs), width)]
    beside = _beside(compiled) if is_cpu else 1
    with concurrent.futures.ThreadPoolExecutor(min(beside, len(batches))) as pool:
        futures = [pool.submit(play, batch) for batch in batches]
        try:
            parts = [future.result() for future in futures]
        except BaseException:  # Ctrl-C as well: what has not begun does not begin
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    return joined, compiler.seconds


def _columns(runs: list[OneRun]) -> tuple[Any, ...]:
    return tuple(tuple(column) for column in zip(*runs, strict=True))


def _beside(compiled: Any) -> int:
    """Number of programs that the cores and the memory of this machine bear side by side."""
    devices = {d for s in jax.tree.leaves(compiled.input_shardings) for d in s.device_set}
    if len(devices) > 1:  # two programs that wait for all devices could wait for each other
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    plan, left = planned(compiled), available()
    each = max(plan.temporaries + plan.outputs, 1)
    return max(1, min(cores or 1, left // each if left is not None else 1))
