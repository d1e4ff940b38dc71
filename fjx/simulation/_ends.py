"""Ends of a run: what is not finite, what that may stop, and what a claim says of the end."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Tree
from fjx._plan import Plan
from fjx._plan_examples import ExamplesPlan
from fjx.privacy import Epsilon
from fjx.rounds._metrics import UNNOISED, metric_of
from fjx.simulation._history import History, first_round
from fjx.simulation._program import Evaluate, as_operand

Stop = Callable[[Mapping[str, Any]], bool]
"""A function of the scores of an evaluation that returns True to end the run."""


def ends(block: History) -> bool:
    """True if a run whose newest reports these are has diverged, judged by what it may look at.

    A run with noise looks at its models alone: losses, counts and scores have none, so an end that
    depends on them would tell of clients what no epsilon covers.
    """
    noised = any(name.startswith(UNNOISED) for name in block.rounds)
    return diverged_at(block, models=noised) is not None


def diverged_at(history: History, *, models: bool = False) -> int | None:
    """Number of the first round after which something is not finite; None if all is finite.

    Broken are a model that is not finite; a round in which clients failed and none counted; a loss that
    is not finite although some counted; and a score without any finite value.  Scores of the initial
    model are those of no round, and a ratio of nothing may be NaN there.

    Args:
        history: reports of some rounds; the numbers are those within the history.
        models: True to look at the models alone.
    """
    finite = np.asarray(history.rounds["finite"])
    broken = ~finite
    at = []
    if not models:
        failed, came, loss = (
            np.asarray(metric_of(history.rounds, name))
            for name in ("nonfinite", "participants", "loss")
        )
        broken = broken | ((failed > 0) & (came == 0))
        if loss.dtype != object:  # some clients report none
            broken = broken | (~np.isfinite(loss) & (came > 0))
        after = np.asarray(history.evaluated_at) - (first_round(history) - 1)
        missing = [_without_value(scores) for scores in history.evaluations.values()]
        at = [after[without & (after > 0)] for without in missing]
    found = np.concatenate([np.flatnonzero(broken) + 1, *at])
    return int(found.min()) if found.size else None


def _without_value(scores: Any) -> np.ndarray:
    """By evaluation: True if a score has no finite value; a gap for a client alone is none."""
    scores = np.asarray(scores)
    values = scores.reshape(len(scores), -1).astype(np.float64)
    return (values.shape[1] > 0) & ~np.isfinite(values).any(axis=1)


def require_public_scores(evaluate: Evaluate | None, arrays: Tree) -> None:
    """Raise unless ``stop`` may read the scores, as far as can be seen.

    Raises:
        ValueError: the evaluation holds the clients' own examples.
    """
    read, own = (jax.tree.leaves(tree) for tree in (as_operand(evaluate), arrays))
    if any(_is_same(x, y) for x in read for y in own):
        raise ValueError(
            "stop reads scores of the clients' own examples, which have no noise, so the end of the run "
            "would tell of them what no epsilon covers: evaluate public examples, or leave stop out"
        )


def _is_same(x: Any, y: Any) -> bool:
    alike = (np.shape(x), jnp.result_type(x)) == (np.shape(y), jnp.result_type(y))
    return x is y or (alike and np.array_equal(x, y))


def claim(
    plan: Plan | ExamplesPlan, asked: int, done: int, stopped: str, stop: Stop | None
) -> Epsilon:
    """Claim of a plan for a run of ``asked`` rounds that ended after ``done``.

    An end that was chosen while the run went on is a function of what it released.  The claim is then
    that of all rounds that the run might have had.  So is that of a run which is resumed with fewer
    rounds than it was begun with.
    """
    covered = plan.epsilon(asked)
    if stopped != "finished" or done < asked:
        why = {
            "finished": "Fewer rounds were asked for in the end, and the run ended",
            "early": "stop ended the run",
            "diverged": "The run ended",
            "interrupted": "Somebody ended the run",
        }[stopped]
        covered = covered.but(
            f"{why} after {done} rounds, a number that may depend on the models: this is the epsilon of "
            f"the {asked} rounds that it could have had"
        )
    if stop is not None:
        covered = covered.but(
            "It holds only if the scores that stop reads are of the models and public examples: no "
            "epsilon covers a stop that reads scores of clients' data without noise"
        )
    if stopped == "interrupted":
        covered = covered.but(
            "It holds only if nobody saw losses and counts of clients before that"
        )
    return covered
