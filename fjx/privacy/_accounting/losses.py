"""Privacy loss distributions on a grid."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fjx.privacy._accounting.bins import bins_distribution
from fjx.privacy._accounting.profiles import (
    capped_poisson_distribution,
    fixed_size_distribution,
    has_profile,
)
from fjx.privacy._accounting.releases import Release, Run
from fjx.privacy._accounting.renyi import (
    fraction_of,
    known,
    neighbours,
    refusal_of_bins,
    unsampled,
    words_of_event,
)
from fjx.privacy._types import Relation, RenyiCurve
from fjx.samplers._types import BallsInBins, FixedSize, Poisson

_GRID = 1e-4  # step of the privacy loss, absolute for epsilon below 10 ..
_RELATIVE_GRID = 1e-5  # .. and relative above, so that large epsilons stay affordable
_ABOVE = 1 + 1e-9  # rounding errors of a closed form are less
_LEAST_NOISE = 0.05  # with less, bins are accounted as if they were known
_HOPELESS = 1e8  # above this Renyi divergence of order 2, epsilon is reported as inf


def pld_epsilon(runs: Sequence[Run], delta: float, relation: Relation, grid: float | None) -> float:
    """Epsilon of the runs' privacy loss distributions, convolved; 0 without runs.

    Raises:
        ValueError: a run has no such distribution; the message says what is possible instead.
    """
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    events = [(event_of(run.release, relation), run.times) for run in runs]
    for event, count in events:
        if callable(event):
            continue
        if not PLDAccountant(neighbours(relation), 1.0).supports(event):
            raise ValueError(
                f"no privacy loss distribution is known for {event} under relation={relation!r}; "
                "pass method='rdp', or another relation"
            )
        if count > 1 and _repeats_badly(event):
            raise ValueError(
                "dp-accounting's privacy loss distributions do not count how often a randomized "
                "response is repeated; pass method='rdp'"
            )
    events = [(event, count) for event, count in events if count]
    if not events:
        return 0.0
    size = sum(run.times * _divergence(run.release, relation) for run in runs if run.times)
    if not size <= _HOPELESS:
        return math.inf

    if all(isinstance(event, dp_accounting.GaussianDpEvent) for event, _ in events):
        # Together they are one Gaussian, whose epsilon has a closed form at any delta.
        moves = 2 if relation == "replace_one" else 1
        z = sum(count / event.noise_multiplier**2 for event, count in events) ** -0.5 / moves
        return _ABOVE * float(dp_accounting.get_epsilon_gaussian(z, delta)) + _ABOVE - 1

    def on(grid: float) -> float:
        accountant = PLDAccountant(neighbours(relation), grid)
        for event, count in events:
            if callable(event):
                # The accountant has no public way to take a distribution.
                accountant._pld = accountant._pld.compose(event(grid=grid).self_compose(count))
            else:
                accountant.compose(event, count)
        return float(accountant.get_epsilon(delta))

    if grid is not None:
        return on(grid)
    # Every grid gives an upper bound.  A coarse grid, at a hundredth of the cost, tells which one to
    # use.  The first grid cannot exhaust the memory, and is refined if it is far too coarse.
    grid = max(100 * _GRID, min(100.0, 1e-6 * size))
    while True:
        value = on(grid)
        finer = max(_GRID, _RELATIVE_GRID * value)
        if finer > grid / 2:
            return value
        grid = finer


def event_of(release: Release, relation: Relation) -> Any:
    """Event of one release, in the convention of dp-accounting's PLD, or a function of the grid.

    The function makes the distribution of one release, where dp-accounting has none or is slow.

    Raises:
        ValueError: there is none; the message says what is possible instead.
    """
    import dp_accounting

    # dp-accounting's PLD doubles the sensitivity of Gaussian noise under REPLACE_ONE itself.
    replace = relation == "replace_one"
    event = _one_gaussian(release.once)
    if replace and not isinstance(event, dp_accounting.GaussianDpEvent):
        event = _one_gaussian(release.twice)
    if isinstance(event, RenyiCurve):
        raise ValueError(
            f"{event.words} is described by a Renyi curve, and there is no privacy loss distribution "
            "of that; pass method='rdp'"
        )
    match release.amplified_by:
        case None:
            return event
        case FixedSize(size):
            moved = _one_gaussian(release.twice)
            rate = fraction_of(size, release.num_clients, relation)
            if not has_profile(moved):
                raise ValueError(
                    "cohorts of fixed size can be accounted by method='pld' for Gaussian and for "
                    f"Laplace noise only, got {words_of_event(moved)}; sample with samplers.poisson"
                )
            return functools.partial(fixed_size_distribution, moved, rate)
        case BallsInBins(bins):
            if replace or not isinstance(event, dp_accounting.GaussianDpEvent):
                raise ValueError(refusal_of_bins(relation, event))
            if event.noise_multiplier < _LEAST_NOISE or bins == 1:
                return event  # a mixture is no farther away than the farther of its parts
            return functools.partial(bins_distribution, bins, 1 / event.noise_multiplier)
        case Poisson(rate, cap=None):
            return dp_accounting.PoissonSampledDpEvent(rate, event)
        case Poisson(rate, int() as cap):
            if not isinstance(event, dp_accounting.GaussianDpEvent):
                raise ValueError(
                    "capped Poisson cohorts can be accounted for Gaussian noise and by method='pld' "
                    f"only, got {event}; sample without a cap"
                )
            return functools.partial(
                capped_poisson_distribution,
                event.noise_multiplier,
                rate=rate,
                cap=cap,
                num_clients=known(release.num_clients, "capped Poisson cohorts"),
                relation=relation,
            )


def _one_gaussian(event: Any) -> Any:
    """Merge Gaussian events of one cohort, 1/z^2 = sum 1/z_i^2; return other events unchanged."""
    import dp_accounting

    def precision(event: Any) -> float:
        match event:
            case dp_accounting.GaussianDpEvent(noise_multiplier=z):
                return z**-2 if z else math.inf
            case dp_accounting.SelfComposedDpEvent(event=inner, count=count):
                return count * precision(inner)
            case dp_accounting.ComposedDpEvent(events=parts):
                return sum(precision(part) for part in parts)
        return math.nan

    several = isinstance(event, dp_accounting.ComposedDpEvent | dp_accounting.SelfComposedDpEvent)
    total = precision(event) if several else math.nan
    return dp_accounting.GaussianDpEvent(total**-0.5) if total > 0 else event


def _repeats_badly(event: Any) -> bool:
    import dp_accounting

    match event:
        case dp_accounting.RandomizedResponseDpEvent():
            return True
        case dp_accounting.SelfComposedDpEvent(event=inner):
            return _repeats_badly(inner)
        case dp_accounting.ComposedDpEvent(events=parts):
            return any(_repeats_badly(part) for part in parts)
    return False


def _divergence(release: Release, relation: Relation) -> float:
    """Size of the privacy losses without sampling: the Renyi divergence of order 2."""
    event = release.twice if relation == "replace_one" else release.once
    try:
        return float(unsampled(event, relation)(np.array([2.0]))[0])
    except ValueError:
        return 0.0  # no Renyi bound is known; the usual grid is fine
