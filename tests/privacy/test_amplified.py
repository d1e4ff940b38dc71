"""Correlated noise on sampled cohorts: exact divergences, brute force, the published case."""

import functools
import itertools
import math

import numpy as np
import pytest

from fjx import privacy, samplers
from fjx.privacy import Participation

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
ROOT = privacy.square_root_coefficients


def correlated(strategy, z):
    return privacy.correlated(strategy, clip_norm=1.0, noise_multiplier=z)


def gaussian(z):
    return privacy.gaussian(clip_norm=1.0, noise_multiplier=z)


@pytest.mark.parametrize("method", ["rdp", slow("pld")])
@pytest.mark.parametrize(("bands", "blocks"), [(10, 10), (4, 10), (1, 3)])
def test_bands_no_wider_than_the_blocks_cost_nothing(bands, blocks, method):
    """Choquette-Choo et al. 2023, theorem 4: ceil(T / b) rounds of Poisson-sampled Gaussian noise."""
    c, rate, rounds, z = ROOT(bands), 0.1, 95, 0.9
    how = {"delta": 1e-6, "method": method}
    banded = correlated(privacy.toeplitz(c), z * float(np.linalg.norm(c)))
    sampler = samplers.cyclic_poisson(blocks, rate=rate)
    claim = privacy.epsilon(banded, sampler, rounds=rounds, **how)
    same = privacy.epsilon(
        gaussian(z), samplers.poisson(rate), rounds=math.ceil(rounds / blocks), **how
    )
    assert claim == pytest.approx(float(same), rel=1e-9)
    assert f"in one of {blocks} blocks by turns" in str(claim)
    assert "not amplified" not in str(claim)


def matrix(c, rounds):
    c = np.concatenate([c, np.zeros(rounds)])
    return np.array([[c[t - j] if t >= j else 0.0 for j in range(rounds)] for t in range(rounds)])


@pytest.mark.parametrize("separation", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "c",
    [ROOT(5), np.array([1.0, -0.5, 0.9, 0.1]), np.ones(12), np.array([1.0]), 0.5 ** np.arange(9)],
)
def test_the_largest_share_is_that_of_the_definition(c, separation):
    """All clients of a cycle and all of their rounds, from the matrix itself."""
    rounds = 9
    big = np.abs(matrix(c, rounds))
    squares = []
    for first in range(separation):
        own = big[:, first::separation]
        squares += [column @ own.sum(1) for column in own.T]
    turn = privacy.toeplitz(c).turn(Participation(rounds, separation, rounds))
    assert turn == pytest.approx(math.sqrt(max(squares)))
    # All shares together are the whole: without sampling nothing is gained or lost but by the maximum.
    own = big[:, ::separation]
    assert sum(column @ own.sum(1) for column in own.T) == pytest.approx((own.sum(1) ** 2).sum())
    if c.size <= separation:
        assert turn == pytest.approx(np.linalg.norm(c[:rounds]))


def test_buffers_and_trees_have_shares_of_their_own():
    run = Participation(rounds=16, separation=4, most=4)
    buffers = privacy.buffered_toeplitz([0.3, 0.1], [0.5, 0.95])
    c = np.concatenate([[1.0], [0.3 * 0.5**k + 0.1 * 0.95**k for k in range(15)]])
    assert buffers.turn(run) == pytest.approx(privacy.toeplitz(c).turn(run))
    # Round 1 is in the nodes of height 0 to 4, with at most 1, 1, 1, 2, 4 rounds of a client.
    assert privacy.tree(16).turn(run) == pytest.approx(3.0)


def run_divergences(c, rate, z, epsilons, signs):
    """Hockey-stick divergences of a run of 2 rounds, with a client against without, by quadrature."""
    x = np.linspace(-8 * z - 3, 8 * z + 3, 601)
    x, y = np.meshgrid(x, x, indexing="ij")
    area = (x[1, 0] - x[0, 0]) ** 2

    def law(probability):
        total = 0
        for coins in itertools.product((0, 1), repeat=2):
            mean = matrix(c, 2) @ (np.array(coins) * signs)
            weight = math.prod(probability if coin else 1 - probability for coin in coins)
            total = total + weight * np.exp(-((x - mean[0]) ** 2 + (y - mean[1]) ** 2) / (2 * z**2))
        return total / (2 * math.pi * z**2)

    there, away = law(rate), law(0.0)
    return [
        max(
            np.maximum(p - math.exp(epsilon) * q, 0).sum() * area
            for p, q in ((there, away), (away, there))
        )
        for epsilon in epsilons
    ]


