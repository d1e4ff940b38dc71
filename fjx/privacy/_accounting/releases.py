"""Releases of a run about one client: the event, its count, and the sampling that amplifies it."""

import math
from typing import Any, NamedTuple

from fjx import _validate
from fjx.privacy._accounting.places import hidden
from fjx.privacy._types import (
    Accountable,
    DistributedMechanism,
    Mechanism,
    Participation,
    Places,
)
from fjx.samplers._types import (
    BallsInBins,
    Cyclic,
    CyclicPoisson,
    FixedSize,
    Full,
    MinSeparated,
    Poisson,
    Sampler,
    Scheduled,
)

Chance = Poisson | FixedSize | BallsInBins


class Release(NamedTuple):
    """One look at the clients' data.

    Attributes:
        once: event of a sum that moves by one client's largest contribution (the client is added or
            removed).
        twice: event of a sum that moves by twice as much (the client's data are replaced).
        amplified_by: the random sampling that hides a client (``Poisson``, ``FixedSize`` or
            ``BallsInBins``), or None.
        num_clients: population size N, if it is known.
    """

    once: Any
    twice: Any
    amplified_by: Chance | None
    num_clients: int | None


class Run(NamedTuple):
    """Rounds of one mechanism on the cohorts of one sampler.

    Attributes:
        release: the release.
        times: number of such releases of one client's data.
        rounds: number of rounds.
        slack: part of delta that is paid for cohorts that do not fit.
        words: the sampling, in words.
        zero_out: true if an absent client is accounted as one whose update is zero.
        whole: the reasons why the run cannot be cut in two; its phases are then not separate releases.
        distance: total variation between all draws of the run and those of its releases.
        otherwise: another account of the same rounds that holds as well, or None.
        assumes: what the claim assumes of floats, in words; empty if it assumes nothing.
    """

    release: Release
    times: int
    rounds: int
    slack: float
    words: str
    zero_out: bool
    whole: frozenset[str] = frozenset()
    distance: float = 0.0
    otherwise: "Run | None" = None
    assumes: str = ""


def participation(sampler: Sampler, *, rounds: int) -> Participation:
    """Limits on how often one client may take part in a run, whatever the random draws are.

    Mechanisms with correlated noise are calibrated to these limits, and the limits amplify nothing.
    Poisson and fixed-size samplers promise nothing: they may draw a client in every round.

    Args:
        sampler: the sampler that draws the cohorts.
        rounds: number of rounds of the run, at least 0.

    Returns:
        A :class:`Participation`.

    Raises:
        TypeError: ``rounds`` is not an integer, or the sampler's description is unknown.
        ValueError: ``rounds`` is negative.

    Examples:
        >>> from fjx import samplers
        >>> participation(samplers.cyclic(10), rounds=25)
        Participation(rounds=25, separation=10, most=3)
        >>> participation(samplers.poisson(0.01), rounds=25)
        Participation(rounds=25, separation=1, most=25)
    """
    require_sampler(sampler)
    rounds = _validate.static_integer("rounds", rounds, at_least=0)
    match sampler.subsampling:
        case Full() | Poisson() | FixedSize():
            separation, most = 1, rounds
        case Cyclic(period) | CyclicPoisson(period) | BallsInBins(period):
            separation, most = period, rounds
        case Scheduled(_, separation) | MinSeparated(separation) as schedule:
            most = schedule.most(rounds)
        case unknown:
            raise TypeError(
                f"a sampler with subsampling {unknown!r} cannot be accounted: only chance that does "
                "not depend on the clients amplifies privacy.  If a client takes part in no more than "
                "k rounds, say so: sampler._replace(subsampling=samplers.Scheduled('what ran', "
                "separation=1, most=lambda rounds: k)), or account k rounds of samplers.full()"
            )
    return Participation(rounds, separation, min(most, math.ceil(rounds / separation)))


