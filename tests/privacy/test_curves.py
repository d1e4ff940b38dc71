"""Renyi curves of integer noise: published numbers, and never below the exact divergence."""

import functools
import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from scipy import special

from fjx import privacy, samplers
from fjx.privacy import _curves

BETA = math.exp(-0.5)
ORDERS = np.array([*range(2, 129), 256])


def test_the_norm_after_rounding():
    for norm, dimension, beta, wanted in [
        (1000, 65536, BETA, 1008.7179982532),
        (1000, 65536, 0, 1256),
        (10, 1024, BETA, 19.5448202857),
        (10, 1024, 0, 42),
    ]:
        got = _curves.rounded_norm(norm, dimension=dimension, beta=beta)
        assert got == pytest.approx(wanted, rel=1e-13 * 10)


@pytest.mark.parametrize(
    ("n", "d", "gamma", "sd", "rounds", "gaussian", "skellam"),
    [
        (100, 2**16, 1e-4, 0.1, 1, 4.753391137, 4.753391160),
        (100, 2**16, 1e-3, 0.1, 1, 4.796508337, 4.796511014),
        (100, 2**10, 1e-2, 0.1, 1, 4.845728337, 4.846010591),
        (1000, 2**20, 1e-4, 0.1, 1, 1.310405861, 1.310405862),
        (100, 2**16, 1e-4, 0.2, 100, 35.13325910, 35.13325915),
    ],
)
def test_epsilons_of_the_papers_bounds(n, d, gamma, sd, rounds, gaussian, skellam):
    """An independent implementation of the bounds gave these, at delta = 1e-5."""
    l2 = _curves.rounded_norm(1 / gamma, dimension=d, beta=BETA)
    l1 = _curves.rounded_sum(l2, d)
    ddg = _curves.discrete_gaussians(l2, l1, sd=sd / gamma, shares=n, dimension=d)
    sk = _curves.skellam(l2, l1, variance=n * (sd / gamma) ** 2)
    for curve, wanted in [(ddg, gaussian), (sk, skellam)]:
        epsilon, _ = compute_epsilon(ORDERS, rounds * curve(ORDERS), 1e-5)
        assert f"{epsilon:.10g}" == f"{wanted:.10g}"


def divergence(p, shift, order):
    """D_a(P + shift || P) of probabilities on a grid."""
    moved, still = p[:-shift], p[shift:]
    keep = (moved > 0) & (still > 0)
    logs = order * np.log(moved[keep]) + (1 - order) * np.log(still[keep])
    return np.log(np.exp(logs).sum()) / (order - 1)


def probabilities(family, sd, shares):
    k = np.arange(-40, 41)
    one = np.exp(-(k**2) / (2 * sd**2)) if family == "gaussian" else special.ive(k, sd**2)
    one, total = one / one.sum(), np.ones(1)
    for _ in range(shares):
        total = np.convolve(total, one)
    return total


@pytest.mark.parametrize("sd", [0.5, 0.7, 1.0, 3.0])
@pytest.mark.parametrize("shares", [1, 2, 5])
def test_curves_are_at_least_the_exact_divergence(sd, shares):
    """One coordinate that moves by one or two steps, by summing over all integers."""
    for shift in (1, 2):
        for order in (2, 3, 5):
            gaussian = _curves.discrete_gaussians(shift, shift, sd=sd, shares=shares, dimension=1)
            true = divergence(probabilities("gaussian", sd, shares), shift, order)
            assert float(gaussian(order)) >= true * (1 - 1e-6)
            if shares == 1:  # of a discrete Gaussian itself the bound is the divergence
                assert float(gaussian(order)) == pytest.approx(true, rel=1e-4)
            bound = _curves.skellam(shift, shift, variance=shares * sd**2)
            true = divergence(probabilities("skellam", sd, shares), shift, order)
            assert float(bound(order)) >= true


def test_nothing_is_claimed_where_nothing_is_known():
    gaussian = _curves.discrete_gaussians(1.0, 1.0, sd=1.0, shares=2, dimension=1)
    assert np.isinf(gaussian(np.array([1.5, 2.0, 2.5]))).tolist() == [True, False, False]
    skellam = _curves.skellam(1.0, 1.0, variance=1.0)
    assert np.isinf(skellam(np.array([1.5, 2.0, 2.5]))).tolist() == [True, False, True]


@pytest.mark.parametrize("rate", [0.01, 0.2, 1.0])
@pytest.mark.parametrize("sd", [1.0, 3.0])
def test_the_bound_for_fixed_cohorts_is_above_mixtures_and_above_the_gaussian_one(rate, sd):
    """A client that is in the cohort at a rate and has 1 or -1; if not, one with 0 is in its place."""
    orders = np.array([2.0, 3.0, 8.0])
    curve = _curves.discrete_gaussians(2, 2, sd=sd, shares=1, dimension=1)
    bound = _curves.fixed_size_bound(curve, rate)
    k = np.arange(-60, 61)

    def log_law(shift):
        density = -((k - shift) ** 2) / (2 * sd**2)
        return density - special.logsumexp(density)

    with np.errstate(divide="ignore"):
        log_in, log_out = np.log(rate), np.log(1 - rate)
    p, q = (np.logaddexp(log_in + log_law(x), log_out + log_law(0)) for x in (1, -1))
    for order, value in zip(orders, bound(orders), strict=True):
        exact = special.logsumexp(order * p + (1 - order) * q) / (order - 1)
        assert 0 < exact <= value
    # The bound of dp-accounting uses more of what is known of the Gaussian.
    event = dp_accounting.SampledWithoutReplacementDpEvent(
        1000, int(1000 * rate), dp_accounting.GaussianDpEvent(sd / 2)
    )
    replace = dp_accounting.NeighboringRelation.REPLACE_ONE
    theirs = RdpAccountant([2, 3, 8], replace).compose(event).rdp
    ours = np.fmin(bound(orders), curve(orders))
    assert np.all(ours >= np.asarray(theirs) * (1 - 1e-9))
    if rate < 0.1:
        assert ours[0] < 0.05 * curve(orders)[0]
    assert np.isinf(bound(np.array([1.5, 2.5]))).all()


def test_epsilon_of_what_clients_add_to_fixed_cohorts_and_none_to_random_ones():
    """The plan of a run: whole cohorts by the curve itself, fixed ones amplified, Poisson refused."""
    mechanism = privacy.distributed_gaussian(
        clip_norm=1.0, noise_multiplier=1.0, granularity=1e-2, bits=16, clients=100, dimension=1024
    )
    once = privacy.epsilon(mechanism, samplers.full(), rounds=1, delta=1e-5, method="rdp")
    # With orders between the integers, a little less than with these alone; above the Gaussian's.
    assert 4.82 < float(once) <= 4.845728337
    fixed = functools.partial(
        privacy.epsilon, rounds=100, delta=1e-5, method="rdp", relation="replace_one"
    )
    amplified = fixed(mechanism, samplers.uniform(100), num_clients=100_000)
    whole = fixed(mechanism, samplers.full())
    assert float(amplified) < 0.1 * float(whole)
    with pytest.raises(
        ValueError, match=r"not drawn adds no noise.*Poisson rate 0.1.*samplers.uniform"
    ):
        privacy.epsilon(mechanism, samplers.poisson(0.1), rounds=1, delta=1e-5, method="rdp")
