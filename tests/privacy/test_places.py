"""A random place in each period: shares of noise by their definition, runs by Monte Carlo, claims."""

import functools
import itertools
import math

import numpy as np
import pytest

from fjx import privacy, samplers
from fjx.privacy import Places

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
ROOT = privacy.square_root_coefficients


def matrix(c, rounds):
    c = np.concatenate([c, np.zeros(rounds)])
    return np.array([[c[t - j] if t >= j else 0.0 for j in range(rounds)] for t in range(rounds)])


def seats(places, phase):
    """The rounds of a run in which each place of each period is, if the run begins at a phase."""
    rounds, period, count, _, _ = places
    return [
        [start + place - phase for place in range(count)]
        for start in range(0, rounds + phase, period)
    ]


def squares(big, places, phase):
    """Squared norms of all places under their shares, over all classes that the claim may know."""
    here = [[[r] if 0 <= r < len(big) else [] for r in row] for row in seats(places, phase)]
    if places.kept:
        here = [[list(itertools.chain(*rows)) for rows in zip(*here, strict=True)]]
    for classes in itertools.product(range(places.apart), repeat=len(here)):
        own = [
            big[:, rows].sum(1)
            for row, first in zip(here, classes, strict=True)
            for rows in row[first :: places.apart]
        ]
        everybody = np.sum(own, axis=0)
        yield from (column @ everybody for column in own)


@pytest.mark.parametrize(
    "c", [ROOT(3), np.array([1.0, -0.5, 0.9]), np.array([1.0]), 0.7 ** np.arange(8), [0.2, 1.0]]
)
@pytest.mark.parametrize(
    ("period", "count", "kept"), [(4, 4, True), (4, 3, False), (5, 2, False), (3, 3, False)]
)
def test_a_place_has_the_share_of_the_definition(c, period, count, kept):
    """Every phase, every class in every period, from the matrix itself."""
    big = np.abs(matrix(c, 8))
    for apart in (1, 2):
        places = Places(8, period, count, apart, kept)
        phases = [0] if kept else range(period)
        exact = max(max(squares(big, places, phase)) for phase in phases)
        got = privacy.toeplitz(c).place(places)
        assert got >= math.sqrt(exact) * (1 - 1e-12)
        if kept or len(c) <= period - count + 1:
            # No row has two periods.  (Longer columns are bounded: a run begins at one phase only.)
            assert got == pytest.approx(math.sqrt(exact))
        if len(c) <= min(apart, period - count + 1):
            assert got == pytest.approx(np.linalg.norm(c) * (math.sqrt(8 / period) if kept else 1))


@pytest.mark.parametrize("kept", [True, False])
def test_nothing_is_sent_in_no_rounds(kept):
    assert privacy.toeplitz(ROOT(3)).place(Places(0, 4, 2, 1, kept)) == 0


def losses(c, sampler, phase, rounds, z, signs, draws):
    """Losses of runs of a client that sends +1 or -1 by round, with the client and without it.

    All placements are listed, so that the densities are exact; the releases are random.
    """
    rng, big = np.random.default_rng(0), matrix(c, rounds)
    match sampler.subsampling:
        case samplers.BallsInBins(bins):
            ways = [list(range(b, rounds, bins)) for b in range(bins)]
        case samplers.MinSeparated(_, period) as law:
            rows = seats(Places(rounds, period, law.places, 1, kept=False), phase)
            ways = [[r for r in way if 0 <= r < rounds] for way in itertools.product(*rows)]
    means = np.array([(big[:, way] * np.array(signs)[way]).sum(1) for way in ways]) / z

    def loss(x):
        return np.logaddexp.reduce(x @ means.T - (means**2).sum(1) / 2, axis=1) - math.log(
            len(ways)
        )

    without = rng.standard_normal((draws, rounds))
    present = means[rng.integers(len(ways), size=draws)] + rng.standard_normal((draws, rounds))
    return loss(present), -loss(without)


def excess(losses, epsilon):
    """Delta of a run at an epsilon, as a mean of draws, and its standard error."""
    values = np.maximum(-np.expm1(epsilon - losses), 0)
    return values.mean(), values.std() / math.sqrt(values.size)


RUNS = [
    slow(ROOT(1), samplers.min_separation(2, period=4), 2.0),
    (ROOT(2), samplers.min_separation(2, period=4), 2.0),
    (ROOT(2), samplers.balls_in_bins(4), 2.0),
    slow([1.0, 1.0], samplers.min_separation(2, period=4), 1.0),
    slow([1.0, 1.0, 1.0], samplers.min_separation(1, period=4), 3.0),
    slow([1.0, -0.9], samplers.min_separation(2, period=5), 1.5),
    slow([1.0, 1.0], samplers.balls_in_bins(3), 2.0),
    slow([1.0, 0.8, 0.6, 0.4], samplers.balls_in_bins(4), 3.0),
    slow(ROOT(8), samplers.min_separation(1, period=3), 3.0),
]