def run_of(
    mechanism: Accountable, sampler: Sampler, rounds: int, num_clients: int | None = None
) -> Run:
    """Run that some rounds of a mechanism on a sampler's cohorts release.

    Without amplification, fix first which clients take part.  That depends on nobody's data, so a claim
    that holds for each outcome holds on average, and cohorts that do not fit cost nothing.

    Raises:
        TypeError: an argument is of another kind, or the sampler's description is unknown.
        ValueError: a number is out of range; or clients add the noise, and cohorts have a random size.
    """
    if not isinstance(mechanism, Accountable):
        raise TypeError(
            "mechanism must have noise_multiplier, sensitivity, event and correlation, as a "
            f"fjx.privacy.Mechanism has, got {mechanism!r}"
        )
    fixed = isinstance(sampler.subsampling, Full | Cyclic | FixedSize | Scheduled | MinSeparated)
    if isinstance(mechanism, DistributedMechanism) and not fixed:
        raise ValueError(
            "a client that is not drawn adds no noise, so that noise which clients add cannot be "
            f"accounted on cohorts of random size, {words_of(sampler.subsampling, num_clients)}; "
            "sample with samplers.uniform, under relation='replace_one'"
        )
    often = participation(sampler, rounds=rounds)
    num_clients = None if num_clients is None else int(num_clients)
    subsampling = sampler.subsampling
    words = words_of(subsampling, num_clients)
    whole = frozenset(
        what
        for what, there in {
            "correlated noise": mechanism.correlation is not None,
            "balls in bins": isinstance(subsampling, BallsInBins),
            "a schedule": isinstance(subsampling, Scheduled | MinSeparated),
        }.items()
        if there and rounds
    )

    def released(count: int, moves: float, amplified_by: Chance | None, words: str) -> Run:
        once, twice = (mechanism.event(moves * times) for times in (1.0, 2.0))
        release = Release(once, twice, amplified_by, num_clients)
        slack = count * getattr(amplified_by, "overflow", 0.0)
        # In rounds without the client, its neighbour's draws are the same, ideal or not.
        distance = often.most * max(getattr(event, "distance", 0.0) for event in (once, twice))
        # A later round's correlated noise depends on the draws of all rounds.
        draws = often.most if mechanism.correlation is None else often.rounds
        distance += draws * getattr(mechanism, "distance", 0.0)
        zero_out = amplified_by is None
        assumes = assumes_of_floats(mechanism)
        return Run(
            release, count, often.rounds, slack, words, zero_out, whole, distance, assumes=assumes
        )

    def in_places(places: Places, overflow: float, times: int) -> Run | None:
        found = hidden(mechanism, places)
        if found is None:
            return None
        run = released(times, found[1], BallsInBins(found[0], overflow), words)
        return run._replace(slack=often.rounds * overflow)  # the others must fit in every round

    if mechanism.correlation is not None and often.most > 0:
        chance = isinstance(subsampling, Chance | CyclicPoisson | MinSeparated)
        not_amplified = f"{words}, not amplified" if chance else words
        once = released(1, float(mechanism.correlation(often)), None, not_amplified)
        in_turns = (
            mechanism.turn(often) if isinstance(mechanism, Mechanism) and mechanism.turn else 0.0
        )
        run: Run | None = None
        match subsampling:
            case Poisson() | FixedSize() if in_turns:
                run = released(often.most, in_turns, subsampling, words)
            case CyclicPoisson(_, rate, overflow) if in_turns:
                run = released(often.most, in_turns, Poisson(rate, None, overflow), words)
                run = run._replace(zero_out=True)
            case BallsInBins(bins, overflow):
                run = in_places(Places(rounds, bins, bins, 1, kept=True), overflow, 1)
            case MinSeparated(_, period, overflow):
                places = Places(rounds, period, subsampling.places, 1, kept=False)
                run = in_places(places, overflow, often.most)
        return once if run is None else run._replace(otherwise=once)
    match subsampling:
        case Poisson() | FixedSize():
            return released(often.most, 1.0, subsampling, words)
        case CyclicPoisson(_, rate, overflow):
            # Blocks are by id, so adding or removing a client leaves the others in their blocks.
            run = released(often.most, 1.0, Poisson(rate, None, overflow), words)
            return run._replace(zero_out=True)
        case BallsInBins() if often.most > 0:
            # All rounds of a bin are one release; the other clients of a bin must fit in every round.
            run = released(1, often.most**0.5, subsampling, words)
            return run._replace(slack=often.rounds * subsampling.overflow)
        case MinSeparated(_, period, overflow):
            certain = released(often.most, 1.0, None, f"{words}, not amplified")
            places = Places(rounds, period, subsampling.places, 1, kept=False)
            hides = not isinstance(mechanism, DistributedMechanism) and often.most > 0
            run = in_places(places, overflow, often.most) if hides else None
            return certain if run is None else run._replace(otherwise=certain)
    return released(often.most, 1.0, None, words)


def assumes_of_floats(mechanism: Accountable) -> str:
    """What a claim assumes of floats, in words; empty if sums and noise are integers."""
    if isinstance(mechanism, DistributedMechanism):
        return ""
    if getattr(mechanism, "to_steps", None) is None:
        return (
            "The claim is that of real-valued sums and noise: floats round, and their last bits may "
            "leak more"
        )
    if mechanism.correlation is not None:
        return "The recursion of correlated noise is accounted as exact, and is computed in float32"
    return ""


def words_of(subsampling: Any, num_clients: int | None) -> str:
    """Sampling in words."""
    of = "" if num_clients is None else f" of {num_clients}"
    match subsampling:
        case Full():
            return "every client in every round"
        case Cyclic(period):
            return f"every client once in {period} rounds"
        case FixedSize(size):
            return f"fixed size {size}{of}"
        case Poisson(rate, cap=None):
            return f"Poisson rate {rate:.4g}"
        case Poisson(rate, cap):
            return f"Poisson rate {rate:.4g}{of} truncated to {cap}"
        case CyclicPoisson(period, rate):
            return f"Poisson rate {rate:.4g} in one of {period} blocks by turns"
        case BallsInBins(bins):
            return f"one random bin of {bins}, by turns"
        case MinSeparated(separation, period):
            return f"once in {period} rounds, {separation} rounds or more apart"
    return f"{subsampling.words}, not amplified"


def require_sampler(sampler: object) -> None:
    """Raise unless the argument is a sampler.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(sampler, Sampler):
        raise TypeError(f"sampler must be a fjx Sampler, got {sampler!r}")
