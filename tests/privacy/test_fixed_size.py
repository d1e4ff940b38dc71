"""Cohorts of fixed size by PLD: brute force over populations, the published pair, extremes."""

import functools
import itertools
import math

import numpy as np
import pytest
from dp_accounting.pld import pld_pmf, privacy_loss_distribution
from scipy import special

from fjx import privacy, samplers
from fjx.privacy._accounting.profiles import fixed_size_distribution

slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def gaussian(z):
    return privacy.gaussian(clip_norm=1.0, noise_multiplier=z)


def laplace(z):
    return privacy.laplace(clip_norm=1.0, noise_multiplier=z)


def profile(make, z, rate, grid=1e-3):
    return fixed_size_distribution(make(z).event(2.0), rate, grid)


def log_density(make, z):
    if make is gaussian:
        return lambda x: -(x**2) / (2 * z**2) - math.log(z * math.sqrt(2 * math.pi))
    return lambda x: -np.abs(x) / z - math.log(2 * z)


def divergence(p, q, epsilon, x):
    """Hockey-stick divergence of two densities on a uniform grid."""
    return np.maximum(p - math.exp(epsilon) * q, 0).sum() * (x[1] - x[0])


@pytest.mark.parametrize(
    ("make", "z", "size"),
    [
        (gaussian, 0.8, 1),
        (laplace, 1.0, 2),
        *(slow(gaussian, z, size) for z in (0.8, 2.0) for size in (1, 2, 3)),
        *(slow(laplace, 1.0, size) for size in (1, 3)),
    ],
)
def test_no_population_is_above_the_bound(make, z, size):
    """All populations of 3 clients with contributions -1, 0, 1, and all replacements of the first."""
    x, log = np.linspace(-14, 14, 14_001), log_density(make, z)
    others, epsilons = (-1.0, 0.0, 1.0), (0.0, 0.1, 0.5, 1.0, 2.0)

    def release(*values):
        cohorts = list(itertools.combinations(values, size))
        return sum(np.exp(log(x - sum(cohort))) for cohort in cohorts) / len(cohorts)

    worst = np.zeros(len(epsilons))
    for rest in itertools.combinations_with_replacement(others, 2):
        for a, b in itertools.permutations(others, 2):
            p, q = release(a, *rest), release(b, *rest)
            worst = np.maximum(worst, [divergence(p, q, epsilon, x) for epsilon in epsilons])
    bound = profile(make, z, size / 3).get_delta_for_epsilon(list(epsilons))
    assert (worst <= bound + 1e-6).all()  # quadrature errs by the square of its step
    # The worst of them is the pair itself: the other clients are where the replacement is.
    np.testing.assert_allclose(worst, bound, rtol=2e-2, atol=1e-6)


@pytest.mark.parametrize(("make", "z", "rate"), [(gaussian, 1.0, 0.2), (laplace, 2.0, 0.05)])
def test_negative_epsilons_are_those_of_the_other_direction(make, z, rate):
    """Both sides of zero by quadrature: (1-q) Q + q P against Q above, P against (1-q) P + q Q below."""
    x, log = np.linspace(-40, 40, 80_001), log_density(make, z)
    p, q = np.exp(log(x - 2)), np.exp(log(x))
    pair = profile(make, z, rate)
    for epsilon in (0.01, 0.3, 1.0):
        above = divergence((1 - rate) * q + rate * p, q, epsilon, x)
        below = divergence(p, (1 - rate) * p + rate * q, -epsilon, x)
        assert pair.get_delta_for_epsilon(epsilon) == pytest.approx(above, rel=1e-4, abs=1e-7)
        assert pair.get_delta_for_epsilon(-epsilon) == pytest.approx(below, rel=1e-4)


