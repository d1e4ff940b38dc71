"""Correlated noise: the stream against explicit matrices, its law, and its state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import privacy
from tests.support import matrices

lower, blt, tree_inverse = matrices.lower, matrices.blt, matrices.tree_inverse
BANDED, OMEGA, ROUNDS, SQUARE_ROOT, THETA = (
    matrices.BANDED,
    matrices.OMEGA,
    matrices.ROUNDS,
    matrices.SQUARE_ROOT,
    matrices.THETA,
)

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

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


@pytest.mark.few(4)
@every
def test_the_stream_is_the_product_with_the_explicit_matrix(name):
    strategy, inverse = STRATEGIES[name]
    rng = np.random.default_rng(0)
    fresh = {"a": rng.normal(size=(ROUNDS, 3, 2)), "b": rng.normal(size=ROUNDS)}
    noise, deviation = stream(strategy, jax.tree.map(jnp.float32, fresh))
    for leaf, z in ((noise["a"], fresh["a"]), (noise["b"], fresh["b"])):
        np.testing.assert_allclose(leaf, np.tensordot(inverse, z, 1), atol=2e-5)
    np.testing.assert_allclose(deviation, np.linalg.norm(inverse, axis=1), rtol=1e-5)


@pytest.mark.few(4)
@every
def test_basis_noise_gives_the_matrix_itself(name):
    strategy, inverse = STRATEGIES[name]
    np.testing.assert_allclose(privacy.noise_matrix(strategy, ROUNDS), inverse, atol=2e-6)


@every
def test_the_state_is_arrays_of_a_constant_size_and_no_key(name):
    strategy, _ = STRATEGIES[name]
    like = {"a": jax.ShapeDtypeStruct((3,), jnp.bfloat16), "b": jax.ShapeDtypeStruct((0,), "f4")}
    state = jax.eval_shape(lambda: strategy.init(like))
    fresh = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "f4"), like)
    after = jax.eval_shape(strategy.step, fresh, state)[1]
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


@functools.partial(jit, static_argnums=0)
def noise_of(mechanisms, key):
    """Each mechanism's noise of three rounds; in one program, because compiling takes the time."""
    totals = {"w": jnp.zeros((3, 20, 2)), "b": jnp.zeros(3, jnp.bfloat16)}
    return [run(mechanism, jax.random.clone(key), totals) for mechanism in mechanisms]


@pytest.mark.slow
def test_without_correlation_it_is_the_noise_of_the_gaussian_mechanism_bit_for_bit():
    settings = {"clip_norm": 0.7, "noise_multiplier": 1.3}
    correlated = [privacy.correlated(strategy, **settings) for strategy in IDENTITIES.values()]
    expected, *others = noise_of((privacy.gaussian(**settings), *correlated), jax.random.key(1))
    assert 0.8 < float(jnp.std(expected[0]["w"])) < 1.1
    for name, noise in zip(IDENTITIES, others, strict=True):
        equal = functools.partial(np.testing.assert_array_equal, err_msg=name)
        jax.tree.map(equal, noise, expected)


SEEDS, WIDTH = 200, 100  # independent copies of every round's noise: 20 000
Z, CLIP = 2.0, 0.5


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize(
    "name",
    ["square_root", "honaker"]
    + [pytest.param(n, marks=pytest.mark.slow) for n in ("buffered", "tree_restarted")],
)
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


@pytest.mark.slow
def test_noise_does_not_depend_on_data():
    mechanism = privacy.correlated(privacy.honaker_tree(8), clip_norm=1.0, noise_multiplier=1.0)
    # Sums of a few bits, so that adding and subtracting them rounds the noise and nothing else.
    totals = jnp.round(8 * jax.random.normal(jax.random.key(0), (9, 100)))
    key = jax.random.key(1)
    release = jit(lambda x: run(mechanism, key, x)[0])
    noise = [release(x) - x for x in (totals, -3 * totals)]
    np.testing.assert_allclose(*noise, atol=2e-5)


def test_hyper_parameters_may_be_traced():
    def last(clip_norm, noise_multiplier):
        mechanism = privacy.correlated(
            privacy.tree(4), clip_norm=clip_norm, noise_multiplier=noise_multiplier
        )
        return run(mechanism, jax.random.key(0), jnp.zeros((3, 7)))[0][-1]

    noise = jit(jax.vmap(last))(jnp.array([1.0, 2.0]), jnp.array([0.5, 3.0]))
    np.testing.assert_allclose(noise[1], 12 * noise[0], rtol=1e-5)


def test_noise_refuses_what_it_cannot_noise():
    mechanism = privacy.correlated(privacy.tree(2), clip_norm=1.0, noise_multiplier=1.0)
    total = of({"n": jnp.arange(3)})
    with pytest.raises(TypeError, match=r"total must have floating leaves.*int32 at \['n'\]"):
        mechanism.release(jax.random.key(0), total, mechanism.init(total.update))


@pytest.mark.parametrize(("coefficients", "rounds"), [([1e-4], 1), ([1.0, 2.0], 8)])
def test_noise_that_does_not_fit_its_integers_gives_nan(coefficients, rounds):
    """Cut to 32 bits it would be the same in most coordinates, and hide nothing of the sum."""
    mechanism = privacy.correlated(
        privacy.toeplitz(coefficients), clip_norm=1.0, noise_multiplier=1.0
    )
    nothing = privacy.Contribution(jnp.zeros(4), jnp.int32(0), jnp.int32(0), jnp.zeros(()))
    state, release = mechanism.init(nothing.update), jit(mechanism.release)
    for t in range(rounds):
        noised, state, metrics = release(jax.random.key(t), nothing, state)
        fits = metrics["noise_std"] <= 100
        assert np.isnan(noised).all() != fits
    assert not fits
