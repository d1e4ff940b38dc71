"""Privacy accounting, on the host, for the mechanism and the sampler that were used.

dp-accounting does the arithmetic.  This module decides which of its events describes a round, converts
between its accountants' conventions, and refuses what cannot be accounted.  A training run is one
pair {event: count}; nothing is composed round by round.
"""

import contextlib
import decimal
import logging
import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

from fjx import _validate
from fjx.privacy._clip import Relation, require_relation
from fjx.privacy._mechanisms import Mechanism, gaussian
from fjx.samplers._types import Cyclic, FixedSize, Full, Poisson, Sampler

Method = Literal["pld", "rdp"]
"""Numerical privacy loss distributions (tight), or Renyi differential privacy (a closed form)."""

_GRID = 1e-4  # of the privacy loss, absolute for epsilon below 10 ..
_RELATIVE_GRID = 1e-5  # .. and relative above, so that large epsilons stay affordable
_HOPELESS = 1e8  # above this many rounds / noise_multiplier^2, epsilon is not computed but inf
_TOLERANCE = 1e-4  # of a calibrated noise multiplier, relative


class Epsilon(float):
    """An epsilon that knows what it is a claim about.

    It is a float in every respect; ``str`` gives the whole :meth:`statement`.

    Attributes:
        delta: the claim is (epsilon, delta)-differential privacy.
        unit: whose data are protected: ``"client"``, everything that one client id contributes.
        relation: which populations are neighbours, a :data:`~fjx.privacy.Relation`.
        sampling: the sampler, in words.
        rounds: how many rounds were accounted.
        method: ``"pld"`` or ``"rdp"``.
        caveats: what a reader of the number should be told beside it.
    """

    delta: float
    unit: str
    relation: Relation
    sampling: str
    rounds: int
    method: Method
    caveats: tuple[str, ...]

    def __new__(cls, value: float, **claim: Any) -> "Epsilon":
        self = super().__new__(cls, value)
        vars(self).update(claim)
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[float], dict[str, Any]]:
        return (float(self),), vars(self)

    def statement(self) -> str:
        """The claim in words, with epsilon rounded up to four digits."""
        digits = decimal.Context(prec=4, rounding=decimal.ROUND_CEILING)
        epsilon = f"{digits.create_decimal_from_float(self):f}" if math.isfinite(self) else "inf"
        plural = "" if self.rounds == 1 else "s"
        claim = (
            f"epsilon = {epsilon} at delta = {self.delta:g} ({self.unit}-level, "
            f"{self.relation.replace('_', '-')}, {self.sampling}, {self.rounds} round{plural}, "
            f"{self.method.upper()})"
        )
        return ". ".join([claim, *self.caveats])

    __str__ = statement


