"""Plans: sampler, noise, aggregator and claim of a private run from one description."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fjx import _validate
from fjx._base import STACK, Aggregator, Algorithm
from fjx.aggregators import private
from fjx.privacy._accounting.calibrate import noise_multiplier_for
from fjx.privacy._accounting.caveats import told_beside
from fjx.privacy._accounting.claim import Epsilon, Method, Unit
from fjx.privacy._accounting.epsilon import relation_of
from fjx.privacy._accounting.releases import require_sampler
from fjx.privacy._accounting.report import Report
from fjx.privacy._accounting.report import report as report_of
from fjx.privacy._accounting.server import against_server
from fjx.privacy._accounting.terms import Accounting
from fjx.privacy._mechanisms.gaussian import gaussian
from fjx.privacy._types import Accountable, Relation
from fjx.samplers import poisson
from fjx.samplers._slots import OVERFLOW
from fjx.samplers._types import (
    BallsInBins,
    Cyclic,
    CyclicPoisson,
    FixedSize,
    Full,
    MinSeparated,
    Poisson,
    Sampler,
)


class Claimed(NamedTuple):
    """The epsilon of a plan, and the parts from which it was computed.

    Attributes:
        epsilon: the claim.
        of: ``(mechanism, sampler, rounds, accounting, protocol)`` of the plan.
    """

    epsilon: Epsilon
    of: tuple[Any, ...]


class Plan(NamedTuple):
    """Decisions before a private run, and the claim that follows; made by :func:`plan`.

    Give ``aggregator`` to :func:`fjx.compose` or to a recipe, and ``sampler`` to :func:`fjx.simulate`.
    Give the plan itself to ``simulate`` as well: it then refuses to run anything else.

    Attributes:
        mechanism: the mechanism that bounds and noises the sum.
        sampler: the sampler that draws the cohorts.
        aggregator: the private sum over ``denominator``.
        denominator: the expected cohort, a public number.
        rounds: the largest number of rounds that may be run.
        accounting: the terms of the claim.
        claimed: the claim that was computed when the plan was made; read :attr:`claim`.
        protocol: the protocol of the secure sums for which the claim says what the server sees, or None.
    """

    mechanism: Any
    sampler: Sampler
    aggregator: Aggregator
    denominator: float
    rounds: int
    accounting: Accounting
    claimed: Claimed
    protocol: Any = None

    @property
    def claim(self) -> Epsilon:
        """The epsilon of all ``rounds``, which is computed again once ``_replace`` exchanged a part."""
        return self.epsilon(self.rounds)

    def epsilon(self, rounds: int) -> Epsilon:
        """Claim for the first ``rounds`` rounds."""
        mechanism, sampler, *others = self.claimed.of
        same = mechanism is self.mechanism and sampler is self.sampler
        if same and others == [rounds, self.accounting, self.protocol]:
            return self.claimed.epsilon
        return _claim(self.mechanism, self.sampler, rounds, self.accounting, self.protocol)

    def report(self, *, points: int = 8) -> Report:
        """Report of epsilon against rounds; see :func:`fjx.privacy.report`."""
        return report_of(
            self.mechanism,
            self.sampler,
            rounds=self.rounds,
            points=points,
            **self.accounting._asdict(),
        )

    def check(
        self,
        algorithm: Algorithm,
        sampler: Sampler,
        *,
        num_clients: int,
        rounds: int,
        sizes: np.ndarray | None = None,
    ) -> None:
        """Refuse a run that differs from the plan.

        The aggregator is compared by identity, because nothing is known of one that goes around it.  An
        algorithm whose ``round`` or ``aggregator`` was replaced is refused, unless its author says what
        the new round runs.  A sampler is compared by its description and by the factory that made its
        functions; :func:`fjx.samplers.dropout` of the plan's sampler is accepted.  If examples are
        protected, delta must be below one over their number, the sum of ``sizes``.

        Raises:
            ValueError: a part differs; the message names it, and the remedy.
        """
        if algorithm.aggregator is not self.aggregator:
            raise ValueError(
                "the algorithm's aggregator is not the plan's, so its noise is not what was planned: "
                "compose with aggregator=plan.aggregator.  If another goes around it, make the plan "
                "with plan(..., aggregator=lambda mechanism, denominator: ...)"
            )
        if not algorithm.runs_its_aggregator:
            raise ValueError(
                "the algorithm's round or aggregator was replaced, so it is not known what the round "
                "runs: compose with aggregator=plan.aggregator.  If a new round runs it, say so by "
                "_replace(round=new, runs=fjx.Runs(plan.aggregator, new))"
            )
        _require_once(self.mechanism, self.aggregator)
        planned_clients = self.accounting.num_clients
        if num_clients != planned_clients:
            raise ValueError(
                f"the dataset has {num_clients} clients, and {planned_clients} were planned: "
                f"plan with num_clients={num_clients}"
            )
        require_planned(sampler, self.sampler, rounds, self.rounds)
        if self.accounting.unit == "example" and sizes is not None:
            require_delta(self.accounting.delta, "the number of examples", int(np.sum(sizes)))


def plan(
    *,
    num_clients: int,
    num_examples: int | None = None,
    rounds: int,
    delta: float,
    clip_norm: Any = None,
    epsilon: float | None = None,
    noise_multiplier: float | None = None,
    cohort_size: float | None = None,
    sampler: Sampler | None = None,
    mechanism: Callable[[float], Accountable] | None = None,
    aggregator: Callable[[Any, float], Aggregator] | None = None,
    relation: Relation | None = None,
    unit: Unit = "client",
    method: Method = "pld",
    protocol: Any = None,
) -> Plan:
    """Plan of a private run: sampler, bound, noise, aggregator and claim from one description.

    Parts that are made together cannot contradict one another.

    Guarantees:
        - The denominator is the expected cohort, and no weight or count of a round.
        - The sampling that is accounted is that of the sampler that draws.
        - The noise is calibrated for the rounds, the relation and the method of the claim.

    Args:
        num_clients: population size N, which counts as public.
        num_examples: number of examples of all clients, for ``unit="example"``.  If it is None,
            :func:`fjx.simulate` reads it from the dataset.
        rounds: largest number of rounds that may be run.
        delta: delta of the claim, below ``1 / num_clients``, and for ``unit="example"`` below one over
            the number of examples.
        clip_norm: clip norm C, or a :class:`~fjx.privacy.Bound`, of :func:`fjx.privacy.gaussian`; not
            with ``mechanism``.
        epsilon: target epsilon, to which the noise is calibrated; not with ``noise_multiplier``.
        noise_multiplier: noise multiplier z; not with ``epsilon``.
        cohort_size: expected number of clients of a round.  Without a ``sampler``, cohorts are drawn by
            ``samplers.poisson(cohort_size / num_clients)``.  With a ``sampler`` it may be left out if
            the sampler's description gives it.
        sampler: sampler that draws the cohorts.
        mechanism: ``(z) -> mechanism``, for a mechanism other than :func:`fjx.privacy.gaussian`.
        aggregator: ``(mechanism, denominator) -> Aggregator``, by default
            :func:`fjx.aggregators.private`.  Wrappers of the private sum may transform messages before
            it and results after it (``aggregators.rotated``).  The aggregator's ``mechanisms`` must be
            this mechanism, once, and nothing else.
        relation: relation between neighbouring populations; None for the one that suits the sampler and
            the unit.
        unit: unit of protection, ``"client"`` or ``"example"``.  If an example comes or goes, it
            *replaces* the message of its client, so examples are claimed under replace-one.  For
            clients that bound and noise examples one by one, see :func:`fjx.plan_examples`.
        method: method of accounting; see :func:`fjx.privacy.epsilon`.
        protocol: protocol of the secure sums, such as ``secure.secagg_plus()``.  The claim then says if
            it holds against the server as well.

    Returns:
        A :class:`Plan`.

    Raises:
        TypeError: an argument is of another kind, or traced.
        ValueError: an argument is out of bounds; both or neither of two alternatives are given; or as in
            :func:`fjx.privacy.epsilon`.

    Examples:
        >>> p = plan(num_clients=10_000, cohort_size=100, rounds=500, delta=1e-5, epsilon=3.0,
        ...          clip_norm=1.0, method="rdp")
        >>> p.claim <= 3.0, p.denominator
        (True, 100.0)
        >>> print(p.claim)
        epsilon = 3.000 at delta = 1e-05
        (client-level, add-or-remove-one, Poisson rate 0.01, 500 rounds, RDP). Covers ...
    """
    num_clients = _validate.static_integer("num_clients", num_clients, at_least=1)
    rounds = _validate.static_integer("rounds", rounds, at_least=1)
    delta = _validate.static_number("delta", delta, above=0, below=1)
    require_delta(delta, "num_clients", num_clients)
    if num_examples is not None:
        num_examples = _validate.static_integer("num_examples", num_examples, at_least=1)
        require_delta(delta, "num_examples", num_examples)
    one_of("epsilon", epsilon, "noise_multiplier", noise_multiplier)
    one_of("clip_norm", clip_norm, "mechanism", mechanism)
    sampler, denominator = sampler_of(
        sampler, cohort_size, num_clients, overflow=_overflow(delta, rounds)
    )
    make: Callable[[float], Any] = mechanism or (
        lambda z: gaussian(clip_norm=clip_norm, noise_multiplier=z)
    )
    if num_examples is not None and unit != "example":
        raise ValueError(f'num_examples is for unit="example", got unit={unit!r}')
    terms = Accounting(delta, method, relation_of(relation, unit), unit, num_clients)
    if noise_multiplier is None:
        assert epsilon is not None
        noise_multiplier = noise_multiplier_for(
            epsilon, sampler, terms._replace(unit="client"), rounds=rounds, mechanism=make
        )
    made = make(noise_multiplier)
    claim = _claim(made, sampler, rounds, terms, protocol)
    if aggregator is None:
        aggregator = private
    built = aggregator(made, denominator)
    _require_once(made, built)
    terms = terms._replace(relation=claim.relation)
    return Plan(
        mechanism=made,
        sampler=sampler,
        aggregator=built,
        denominator=denominator,
        rounds=rounds,
        accounting=terms,
        claimed=Claimed(claim, (made, sampler, rounds, terms, protocol)),
        protocol=protocol,
    )


def _claim(
    mechanism: Accountable, sampler: Sampler, rounds: int, terms: Accounting, protocol: Any
) -> Epsilon:
    claim = terms.epsilon(mechanism, sampler, rounds=rounds).but(*told_beside(mechanism))
    if protocol is not None:
        known = terms.num_clients
        claim = claim.but(against_server(mechanism, sampler, protocol, num_clients=known))
    if terms.unit == "client":
        return claim
    return claim.but("delta should be well below one over the number of all examples")


def require_delta(delta: float, words: str, number: int) -> None:
    """Raise unless delta is below one over the number of protected units."""
    if delta >= 1 / number:
        raise ValueError(
            f"delta must be below 1 / {words} = {1 / number:.2g}, got {delta!r}: else the claim would "
            "allow the data of one of them to be published"
        )


def require_planned(drawn: Sampler, planned: Sampler, rounds: int, most: int) -> None:
    """Raise unless cohorts are drawn as planned, in no more rounds than planned."""
    drawn, planned = _without_dropouts(drawn), _without_dropouts(planned)
    # As tuples, Cyclic(3) and FixedSize(3) are equal.
    if (type(drawn.subsampling), drawn.subsampling) != (
        type(planned.subsampling),
        planned.subsampling,
    ):
        raise ValueError(
            f"the sampler is {drawn.subsampling}, and {planned.subsampling} was planned: "
            "pass sampler=plan.sampler, or plan with this one"
        )
    if not all(map(_alike, drawn[:2], planned[:2])):
        raise ValueError(
            f"the sampler is described as {drawn.subsampling}, as planned, and draws by other "
            "functions: pass sampler=plan.sampler, or plan with this one"
        )
    if rounds > most:
        raise ValueError(
            f"{rounds} rounds are asked for, those of a checkpoint included, and {most} "
            f"were planned: ask for at most as many, or plan with rounds={rounds}"
        )


def _without_dropouts(sampler: Sampler) -> Sampler:
    return sampler if sampler.inner is None else _without_dropouts(sampler.inner)


def _alike(function: Any, other: Any) -> bool:
    """True for one function, and for those that one factory has made with equal descriptions."""
    code = getattr(function, "__code__", None)
    return function is other or (code is not None and code is getattr(other, "__code__", None))


def _require_once(mechanism: object, aggregator: Aggregator) -> None:
    """Raise ValueError unless the result is one release of the mechanism, and nothing else."""
    if not isinstance(aggregator, Aggregator):
        raise TypeError(f"aggregator must make a fjx.Aggregator, got {aggregator!r}")
    releases = aggregator.mechanisms
    if len(releases) == 1 and releases[0] is mechanism:
        return
    if aggregator.combine is STACK and not releases:
        raise ValueError(
            "aggregator made one that stacks messages: a robust rule is no sum, so the noise of a sum "
            "does not cover what one client changes in its result, and the claim is for one release of "
            "the plan's mechanism.  The private sum bounds each message by clip_norm, which is a "
            "defence too; aggregators.norm_bounding around it makes the bound smaller"
        )
    if not releases:
        found = (
            "that does not claim that all of its result is noised, or lost the claim by _replace"
        )
    elif len(releases) == 1:
        found = "that releases another mechanism than the one it was given"
    else:
        found = (
            f"that releases {len(releases)} results of the same cohort, each of which costs privacy"
        )
    raise ValueError(
        f"aggregator made one {found}, and the claim is for one release of the plan's mechanism: put "
        "aggregators.private(mechanism, denominator) around the whole message, inside what transforms "
        "it; several fields are accounted as one gaussian, see aggregators.private, and without a plan. "
        "An aggregator of your own that adds the mechanism's noise claims so by aggregators.releasing"
    )


def _overflow(delta: float, rounds: int) -> float:
    """Probability of a cohort that does not fit: a thousandth of delta pays for all rounds."""
    return min(OVERFLOW, max(1e-3 * delta / rounds, 1e-250))


def sampler_of(
    sampler: Sampler | None,
    cohort_size: float | None,
    num_clients: int,
    *,
    overflow: float = OVERFLOW,
) -> tuple[Sampler, float]:
    """Sampler, and the number of clients that a round is expected to have."""
    if cohort_size is not None:
        cohort_size = _validate.static_number(
            "cohort_size", cohort_size, above=0, at_most=num_clients
        )
    if sampler is None:
        if cohort_size is None:
            raise ValueError(
                "give cohort_size, the expected number of clients of a round, or a sampler"
            )
        return poisson(cohort_size / num_clients, overflow=overflow), cohort_size
    require_sampler(sampler)
    match sampler.subsampling:
        case Full():
            expected: float | None = num_clients
        case FixedSize(size):
            expected = size
        case Poisson(rate):
            expected = rate * num_clients
        case Cyclic(period) | BallsInBins(period) | MinSeparated(_, period):
            expected = num_clients / period
        case CyclicPoisson(period, rate):
            expected = rate * num_clients / period
        case _:
            expected = None
    cohort_size = expected if cohort_size is None else cohort_size
    if cohort_size is None:
        raise ValueError(
            "cohort_size is needed, the number of clients that a round is expected to have: "
            f"{sampler.subsampling} does not say it"
        )
    return sampler, float(cohort_size)


def one_of(name: str, value: object, other: str, alternative: object) -> None:
    if (value is None) == (alternative is None):
        got = "neither" if value is None else "both"
        raise ValueError(f"give either {name} or {other}, got {got}")
