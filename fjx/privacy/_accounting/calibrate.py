"""Calibration: the noise, the number of rounds or the sampling rate that meets a target epsilon."""

import math
from collections.abc import Callable
from typing import Protocol

from fjx import _validate
from fjx.privacy._accounting.claim import Epsilon, Method
from fjx.privacy._accounting.terms import Accounting
from fjx.privacy._mechanisms.gaussian import gaussian
from fjx.privacy._types import Accountable, Relation
from fjx.samplers import poisson
from fjx.samplers._types import Sampler

_TOLERANCE = 1e-4  # relative tolerance of a calibrated number
_MOST_ROUNDS = 2**40
_LEAST_NOISE, _MOST_NOISE = 1e-9, 1e9


def _unit_gaussian(noise_multiplier: float) -> Accountable:
    return gaussian(clip_norm=1.0, noise_multiplier=noise_multiplier)


def calibrate(
    sampler: Sampler,
    *,
    epsilon: float,
    delta: float,
    rounds: int,
    method: Method = "pld",
    relation: Relation | None = None,
    num_clients: int | None = None,
    mechanism: Callable[[float], Accountable] = _unit_gaussian,
) -> float:
    """Noise multiplier that meets a target epsilon.

    Guarantees:
        - :func:`epsilon` of ``mechanism(z)`` and the same arguments is at most the target, with z the
          result.
        - :func:`epsilon` of ``mechanism(z (1 - 1e-3))`` is above the target.

    Args:
        sampler: the sampler that will draw the cohorts.
        epsilon: target epsilon, positive.
        delta: as in :func:`epsilon`, like the arguments below.
        rounds: number of rounds.
        method: ``"pld"``, ``"rdp"`` or ``"best"``.
        relation: relation between neighbouring populations.
        num_clients: population size N.
        mechanism: ``(noise_multiplier) -> Mechanism``, more private for larger multipliers.  The default
            is the Gaussian mechanism, whose epsilon does not depend on its clip norm.  A multiplier that
            it refuses with a ValueError counts as too large.

    Returns:
        The noise multiplier z.  It is the standard deviation of the noise on the sum in units of the
        clip norm.

    Raises:
        TypeError: as in :func:`epsilon`.
        ValueError: as in :func:`epsilon`; no noise is enough, because ``delta`` is too small or
            ``mechanism`` refuses more; or any noise is enough, because epsilon does not depend on it.

    Examples:
        >>> from fjx import samplers
        >>> z = calibrate(samplers.poisson(0.01), epsilon=2.0, delta=1e-6, rounds=1000, method="rdp")
        >>> round(z, 3)
        1.094
    """
    target = epsilon
    _validate.number("epsilon", target, above=0)
    terms = Accounting(delta, method, relation, num_clients=num_clients)
    return noise_multiplier_for(target, sampler, terms, rounds=rounds, mechanism=mechanism)


class Terms(Protocol):
    """Terms on which an epsilon is claimed."""

    @property
    def delta(self) -> float: ...
    def epsilon(self, mechanism: Accountable, sampler: Sampler, *, rounds: int) -> Epsilon: ...


def noise_multiplier_for(
    target: float,
    sampler: Sampler,
    terms: Terms,
    *,
    rounds: int,
    mechanism: Callable[[float], Accountable],
) -> float:
    """The least noise multiplier, to a relative tolerance, whose epsilon is at most the target."""
    refused: list[ValueError] = []

    def excess(log_z: float) -> float:
        try:
            made = mechanism(math.exp(log_z))
        except ValueError as error:
            refused.append(error)
            return -math.inf
        return _log_ratio(terms.epsilon(made, sampler, rounds=rounds), target)

    if rounds == 0:
        excess(0.0)  # called for its checks
        return 0.0
    low = high = 0.0
    while excess(high) > 0:
        low, high = high, high + math.log(4)
        if high > math.log(_MOST_NOISE):
            raise ValueError(
                f"no noise reaches epsilon = {target!r} at delta = {terms.delta!r} in {rounds} rounds; "
                "allow a larger delta, or fewer rounds"
            )
    while excess(low) <= 0:
        low, high = low - math.log(4), low
        if low < math.log(_LEAST_NOISE):
            why = (
                f"the mechanism refuses every one: {refused[-1]}"
                if refused
                else f"epsilon = {target!r} is met even by {_LEAST_NOISE:g}"
            )
            raise ValueError(f"there is no noise multiplier to calibrate: {why}") from None

    from scipy import optimize

    # The upper end of the bracket may be refused by the mechanism: bisect into what it accepts.
    while excess(high) == -math.inf and high - low > _TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    if excess(high) == -math.inf:
        raise ValueError(
            f"no noise that the mechanism accepts reaches epsilon = {target!r}: {refused[-1]}"
        )
    log_z = optimize.brentq(excess, low, high, xtol=_TOLERANCE)
    while excess(log_z) > 0:
        log_z = min(log_z + _TOLERANCE, high)
    return math.exp(log_z)


