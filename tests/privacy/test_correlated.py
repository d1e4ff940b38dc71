"""Correlated noise: the stream against explicit matrices, its law, its sensitivity, its accounting.

The matrices are built in float64 from their definitions: Toeplitz matrices from their columns, trees
from their nodes and estimators.  Of a tree, C^-1 follows from the covariance of the noise on the
running sums, because a lower triangular factor with a positive diagonal is unique.
"""

import functools
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

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

ROUNDS = 23
OMEGA, THETA = (0.3, 0.1), (0.6, 0.95)
BANDED = (1.25, 0.5, 0.4, 0.2)
SQUARE_ROOT = privacy.square_root_coefficients(ROUNDS)


# --------------------------------------------------------------------------------------------------
# Oracles
# --------------------------------------------------------------------------------------------------


def lower(column, rounds):
    """The lower triangular Toeplitz matrix with that first column."""
    column = np.pad(np.asarray(column, float), (0, rounds))
    return np.array([[column[t - s] * (s <= t) for s in range(rounds)] for t in range(rounds)])


def blt(rounds):
    return [1.0] + [
        sum(w * q ** (k - 1) for w, q in zip(OMEGA, THETA, strict=True)) for k in range(1, rounds)
    ]


def nodes(restart, rounds):
    """The complete nodes of the trees of a run, children before parents: (first round, height)."""
    for start in range(0, rounds, restart):
        size = min(restart, rounds - start)
        for height in range(size.bit_length()):
            for first in range(0, size - 2**height + 1, 2**height):
                yield start + first, height


def node_matrix(restart, rounds):
    """One row a node: the rounds that it adds up."""
    t = np.arange(rounds)
    return np.array(
        [(first <= t) & (t < first + 2**height) for first, height in nodes(restart, rounds)], float
    )


def estimates(restart, rounds, honaker):
    """Each node's sum as a combination of all noised nodes, and the variance of its noise.

    With Honaker's estimator: its own value and its children's estimates by inverse variances.
    """
    keys = list(nodes(restart, rounds))
    combination, variance = {}, {}
    for i, (first, height) in enumerate(keys):
        own, half = np.eye(len(keys))[i], 2**height // 2
        combination[first, height], variance[first, height] = own, 1.0
        if honaker and height:
            children = [(first, height - 1), (first + half, height - 1)]
            together = variance[children[0]] + variance[children[1]]
            weight = (1 / together) / (1 + 1 / together)
            combination[first, height] = (1 - weight) * own + weight * sum(
                combination[child] for child in children
            )
            variance[first, height] = 1 / (1 + 1 / together)
    return combination, variance


def digits(restart, rounds):
    """The nodes that make up the running sums 1, 2, ..., rounds: their binary digits, tree by tree."""
    for t in range(1, rounds + 1):
        first, parts = 0, []
        while first < t:
            size = min(restart - first % restart, t - first)  # what is left of this tree
            height = size.bit_length() - 1
            parts.append((first, height))
            first += 2**height
        yield parts


def decoder(restart, rounds, honaker):
    """One row a round: its running sum as a combination of all noised nodes."""
    combination, _ = estimates(restart, rounds, honaker)
    return np.array([sum(combination[part] for part in parts) for parts in digits(restart, rounds)])


def tree_inverse(restart, rounds, honaker):
    rows = decoder(restart, rounds, honaker)
    return np.diff(np.linalg.cholesky(rows @ rows.T), axis=0, prepend=0)


STRATEGIES = {
    "banded": (privacy.toeplitz(BANDED), np.linalg.inv(lower(BANDED, ROUNDS))),
    "square_root": (privacy.toeplitz(SQUARE_ROOT), np.linalg.inv(lower(SQUARE_ROOT, ROUNDS))),
    "buffered": (
        privacy.buffered_toeplitz(OMEGA, THETA),
        np.linalg.inv(lower(blt(ROUNDS), ROUNDS)),
    ),
    "tree": (privacy.tree(32), tree_inverse(32, ROUNDS, honaker=False)),
    "tree_restarted": (privacy.tree(6), tree_inverse(6, ROUNDS, honaker=False)),
    "honaker": (privacy.honaker_tree(32), tree_inverse(32, ROUNDS, honaker=True)),
    "honaker_restarted": (privacy.honaker_tree(6), tree_inverse(6, ROUNDS, honaker=True)),
}
"""Each kind, and its C^-1."""

every = pytest.mark.parametrize("name", STRATEGIES)


# --------------------------------------------------------------------------------------------------
# The stream
# --------------------------------------------------------------------------------------------------


@functools.partial(jit, static_argnums=0)
def stream(strategy, fresh):
    """The noise and its stated deviation, round after round, of rows of fresh numbers."""

    def step(state, row):
        noise, state = strategy.step(row, state)
        return state, (noise, strategy.deviation(state))

    state = strategy.init(jax.tree.map(lambda x: x[0], fresh))
    return jax.lax.scan(step, state, fresh)[1]


