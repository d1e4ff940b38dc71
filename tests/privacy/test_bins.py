"""Balls in bins: closed forms, integrals, and what it costs beside other samplers."""

import math

import numpy as np
import pytest

from fjx import privacy, samplers
from fjx.privacy._accounting.bins import bins_curve

ORDERS = np.array([2.0, 3.0, 4.0, 7.0, 30.0])


def epsilon(sampler, rounds, z=4.0, **how):
    mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=z)
    return privacy.epsilon(
        mechanism, sampler, rounds=rounds, delta=1e-5, **{"method": "rdp", **how}
    )


@pytest.mark.parametrize("shift", [0.1, 1.0, 2.5])
def test_one_bin_hides_nothing(shift):
    np.testing.assert_allclose(bins_curve(1, shift)(ORDERS), ORDERS * shift**2 / 2, rtol=1e-9)


@pytest.mark.parametrize("shift", [0.1, 1.0, 2.5])
@pytest.mark.parametrize("bins", [2, 10, 1000])
def test_the_second_moment_is_that_of_a_chance_to_meet(bins, shift):
    """Two draws of P meet in one bin with probability 1/L: log(1 + (exp(s^2) - 1) / L)."""
    meeting = math.log1p(math.expm1(shift**2) / bins)
    floor = shift**2 / (2 * bins) + shift**2 / 2
    assert bins_curve(bins, shift)(np.array([2.0]))[0] == pytest.approx(max(meeting, floor))


@pytest.mark.few(4)
@pytest.mark.parametrize("shift", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("order", [2, 3, 6])
def test_the_curve_bounds_both_divergences_by_quadrature(order, shift):
    """On the plane: exact with the client against without, and a bound the other way."""
    x = np.linspace(-14, 14 + order * shift, 1601)
    step = x[1] - x[0]
    log_q = -(x[:, None] ** 2 + x**2) / 2 - math.log(2 * math.pi)
    ratio = np.logaddexp(shift * x[:, None], shift * x) - shift**2 / 2 - math.log(2)

    def divergence(log_density, log_ratio):
        total = np.exp(log_density + (order - 1) * log_ratio).sum() * step**2
        return math.log(total) / (order - 1)

    there = divergence(log_q + ratio, ratio)
    back = divergence(log_q, -ratio)
    got = bins_curve(2, shift)(np.array([float(order)]))[0]
    floor = (order - 1) * shift**2 / 4 + shift**2 / 2
    assert back <= floor
    assert got == pytest.approx(max(there, floor), rel=1e-6)


def test_the_moments_against_a_sum_over_all_assignments():
    bins, shift, order = 3, 0.8, 4
    counts = [np.bincount(np.array(which), minlength=bins) for which in np.ndindex(*[bins] * order)]
    total = np.mean([np.exp((c * (c - 1)).sum() * shift**2 / 2) for c in counts])
    expected = max(math.log(total) / 3, 3 * shift**2 / 6 + shift**2 / 2)
    assert bins_curve(bins, shift)(np.array([4.0]))[0] == pytest.approx(expected)


def test_what_is_not_known_is_inf():
    assert (bins_curve(5, 1.0)(np.array([1.5, 2.5, 65.0, 1024.0])) == np.inf).all()


def test_bins_cost_less_than_blocks_and_a_bin_costs_as_much():
    for rounds in (20, 45):
        hidden, known = (
            epsilon(samplers.balls_in_bins(20), rounds),
            epsilon(samplers.cyclic(20), rounds),
        )
        assert hidden < 0.8 * known
    whole = epsilon(samplers.full(), 7)
    assert epsilon(samplers.balls_in_bins(1), 7) == pytest.approx(float(whole), rel=1e-6)
    turns = [float(epsilon(samplers.balls_in_bins(20), rounds)) for rounds in (1, 20, 21, 60)]
    assert turns[0] == pytest.approx(turns[1], rel=1e-6)  # the price of capacity apart
    assert turns[1] < turns[2] < turns[3]


def test_the_claim_says_what_ran():
    claim = epsilon(samplers.balls_in_bins(20), 40)
    assert "one random bin of 20, by turns" in str(claim)
    assert claim.caveats == ()
    best = epsilon(samplers.balls_in_bins(20), 40, method="best")
    assert (float(best), best.method) == (float(claim), "rdp")
    (run,) = (
        privacy.Ledger()
        .add(
            privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0),
            samplers.balls_in_bins(20),
            rounds=40,
        )
        .runs
    )
    assert (run.times, run.slack) == (1, 40 * 2.0**-40)


def test_correlated_noise_in_bins_is_not_amplified():
    correlated = privacy.gaussian(clip_norm=1.0, noise_multiplier=4.0)._replace(
        correlation=lambda often: often.most**0.5
    )
    claim = privacy.epsilon(
        correlated, samplers.balls_in_bins(20), rounds=40, delta=1e-5, method="rdp"
    )
    assert claim == pytest.approx(float(epsilon(samplers.cyclic(20), 40)), rel=1e-9)
    assert "by turns, not amplified" in str(claim)


@pytest.mark.parametrize("how", [{"method": "pld"}, {"relation": "replace_one"}])
def test_what_is_not_proved_is_refused(how):
    with pytest.raises(ValueError, match=r"balls in bins can be accounted.*samplers\.cyclic"):
        epsilon(samplers.balls_in_bins(20), 40, **how)


def test_no_noise_is_no_privacy():
    assert epsilon(samplers.balls_in_bins(20), 40, z=0.0) == math.inf
    assert epsilon(samplers.balls_in_bins(20), 0) == 0
