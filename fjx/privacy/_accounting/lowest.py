"""The lowest epsilon of some runs, by the methods and the accounts that apply."""

import itertools
import math

from fjx.privacy._accounting.claim import Method
from fjx.privacy._accounting.losses import pld_epsilon
from fjx.privacy._accounting.releases import Run
from fjx.privacy._accounting.renyi import renyi_epsilon
from fjx.privacy._types import Relation

_STEPS = 100  # of the iteration towards a fixed point


def lowest(
    runs: tuple[Run, ...], delta: float, method: Method, relation: Relation, grid: float | None
) -> tuple[float, Method, tuple[Run, ...]]:
    """Lowest epsilon by a method, or by either, with the method and the account that gave it."""
    accounts = [runs]
    if any(run.otherwise for run in runs):
        accounts.append(tuple(run.otherwise or run for run in runs))
    methods: tuple[Method, ...] = ("pld", "rdp") if method == "best" else (method,)
    refused: list[ValueError] = []
    found: list[tuple[float, Method, tuple[Run, ...]]] = []
    for account, each in itertools.product(accounts, methods):
        spendable = delta - sum(run.slack for run in account)
        try:
            found.append((_by(each, account, spendable, relation, grid), each, account))
        except ValueError as error:
            refused.append(error)
    if found:
        return min(found, key=lambda one: one[0])
    if method != "best":
        raise refused[-1]
    raise ValueError("neither method applies: " + "; ".join(map(str, refused)))


def _by(
    method: Method, runs: tuple[Run, ...], delta: float, relation: Relation, grid: float | None
) -> float:
    def of(spendable: float) -> float:
        if spendable <= 0:
            return math.inf
        if method == "rdp":
            return renyi_epsilon(runs, spendable, relation)
        return pld_epsilon(runs, spendable, relation, grid)

    distance = sum(run.distance for run in runs)
    if not distance:
        return of(delta)
    # The iteration climbs from below to the least epsilon = of(delta - (1 + e^epsilon) t), which need
    # not exist.  If that takes too many steps, inf is a claim that holds as well.
    value, paid = 0.0, math.inf
    for _ in range(_STEPS):
        spendable = delta - (1 + math.exp(min(value, 700.0))) * distance
        if spendable == paid:  # the charge is lost in the rounding of delta
            return value
        before, value, paid = value, of(spendable), spendable
        if value <= before:
            return before
    return math.inf
