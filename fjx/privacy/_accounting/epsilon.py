"""Privacy accounting, on the host, for the mechanism and the sampler that were used.

dp-accounting does the arithmetic.  This package decides which of its events describes a round
(``_releases``), converts between its accountants' conventions (``_renyi``, ``_losses``), and refuses
what cannot be accounted.  A run is a pair {release: count}; nothing is composed round by round.
"""

import dataclasses
import math
from typing import get_args

from fjx import _validate
from fjx.privacy._accounting.claim import Epsilon, Method, Unit
from fjx.privacy._accounting.losses import pld_epsilon
from fjx.privacy._accounting.releases import Run, require_sampler, run_of
from fjx.privacy._accounting.renyi import renyi_epsilon
from fjx.privacy._types import Accountable, Relation, require_relation
from fjx.samplers._types import FixedSize, Sampler

_STEPS = 100  # towards a fixed point


@dataclasses.dataclass(frozen=True)
class Ledger:
    """What was released of one population: an immutable value, to which runs are added.

    Everything that was trained on the same clients belongs in one ledger: phases with other cohorts,
    other mechanisms, runs that were thrown away.  Nothing is computed before :meth:`epsilon`.

    Guarantees: the order of runs does not matter; a run that is no sum of its phases is not added in
        phases; runs of equal releases are one entry; a ledger of one
        run gives what :func:`fjx.privacy.epsilon` gives.

    Attributes:
        runs: the entries, each a release and how often it happened.

    Examples:
        >>> from fjx import privacy, samplers
        >>> warm = privacy.gaussian(clip_norm=1.0, noise_multiplier=4.0)
        >>> main = privacy.gaussian(clip_norm=1.0, noise_multiplier=2.0)
        >>> ledger = (
        ...     privacy.Ledger()
        ...     .add(warm, samplers.poisson(0.5), rounds=5)
        ...     .add(main, samplers.poisson(0.1), rounds=50))
        >>> print(ledger.epsilon(delta=1e-5))
        epsilon = 2.034 at delta = 1e-05
        (client-level, add-or-remove-one, Poisson rate 0.5, then Poisson rate 0.1, 55 rounds, PLD)
    """

    runs: tuple[Run, ...] = ()

    def add(
        self,
        mechanism: Accountable,
        sampler: Sampler,
        *,
        rounds: int,
        num_clients: int | None = None,
        restarted: bool = False,
    ) -> "Ledger":
        """The ledger with one run more.

        Some runs are no sum of their phases: the noise of a later phase depends on that of an earlier
        one, a client stays in its bin, a schedule goes on.  All rounds of such a run are one entry.  A
        second entry of the kind is accounted as a run of its own, which it must then have been.

        Args:
            mechanism, sampler, rounds, num_clients: as in :func:`fjx.privacy.epsilon`.
            restarted: that this run, with correlated noise, balls in bins or a schedule where the ledger
                has that already, began anew: at round 0, from a fresh state and with another key.

        Returns:
            The ledger.

        Raises:
            TypeError: as :func:`fjx.privacy.epsilon`.
            ValueError: as :func:`fjx.privacy.epsilon`, or the run may be a phase of one in the ledger.
        """
        require_sampler(sampler)
        rounds = _validate.static_integer("rounds", rounds, at_least=0)
        if num_clients is not None:
            _validate.integer("num_clients", num_clients, at_least=1)
        new = run_of(mechanism, sampler, rounds, num_clients)
        if not restarted:
            _require_apart(self.runs, new)
        runs = list(self.runs)
        for i, run in enumerate(runs):
            if (run.release, run.words) == (new.release, new.words):
                runs[i] = run._replace(
                    times=run.times + new.times,
                    rounds=run.rounds + new.rounds,
                    slack=run.slack + new.slack,
                    whole=run.whole | new.whole,
                    distance=run.distance + new.distance,
                )
                return Ledger(tuple(runs))
        return Ledger((*runs, new))

    def epsilon(
        self,
        *,
        delta: float,
        method: Method = "pld",
        relation: Relation | None = None,
        unit: Unit = "client",
        grid: float | None = None,
    ) -> Epsilon:
        """The epsilon of all runs together; the arguments are those of :func:`fjx.privacy.epsilon`."""
        _validate.number("delta", delta, above=0, below=1)
        _require_word("method", method, get_args(Method))
        _require_word("unit", unit, get_args(Unit))
        if grid is not None:
            _validate.number("grid", grid, above=0)
        relation = relation_of(relation, unit)
        if relation is None:
            fixed = any(isinstance(run.release.amplified_by, FixedSize) for run in self.runs)
            relation = "replace_one" if fixed else "add_or_remove_one"
        require_relation(relation)

        spendable = delta - sum(run.slack for run in self.runs)
        value, method = _lowest(self.runs, spendable, method, relation, grid)
        return Epsilon(
            value,
            delta=float(delta),
            unit=unit,
            relation=relation,
            sampling=", then ".join(run.words for run in self.runs) or "nothing was released",
            rounds=sum(run.rounds for run in self.runs),
            method=method,
            caveats=tuple(_caveats(self.runs, value, delta, relation)),
        )