def calibrate_rounds(
    mechanism: Accountable,
    sampler: Sampler,
    *,
    epsilon: float,
    delta: float,
    method: Method = "pld",
    relation: Relation | None = None,
    num_clients: int | None = None,
) -> int:
    """Largest number of rounds whose epsilon is at most a target.

    Guarantees:
        - :func:`epsilon` of T rounds is at most the target, with T the result.
        - :func:`epsilon` of T + 1 rounds is above the target.

    Args:
        mechanism: the mechanism that bounds and noises the sums.
        sampler: the sampler that will draw the cohorts.
        epsilon: target epsilon, positive.
        delta: as in :func:`epsilon`, like the arguments below.
        method: ``"pld"``, ``"rdp"`` or ``"best"``.
        relation: relation between neighbouring populations.
        num_clients: population size N.

    Returns:
        The number of rounds T; 0 if one round is too much.

    Raises:
        TypeError: as in :func:`epsilon`.
        ValueError: as in :func:`epsilon`; or there is no limit, because a client's rounds do not add up.

    Examples:
        >>> from fjx import privacy, samplers
        >>> mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
        >>> calibrate_rounds(mechanism, samplers.poisson(0.01), epsilon=2.0, delta=1e-6, method="rdp")
        531
    """
    target = epsilon
    _validate.number("epsilon", target, above=0)

    terms = Accounting(delta, method, relation, num_clients=num_clients)

    def fits(rounds: int) -> bool:
        return terms.epsilon(mechanism, sampler, rounds=rounds) <= target

    enough, too_many = 0, 1
    while fits(too_many):
        enough, too_many = too_many, 2 * too_many
        if too_many > _MOST_ROUNDS:
            raise ValueError(
                f"any number of rounds meets epsilon = {target!r}; there is nothing to calibrate"
            )
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        enough, too_many = (middle, too_many) if fits(middle) else (enough, middle)
    return enough


def calibrate_rate(
    mechanism: Accountable,
    *,
    epsilon: float,
    delta: float,
    rounds: int,
    method: Method = "pld",
    relation: Relation | None = None,
) -> float:
    """Largest sampling rate of Poisson cohorts whose epsilon is at most a target.

    Guarantees:
        - :func:`epsilon` on ``samplers.poisson(q)`` is at most the target, with q the result.
        - :func:`epsilon` on ``samplers.poisson(q (1 + 1e-3))`` is above the target, unless q = 1.

    Args:
        mechanism: the mechanism that bounds and noises the sums.
        epsilon: target epsilon, positive.
        delta: as in :func:`epsilon`, like the arguments below.
        rounds: number of rounds, at least 1.
        method: ``"pld"``, ``"rdp"`` or ``"best"``.
        relation: relation between neighbouring populations.

    Returns:
        The sampling rate q, in (0, 1].

    Raises:
        TypeError: as in :func:`epsilon`.
        ValueError: as in :func:`epsilon`; or no rate above 2^-32 is small enough.

    Examples:
        >>> from fjx import privacy
        >>> mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
        >>> q = calibrate_rate(mechanism, epsilon=2.0, delta=1e-6, rounds=531, method="rdp")
        >>> round(q, 4)
        0.01
    """
    target = epsilon
    _validate.number("epsilon", target, above=0)

    terms = Accounting(delta, method, relation)

    def excess(log_q: float) -> float:
        sampler = poisson(min(max(math.exp(log_q), least), 1.0))
        return _log_ratio(terms.epsilon(mechanism, sampler, rounds=rounds), target)

    least = 2.0**-32
    _validate.static_integer("rounds", rounds, at_least=1)
    if excess(0.0) <= 0:
        return 1.0
    if excess(math.log(least)) > 0:
        raise ValueError(
            f"no rate reaches epsilon = {target!r} at delta = {delta!r} in {rounds} rounds; "
            "add more noise, or allow a larger delta or fewer rounds"
        )

    from scipy import optimize

    log_q = optimize.brentq(excess, math.log(least), 0.0, xtol=_TOLERANCE)
    while excess(log_q) > 0:
        log_q -= _TOLERANCE
    return math.exp(log_q)


def _log_ratio(reached: float, target: float) -> float:
    return math.log(min(max(reached / target, 1e-9), 1e9))