@every
def test_the_stream_is_the_product_with_the_explicit_matrix(name):
    strategy, inverse = STRATEGIES[name]
    rng = np.random.default_rng(0)
    fresh = {"a": rng.normal(size=(ROUNDS, 3, 2)), "b": rng.normal(size=ROUNDS)}
    noise, deviation = stream(strategy, jax.tree.map(jnp.float32, fresh))
    for leaf, z in ((noise["a"], fresh["a"]), (noise["b"], fresh["b"])):
        np.testing.assert_allclose(leaf, np.tensordot(inverse, z, 1), atol=2e-5)
    np.testing.assert_allclose(deviation, np.linalg.norm(inverse, axis=1), rtol=1e-5)


@every
def test_basis_noise_gives_the_matrix_itself(name):
    strategy, inverse = STRATEGIES[name]
    np.testing.assert_allclose(privacy.noise_matrix(strategy, ROUNDS), inverse, atol=2e-6)


@every
def test_the_state_is_arrays_of_a_constant_size_and_no_key(name):
    strategy, _ = STRATEGIES[name]
    like = {"a": jax.ShapeDtypeStruct((3,), jnp.bfloat16), "b": jax.ShapeDtypeStruct((0,), "f4")}
    state = strategy.init(like)
    fresh = jax.tree.map(lambda x: jnp.ones(x.shape, jnp.float32), like)
    after = strategy.step(fresh, state)[1]
    shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
    assert shapes == [(x.shape, x.dtype) for x in jax.tree.leaves(after)]
    assert {dtype for _, dtype in shapes} == {jnp.dtype("float32"), jnp.dtype("int32")}


def test_memory_is_that_of_bands_buffers_and_heights():
    like = jax.ShapeDtypeStruct((1000,), jnp.float32)

    def copies(strategy):
        return sum(x.size for x in jax.tree.leaves(strategy.init(like))) // 1000

    assert copies(privacy.toeplitz(privacy.square_root_coefficients(9))) == 8
    assert copies(privacy.buffered_toeplitz(OMEGA, THETA)) == 2
    assert [copies(privacy.tree(r)) for r in (1, 1023, 1024)] == [1, 10, 11]
    assert copies(privacy.honaker_tree(1024)) == 11


# --------------------------------------------------------------------------------------------------
# The mechanism
# --------------------------------------------------------------------------------------------------


def run(mechanism, key, totals):
    """What the server releases, and its metrics, round after round."""

    def step(state, inputs):
        t, total = inputs
        key_t = jax.random.fold_in(key, t)
        noised, state, metrics = mechanism.release(key_t, of(total), state)
        return state, (noised, metrics["noise_std"])

    rounds = jax.tree.leaves(totals)[0].shape[0]
    state = mechanism.init(jax.tree.map(lambda x: x[0], totals))
    inputs = (jnp.arange(rounds, dtype=jnp.int32), totals)
    return jax.lax.scan(step, state, inputs)[1]


def of(total):
    return privacy.Contribution(total, jnp.int32(0), jnp.int32(0), jnp.zeros(()))


