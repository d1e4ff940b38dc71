"""Privacy loss distribution of noise on cohorts of fixed size, whose members are replaced."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Profile = Callable[[np.ndarray], np.ndarray]
"""``(epsilons) -> deltas``, for epsilons of at least 0: the divergences of a symmetric pair."""

_TAIL = 10.0  # deviations of the Gaussian loss that are kept; the others, below 2^-76, count as infinite
_MOST = 700.0  # exp of more overflows


def fixed_size_distribution(event: Any, rate: float, grid: float) -> Any:
    """Dominating pair of one round in which a fraction ``rate`` of the clients takes part.

    Let h be the privacy profile of the noise: delta = h(epsilon) if the sum moves as far as it can.
    Under replace-one, the profile on cohorts of fixed size is at most

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
    from dp_accounting.pld import pld_pmf, privacy_loss_distribution

    profile, largest = _profile(event)
    # log(1 + rate (e^x - 1)), the loss in a sampled round at which the loss of the noise is x.
    log_rest = math.log1p(-rate) if rate < 1 else -math.inf
    steps = math.ceil(np.logaddexp(log_rest, math.log(rate) + largest) / grid) + 1
    above = np.arange(steps + 1) * grid
    # log(1 + (e^x - 1) / rate), written so that it neither overflows nor cancels.
    inner = np.where(
        above < _MOST,
        np.log1p(np.expm1(np.minimum(above, _MOST)) / rate),
        above - math.log(rate),
    )
    deltas = rate * profile(inner)
    below = -np.expm1(-above[:0:-1]) + np.exp(-above[:0:-1]) * deltas[:0:-1]
    pmf = pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(
        grid, -steps, steps, np.clip(np.concatenate([below, deltas]), 0.0, 1.0)
    )
    return privacy_loss_distribution.PrivacyLossDistribution(pmf)


def has_profile(event: Any) -> bool:
    """True if the event's privacy profile is known in closed form."""
    import dp_accounting

    return isinstance(event, dp_accounting.GaussianDpEvent | dp_accounting.LaplaceDpEvent)


def _profile(event: Any) -> tuple[Profile, float]:
    """Privacy profile of the noise, and a loss above which almost nothing is left."""
    import dp_accounting
    from scipy import special

    shift = 1 / event.noise_multiplier
    if isinstance(event, dp_accounting.LaplaceDpEvent):
        return lambda x: -np.expm1(np.minimum(x - shift, 0.0) / 2), shift

    def gaussian(x: np.ndarray) -> np.ndarray:
        here, there = shift / 2 - x / shift, -shift / 2 - x / shift
        # Phi(here) - e^x Phi(there), as a multiple of the first term.
        ratio = np.minimum(x + special.log_ndtr(there) - special.log_ndtr(here), 0.0)
        return special.ndtr(here) * -np.expm1(ratio)

    return gaussian, shift**2 / 2 + _TAIL * shift
