"""Balls in bins: closed forms, integrals, and what it costs beside other samplers."""

import functools
import math

import numpy as np
import pytest
from scipy import special

from fjx import privacy, samplers
from fjx.privacy._accounting import bins
from fjx.privacy._accounting.bins import bins_curve

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
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
@pytest.mark.parametrize("count", [2, 10, 1000])
def test_the_second_moment_is_that_of_a_chance_to_meet(count, shift):
    """Two draws of P meet in one bin with probability 1/L: log(1 + (exp(s^2) - 1) / L)."""
    meeting = math.log1p(math.expm1(shift**2) / count)
    floor = shift**2 / (2 * count) + shift**2 / 2
    assert bins_curve(count, shift)(np.array([2.0]))[0] == pytest.approx(max(meeting, floor))


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
    shift, order = 0.8, 4
    counts = [np.bincount(np.array(which), minlength=3) for which in np.ndindex(*[3] * order)]
    total = np.mean([np.exp((c * (c - 1)).sum() * shift**2 / 2) for c in counts])
    expected = max(math.log(total) / 3, 3 * shift**2 / 6 + shift**2 / 2)
    assert bins_curve(3, shift)(np.array([4.0]))[0] == pytest.approx(expected)


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
    best = epsilon(samplers.balls_in_bins(20), 40, method="best", grid=1e-2)
    assert best < claim
    assert best.method == "pld"
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


@pytest.mark.parametrize("method", ["pld", "rdp"])
@pytest.mark.parametrize(
    ("make", "relation"),
    [(privacy.gaussian, "replace_one"), (privacy.laplace, "add_or_remove_one")],
)
def test_what_is_not_proved_is_refused(make, relation, method):
    mechanism = make(clip_norm=1.0, noise_multiplier=4.0)
    how = {"rounds": 40, "delta": 1e-5, "method": method, "relation": relation}
    with pytest.raises(ValueError, match=r"balls in bins can be accounted.*samplers\.cyclic"):
        privacy.epsilon(mechanism, samplers.balls_in_bins(20), **how)


def test_no_noise_is_no_privacy():
    assert epsilon(samplers.balls_in_bins(20), 40, z=0.0) == math.inf
    assert epsilon(samplers.balls_in_bins(20), 0) == 0


# --------------------------------------------------------------------------------------------------
# Privacy losses
# --------------------------------------------------------------------------------------------------

EPSILONS = np.array([0.01, 0.1, 0.5, 1.0, 2.0])


@pytest.mark.parametrize("shift", [0.05, 1.0, 3.0])
def test_the_likelihood_ratio_on_few_points_is_farther_spread(shift):
    """Means of max(k - W, 0) and max(W - k, 0) are those of W on points, and larger between them."""
    atoms, cut = bins._likelihood_ratio(shift)
    assert cut < 1e-18
    points = atoms.values[1:-1][:: 37 if shift > 0.1 else 97]
    for k in (points, np.sqrt(points[:-1] * points[1:])):
        x = np.log(k) / shift + shift / 2
        below = k * special.ndtr(x) - special.ndtr(x - shift)
        above = special.ndtr(shift - x) - k * special.ndtr(-x)
        spread = [
            np.maximum(sign * (k[:, None] - atoms.values), 0) @ atoms.masses for sign in (1, -1)
        ]
        for exact, coarse in zip((below, above), spread, strict=True):
            assert (coarse >= exact * (1 - 1e-9) - 1e-15).all()
            if k is points:
                np.testing.assert_allclose(coarse, exact, rtol=1e-7, atol=1e-15)


@pytest.mark.parametrize(("count", "shift"), [(2, 1.0), slow(2, 0.2), slow(2, 2.5)])
def test_two_bins_by_quadrature(count, shift):
    x = np.linspace(-12, 12 + shift, 1801)
    log_q = -(x[:, None] ** 2 + x**2) / 2 - math.log(2 * math.pi)
    ratio = np.exp(np.logaddexp(shift * x[:, None], shift * x) - shift**2 / 2 - math.log(2))
    mass = np.exp(log_q) * (x[1] - x[0]) ** 2
    pair = bins.bins_distribution(count, shift, grid=1e-3)
    for epsilon in EPSILONS:
        there = (np.maximum(ratio - math.exp(epsilon), 0) * mass).sum()
        back = (np.maximum(1 - math.exp(epsilon) * ratio, 0) * mass).sum()
        for exact, pmf in ((there, pair._pmf_remove), (back, pair._pmf_add)):
            got = pmf.get_delta_for_epsilon(epsilon)
            assert exact * (1 - 1e-4) <= got <= exact * 1.02 + 1e-9


def test_many_bins_by_monte_carlo():
    """200,000 runs with 50 bins: both deltas within 5 standard errors and 3 percent, from above."""
    rng, shift, count, draws = np.random.default_rng(0), 1.0, 50, 200_000
    ratio = sum(np.exp(shift * rng.standard_normal(draws) - shift**2 / 2) for _ in range(count))
    ratio /= count
    pair = bins.bins_distribution(count, shift, grid=1e-3)
    for epsilon in EPSILONS[:3]:
        for values, pmf in (
            (np.maximum(ratio - math.exp(epsilon), 0), pair._pmf_remove),
            (np.maximum(1 - math.exp(epsilon) * ratio, 0), pair._pmf_add),
        ):
            error = 5 * values.std() / math.sqrt(draws)
            got = pmf.get_delta_for_epsilon(epsilon)
            assert values.mean() - error <= got <= 1.03 * values.mean() + error


def test_losses_of_one_bin_are_those_of_a_gaussian():
    pair = bins.bins_distribution(1, 1.0, grid=1e-3)
    assert 4.377178 <= pair.get_epsilon_for_delta(1e-5) < 4.379
    assert epsilon(samplers.balls_in_bins(1), 7, method="pld", grid=1e-3) == pytest.approx(
        float(epsilon(samplers.full(), 7, method="pld", grid=1e-3)), rel=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 100, 5000])
@pytest.mark.parametrize("z", [0.3, 2.0])
def test_losses_are_below_the_curve_and_below_those_of_a_known_bin(count, z):
    for delta in (1e-3, 1e-6):  # a smaller one does not pay for the capacity of 10,000 rounds
        rdp, pld, known = (
            privacy.epsilon(
                privacy.gaussian(clip_norm=1.0, noise_multiplier=z),
                sampler,
                rounds=2 * count,
                delta=delta,
                method=method,
            )
            for sampler, method in (
                (samplers.balls_in_bins(count), "rdp"),
                (samplers.balls_in_bins(count), "pld"),
                (samplers.cyclic(count), "pld"),
            )
        )
        assert pld <= rdp
        assert pld <= known * 1.001