IDENTITIES = {
    "one_band": privacy.toeplitz([1.0]),
    "zero_bands": privacy.toeplitz([1.0, 0.0, 0.0]),
    "no_buffers": privacy.buffered_toeplitz([], []),
    "zero_buffers": privacy.buffered_toeplitz([0.0, 0.0], [0.5, 0.9]),
    "trees_of_one": privacy.tree(1),
    "estimated_trees_of_one": privacy.honaker_tree(1),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_without_correlation_it_is_the_gaussian_mechanism_bit_for_bit(name):
    """Operation by operation: a compiler may fuse the addition of either, and round once less."""
    settings = {"clip_norm": 0.7, "noise_multiplier": 1.3}
    total = {
        "w": jax.random.normal(jax.random.key(0), (50, 3)),
        "b": jnp.ones((), jnp.bfloat16),
        "none": jnp.ones((0,)),
    }
    alone = privacy.gaussian(**settings)
    correlated = privacy.correlated(IDENTITIES[name], **settings)
    state = correlated.init(total)
    for t in range(4):
        key = jax.random.key(t)
        expected, _, metrics = alone.release(key, of(total), ())
        noised, state, own = correlated.release(jax.random.clone(key), of(total), state)
        jax.tree.map(np.testing.assert_array_equal, (noised, own), (expected, dict(metrics)))
        assert 0.7 < float(jnp.std(noised["w"] - total["w"])) < 1.1


def test_without_correlation_the_compiled_noise_is_that_of_the_gaussian_mechanism():
    settings = {"clip_norm": 0.7, "noise_multiplier": 1.3}
    alone, correlated = (
        jit(lambda m=m: run(m, jax.random.key(1), jnp.zeros((3, 40))))()
        for m in (privacy.gaussian(**settings), privacy.correlated(privacy.tree(1), **settings))
    )
    np.testing.assert_array_equal(correlated[0], alone[0])


SEEDS, WIDTH = 200, 100  # independent copies of every round's noise: 20 000
Z, CLIP = 2.0, 0.5


@pytest.mark.parametrize("name", ["square_root", "buffered", "tree_restarted", "honaker"])
def test_the_running_sums_have_the_covariance_of_the_explicit_matrix(name):
    """Of 20 000 independent copies; entries in 5 standard errors, sqrt((v_s v_t + c_st^2) / n)."""
    strategy, inverse = STRATEGIES[name]
    mechanism = privacy.correlated(strategy, clip_norm=CLIP, noise_multiplier=Z)
    totals = jnp.zeros((ROUNDS, WIDTH))
    keys = jax.random.split(jax.random.key(5), SEEDS)
    noise, std = jit(jax.vmap(lambda key: run(mechanism, key, totals)))(keys)
    sums = np.cumsum(np.asarray(noise, np.float64), axis=1).swapaxes(0, 1).reshape(ROUNDS, -1)
    prefix = Z * CLIP * np.cumsum(inverse, axis=0)
    expected = prefix @ prefix.T
    variance = np.diag(expected)
    error = np.sqrt((np.outer(variance, variance) + expected**2) / sums.shape[1])
    assert (np.abs(sums @ sums.T / sums.shape[1] - expected) < 5 * error).all()
    assert (np.abs(sums.mean(1)) < 5 * np.sqrt(variance / sums.shape[1])).all()
    np.testing.assert_allclose(std[0], Z * CLIP * np.linalg.norm(inverse, axis=1), rtol=1e-5)


def test_noise_does_not_depend_on_data():
    mechanism = privacy.correlated(privacy.honaker_tree(8), clip_norm=1.0, noise_multiplier=1.0)
    # Sums of a few bits, so that adding and subtracting them rounds the noise and nothing else.
    totals = jnp.round(8 * jax.random.normal(jax.random.key(0), (9, 100)))
    key = jax.random.key(1)
    noise = [jit(lambda x: run(mechanism, key, x)[0])(x) - x for x in (totals, -3 * totals)]
    np.testing.assert_allclose(*noise, atol=2e-5)


def test_hyper_parameters_may_be_traced():
    def last(clip_norm, noise_multiplier):
        mechanism = privacy.correlated(
            privacy.tree(4), clip_norm=clip_norm, noise_multiplier=noise_multiplier
        )
        return run(mechanism, jax.random.key(0), jnp.zeros((3, 7)))[0][-1]

    noise = jit(jax.vmap(last))(jnp.array([1.0, 2.0]), jnp.array([0.5, 3.0]))
    np.testing.assert_allclose(noise[1], 12 * noise[0], rtol=1e-5)


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
    ("rounds", "root", "alone"), [(16, 1.7968, 2.9155), (1024, 3.1098, 22.638)]
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


@pytest.mark.parametrize("column", [(1.0, -0.5, 0.7), (0.2, 1.0, -1.0)])
def test_other_columns_are_exact_where_they_do_not_meet_and_bounded_where_they_do(column):
    strategy = privacy.toeplitz(column)
    for participation in participations(7):
        got = strategy.sensitivity(participation)
        true = worst(lower(column, 7), participation, signs=(1, -1))
        if participation.separation >= 3:
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
    for rounds, restart in itertools.product((1, 5, 8, 11), (1, 3, 4, 16)):
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


def test_buffers_come_near_the_best_toeplitz_matrix():
    participation = once(256)
    best = privacy.toeplitz(privacy.optimal_coefficients(256, participation))
    limit = privacy.prefix_error(best, participation)
    errors = [
        privacy.prefix_error(
            privacy.buffered_toeplitz(*privacy.optimal_buffers(d, participation)), participation
        )
        for d in (1, 2, 3)
    ]
    assert errors[0] > errors[1] > errors[2] > limit
    assert errors[2] < 1.001 * limit
    root = privacy.toeplitz(privacy.square_root_coefficients(256))
    assert errors[1] < privacy.prefix_error(root, participation)


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


def test_noise_refuses_what_it_cannot_noise():
    mechanism = privacy.correlated(privacy.tree(2), clip_norm=1.0, noise_multiplier=1.0)
    total = of({"n": jnp.arange(3)})
    with pytest.raises(TypeError, match=r"total must have floating leaves.*int32 at \['n'\]"):
        mechanism.release(jax.random.key(0), total, mechanism.init(total.update))
