"""Clients that remember: claims over rounds hold on Poisson cohorts, and say where it is not proved."""

import itertools

import numpy as np
import pytest

from fjx import privacy, samplers

GAUSSIAN = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
NUM = 50


@pytest.mark.parametrize(
    ("sampler", "method", "says"),
    [
        (samplers.uniform(5), "rdp", True),
        pytest.param(samplers.poisson(0.1, cap=30), "pld", True, marks=pytest.mark.ci),
        (samplers.poisson(0.1), "rdp", False),
        (samplers.cyclic_poisson(4, rate=0.5), "rdp", False),
        (samplers.balls_in_bins(4), "rdp", False),
        (samplers.full(), "rdp", False),
        (samplers.cyclic(4), "rdp", False),
    ],
    ids=["fixed size", "capped", "Poisson", "cyclic Poisson", "bins", "full", "cyclic"],
)
def test_claims_say_for_which_cohorts_memory_is_not_proved(sampler, method, says):
    claim = privacy.epsilon(GAUSSIAN, sampler, rounds=2, delta=1e-5, method=method, num_clients=NUM)
    words = "Proved for clients that remember nothing between rounds"
    assert any(words in caveat for caveat in claim.caveats) == says


def densities(rate, first, second, grid):
    """Law of the releases of two rounds, if the second message depends on the first coin."""
    normal = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)

    def moved(by):
        return np.exp(-((grid - by) ** 2) / 2) / np.sqrt(2 * np.pi)

    total = 0.0
    for coin, weight in ((0, 1 - rate), (1, rate)):
        one = moved(first) if coin else normal
        other = (1 - rate) * normal + rate * moved(second[coin])
        total = total + weight * np.outer(one, other)
    return total


@pytest.mark.ci
@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
def test_a_message_that_remembers_a_coin_stays_within_the_claim_of_poisson_cohorts(relation):
    """All second messages of +C and -C by the first coin, on both neighbours, by integration."""
    rate, delta = 0.3, 1e-2
    epsilon = privacy.epsilon(
        GAUSSIAN, samplers.poisson(rate), rounds=2, delta=delta, relation=relation
    )
    grid = np.linspace(-7, 7, 351)
    cell = (grid[1] - grid[0]) ** 2
    signs = list(itertools.product((-1.0, 1.0), repeat=2))
    if relation == "add_or_remove_one":
        pairs = [((1.0, x), (0.0, (0.0, 0.0))) for x in signs]
    else:
        pairs = [((1.0, x), (-1.0, y)) for x in signs for y in signs]
    spent = []
    for (first, second), (other_first, other_second) in pairs:
        here = densities(rate, first, second, grid)
        there = densities(rate, other_first, other_second, grid)
        for a, b in ((here, there), (there, here)):
            spent.append(cell * np.maximum(a - np.exp(epsilon) * b, 0).sum())
    assert 0.9 * delta < max(spent) <= delta * (1 + 1e-3)
