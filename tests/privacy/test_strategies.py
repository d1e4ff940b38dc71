"""Strategies: the numbers of the literature, sensitivity to every pattern, accounting, the best ones."""

import itertools
import math

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant

from fjx import privacy
from fjx.privacy import Participation
from fjx.privacy._correlated.toeplitz import blt_coefficients, overlay
from tests.support import matrices

lower, blt, nodes, node_matrix = matrices.lower, matrices.blt, matrices.nodes, matrices.node_matrix
BANDED, OMEGA, ROUNDS, SQUARE_ROOT, THETA = (
    matrices.BANDED,
    matrices.OMEGA,
    matrices.ROUNDS,
    matrices.SQUARE_ROOT,
    matrices.THETA,
)
decoder = matrices.decoder


# --------------------------------------------------------------------------------------------------
# Numbers of the literature
# --------------------------------------------------------------------------------------------------


def once(rounds):
    return Participation(rounds, separation=rounds, most=1)


def test_square_root_coefficients():
    c = privacy.square_root_coefficients(30)
    np.testing.assert_array_equal(c[:5], [1, 0.5, 0.375, 0.3125, 0.2734375])
    np.testing.assert_allclose(lower(c, 30) @ lower(c, 30), np.tril(np.ones((30, 30))), atol=1e-14)
    inverse = privacy.noise_matrix(privacy.toeplitz(c), 30)[:5, 0]
    np.testing.assert_allclose(inverse, [1, -1 / 2, -1 / 8, -1 / 16, -5 / 128], atol=1e-7)


@pytest.mark.parametrize(("rounds", "square"), [(8, 1.718379), (16, 1.943879), (1024, 3.272554)])
def test_sensitivity_of_the_square_root(rounds, square):
    strategy = privacy.toeplitz(privacy.square_root_coefficients(rounds))
    assert strategy.sensitivity(once(rounds)) ** 2 == pytest.approx(square, abs=5e-7)


@pytest.mark.parametrize(
    ("rounds", "root", "alone"),
    [(16, 1.7968, 2.9155), pytest.param(1024, 3.1098, 22.638, marks=pytest.mark.slow)],
)
def test_error_of_the_square_root_against_independent_noise(rounds, root, alone):
    coefficients = privacy.square_root_coefficients(rounds)
    got = privacy.prefix_error(privacy.toeplitz(coefficients), once(rounds))
    assert got == pytest.approx(root, abs=5e-5)
    got = privacy.prefix_error(privacy.toeplitz([1.0]), once(rounds))
    assert got == pytest.approx(alone, abs=5e-4 if rounds > 16 else 5e-5)


def prefix_variances(strategy, rounds):
    return np.square(np.cumsum(privacy.noise_matrix(strategy, rounds), axis=0)).sum(axis=1)