@pytest.mark.parametrize(
    ("c", "rate", "z"),
    [
        ([1.0, 0.5], 0.3, 1.0),
        slow([1.0, -0.9], 0.3, 1.0),
        slow([1.0, 2.0], 0.05, 2.0),
        slow([1.0, 1.0], 0.9, 1.0),
    ],
)
@pytest.mark.parametrize("signs", [(1.0, 1.0), (1.0, -1.0)])
def test_no_run_is_above_the_claim(c, rate, z, signs):
    """Overlapping columns on Poisson cohorts: the exact delta of a run at the claimed epsilon."""
    mechanism = correlated(privacy.toeplitz(c), z)
    for delta in (1e-2, 1e-4):
        claim = privacy.epsilon(mechanism, samplers.poisson(rate), rounds=2, delta=delta, grid=1e-3)
        (exact,) = run_divergences(np.array(c), rate, z, [float(claim)], signs)
        assert exact <= delta * (1 + 1e-4)


def test_overlapping_columns_are_not_separate():
    """With the norm of a column in place of the shares, the claim above would be false."""
    c = [1.0, 1.0]
    apart = privacy.epsilon(
        gaussian(1 / math.sqrt(2)), samplers.poisson(0.9), rounds=2, delta=1e-2, grid=1e-3
    )
    (exact,) = run_divergences(np.array(c), 0.9, 1.0, [float(apart)], (1.0, 1.0))
    assert exact > 1e-2


@pytest.mark.parametrize("strategy", [privacy.toeplitz(ROOT(30)), privacy.tree(16)])
@pytest.mark.parametrize(
    "sampler",
    [
        samplers.poisson(0.01),
        samplers.poisson(1.0),
        samplers.cyclic_poisson(10, rate=0.05),
        samplers.uniform(1),
    ],
)
def test_a_claim_is_the_lower_of_two_accounts(strategy, sampler):
    """The other one is that of everybody in every round in which it is possible."""
    mechanism = correlated(strategy, 40.0)
    period = getattr(sampler.subsampling, "period", 1)
    how = {"rounds": 100, "delta": 1e-5, "method": "rdp"}
    for relation in ("add_or_remove_one", "replace_one"):
        whole = privacy.epsilon(mechanism, samplers.cyclic(period), relation=relation, **how)
        claim = privacy.epsilon(mechanism, sampler, relation=relation, num_clients=100, **how)
        assert claim <= whole
        assert ("not amplified" in str(claim)) == (claim == whole)


def test_a_delta_that_cannot_pay_for_the_capacity_is_claimed_without_chance():
    mechanism = correlated(privacy.toeplitz(ROOT(10)), 4.0)
    how = {"rounds": 100, "delta": 1e-14, "method": "rdp"}
    claim = privacy.epsilon(mechanism, samplers.cyclic_poisson(10, rate=0.1), **how)
    assert claim == privacy.epsilon(mechanism, samplers.cyclic(10), **how)


def test_buffers_on_uniform_cohorts_are_amplified_under_replacement_only():
    mechanism = correlated(privacy.buffered_toeplitz([0.1], [0.5]), 2.0)
    how = {"rounds": 50, "delta": 1e-5, "num_clients": 1000, "method": "rdp"}
    added = privacy.epsilon(mechanism, samplers.uniform(10), **how)
    assert (added.relation, added) == (
        "add_or_remove_one",
        privacy.epsilon(mechanism, samplers.full(), **how),
    )
    replaced = privacy.epsilon(mechanism, samplers.uniform(10), relation="replace_one", **how)
    # Rounds of a multiplier that is smaller by the sum of the coefficients, 1 + 0.1 / (1 - 0.5).
    z = 2.0 / 1.2
    same = privacy.epsilon(gaussian(z), samplers.uniform(10), **how)
    assert 0.9 * same < replaced <= same * (1 + 1e-9)


def test_two_runs_add_up_in_both_accounts():
    mechanism, sampler = (
        correlated(privacy.toeplitz(ROOT(4)), 4.0),
        samplers.cyclic_poisson(4, rate=0.5),
    )
    one = privacy.Ledger().add(mechanism, sampler, rounds=40)
    two = one.add(mechanism, sampler, rounds=40, restarted=True)
    (run,) = two.runs
    assert (run.times, run.rounds, run.otherwise.times) == (20, 80, 2)
    other = one.add(mechanism, sampler, rounds=80, restarted=True)
    assert len(other.runs) == 2  # equal turns, and another release of the whole
    for ledger in (two, other):
        assert ledger.epsilon(delta=1e-5, method="rdp") > one.epsilon(delta=1e-5, method="rdp")