@pytest.mark.ci
@pytest.mark.parametrize(("c", "sampler", "z"), RUNS)
def test_no_run_is_above_the_claim(c, sampler, z):
    """100,000 runs of 8 rounds: delta at the amplified epsilon, within 5 standard errors."""
    rounds, delta = 8, 1e-2
    mechanism = privacy.correlated(privacy.toeplitz(c), clip_norm=1.0, noise_multiplier=z)
    (run,) = privacy.Ledger().add(mechanism, sampler, rounds=rounds).runs
    amplified = privacy.Ledger((run._replace(otherwise=None),))
    claim = amplified.epsilon(delta=delta, grid=1e-3)
    for phase in (0, 1):
        for signs in ([1.0] * 8, [1.0, -1.0] * 4):
            for found in losses(c, sampler, phase, rounds, z, signs, 100_000):
                mean, error = excess(found, float(claim))
                assert mean - 5 * error <= delta


def certainly(sampler, rounds):
    """The same limits without the chance."""
    often = privacy.participation(sampler, rounds=rounds)
    limits = samplers.Scheduled("limits", often.separation, lambda rounds: often.most)
    return sampler._replace(subsampling=limits)


@pytest.mark.ci
def test_places_that_share_noise_are_not_separate():
    """With the norm of a column in place of the share, a claim would be false."""
    c, z, delta = np.ones(4), 1.5, 1e-2
    sampler = samplers.balls_in_bins(4)
    apart = privacy.epsilon(
        privacy.gaussian(clip_norm=1.0, noise_multiplier=z / 2),
        sampler,
        rounds=4,
        delta=delta,
        grid=1e-3,
    )
    mean, error = excess(losses(c, sampler, 0, 4, z, [1.0] * 4, 200_000)[0], float(apart))
    assert mean - 5 * error > delta


def epsilon(mechanism, sampler, **how):
    return privacy.epsilon(
        mechanism, sampler, **{"rounds": 100, "delta": 1e-5, "method": "rdp"} | how
    )


GAUSSIAN = privacy.gaussian(clip_norm=1.0, noise_multiplier=4.0)
BANDED = privacy.correlated(privacy.toeplitz(ROOT(4)), clip_norm=1.0, noise_multiplier=4.0)
BUFFERED = privacy.correlated(
    privacy.buffered_toeplitz([0.3, 0.1], [0.5, 0.9]), clip_norm=1.0, noise_multiplier=4.0
)
TREE = privacy.correlated(privacy.tree(16), clip_norm=1.0, noise_multiplier=4.0)
SEPARATED = samplers.min_separation(4, period=40)


@pytest.mark.parametrize("mechanism", [GAUSSIAN, BANDED, BUFFERED])
def test_a_random_round_of_each_period_amplifies(mechanism):
    claim = epsilon(mechanism, SEPARATED)
    certain = epsilon(mechanism, certainly(SEPARATED, 100))
    assert claim < 0.6 * certain
    assert "once in 40 rounds, 4 rounds or more apart, 100 rounds" in str(claim)
    assert claim.caveats == certain.caveats[: len(claim.caveats)]


@pytest.mark.parametrize(
    ("mechanism", "how"),
    [
        (TREE, {}),
        (GAUSSIAN, {"relation": "replace_one"}),
        (BANDED, {"relation": "replace_one"}),
        (GAUSSIAN, {"delta": 1e-14}),  # which does not pay for the capacity
        (privacy.laplace(clip_norm=1.0, noise_multiplier=40.0), {}),
        (
            privacy.discrete_gaussian(
                clip_norm=40.0, noise_multiplier=4.0, granularity=1.0, dimension=10
            ),
            {},
        ),
    ],
    ids=["tree", "replaced", "banded, replaced", "tiny delta", "Laplace", "integers"],
)
def test_what_is_not_proved_is_claimed_without_chance(mechanism, how):
    claim = epsilon(mechanism, SEPARATED, **how)
    assert claim == epsilon(mechanism, certainly(SEPARATED, 100), **how)
    assert "4 rounds or more apart, not amplified" in str(claim)


def test_one_place_is_no_chance():
    claim = epsilon(BANDED, samplers.min_separation(4, period=4))
    assert claim == epsilon(
        BANDED, samplers.cyclic(4)._replace(subsampling=samplers.Scheduled("", 4, lambda t: 25))
    )
    assert epsilon(BANDED, SEPARATED, rounds=0) == 0


def test_independent_noise_is_that_of_one_bin_in_each_period():
    """100 rounds have at most 3 places of a client of 37 rounds each, which are drawn independently."""
    (run,) = privacy.Ledger().add(GAUSSIAN, SEPARATED, rounds=100).runs
    assert run.times == privacy.participation(SEPARATED, rounds=100).most == 4
    assert run.release.amplified_by == samplers.BallsInBins(37, SEPARATED.subsampling.overflow)
    assert run.slack == 100 * SEPARATED.subsampling.overflow
    assert run.otherwise.slack == 0


def test_phases_of_a_run_do_not_add_up():
    ledger = privacy.Ledger().add(GAUSSIAN, SEPARATED, rounds=10)
    with pytest.raises(ValueError, match="a run with a schedule is in the ledger"):
        ledger.add(GAUSSIAN, SEPARATED, rounds=10)