def epsilon(
    mechanism: Mechanism,
    sampler: Sampler,
    *,
    rounds: int,
    delta: float,
    method: Method = "pld",
    relation: Relation | None = None,
    num_clients: int | None = None,
) -> Epsilon:
    r"""The epsilon of ``rounds`` rounds of ``mechanism`` on the cohorts of ``sampler``.

    The unit is the client: everything that one client id contributes to all rounds together.  What
    can be claimed depends on what ran:

    ===================  =====================================================================
    sampler              accounted as
    ===================  =====================================================================
    ``poisson(q)``       the Poisson-subsampled mechanism; add-or-remove-one by default, replace-one
                         by PLD.  Pays delta for cohorts that do not fit, see below.
    ``poisson(q, cap)``  the truncated one; PLD, ``num_clients`` required (the client in question
                         included).
    ``uniform(m)``       sampling without replacement; replace-one and RDP only, ``num_clients``
                         required.
    ``cyclic(p)``        ceil(rounds / p) releases, not amplified
    ``full()``           ``rounds`` releases, not amplified
    ===================  =====================================================================

    *Units.*  A client that comes or goes moves the sum by C, one that is replaced by 2 C.  For
    replace-one dp-accounting's PLD doubles the sensitivity itself and its RDP does not; the factor
    is applied here, so ``noise_multiplier`` means the same under each relation and method.

    *Without sampling* "add-or-remove-one" is meant in the zero-out sense: an absent client's update
    is zero and its id keeps its place.

    *Cohorts that do not fit* (``poisson`` without a cap).  Fix a client and let G be the event that
    in each of the T rounds at most m - 1 of the other clients are drawn; by the choice of the
    capacity m, P[not G] <= T tau with tau = 2^-40.  Who else is drawn depends neither on the client's
    data nor on its own coin, and under G nothing is truncated, with the client or without.  Given any
    outcome of the others' coins the Poisson analysis holds, so with primes for the neighbour

    P[S] <= P[S | G] P[G] + T tau <= (e^epsilon P'[S | G] + delta_0) P[G] + T tau
    <= e^epsilon P'[S] + delta_0 + T tau,

    and epsilon is that of delta_0 = delta - T tau.

    PLD rounds the privacy loss up to a grid of 1e-4, or of 1e-5 epsilon where that is coarser; the
    result is an upper bound, above the limit of fine grids by about 0.0002 at ten thousand rounds.
    Pseudo-random draws are accounted as ideal ones, and floating-point noise as real-valued.

    Args:
        mechanism: what bounded and noised the sums, as given to the aggregator.
        sampler: what drew the cohorts.
        rounds: the number of rounds, at least 0, empty cohorts included.
        delta: in (0, 1); should be well below 1 / num_clients.
        method: ``"pld"`` or ``"rdp"``.  Both are upper bounds; PLD is the lower one.
        relation: ``"add_or_remove_one"`` or ``"replace_one"``; None for what suits the sampler.
        num_clients: the size of the population, where the sampling depends on it.  Where it does
            not, it serves to check ``delta``.

    Returns:
        An :class:`Epsilon`: a float with its :meth:`~Epsilon.statement`.  inf without noise, 0
        without rounds.

    Raises:
        TypeError: a traced or non-numerical argument, or a sampler whose subsampling is unknown.
        ValueError: out of bounds, or a combination that cannot be accounted; the message says what
            can.

    Examples:
        >>> from fjx import samplers
        >>> mechanism = gaussian(clip_norm=1.0, noise_multiplier=2.0)
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
        Wang, Balle, Kasiviswanathan, *Subsampled Renyi Differential Privacy and Analytical Moments
        Accountant*, AISTATS 2019 (arXiv:1808.00087).
    """
    _validate.integer("rounds", rounds, at_least=0)
    _validate.number("delta", delta, above=0, below=1)
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {get_args(Method)}, got {method!r}")
    if num_clients is not None:
        _validate.integer("num_clients", num_clients, at_least=1)
    _require("mechanism", mechanism, Mechanism)
    _require("sampler", sampler, Sampler)
    subsampling = sampler.subsampling
    if relation is None:
        relation = "replace_one" if isinstance(subsampling, FixedSize) else "add_or_remove_one"
    require_relation(relation)
    rounds = int(rounds)

    words, count, events = _describe(mechanism, subsampling, rounds, method, relation, num_clients)
    noise_multiplier = float(mechanism.noise_multiplier)
    spendable = delta - rounds * getattr(subsampling, "overflow", 0.0)
    if rounds == 0:
        value = 0.0
    elif spendable <= 0 or count > _HOPELESS * noise_multiplier**2:
        value = math.inf
    elif method == "rdp":
        value = min(_rdp(event, count, spendable, relation) for event in events)
    else:
        # A start that cannot exhaust the memory; if it is far too coarse, it is corrected.
        grid = max(100 * _GRID, min(100.0, 1e-6 * count / noise_multiplier**2))
        value = min(_pld(event, count, spendable, relation, grid) for event in events)

    caveats = []
    if num_clients is not None and delta >= 1 / num_clients:
        caveats.append(
            f"delta is not below 1 / num_clients = {1 / num_clients:.2g}: such a claim allows one "
            "client's data to be published"
        )
    if isinstance(subsampling, Cyclic | Full) and relation == "add_or_remove_one":
        caveats.append("An absent client counts as one whose update is zero")
    return Epsilon(
        value,
        delta=float(delta),
        unit="client",
        relation=relation,
        sampling=words,
        rounds=rounds,
        method=method,
        caveats=tuple(caveats),
    )


def calibrate(
    sampler: Sampler,
    *,
    epsilon: float,
    delta: float,
    rounds: int,
    method: Method = "pld",
    relation: Relation | None = None,
    num_clients: int | None = None,
) -> float:
    """The noise multiplier of the Gaussian mechanism that meets a target epsilon.

    Guarantees: with z the result, :func:`epsilon` of ``gaussian(clip_norm=..., noise_multiplier=z)``
        and the same arguments is at most the target, and that of z (1 - 1e-3) is above it.

    Args:
        sampler: what will draw the cohorts.
        epsilon: the target, positive.
        delta: as in :func:`epsilon`, and so are the others.
        rounds: the number of rounds.
        method: ``"pld"`` or ``"rdp"``.
        relation: which populations are neighbours.
        num_clients: the size of the population.

    Returns:
        z, the standard deviation of the noise on the sum in units of the clip norm.

    Raises:
        TypeError: as :func:`epsilon`.
        ValueError: as :func:`epsilon`, or no noise is enough because ``delta`` is too small.

    Examples:
        >>> from fjx import samplers
        >>> z = calibrate(samplers.poisson(0.01), epsilon=2.0, delta=1e-6, rounds=1000, method="rdp")
        >>> round(z, 3)
        1.094
    """
    target = epsilon
    _validate.number("epsilon", target, above=0)

    def excess(log_z: float) -> float:
        reached = _epsilon(
            gaussian(clip_norm=1.0, noise_multiplier=math.exp(log_z)),
            sampler,
            rounds=rounds,
            delta=delta,
            method=method,
            relation=relation,
            num_clients=num_clients,
        )
        return math.log(min(max(reached / target, 1e-9), 1e9))

    if rounds == 0:
        excess(0.0)  # for its checks
        return 0.0
    low = high = 0.0
    while excess(high) > 0:
        low, high = high, high + math.log(4)
        if high > math.log(1e9):
            raise ValueError(
                f"no noise reaches epsilon = {target!r} at delta = {delta!r} in {rounds} rounds; "
                "allow a larger delta, or fewer rounds"
            )
    while excess(low) <= 0:
        low, high = low - math.log(4), low

    from scipy import optimize

    log_z = optimize.brentq(excess, low, high, xtol=_TOLERANCE)
    while excess(log_z) > 0:
        log_z += _TOLERANCE
    return math.exp(log_z)