@pytest.mark.parametrize(
    ("z", "rate", "rounds", "delta"), [(4.0, 0.1, 100, 1e-5), slow(2.0, 0.01, 1000, 1e-6)]
)
def test_against_the_halves_of_dp_accountings_pairs(z, rate, rounds, delta):
    """Losses above 0 from its pair for removal, below 0 from its pair for addition, the rest at 0."""
    grid = 2e-3
    both = privacy_loss_distribution.from_gaussian_mechanism(
        z / 2, sampling_prob=rate, value_discretization_interval=grid
    )
    up, down = both._pmf_remove.to_dense_pmf(), both._pmf_add.to_dense_pmf()
    pmf = {up._lower_loss + i: p for i, p in enumerate(up._probs) if up._lower_loss + i > 0}
    pmf |= {down._lower_loss + i: p for i, p in enumerate(down._probs) if down._lower_loss + i < 0}
    pmf[0] = 1 - sum(pmf.values()) - up._infinity_mass
    pair = privacy_loss_distribution.PrivacyLossDistribution(
        pld_pmf.create_pmf(pmf, grid, up._infinity_mass, True)
    )
    theirs = pair.self_compose(rounds).get_epsilon_for_delta(delta)
    ours = privacy.epsilon(
        gaussian(z), samplers.uniform(round(rate * 1e4)), rounds=rounds, delta=delta,
        num_clients=10_000, grid=grid,
    )  # fmt: skip
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert (ours.relation, ours.method) == ("replace_one", "pld")


def closed_form(z, rate, epsilon):
    """Profile rate h(log(1 + (e^epsilon - 1) / rate)), for Gaussian noise of multiplier z / 2."""
    x, mu = math.log1p(math.expm1(epsilon) / rate), 2 / z
    return rate * (special.ndtr(mu / 2 - x / mu) - math.exp(x) * special.ndtr(-mu / 2 - x / mu))


@pytest.mark.parametrize(
    ("rate", "delta"),
    [
        (1e-6, 1e-7),
        (0.3, 1e-12),
        *(slow(rate, delta) for rate in (1e-6, 1e-3, 0.3, 1.0) for delta in (1e-3, 1e-8, 1e-12)),
    ],
)
def test_one_round_at_extremes(rate, delta):
    z, n = 1.5, 1_000_000
    claim = privacy.epsilon(
        gaussian(z), samplers.uniform(round(rate * n)), rounds=1, delta=delta, num_clients=n
    )
    # Never below the exact number, and above it by a step of the grid.
    assert closed_form(z, rate, claim) <= delta * (1 + 1e-6)
    if claim > 2e-4:
        assert closed_form(z, rate, claim - 2e-4) > delta - 2e-15  # tails cut by dp-accounting


@pytest.mark.parametrize("make", [gaussian, laplace])
def test_everybody_is_no_sampling(make):
    how = {"rounds": 3, "delta": 1e-5, "relation": "replace_one", "grid": 1e-3}
    every = privacy.epsilon(make(3.0), samplers.uniform(50), num_clients=50, **how)
    if make is gaussian:
        assert every == pytest.approx(privacy.epsilon(make(3.0), samplers.full(), **how), abs=2e-3)
    else:
        added = how | {"relation": "add_or_remove_one"}
        assert every == pytest.approx(
            privacy.epsilon(make(1.5), samplers.full(), **added), abs=2e-3
        )


def test_laplace_noise_is_pure():
    """One round of rate q costs log(1 + q (e^(2/z) - 1)) at any delta, and T rounds at most T of it."""
    how = {"delta": 1e-14, "num_clients": 100}
    once = math.log1p(0.1 * math.expm1(2 / 4.0))
    for rounds in (1, 20):
        claim = privacy.epsilon(laplace(4.0), samplers.uniform(10), rounds=rounds, **how)
        assert 0.5 * rounds * once < claim <= rounds * (once + 1e-4)


@pytest.mark.slow
def test_the_pair_is_never_above_the_renyi_bound():
    for n, m, z, rounds in ((100, 1, 0.7, 1), (100, 50, 4.0, 200), (100_000, 100, 1.0, 3000)):
        how = {"rounds": rounds, "delta": 1e-6, "num_clients": n}
        pld, rdp = (
            privacy.epsilon(gaussian(z), samplers.uniform(m), method=method, **how)
            for method in ("pld", "rdp")
        )
        assert pld <= rdp


def test_without_noise_nothing_is_claimed():
    for mechanism in (gaussian(0.0), laplace(0.0)):
        how = {"rounds": 1, "delta": 1e-5, "num_clients": 10}
        assert privacy.epsilon(mechanism, samplers.uniform(1), **how) == math.inf