def test_prefix_variances_of_trees():
    popcounts = [t.bit_count() for t in range(1, 41)]
    np.testing.assert_allclose(prefix_variances(privacy.tree(64), 40), popcounts, atol=1e-5)
    restarted = [(t // 8) + (t % 8).bit_count() for t in range(1, 41)]
    np.testing.assert_allclose(prefix_variances(privacy.tree(8), 40), restarted, atol=1e-5)
    single = prefix_variances(privacy.honaker_tree(64), 16)[[0, 1, 3, 7, 15]]
    np.testing.assert_allclose(single, [1, 2 / 3, 4 / 7, 8 / 15, 16 / 31], atol=1e-6)


@pytest.mark.parametrize("honaker", [False, True])
def test_the_oracle_of_trees_estimates_the_running_sums(honaker):
    """A decoder of nodes is one: it gives back the running sums of any data."""
    rows = decoder(6, ROUNDS, honaker) @ node_matrix(6, ROUNDS)
    np.testing.assert_allclose(rows, np.tril(np.ones((ROUNDS, ROUNDS))), atol=1e-12)


# --------------------------------------------------------------------------------------------------
# Sensitivity, by looking at every pattern
# --------------------------------------------------------------------------------------------------


def patterns(rounds, separation, most):
    """Every set of at most so many rounds that are so far apart."""
    yield ()
    for first in range(rounds if most else 0):
        for rest in patterns(rounds - first - separation, separation, most - 1):
            yield (first, *(first + separation + t for t in rest))


def worst(matrix, participation, signs=(1,)):
    """The largest ||C u||, u of 0 and +-1, over all patterns of participation."""
    return max(
        np.linalg.norm(matrix[:, list(pattern)] @ np.array(sign, float))
        for pattern in patterns(*participation)
        for sign in itertools.product(signs, repeat=len(pattern))
    )


def participations(rounds):
    for separation in range(1, rounds + 1):
        for most in range(1, math.ceil(rounds / separation) + 1):
            yield Participation(rounds, separation, most)


@pytest.mark.parametrize(
    "column", [(1.0,), BANDED, tuple(SQUARE_ROOT[:8]), tuple(blt(8)), (1.0, 1.0, 1.0, 0.5)]
)
def test_non_increasing_columns_have_the_sensitivity_of_the_worst_pattern(column):
    strategy = privacy.toeplitz(column)
    for rounds in (1, 2, 5, 8):
        for participation in participations(rounds):
            expected = worst(lower(column, rounds), participation)
            assert strategy.sensitivity(participation) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("column", [(1.0, -0.5, 0.7), (0.2, 1.0, -1.0), (0.1, 0.0, 2.0, 0.0)])
def test_other_columns_are_exact_where_they_do_not_meet_and_bounded_where_they_do(column):
    strategy = privacy.toeplitz(column)
    for participation in participations(7):
        got = strategy.sensitivity(participation)
        true = worst(lower(column, 7), participation, signs=(1, -1))
        if participation.separation >= len(column) or participation.most == 1:
            assert got == pytest.approx(true, rel=1e-12)
        else:
            assert got >= true * (1 - 1e-12)


def test_bands_that_do_not_meet_give_the_root_of_k():
    strategy = privacy.toeplitz(BANDED)
    for most in (1, 2, 5):
        got = strategy.sensitivity(Participation(100, separation=4, most=most))
        assert got == pytest.approx(math.sqrt(most) * np.linalg.norm(BANDED))


def test_a_buffered_strategy_has_the_sensitivity_of_its_coefficients():
    for participation in participations(9):
        got = privacy.buffered_toeplitz(OMEGA, THETA).sensitivity(participation)
        assert got == pytest.approx(privacy.toeplitz(blt(9)).sensitivity(participation))


@pytest.mark.parametrize("honaker", [False, True])
def test_no_pattern_moves_a_tree_by_more_than_its_sensitivity(honaker):
    """Exact where a client is at most once in each node, and where it is in every round."""
    make = privacy.honaker_tree if honaker else privacy.tree
    for rounds, restart in itertools.product((1, 6, 9), (1, 3, 4, 16)):
        matrix = node_matrix(restart, rounds)
        if not honaker:  # right siblings are never read
            keys = list(nodes(restart, rounds))
            matrix = matrix[[(first % restart >> height) % 2 == 0 for first, height in keys]]
        largest = 2 ** (min(restart, rounds).bit_length() - 1)
        for participation in participations(rounds):
            got, true = make(restart).sensitivity(participation), worst(matrix, participation)
            _, separation, most = participation
            if most == 1 or separation >= largest or most == rounds:
                assert got == pytest.approx(true, rel=1e-12)
            else:
                assert true * (1 - 1e-12) <= got <= true * 1.16


@pytest.mark.parametrize("make", [privacy.tree, privacy.honaker_tree])
@pytest.mark.parametrize("restart", [3, 8])
def test_what_a_tree_releases_moves_by_no_more_than_its_nodes(make, restart):
    """The release is post-processing of the nodes, so C cannot be more sensitive than they are."""
    matrix = np.linalg.inv(privacy.noise_matrix(make(restart), 9))
    for participation in participations(9):
        assert worst(matrix, participation) <= make(restart).sensitivity(participation) * (1 + 1e-5)


# --------------------------------------------------------------------------------------------------
# Accounting
# --------------------------------------------------------------------------------------------------


def rdp(event, count=1):
    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    return RdpAccountant(neighboring_relation=relation).compose(event, count)


def release_of(strategy, noise_multiplier, participation):
    mechanism = privacy.correlated(strategy, clip_norm=3.0, noise_multiplier=noise_multiplier)
    return mechanism.event(mechanism.correlation(participation))


@pytest.mark.parametrize(
    ("noise_multiplier", "steps", "trees", "epsilon"),
    [
        (4.0, 16, 1, 2.733458),
        (4.0, 16, 4, 5.926822),
        (4.0, 100, 1, 3.289882),
        (4.0, 400, 4, 8.317321),
        (4.0, 100, 5, 8.182290),
        (4.0, 1600, 1, 4.229541),
        (1.13, 1600, 1, 18.7096),
        (8.83, 1600, 1, 1.7732),
    ],
)
@pytest.mark.parametrize("make", [privacy.tree, privacy.honaker_tree])
def test_the_accountant_of_trees_agrees(make, noise_multiplier, steps, trees, epsilon):
    """A client is once in each tree; alpha ceil(log2(n + 1)) / (2 sigma^2) each."""
    participation = Participation(trees * steps, steps, trees)
    ours = rdp(release_of(make(steps), noise_multiplier, participation))
    theirs = rdp(
        dp_accounting.SingleEpochTreeAggregationDpEvent(noise_multiplier, steps), count=trees
    )
    closed = trees * math.ceil(math.log2(steps + 1)) * ours.orders / (2 * noise_multiplier**2)
    np.testing.assert_allclose(ours.rdp, closed, rtol=1e-12)
    np.testing.assert_allclose(theirs.rdp, closed, rtol=1e-12)
    digits = 5e-7 if epsilon != round(epsilon, 4) else 5e-5
    assert ours.get_epsilon(1e-6) == pytest.approx(epsilon, abs=digits)


def test_trees_of_one_round_are_gaussians():
    participation = Participation(rounds=50, separation=1, most=50)
    ours = rdp(release_of(privacy.tree(1), 4.0, participation))
    np.testing.assert_allclose(ours.rdp, rdp(dp_accounting.GaussianDpEvent(4.0), 50).rdp)


def test_units():
    """A client that is replaced moves everything twice as far."""
    mechanism = privacy.correlated(privacy.tree(4), clip_norm=0.5, noise_multiplier=3.0)
    assert mechanism.sensitivity("add_or_remove_one") == 0.5
    assert mechanism.sensitivity("replace_one") == 1.0
    assert mechanism.event(2.0).noise_multiplier == 1.5
    assert mechanism.correlation(once(4)) == pytest.approx(math.sqrt(3))
    assert privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0).correlation is None


# --------------------------------------------------------------------------------------------------
# The best coefficients
# --------------------------------------------------------------------------------------------------

OFTEN = Participation(rounds=60, separation=20, most=3)


def test_optimal_coefficients_are_stationary_and_better_than_the_square_root():
    def error(c, participation=OFTEN):
        """From the definition, with matrices."""
        prefix = np.tril(np.ones((60, 60))) @ np.linalg.inv(lower(c, 60))
        return math.sqrt(3) * np.linalg.norm(c) * np.linalg.norm(prefix) / math.sqrt(60)

    # Columns that the end of the run cuts short change the sensitivity: look at a run without such.
    c = privacy.optimal_coefficients(8, OFTEN)
    got = privacy.prefix_error(privacy.toeplitz(c), OFTEN)
    assert got == pytest.approx(error(c), rel=1e-5)
    assert error(c) < 0.99 * error(privacy.square_root_coefficients(8))
    for k, step in itertools.product(range(1, 8), (-0.01, 0.01)):
        assert error(c + step * np.eye(8)[k]) > error(c)


@pytest.mark.slow
def test_buffers_come_near_the_best_toeplitz_matrix():
    participation = once(128)
    best = privacy.toeplitz(privacy.optimal_coefficients(128, participation))
    limit = privacy.prefix_error(best, participation)
    errors = [
        privacy.prefix_error(
            privacy.buffered_toeplitz(*privacy.optimal_buffers(d, participation)), participation
        )
        for d in (1, 2, 3)
    ]
    assert errors[0] > errors[1] > errors[2] > limit
    assert errors[2] < 1.001 * limit
    root = privacy.toeplitz(privacy.square_root_coefficients(128))
    assert errors[1] < privacy.prefix_error(root, participation)


@pytest.mark.ci
def test_buffers_leave_the_local_minimum_of_a_single_start():
    """Two buffers, found by a second start: 1.2 percent better than spread nodes descend to."""
    often = Participation(512, 64, 8)
    known = privacy.buffered_toeplitz([0.3057, 0.2090], [0.96997, 0.44847])
    two = privacy.buffered_toeplitz(*privacy.optimal_buffers(2, often))
    assert privacy.prefix_error(two, often) <= 1.0001 * privacy.prefix_error(known, often)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("participation", "buffers"),
    [(Participation(512, 64, 8), 3), (once(128), 4), (Participation(300, 20, 3), 2),
     (Participation(64, 1, 64), 2), (Participation(1000, 100, 10), 2), (once(10), 3)],
)  # fmt: skip
def test_no_random_start_finds_better_buffers(participation, buffers):
    """Twenty starts of Nelder and Mead, from random scales and memories: none is 0.1 percent better."""
    from scipy import optimize, signal, special

    def error(x):
        omega, theta = np.exp(np.minimum(x[:buffers], 0)), special.expit(x[buffers:])
        c = blt_coefficients(omega, theta, participation.rounds)
        if c[1:].max(initial=0) > 1:
            return 1e9
        beta = signal.lfilter([1.0], c, np.ones(c.size))
        mean = (np.arange(c.size, 0, -1) * beta**2).sum() / c.size
        return math.sqrt(mean) * np.linalg.norm(overlay(c, participation))

    rng, rounds = np.random.default_rng(0), participation.rounds
    ours = privacy.buffered_toeplitz(*privacy.optimal_buffers(buffers, participation))
    ours = privacy.prefix_error(ours, participation)
    for _ in range(20):
        gap = np.exp(rng.uniform(math.log(0.25 / rounds), math.log(0.95), buffers))
        scale = rng.uniform(math.log(0.005), math.log(0.5), buffers)
        start = np.concatenate([scale, np.log(1 / gap - 1)])
        found = optimize.minimize(error, start, method="Nelder-Mead", options={"maxiter": 400})
        assert ours <= 1.001 * found.fun


