"""Parts that a recipe cannot leave open, and the reason."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

from fjx import _validate
from fjx._base import Algorithm, Cohort, Executor, Key, Metrics, Runs, Tree

P = ParamSpec("P")

CODEC = "the codec of its messages is an argument of its own; give it as codec"
METHOD = (
    "the method is its own way of compressing, and the server adds what it sends as it is; for "
    "another codec or a private sum use algorithms.fedavg or fedsgd with uplink= and aggregator="
)
CORRECTED = (
    "its corrections follow messages that arrive as they are; for codecs use algorithms.fedcomloc"
)
GRADIENTS = (
    "its server takes the uniform mean of compressed messages; for another use algorithms.fedsgd or "
    "fedavg with uplink= and aggregator="
)
MEMORY = (
    "server or clients remember what was sent, and move their memories by its exact mean, which noise "
    "or another rule would make drift away; for privacy use algorithms.dp_fedavg, or fedavg with "
    "uplink= and aggregator="
)
TRUST = (
    "the server weighs each update by its angle with one of its own, without noise; for privacy use "
    "algorithms.dp_fedavg"
)
PRIVATE = (
    "its aggregator is that of its mechanism; for another use algorithms.fedavg with "
    "aggregator=aggregators.private(mechanism, denominator)"
)
ALIKE = "every client counts alike; for another rule use algorithms.fedavg with aggregator="
SERVERLESS = (
    "nodes talk to their neighbours, and there is no server that aggregates; for privacy use "
    "algorithms.dp_fedavg"
)

UNCOMPRESSED = (
    "models are sent as they are, because averages of compressed models do not converge; use "
    "algorithms.choco_sgd, which takes a codec"
)


def fixes(**reasons: str) -> Callable[[Callable[P, Algorithm]], Callable[P, Algorithm]]:
    """A recipe that refuses parts of :func:`fjx.compose` which its method fixes, with the reason.

    Args:
        **reasons: for each part, the reason and the remedy.
    """

    def around(recipe: Callable[P, Algorithm]) -> Callable[P, Algorithm]:
        @functools.wraps(recipe)
        def checked(*args: P.args, **kwargs: P.kwargs) -> Algorithm:
            given: dict[str, Any] = kwargs
            for part in reasons.keys() & given.keys():
                name = getattr(recipe, "__name__", "this recipe")
                raise TypeError(f"{name} takes no {part}: {reasons[part]}")
            return recipe(*args, **kwargs)

        return checked

    return around


def for_population(algorithm: Algorithm, check: Callable[[int], None]) -> Algorithm:
    """The same algorithm, whose round is refused when it is traced if it is one of a wrong population.

    Args:
        algorithm: algorithm of :func:`fjx.compose`.
        check: function of the number of all clients that raises ValueError.
    """

    def play(
        key: Key, state: Any, rows: Tree, cohort: Cohort, *, executor: Executor | None = None
    ) -> tuple[Any, Tree, Metrics]:
        population = cohort.population  # a number, unless the whole cohort is an argument of jit
        if _validate.concrete(population):
            check(int(population))
        return algorithm.round(key, state, rows, cohort, executor=executor)

    assert algorithm.aggregator is not None
    assert algorithm.runs is not None
    runs = Runs(algorithm.aggregator, play, algorithm.runs.client)
    return algorithm._replace(round=play, runs=runs)
