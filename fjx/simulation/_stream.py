"""Blocks of rounds with examples, or a table of clients, on the host.

JAX dispatches asynchronously.  The host dispatches round t.  While t computes, it copies the
examples of round t + 1 side by side into a buffer and dispatches t + 1, and so on.  Before the end
of a block it reads back only the rows of a table on the host.

A sampler is a pure function of the key and the round, so the cohorts of the whole run are known
before it begins.  The largest cohort sizes the buffers, and one program serves every round.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array, Cohort, Examples, Key, Metrics, Tree
from fjx.data._collect import buffers, collect
from fjx.data._dataset import impossible_ids
from fjx.samplers import Sampler
from fjx.simulation._compile import Compiler, Once, place
from fjx.simulation._evaluate import OfState
from fjx.simulation._nans import played
from fjx.simulation._program import (
    History,
    Play,
    Run,
    SimulationState,
    round_key,
    round_of,
    sampling_key,
)
from fjx.simulation._scores import Scores, coming, with_scores
from fjx.simulation._table import HostTable, gather, is_hosted, refresh, scatter

_DRAWN = 32  # rounds for which one call draws the cohorts


class _Draw(NamedTuple):
    """A :class:`fjx.samplers.Sample` of a round; impossible ids are padding and are counted."""

    ids: Any
    taking_part: Any
    truncated: Any
    rejected: Any


class _Inputs(NamedTuple):
    """Inputs of a round besides the key and the state.

    Attributes:
        cohort: cohort; examples from the host are in their own buffer.
        truncated: ``i32[]``, the clients for which the sampler had no slot.
        rows: rows ``[m, ...]`` of a table on the host, or None.
        fresh: ``i32[m]``, for each slot its place among the rows of the previous round, if the host
            does not have that row yet; m if ``rows`` has it.
    """

    cohort: Cohort
    truncated: Any
    rows: Tree | None
    fresh: np.ndarray | None


class _Memory(NamedTuple):
    """Host memory that a round reads, used again once the round has finished.

    Fresh memory in every round would cost its page faults, which take several times as long as the
    copy.
    """

    examples: Tree
    rows: Tree


class _Flight(NamedTuple):
    """A round that was dispatched and may not have finished."""

    metrics: Metrics
    ids: np.ndarray
    rows: Tree


class Stream:
    """Blocks of rounds ``(state, length) -> (state, history)``; each call consumes the old state."""

    def __init__(self, run: Run, state: SimulationState, rounds: int, compile: Compiler) -> None:
        if isinstance(run.evaluate, OfState):
            raise ValueError(
                "evaluate reads the states of all clients, which a run with examples or states on the "
                "host does not have on the device: use data.on_device(dataset) and make_table"
            )
        data, population = run.dataset, run.dataset.num_clients
        self._table = HostTable(state.clients) if is_hosted(state.clients) else None
        self._dataset = dataclasses.replace(
            data, offsets=np.asarray(data.offsets), weights=np.asarray(data.weights)
        )
        sampler = run.sampler
        drawer = Once.of(
            sampler.sample, (sampler, population), lambda: jax.jit(_drawer(sampler, population))
        )
        draw, _ = compile("cohorts", drawer, run.key, jnp.int32(0))
        self._drawn = _draws(draw, run.key, int(state.round), rounds)
        room = max(
            int(self._dataset.windows(drawn.ids)[1].sum())
            for drawn in _draws(draw, run.key, int(state.round), rounds)
        )
        if room >= 2**31 and data.hosted:
            raise ValueError(
                f"a cohort of this run has {room} examples, more than 2^31 - 1; sample fewer clients"
            )
        room = _rounded(room)
        # The round in flight reads one of them while the host fills the other for the next round.
        slots = run.sampler.capacity(population)
        self._memory = itertools.cycle([self._allocate(room, slots) for _ in range(2)])
        self._in_flight: collections.deque[_Flight] = collections.deque()

        self._ids, inputs = self._inputs(next(self._drawn))
        previous = jax.tree.map(np.zeros_like, inputs.rows)

        def make() -> Any:
            play = round_of(run.algorithm, run.executor, run.participant_ids)
            return jax.jit(_step(play), donate_argnums=1, keep_unused=True)

        parts = run.executor, run.participant_ids, bool(run.mechanisms)
        self._step, (_, _, self._metrics) = compile(
            "rounds",
            Once.of(run.algorithm.round, parts, make),
            run.key,
            self._without_table(state),
            inputs,
            previous,
        )
        (on_key, self._on_state, self._on_inputs, on_rows), _ = self._step.input_shardings
        if not data.hosted:  # placed once, not in every round
            arrays = place(data.arrays, self._on_inputs.cohort.examples.arrays)
            self._dataset = dataclasses.replace(self._dataset, arrays=arrays)
        self._key, self._rows = place(run.key, on_key), place(previous, on_rows)
        self._next = place(inputs, self._on_inputs)

        self.scores = Scores(run, state, compile)

    def coming(self, length: int) -> History:
        """Shapes of the next block's history."""
        return coming(self._metrics, length, self.scores)

    def __call__(self, state: SimulationState, length: int) -> tuple[SimulationState, History]:
        state = place(self._without_table(state), self._on_state)
        reports = []
        for _ in range(length):
            inputs = self._key, state, self._next, self._rows
            state, self._rows, metrics = played(self._step, *inputs)
            self._in_flight.append(_Flight(metrics, self._ids, self._rows))
            reports.append(metrics)
            self._prepare()
        scores = self.scores(state)
        while self._in_flight:
            self._retire()
        reports, scores, at = jax.device_get((reports, scores, state.round))
        rounds = jax.tree.map(lambda *x: np.stack(x), *reports)
        if self._table is not None:
            state = state._replace(clients=self._table.table)
        return state, with_scores(rounds, scores, at)

    def _prepare(self) -> None:
        """Put the inputs of the next round on the device, if there is one."""
        drawn = next(self._drawn, None)
        if drawn is None:
            self._next = None
            return
        if len(self._in_flight) == 2:  # the older round reads the memory that comes next
            self._retire()
        self._ids, inputs = self._inputs(drawn)
        self._next = place(inputs, self._on_inputs)

    def _retire(self) -> None:
        """Wait for the oldest round in flight, and write its rows into the table on the host."""
        flight = self._in_flight.popleft()
        jax.block_until_ready(flight.metrics)
        if self._table is not None:
            self._table.write(flight.ids, jax.device_get(flight.rows))

    def _inputs(self, drawn: _Draw) -> tuple[np.ndarray, _Inputs]:
        """Ids of a cohort and the inputs of its round, on the host."""
        memory, data = next(self._memory), self._dataset
        start, size = data.windows(drawn.ids)
        arrays, offset = data.arrays, start
        if memory.examples is not None:
            arrays, offset = memory.examples, collect(data.arrays, start, size, memory.examples)
        weights: Any = data.weights[np.minimum(drawn.ids, data.num_clients - 1)]
        present: Any = drawn.taking_part & (drawn.ids < data.num_clients)
        weights[~present | (size == 0)] = 0
        windows: Any = (offset.astype(np.int32), size.astype(np.int32))
        population: Any = np.int32(data.num_clients)
        examples = Examples(arrays, *windows)
        cohort = Cohort(drawn.ids, weights, examples, population, drawn.rejected, present)
        fresh = None
        if self._table is not None:
            fresh = self._table.read(drawn.ids, memory.rows)
        return drawn.ids, _Inputs(cohort, drawn.truncated, memory.rows, fresh)

    def _allocate(self, room: int, slots: int) -> _Memory:
        examples = buffers(self._dataset.arrays, room) if self._dataset.hosted else None
        rows = None if self._table is None else buffers(self._table.table, slots)
        return _Memory(examples, rows)

    def _without_table(self, state: SimulationState) -> SimulationState:
        return state if self._table is None else state._replace(clients=None)


