"""Blocks of rounds as single programs, with all examples and the table of clients on the device."""

from typing import Any

import jax

from fjx.simulation._compile import Compiler, place
from fjx.simulation._nans import played
from fjx.simulation._program import History, Run, SimulationState, as_operand, round_of, rounds_of


class Resident:
    """Blocks of rounds ``(state, length) -> (state, history)``; each call consumes the old state."""

    def __init__(self, run: Run, evaluate_every: int, compile: Compiler) -> None:
        play = round_of(run.algorithm, run.executor, run.participant_ids)
        core = rounds_of(play, run.sampler, evaluate_every)
        self._core = jax.jit(core, static_argnums=4, donate_argnums=3, keep_unused=True)
        self._inputs = (run.dataset, as_operand(run.evaluate), run.key)
        self._compile = compile
        self._compiled: dict[int, Any] = {}

    def coming(self, state: SimulationState, length: int) -> History:
        """Shapes of the next block's history; a block of a new length is compiled."""
        if length not in self._compiled:
            self._compiled[length] = self._compile(self._core, *self._inputs, state, length)
            self._inputs = place(self._inputs, self._compiled[length][0].input_shardings[0][:3])
        return self._compiled[length][1][1]

    def __call__(self, state: SimulationState, length: int) -> tuple[SimulationState, History]:
        program, _ = self._compiled[length]
        state = place(state, program.input_shardings[0][3])
        state, history = played(program, *self._inputs, state)
        return state, jax.device_get(history)