def epsilon(
    mechanism: Accountable,
    sampler: Sampler,
    *,
    rounds: int,
    delta: float,
    method: Method = "pld",
    relation: Relation | None = None,
    num_clients: int | None = None,
    unit: Unit = "client",
    grid: float | None = None,
) -> Epsilon:
    r"""The epsilon of ``rounds`` rounds of ``mechanism`` on the cohorts of ``sampler``.

    The unit is the client: everything that one client id contributes to all rounds together.  What
    can be claimed depends on what ran:

    =========================  ===============================================================
    sampler                    accounted as
    =========================  ===============================================================
    ``poisson(q)``             the Poisson-subsampled mechanism; add-or-remove-one by default,
                               replace-one by PLD.  Pays delta for cohorts that do not fit, below.
    ``poisson(q, cap)``        the truncated one; PLD, ``num_clients`` required (the client in
                               question included).
    ``cyclic_poisson(p, q)``   ceil(rounds / p) rounds of ``poisson(q)``
    ``uniform(m)``             sampling without replacement; replace-one and RDP only,
                               ``num_clients`` required.
    ``balls_in_bins(b)``       a mixture of b Gaussians, of ceil(rounds / b) releases each; Gaussian
                               noise, add-or-remove-one and RDP only.
    ``full()``                 ``rounds`` releases, not amplified
    ``cyclic(p)``              ceil(rounds / p) releases, not amplified
    any other                  as many releases as it lets one client take part
                               (:func:`fjx.privacy.participation`), not amplified
    =========================  ===============================================================

    *Correlated noise* (``mechanism.correlation``).  The run is one release, of a sequence that a client
    moves by what its participation allows; no sampling amplifies it.

    *Noise described by a Renyi curve* is accounted by RDP: as the curve says without sampling, on
    Poisson cohorts by the bound for general mechanisms of Zhu and Wang at integer orders, on cohorts of
    fixed size by theorem 9 of Wang et al.

    *Units.*  A client that comes or goes moves the sum by C, one that is replaced by 2 C.  For
    replace-one dp-accounting's PLD doubles the sensitivity itself and its RDP does not; the factor
    is applied here, so ``noise_multiplier`` means the same under each relation and method.

    *Without amplification* "add-or-remove-one" is meant in the zero-out sense: an absent client's
    update is zero and its id keeps its place.

    *Cohorts that do not fit* (``poisson`` without a cap).  Fix a client and let G be the event that
    in each of the T rounds at most m - 1 of the other clients are drawn; by the choice of the
    capacity m, P[not G] <= T tau with tau = 2^-40.  Who else is drawn depends neither on the client's
    data nor on its own coin, and under G nothing is truncated, with the client or without.  Given any
    outcome of the others' coins the Poisson analysis holds, so with primes for the neighbour

    P[S] <= P[S | G] P[G] + T tau <= (e^epsilon P'[S | G] + delta_0) P[G] + T tau
    <= e^epsilon P'[S] + delta_0 + T tau,

    and epsilon is that of delta_0 = delta - T tau.

    *Noise from a table.*  Integers are drawn from probabilities of 96 bits, so that a run M' is within
    some total variation t of one with ideal draws M, whatever the data.  If M is (epsilon, delta_0)-
    differentially private,

    P'[S] <= P[S] + t <= e^epsilon Q[S] + delta_0 + t <= e^epsilon Q'[S] + delta_0 + (1 + e^epsilon) t,

    with Q for the neighbour; and epsilon is the least that is that of
    delta_0 = delta - (1 + e^epsilon) t.

    PLD rounds the privacy loss up to a grid of 1e-4, or of 1e-5 epsilon where that is coarser; the
    result is an upper bound, above the limit of fine grids by about 0.0002 at ten thousand rounds.
    Pseudo-random draws are accounted as ideal ones, and floating-point noise as real-valued.

    Args:
        mechanism: what bounded and noised the sums, as given to the aggregator.
        sampler: what drew the cohorts.
        rounds: the number of rounds, at least 0, empty cohorts included.
        delta: in (0, 1); should be well below 1 / num_clients.
        method: ``"pld"``, ``"rdp"`` or ``"best"``.  All are upper bounds; where both of the first two
            apply PLD is the lower one, and ``"best"`` is the lower of those that do.
        relation: ``"add_or_remove_one"`` or ``"replace_one"``; None for what suits the sampler.
        num_clients: the size of the population, where the sampling depends on it.  Where it does
            not, it serves to check ``delta``.
        unit: whose data are protected.  ``"example"`` is one of a client's: if it comes or goes, what
            its client sends is *replaced*, so that is claimed under replace-one.  Of clients that draw
            and bound examples one by one, :func:`fjx.privacy.examples_epsilon` says more.
        grid: of PLD, a step of the privacy loss; None to choose it.  A coarser one is faster, and
            still an upper bound.

    Returns:
        An :class:`Epsilon`: a float with its :meth:`~Epsilon.statement`.  inf without
        noise, or where delta cannot pay for the tables of integer noise; 0 without rounds.

    Raises:
        TypeError: a traced or non-numerical argument, or a sampler whose subsampling is unknown.
        ValueError: out of bounds, or a combination that cannot be accounted; the message says what
            can.

    Examples:
        >>> from fjx import privacy, samplers
        >>> mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=2.0)
        >>> print(epsilon(mechanism, samplers.poisson(0.1), rounds=50, delta=1e-5))
        epsilon = 1.653 at delta = 1e-05
        (client-level, add-or-remove-one, Poisson rate 0.1, 50 rounds, PLD)

    References:
        Koskela, Jalko, Honkela, *Computing Tight Differential Privacy Guarantees Using FFT*, AISTATS
        2020 (arXiv:1906.03049).
        Doroshenko, Ghazi, Kamath, Kumar, Manurangsi, *Connect the Dots: Tighter Discrete
        Approximations of Privacy Loss Distributions*, PoPETs 2022 (arXiv:2207.04380).
        Mironov, Talwar, Zhang, *Renyi Differential Privacy of the Sampled Gaussian Mechanism*, 2019
        (arXiv:1908.10530).
        Zhu, Wang, *Poisson Subsampled Renyi Differential Privacy*, ICML 2019.
        Wang, Balle, Kasiviswanathan, *Subsampled Renyi Differential Privacy and Analytical Moments
        Accountant*, AISTATS 2019 (arXiv:1808.00087).
        Feldman, Shenfeld, *Privacy Amplification by Random Allocation*, 2025 (arXiv:2502.08202), for
        balls in bins.
        Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu, *(Amplified) Banded Matrix
        Factorization*, NeurIPS 2023 (arXiv:2306.08153), for cohorts that are Poisson in blocks.
    """
    ledger = Ledger().add(mechanism, sampler, rounds=rounds, num_clients=num_clients)
    return ledger.epsilon(delta=delta, method=method, relation=relation, unit=unit, grid=grid)


