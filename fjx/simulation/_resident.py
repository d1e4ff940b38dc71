"""Blocks of rounds as one program, with all examples and the table of clients on the device."""

from typing import Any

import jax
import numpy as np

from fjx._base import Metrics
from fjx.simulation._compile import Compiler, Once, place
from fjx.simulation._nans import played
from fjx.simulation._program import (
    History,
    Run,
    SimulationState,
    as_operand,
    block_of,
    round_of,
    whole_round_of,
)


class Resident:
    """Blocks of rounds ``(state, length) -> (state, history)``; each call consumes the old state."""

    def __init__(self, run: Run, state: SimulationState, room: int, compile: Compiler) -> None:
        def make() -> Any:
            play = round_of(run.algorithm, run.executor, run.participant_ids)
            block = block_of(whole_round_of(play, run.sampler), room)
            return jax.jit(block, donate_argnums=3, keep_unused=True)

        parts = run.sampler, run.executor, run.participant_ids, bool(run.mechanisms), room
        once = Once.of(run.algorithm.round, parts, make)
        inputs = (run.dataset, as_operand(run.evaluate), run.key)
        self._program, (_, self._coming) = compile("rounds", once, *inputs, state, np.int32(0))
        self._placed = self._program.input_shardings[0]
        self._inputs = place(inputs, self._placed[:3])

    def coming(self, state: SimulationState, length: int) -> History:
        """Shapes of the next block's history."""
        like = self._coming.rounds
        rounds = jax.tree.map(lambda x: jax.ShapeDtypeStruct((length, *x.shape[1:]), x.dtype), like)
        return self._coming._replace(rounds=rounds)

    def __call__(self, state: SimulationState, length: int) -> tuple[SimulationState, History]:
        state, rounds = place((state, np.int32(length)), self._placed[3:])
        state, history = played(self._program, *self._inputs, state, rounds)
        history = jax.device_get(history)
        return state, history._replace(rounds=_first(length, history.rounds))


def _first(length: int, reports: Metrics) -> Metrics:
    return jax.tree.map(lambda x: x[:length], reports)