@pytest.mark.parametrize("participation", [once(1), once(2), OFTEN])
def test_buffers_of_any_run_are_a_strategy(participation):
    scales, decays = privacy.optimal_buffers(2, participation)
    assert (scales > 0).all()
    assert privacy.buffered_toeplitz(scales, decays).sensitivity(participation) > 0
    assert list(decays) == sorted(decays, reverse=True)


# --------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: privacy.toeplitz([]), ValueError, "coefficients must be a sequence of at least 1"),
        (lambda: privacy.toeplitz(1.0), ValueError, "coefficients must be a sequence"),
        (lambda: privacy.toeplitz([0.0, 1.0]), ValueError, "begin with a positive number, got 0.0"),
        (lambda: privacy.toeplitz([1.0, math.nan]), ValueError, "coefficients must be finite"),
        (lambda: privacy.toeplitz([1.0, "x"]), TypeError, "coefficients must be a real number"),
        (lambda: privacy.buffered_toeplitz([0.5], []), ValueError, "as many decays as scales"),
        (lambda: privacy.buffered_toeplitz([0.5], [1.0]), ValueError, "less than 1, got .1.0."),
        (lambda: privacy.tree(0), ValueError, "restart must be at least 1, got 0"),
        (lambda: privacy.honaker_tree(2.5), TypeError, "restart must be an integer, got 2.5"),
        (lambda: privacy.square_root_coefficients(0), ValueError, "bands must be at least 1"),
        (
            lambda: privacy.optimal_coefficients(61, OFTEN),
            ValueError,
            "bands must be at .* most 60",
        ),
        (
            lambda: privacy.optimal_coefficients(21, OFTEN),
            ValueError,
            "bands must be at most the separation of a client's rounds, 20, got 21",
        ),
        (lambda: privacy.optimal_buffers(0, OFTEN), ValueError, "buffers must be at least 1"),
        (
            lambda: privacy.correlated([1.0], clip_norm=1.0, noise_multiplier=1.0),
            TypeError,
            r"strategy must be a fjx.privacy.Strategy such as privacy.tree.*got \[1.0\]",
        ),
        (
            lambda: privacy.correlated(privacy.tree(2), clip_norm=0.0, noise_multiplier=1.0),
            ValueError,
            "clip_norm must be greater than 0",
        ),
        (
            lambda: privacy.correlated(privacy.tree(2), clip_norm=1.0, noise_multiplier=-1.0),
            ValueError,
            "noise_multiplier must be at least 0",
        ),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_coefficients_are_not_traced():
    with pytest.raises(TypeError, match="coefficients must be concrete: privacy is accounted"):
        jax.jit(lambda c: privacy.toeplitz(c).step)(jnp.ones(2))
