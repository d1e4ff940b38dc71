"""Capped Poisson cohorts: the profile in closed form against dp-accounting's, one number at a time."""

import functools

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution

from fjx import privacy, samplers
from fjx.privacy._accounting.profiles import capped_poisson_distribution

slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
@pytest.mark.parametrize(
    ("n", "rate", "cap", "z", "rounds"),
    [
        (10, 0.3, 1, 1.0, 3),  # nearly always full
        (1000, 0.1, 150, 1.0, 500),  # nearly never
        slow(1000, 0.1, 100, 5.0, 500),
        slow(50, 1.0, 20, 2.0, 4),  # everybody is drawn
        slow(50, 1.0, 50, 2.0, 4),
        slow(10**6, 1e-5, 20, 0.5, 10_000),
        slow(1, 0.5, 1, 3.0, 1),
    ],
)
def test_against_dp_accounting(n, rate, cap, z, rounds, relation):
    grid = 5e-3
    ours = capped_poisson_distribution(
        z, rate=rate, cap=cap, num_clients=n, relation=relation, grid=grid
    )
    theirs = privacy_loss_distribution.from_truncated_subsampled_gaussian_mechanism(
        n,
        rate,
        cap,
        z,
        grid,
        neighboring_relation=dp_accounting.NeighboringRelation[relation.upper()],
    )
    epsilons = np.array([-1.0, -0.1, 0.0, 0.01, 0.3, 1.0, 2.0])
    np.testing.assert_allclose(
        *(pair.get_delta_for_epsilon(epsilons) for pair in (ours, theirs)), rtol=1e-9, atol=1e-13
    )
    ours, theirs = (
        pair.self_compose(rounds).get_epsilon_for_delta(1e-6) for pair in (ours, theirs)
    )
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_cap_out_of_reach_is_none():
    ideal = samplers.poisson(0.02)
    ideal = ideal._replace(subsampling=ideal.subsampling._replace(overflow=0.0))
    how = {"rounds": 300, "delta": 1e-6, "num_clients": 500, "grid": 1e-3}
    mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=0.9)
    capped, free = (
        float(privacy.epsilon(mechanism, sampler, **how))
        for sampler in (samplers.poisson(0.02, cap=300), ideal)
    )
    assert capped == pytest.approx(free, rel=1e-6)
