"""Sentences that a reader should be told beside an epsilon, because of the runs that it is of."""

import math

from fjx.privacy._accounting.claim import APART, COVERS, INTEGERS
from fjx.privacy._accounting.releases import Run, assumes_of_floats
from fjx.privacy._types import Accountable, Relation
from fjx.samplers._types import FixedSize, Poisson


def told_beside(mechanism: Accountable) -> tuple[str, ...]:
    """Sentences that belong to every claim for a run of a mechanism.

    An epsilon says by itself what it assumes of floats, if it assumes anything.
    """
    return (COVERS, APART) if assumes_of_floats(mechanism) else (COVERS, APART, INTEGERS)


def caveats_of(runs: tuple[Run, ...], value: float, delta: float, relation: Relation) -> list[str]:
    """The assumptions of the runs, and the parts of delta that are not spent on their noise."""
    caveats = sorted(
        {words for run in runs if (words := getattr(run.release.once, "caveat", ""))}
        | {run.assumes for run in runs if run.assumes}
    )
    distance = sum(run.distance for run in runs)
    slack = sum(run.slack for run in runs)
    if distance and slack < delta and (1 + math.exp(min(value, 700.0))) * distance > delta / 100:
        caveats.append(
            f"Tables of integer noise are up to {distance:.2g} from their law in total variation, and "
            "(1 + e^epsilon) times that is taken from delta: fewer rounds or more noise make it less"
        )
    if slack > delta / 100:
        caveats.append(
            f"{slack:.2g} of delta is paid for cohorts that do not fit: sample with a smaller overflow, "
            f"such as samplers.poisson(rate, overflow={_smaller(runs, delta):.0e})"
        )
    num_clients = max((run.release.num_clients or 0 for run in runs), default=0)
    if num_clients and delta >= 1 / num_clients:
        caveats.append(
            f"delta is not below 1 / num_clients = {1 / num_clients:.2g}: such a claim allows one "
            "client's data to be published"
        )
    if relation == "add_or_remove_one" and any(run.zero_out for run in runs):
        caveats.append("An absent client counts as one whose update is zero")
    if any(_crowds_out(run.release.amplified_by) for run in runs):
        caveats.append(
            "Proved for clients that remember nothing between rounds.  For clients with a state (error "
            "feedback, SCAFFOLD) it is not proved that these cohorts amplify, because one client takes "
            "the place of another: draw Poisson cohorts, or account samplers.full()"
        )
    return caveats


def apart(keys: tuple[str | None, ...]) -> tuple[str, ...]:
    """The assumption on the keys of several runs, unless it was checked."""
    if len(keys) < 2 or None not in keys:
        return ()
    return (
        f"Assumes that each of the {len(keys)} runs had a key of its own: two runs from one key share "
        "their noise, and the difference of their models has none",
    )


def _crowds_out(sampling: object) -> bool:
    """True if drawing one client leaves no place for another."""
    return isinstance(sampling, FixedSize) or (
        isinstance(sampling, Poisson) and sampling.cap is not None
    )


def _smaller(runs: tuple[Run, ...], delta: float) -> float:
    """Probability of overflow in a round of which all rounds together take a thousandth of delta."""
    return max(1e-3 * delta / sum(run.rounds for run in runs if run.slack), 1e-60)