_epsilon = epsilon  # under a name that calibrate's argument does not hide


# --------------------------------------------------------------------------------------------------
# What a round is
# --------------------------------------------------------------------------------------------------


def _describe(
    mechanism: Mechanism,
    subsampling: Any,
    rounds: int,
    method: Method,
    relation: Relation,
    num_clients: int | None,
) -> tuple[str, int, list[Any]]:
    """The sampling in words, how often a client's data are released, and the event of one release.

    If there is more than one event, each is a valid description and the best may be used.
    """
    import dp_accounting

    replace = relation == "replace_one"
    # dp-accounting's PLD doubles the sensitivity under REPLACE_ONE itself, its RDP does not.
    release = mechanism.event(2.0 if replace and method == "rdp" else 1.0)

    def known_size(sampling: str) -> int:
        if num_clients is None:
            raise ValueError(f"num_clients is needed to account for {sampling}: pass num_clients=")
        return int(num_clients)

    match subsampling:
        case Full():
            return "every client in every round", rounds, [release]
        case Cyclic(period):
            words = f"every client once in {period} rounds"
            return words, math.ceil(rounds / period), [release]
        case FixedSize(size):
            if method != "rdp" or not replace:
                raise ValueError(
                    "cohorts of fixed size can be accounted with method='rdp' and "
                    f"relation='replace_one' only, got {method!r} and {relation!r}; pass these, or "
                    "sample with samplers.poisson"
                )
            n = known_size("cohorts of fixed size")
            if size > n:
                raise ValueError(f"num_clients must be at least the cohort's size {size}, got {n}")
            # The bound for sampling can exceed that without, which holds for every sampling.
            sampled = dp_accounting.SampledWithoutReplacementDpEvent(n, size, release)
            return f"fixed size {size} of {n}", rounds, [sampled, release]
        case Poisson(rate, cap=None):
            if method == "rdp" and replace:
                raise ValueError(
                    "Poisson cohorts cannot be accounted by method='rdp' under "
                    "relation='replace_one'; pass method='pld', or relation='add_or_remove_one'"
                )
            sampled = dp_accounting.PoissonSampledDpEvent(rate, release)
            return f"Poisson rate {rate:.4g}", rounds, [sampled]
        case Poisson(rate, cap):
            if method != "pld" or not isinstance(release, dp_accounting.GaussianDpEvent):
                raise ValueError(
                    "capped Poisson cohorts can be accounted for Gaussian noise and by method='pld' "
                    f"only, got {release} and {method!r}; pass these, or sample without a cap"
                )
            n = known_size("capped Poisson cohorts")
            truncated = dp_accounting.TruncatedSubsampledGaussianDpEvent(
                n, rate, cap, release.noise_multiplier
            )
            return f"Poisson rate {rate:.4g} of {n} truncated to {cap}", rounds, [truncated]
    raise TypeError(
        f"a sampler with subsampling {subsampling!r} cannot be accounted: only chance that does not "
        "depend on the clients amplifies privacy.  If a client takes part in no more than k rounds, "
        "account k rounds of samplers.full()"
    )


# --------------------------------------------------------------------------------------------------
# dp-accounting: a fresh accountant for every number, because they are mutable
# --------------------------------------------------------------------------------------------------


def _pld(event: Any, count: int, delta: float, relation: Relation, grid: float) -> float:
    from dp_accounting.pld import PLDAccountant

    # Every grid gives an upper bound.  A coarse one, at a hundredth of the cost, tells which to use.
    while True:
        accountant = PLDAccountant(_neighbours(relation), grid)
        value = float(accountant.compose(event, count).get_epsilon(delta))
        finer = max(_GRID, _RELATIVE_GRID * value)
        if finer > grid / 2:
            return value
        grid = finer


def _rdp(event: Any, count: int, delta: float, relation: Relation) -> float:
    from dp_accounting.rdp import RdpAccountant

    with _quiet():
        accountant = RdpAccountant(neighboring_relation=_neighbours(relation))
        return float(accountant.compose(event, count).get_epsilon(delta))


def _neighbours(relation: Relation) -> Any:
    import dp_accounting

    return dp_accounting.NeighboringRelation[relation.upper()]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without dp-accounting's warnings: an order that is left out makes the bound looser, not wrong."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _require(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a fjx {kind.__name__}, got {value!r}")
