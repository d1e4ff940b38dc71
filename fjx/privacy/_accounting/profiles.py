"""Privacy loss distributions from privacy profiles: cohorts of fixed size, and capped Poisson cohorts.

A privacy profile maps epsilon, of any sign, to the least delta.  Under sampling the profile of noise has
a closed form, also where dp-accounting has no event, or evaluates it one number at a time.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fjx.privacy._types import Relation

Profile = Callable[[np.ndarray], np.ndarray]
"""``(epsilons) -> deltas``, for one order of a pair of distributions."""

_TAIL = (
    10.0  # deviations of Gaussian noise that are kept; the others, below 2^-76, count as infinite
)
_MOST = 700.0  # exp of more overflows


def fixed_size_distribution(event: Any, rate: float, grid: float) -> Any:
    """Dominating pair of one round in which a fraction ``rate`` of the clients takes part.

    Let h be the profile of the noise if the sum moves as far as it can.  Under replace-one, the profile
    on cohorts of fixed size is at most

    h'(epsilon) = rate h(log(1 + (e^epsilon - 1) / rate)),  epsilon >= 0.

    Below 0 it follows from the symmetry of the relation, h'(-e) = 1 - exp(-e) + exp(-e) h'(e).  Such a
    profile is that of a pair of distributions, so rounds compose by convolution.  The proof is in
    :doc:`/privacy_proofs`.

    Args:
        event: Gaussian or Laplace event of dp-accounting, of a sum that moves if a client is replaced.
        rate: number of clients in a cohort over the number of all clients, in (0, 1].
        grid: step of the privacy loss.

    Returns:
        A ``PrivacyLossDistribution`` of dp-accounting, rounded up.

    References:
        Balle, Barthe, Gaboardi, *Privacy Amplification by Subsampling: Tight Analyses via Couplings and
        Divergences*, NeurIPS 2018 (arXiv:1807.01647), theorem 9.
        Zhu, Dong, Wang, *Optimal Accounting of Differential Privacy via Characteristic Function*,
        AISTATS 2022 (arXiv:2106.08567), theorem 11.
    """
    largest = _sampled_loss(event, rate)
    profile = _symmetric(_sampled(event, rate))
    return _distribution((profile,), -largest, largest, grid)


def capped_poisson_distribution(
    noise_multiplier: float,
    *,
    rate: float,
    cap: int,
    num_clients: int,
    relation: Relation,
    grid: float,
) -> Any:
    """Gaussian noise on Poisson cohorts, of which ``cap`` random clients are kept if there are more.

    With probability t = P[Binomial(N - 1, q) >= cap] the other clients fill the cohort.  The client then
    takes the place of another one, with probability q' = cap P[Binomial(N, q) > cap] / (t N).  That is
    counted as a replacement at rate q'.  The profile is the mixture of the two cases, as in
    dp-accounting.

    Args:
        noise_multiplier: z, of a sum that moves if a client is added.
        rate: sampling rate q.
        cap: most clients of a cohort.
        num_clients: population size N.
        relation: relation between neighbouring populations.
        grid: step of the privacy loss.

    Returns:
        A ``PrivacyLossDistribution`` of dp-accounting, rounded up.

    References:
        Ganesh, *Tighter Privacy Analysis for Truncated Poisson Sampling* (arXiv:2508.15089).
    """
    import dp_accounting
    from scipy import special, stats

    event, shift = dp_accounting.GaussianDpEvent(noise_multiplier), 1 / noise_multiplier
    fits: tuple[Profile, ...]
    if relation == "replace_one":
        fits, largest = (_replaced(shift, rate),), _replaced_loss(shift, rate, _TAIL)
        lowest = -largest
    else:
        fits, largest = (_sampled(event, rate), _unsampled(event, rate)), _sampled_loss(event, rate)
        lowest = math.log1p(-rate) if rate < 1 else -largest
    full = float(stats.binom.sf(cap - 1, num_clients - 1, rate))
    if not full:
        return _distribution(fits, lowest, largest, grid)
    taken = float(stats.binom.sf(cap, num_clients, rate)) * cap / num_clients / full
    instead = _replaced(2 * shift, min(taken, 1.0))
    # The rarer this case is, the less far out it matters.
    tail = -float(special.ndtri(min(special.ndtr(-_TAIL) / full, 0.5)))
    loss = _replaced_loss(2 * shift, min(taken, 1.0), tail)

    def mixed(fits: Profile) -> Profile:
        return lambda x: (1 - full) * fits(x) + full * instead(x)

    return _distribution(tuple(map(mixed, fits)), min(lowest, -loss), max(largest, loss), grid)


def has_profile(event: Any) -> bool:
    """True if the profile of the event is known in closed form."""
    import dp_accounting

    return isinstance(event, dp_accounting.GaussianDpEvent | dp_accounting.LaplaceDpEvent)


# --------------------------------------------------------------------------------------------------
# Profiles
# --------------------------------------------------------------------------------------------------


def _symmetric(above: Profile) -> Profile:
    """Profile of a pair that is its own mirror image, given by its values at epsilons of at least 0."""

    def profile(x: np.ndarray) -> np.ndarray:
        deltas = above(np.abs(x))
        return np.where(
            x < 0, -np.expm1(np.minimum(x, 0)) + np.exp(np.minimum(x, 0)) * deltas, deltas
        )

    return profile


def _gap(log_p: np.ndarray, log_q: np.ndarray, x: np.ndarray) -> np.ndarray:
    """P - e^x Q, or 0, as a multiple of P."""
    return np.exp(log_p) * -np.expm1(np.minimum(x + log_q - log_p, 0.0))


def _noise(event: Any) -> Profile:
    """Profile of Gaussian or Laplace noise on a sum that moves by 1."""
    import dp_accounting
    from scipy import special

    shift = 1 / event.noise_multiplier
    if isinstance(event, dp_accounting.LaplaceDpEvent):
        return _symmetric(lambda x: -np.expm1(np.minimum(x - shift, 0.0) / 2))

    def gaussian(x: np.ndarray) -> np.ndarray:
        middle = -x / shift
        return _gap(special.log_ndtr(middle + shift / 2), special.log_ndtr(middle - shift / 2), x)

    return _symmetric(gaussian)


def _sampled(event: Any, rate: float) -> Profile:
    """Profile of (1 - q) Q + q P against Q, with P, Q the pair of the noise and h its profile.

    It is q h(log(1 + (e^x - 1) / q)), and 1 - e^x where there is no such logarithm.
    """
    noise = _noise(event)

    def profile(x: np.ndarray) -> np.ndarray:
        below = np.expm1(np.minimum(x, _MOST)) / rate
        exists = below > -1
        inner = np.log1p(np.where(exists, below, 0.0))
        inner = np.where(x < _MOST, inner, x - math.log(rate))  # the 1 does not count any more
        return np.where(exists, rate * noise(inner), -np.expm1(np.minimum(x, 0.0)))

    return profile


def _unsampled(event: Any, rate: float) -> Profile:
    """Profile of Q against (1 - q) Q + q P: w h(x + log(q / w)) with w = 1 - (1 - q) e^x, or 0."""
    noise = _noise(event)

    def profile(x: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            log_rest = np.log1p(-rate)
        weight = -np.expm1(np.minimum(x + log_rest, 0.0))
        some = np.where(weight > 0, weight, 1.0)
        return weight * noise(x + math.log(rate) - np.log(some))

    return profile


def _replaced(shift: float, rate: float) -> Profile:
    """Profile of (1 - q) N(0, 1) + q N(s, 1) against (1 - q) N(0, 1) + q N(-s, 1).

    With k = exp(s^2 / 2) (1 - q) / q, the loss is at least x from y = (asinh(k sinh(x / 2)) + x / 2) / s
    on.
    """
    from scipy import special

    def above(x: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            log_rest, log_rate = np.log([1 - rate, rate])
            size = shift**2 / 2 + log_rest - log_rate + x / 2 + np.log(-np.expm1(-x) / 2)
        # asinh(e^size), for large and for small sizes.
        large, small = np.maximum(size, 0.0), np.arcsinh(np.exp(np.minimum(size, 0.0)))
        inverse = np.where(size > 0, large + np.log1p(np.sqrt(1 + np.exp(-2 * large))), small)
        y = (inverse + x / 2) / shift
        rest = log_rest + special.log_ndtr(-y)
        return _gap(
            np.logaddexp(rest, log_rate + special.log_ndtr(shift - y)),
            np.logaddexp(rest, log_rate + special.log_ndtr(-shift - y)),
            x,
        )

    return _symmetric(above if rate else np.zeros_like)


# --------------------------------------------------------------------------------------------------
# Largest losses that are kept, and the grid
# --------------------------------------------------------------------------------------------------


def _sampled_loss(event: Any, rate: float) -> float:
    """Largest loss of a sampled round: log(1 + q (e^x - 1)), with x that of the noise."""
    import dp_accounting

    shift = 1 / event.noise_multiplier
    gaussian = isinstance(event, dp_accounting.GaussianDpEvent)
    loss = shift**2 / 2 + _TAIL * shift if gaussian else shift
    return float(np.logaddexp(math.log1p(-rate) if rate < 1 else -math.inf, math.log(rate) + loss))


def _replaced_loss(shift: float, rate: float, tail: float) -> float:
    """Loss of the pair of :func:`_replaced` at the mean s plus ``tail`` deviations."""
    if not rate:
        return 0.0
    rest = math.log1p(-rate) if rate < 1 else -math.inf
    y = shift * (shift + tail) + np.array([0.0, -2 * shift * (shift + tail)])
    here, there = np.logaddexp(rest, math.log(rate) - shift**2 / 2 + y)
    return float(here - there)


def _distribution(profiles: tuple[Profile, ...], lowest: float, largest: float, grid: float) -> Any:
    """Distribution with one profile, or with one for each order of a pair, rounded up to the grid.

    Losses above ``largest`` count as infinite, and those below ``lowest`` as ``lowest``.
    """
    from dp_accounting.pld import pld_pmf, privacy_loss_distribution

    low, high = math.floor(lowest / grid) - 1, math.ceil(largest / grid) + 1

    def rounded(profile: Profile, low: int, high: int) -> Any:
        deltas = np.clip(profile(np.arange(low, high + 1) * grid), 0.0, 1.0)
        return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(
            grid, low, high, np.minimum.accumulate(deltas)
        )

    bounds = ((low, high), (-high, -low))
    pmfs = [rounded(profile, *ends) for profile, ends in zip(profiles, bounds, strict=False)]
    return privacy_loss_distribution.PrivacyLossDistribution(*pmfs)
