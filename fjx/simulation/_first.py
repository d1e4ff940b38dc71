"""Evaluations as programs of their own, such as that of the initial model."""

import jax
import numpy as np

from fjx._base import Metrics, Tree
from fjx.simulation._compile import Compiler, Once, place
from fjx.simulation._evaluate import evaluated
from fjx.simulation._history import History
from fjx.simulation._nans import scored
from fjx.simulation._program import Evaluate, Run, SimulationState, as_operand


def scoring(evaluate: Evaluate) -> Once:
    """The program ``(evaluate, params) -> scores``; the examples of the evaluation are arguments."""
    function = getattr(evaluate, "func", evaluate)
    return Once.of(function, "scores", lambda: jax.jit(_scores, keep_unused=True))


def _scores(evaluate: Evaluate, params: Tree) -> Metrics:
    return evaluated(evaluate, params)


def before_first_round(
    run: Run, state: SimulationState, coming: History, compile: Compiler
) -> History:
    """History of no round and of one evaluation, in the form of the history of a block."""
    assert run.evaluate is not None
    arguments = (as_operand(run.evaluate), state.params)
    program, _ = compile("evaluation", scoring(run.evaluate), *arguments)
    scores = scored(program, *place(arguments, program.input_shardings[0]))
    scores, at = jax.device_get((scores, state.round))
    rounds = jax.tree.map(lambda x: np.zeros((0, *x.shape[1:]), x.dtype), coming.rounds)
    return History(rounds, *jax.tree.map(lambda x: np.asarray(x)[None], (scores, at)))
