"""The evaluation of a run, as a program of its own on one device.

Rounds may be spread over devices.  Each of them would evaluate everything, and all would share the
threads of the machine.
"""

import contextlib
from typing import Any

import jax
import numpy as np

from fjx._base import Metrics, Tree, TreeLike
from fjx.simulation._compile import Compiler, Once, first_copy, place
from fjx.simulation._evaluate import OfState, evaluated, function_of, subject_of
from fjx.simulation._history import History
from fjx.simulation._nans import scored
from fjx.simulation._program import Evaluate, Run, SimulationState, as_operand


class Scores:
    """The evaluation ``(state) -> scores`` of a run, compiled; no scores without an evaluation.

    Attributes:
        like: shapes of the scores.
    """

    def __init__(self, run: Run, state: SimulationState, compile: Compiler) -> None:
        self.like: Any = {}
        self._evaluate = run.evaluate
        self._program: Any = None
        if run.evaluate is not None:
            operand, subject = as_operand(run.evaluate), subject_of(run.evaluate, state)
            model_of = run.algorithm.model_of

            def scores(evaluate: Evaluate, subject: Tree) -> Metrics:
                return evaluated(evaluate, model_of, subject)

            # The common model is read without the algorithm, so that algorithms share the program.
            parts = "scores", run.algorithm.personal if isinstance(operand, OfState) else None
            once = Once.of(
                function_of(run.evaluate), parts, lambda: jax.jit(scores, keep_unused=True)
            )
            with _own_device():
                self._program, self.like = compile("evaluation", once, operand, subject)
            on_operand, self._on_subject = self._program.input_shardings[0]
            self._operand = place(operand, on_operand)

    def __call__(self, state: SimulationState) -> Metrics:
        if self._program is None:
            return {}
        subject = first_copy(subject_of(self._evaluate, state))
        return scored(self._program, self._operand, place(subject, self._on_subject))


def _own_device() -> Any:
    """Context in which a program of one device is compiled for a device of this process."""
    if jax.process_count() == 1:
        return contextlib.nullcontext()
    return jax.default_device(jax.local_devices()[0])


def coming(one_round: TreeLike, length: int, scores: Scores) -> History:
    """Shapes of the history of a block.

    Args:
        one_round: metrics of a round.
        length: number of rounds.
        scores: evaluation of the run.
    """

    def stack(tree: TreeLike, n: int) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape), x.dtype), tree)

    return History(stack(one_round, length), stack(scores.like, 1), stack(np.int32(0), 1))


def before_first_round(scores: Scores, state: SimulationState, coming: History) -> History:
    """History of no round and of one evaluation, in the form of the history of a block."""
    rounds = jax.tree.map(lambda x: np.zeros((0, *x.shape[1:]), x.dtype), coming.rounds)
    return with_scores(rounds, jax.device_get(scores(state)), np.int32(0))


def with_scores(rounds: Metrics, scores: Metrics, at: Any) -> History:
    """History of a block: its rounds, and one evaluation after ``at`` rounds."""
    return History(rounds, *jax.tree.map(lambda x: np.asarray(x)[None], (scores, at)))
