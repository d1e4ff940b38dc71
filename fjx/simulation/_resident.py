"""Blocks of rounds as one program, with all examples and the table of clients on the device."""

from typing import Any

import jax
import numpy as np

from fjx.simulation._compile import Compiler, Once, place
from fjx.simulation._nans import played
from fjx.simulation._program import (
    History,
    Run,
    SimulationState,
    block_of,
    round_of,
    whole_round_of,
)
from fjx.simulation._scores import Scores, coming, with_scores


class Resident:
    """Blocks of rounds ``(state, length) -> (state, history)``; each call consumes the old state."""

    def __init__(self, run: Run, state: SimulationState, room: int, compile: Compiler) -> None:
        def make() -> Any:
            play = round_of(run.algorithm, run.executor, run.participant_ids)
            block = block_of(whole_round_of(play, run.sampler), room)
            return jax.jit(block, donate_argnums=2, keep_unused=True)

        parts = run.sampler, run.executor, run.participant_ids, bool(run.mechanisms), room
        once = Once.of(run.algorithm.round, parts, make)
        inputs = run.dataset, run.key
        self._program, (_, metrics) = compile("rounds", once, *inputs, state, np.int32(0))
        self._placed = self._program.input_shardings[0]
        self._inputs = place(inputs, self._placed[:2])
        self._one_round = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), metrics
        )
        self.scores = Scores(run, state, compile)

    def coming(self, length: int) -> History:
        """Shapes of the next block's history."""
        return coming(self._one_round, length, self.scores)

    def __call__(self, state: SimulationState, length: int) -> tuple[SimulationState, History]:
        state, rounds = place((state, np.int32(length)), self._placed[2:])
        state, metrics = played(self._program, *self._inputs, state, rounds)
        metrics, scores, at = jax.device_get((metrics, self.scores(state), state.round))
        return state, with_scores(jax.tree.map(lambda x: x[:length], metrics), scores, at)
