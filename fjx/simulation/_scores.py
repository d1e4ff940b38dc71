"""The evaluation of a run, as a program of its own on one device.

Rounds may be spread over devices.  Each of them would evaluate everything, and all would share the
threads of the machine.
"""

from typing import Any

import jax
import numpy as np

from fjx._base import Metrics, Tree, TreeLike
from fjx.simulation._compile import Compiler, Once, on_first_device, place
from fjx.simulation._evaluate import evaluated
from fjx.simulation._history import History
from fjx.simulation._nans import scored
from fjx.simulation._program import Evaluate, as_operand


class Scores:
    """The evaluation ``(params) -> scores`` of a run, compiled; no scores without an evaluation.

    Attributes:
        like: shapes of the scores.
    """

    def __init__(self, evaluate: Evaluate | None, params: TreeLike, compile: Compiler) -> None:
        self.like: Any = {}
        self._program: Any = None
        if evaluate is not None:
            function, operand = getattr(evaluate, "func", evaluate), as_operand(evaluate)
            once = Once.of(function, "scores", lambda: jax.jit(_scores, keep_unused=True))
            self._program, self.like = compile("evaluation", once, operand, params)
            on_operand, self._on_params = self._program.input_shardings[0]
            self._operand = place(operand, on_operand)

    def __call__(self, params: Tree) -> Metrics:
        if self._program is None:
            return {}
        params = place(on_first_device(params), self._on_params)
        return scored(self._program, self._operand, params)


def _scores(evaluate: Evaluate, params: Tree) -> Metrics:
    return evaluated(evaluate, params)


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


def before_first_round(scores: Scores, params: Tree, coming: History) -> History:
    """History of no round and of one evaluation, in the form of the history of a block."""
    rounds = jax.tree.map(lambda x: np.zeros((0, *x.shape[1:]), x.dtype), coming.rounds)
    return with_scores(rounds, jax.device_get(scores(params)), np.int32(0))


def with_scores(rounds: Metrics, scores: Metrics, at: Any) -> History:
    """History of a block: its rounds, and one evaluation after ``at`` rounds."""
    return History(rounds, *jax.tree.map(lambda x: np.asarray(x)[None], (scores, at)))
