"""The evaluation of the initial model."""

from typing import Any

import jax
import numpy as np

from fjx.simulation._compile import Compiler, place
from fjx.simulation._evaluate import evaluated
from fjx.simulation._history import History
from fjx.simulation._nans import scored
from fjx.simulation._program import Run, SimulationState, as_operand


def before_first_round(
    run: Run, state: SimulationState, coming: History, compile: Compiler
) -> History:
    """History of no round and of one evaluation, in the form of the history of a block."""

    def score(evaluate: Any, params: Any) -> Any:
        return evaluated(evaluate, params)

    arguments = (as_operand(run.evaluate), state.params)
    program, _ = compile(jax.jit(score, keep_unused=True), *arguments)
    scores = scored(program, *place(arguments, program.input_shardings[0]))
    scores, at = jax.device_get((scores, state.round))
    rounds = jax.tree.map(lambda x: np.zeros((0, *x.shape[1:]), x.dtype), coming.rounds)
    return History(rounds, *jax.tree.map(lambda x: np.asarray(x)[None], (scores, at)))