def _rounded(room: int) -> int:
    """At most an eighth more, so that most runs of other keys have buffers of one size."""
    step = 2 ** max(room.bit_length() - 4, 0)
    return max(room, min(-(-room // step) * step, 2**31 - 1))  # places are of 32 bits


def _step(play: Play) -> Callable[..., Any]:
    """One round ``(key, state, inputs, previous rows) -> (state, rows, metrics)``."""

    def step(
        key: Key, state: SimulationState, inputs: _Inputs, previous: Tree
    ) -> tuple[SimulationState, Tree, Metrics]:
        cohort = inputs.cohort
        if inputs.rows is None:
            rows = gather(state.clients, cohort.ids)
        else:
            assert inputs.fresh is not None
            rows = refresh(inputs.rows, previous, jnp.asarray(inputs.fresh))
        key_round = round_key(key, state.round)
        state, rows, metrics = play(key_round, state, rows, cohort, inputs.truncated)
        if inputs.rows is None:
            return state._replace(clients=scatter(state.clients, cohort.ids, rows)), None, metrics
        return state, rows, metrics

    return step


def _drawer(sampler: Sampler, num_clients: int) -> Callable[[Key, Array], _Draw]:
    """Function ``(key, round) -> draws`` of that round and the next ones, ``[_DRAWN, ...]``."""

    def draw(key: Key, round: Array) -> _Draw:
        sample = sampler.sample(sampling_key(key), round, num_clients)
        impossible = impossible_ids(jnp, sample.ids, num_clients)
        ids = jnp.where(impossible, num_clients, sample.ids).astype(jnp.int32)
        rejected = jnp.sum(impossible, dtype=jnp.int32)
        return _Draw(ids, sample.taking_part, sample.truncated, rejected)

    def drawer(key: Key, first: Array) -> _Draw:
        rounds = first + jnp.arange(_DRAWN, dtype=jnp.int32)
        return jax.lax.map(lambda round: draw(key, round), rounds)

    return drawer


def _draws(draw: Callable[..., _Draw], key: Key, first: int, last: int) -> Iterator[_Draw]:
    """Draws of rounds ``first`` to ``last - 1`` as NumPy arrays.

    Each batch is requested one batch ahead, so that the host does not wait for it behind the
    rounds.
    """
    starts = range(first, last, _DRAWN)
    ahead = (draw(key, jnp.int32(start)) for start in starts)
    coming = next(ahead, None)
    for start in starts:
        now, coming = coming, next(ahead, None)
        batch = jax.device_get(now)
        for i in range(min(_DRAWN, last - start)):
            yield jax.tree.map(lambda x, i=i: x[i], batch)