def _lowest(
    runs: tuple[Run, ...], delta: float, method: Method, relation: Relation, grid: float | None
) -> tuple[float, Method]:
    """The epsilon of a method, or of the better of the two; and which it was."""
    refused = []
    found: list[tuple[float, Method]] = []
    for each in ("pld", "rdp") if method == "best" else (method,):
        try:
            found.append((_by(each, runs, delta, relation, grid), each))
        except ValueError as error:
            if method != "best":
                raise
            refused.append(str(error))
    if not found:
        raise ValueError("neither method applies: " + "; ".join(refused))
    return min(found)


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
    # From below up to the least epsilon = of(delta - (1 + e^epsilon) t), which need not exist; where
    # that takes more steps than these, inf is a claim that holds, too.
    value = 0.0
    for _ in range(_STEPS):
        before, value = value, of(delta - (1 + math.exp(min(value, 700.0))) * distance)
        if value <= before:
            return before
    return math.inf


def _caveats(runs: tuple[Run, ...], value: float, delta: float, relation: Relation) -> list[str]:
    caveats = sorted({words for run in runs if (words := getattr(run.release.once, "caveat", ""))})
    distance = sum(run.distance for run in runs)
    if distance and (1 + math.exp(min(value, 700.0))) * distance > delta / 100:
        caveats.append(
            f"Tables of integer noise are up to {distance:.2g} from their law in total variation, and "
            "(1 + e^epsilon) times that is taken from delta: fewer coordinates, rounds or shares "
            "or a coarser granularity make it less"
        )
    num_clients = max((run.release.num_clients or 0 for run in runs), default=0)
    if num_clients and delta >= 1 / num_clients:
        caveats.append(
            f"delta is not below 1 / num_clients = {1 / num_clients:.2g}: such a claim allows one "
            "client's data to be published"
        )
    if relation == "add_or_remove_one" and any(run.zero_out for run in runs):
        caveats.append("An absent client counts as one whose update is zero")
    return caveats


def relation_of(relation: Relation | None, unit: Unit) -> Relation | None:
    """The relation of clients that a claim about the unit needs; None for what suits the sampler.

    Raises:
        ValueError: another was asked for.
    """
    if unit != "example":
        return relation
    if relation == "add_or_remove_one":
        raise ValueError(
            "an example that comes or goes replaces what its client sends, which moves the sum by twice "
            "the clip norm: pass relation='replace_one' with unit='example'"
        )
    return "replace_one"


def _require_apart(runs: tuple[Run, ...], new: Run) -> None:
    """Raises unless the new run is separate from those before."""
    if shared := sorted(new.whole & {what for run in runs for what in run.whole}):
        raise ValueError(
            f"a run with {' and '.join(shared)} is in the ledger, and phases of one run do not add up: "
            "add all of its rounds at once; if this one began anew, at round 0, from a fresh state and "
            "with another key, pass restarted=True"
        )


def _require_word(name: str, word: object, words: tuple[str, ...]) -> None:
    if word not in words:
        raise ValueError(f"{name} must be one of {words}, got {word!r}")
