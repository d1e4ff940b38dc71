"""The noise of a mechanism: its law, its independence, and that it is what the numbers say."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fjx import privacy

MECHANISM = privacy.gaussian(clip_norm=0.5, noise_multiplier=3.0)  # standard deviation 1.5
TOTAL = {"a": jnp.zeros((20_000,)), "b": jnp.zeros((100, 200)), "c": jnp.zeros(20_000)}


def release(mechanism, key, total):
    nobody = privacy.Contribution(total, jnp.int32(0), jnp.int32(0), jnp.zeros(()))
    noised, state, _ = mechanism.release(key, nobody, mechanism.init(total))
    assert state == ()
    return noised


fast = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@fast
def noise_of(key, total):
    return jax.tree.map(jnp.subtract, release(MECHANISM, key, total), total)


@pytest.mark.slow
def test_every_leaf_is_gaussian_with_the_stated_deviation(getkey):
    for leaf in jax.tree.leaves(noise_of(getkey(), TOTAL)):
        z = np.asarray(leaf).ravel() / 1.5
        assert stats.kstest(z, "norm").pvalue > 1e-4
        low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], z.size)
        assert low < np.sum(z.astype(np.float64) ** 2) < high


def test_leaves_and_coordinates_are_independent(getkey):
    leaves = [np.asarray(x).ravel() for x in jax.tree.leaves(noise_of(getkey(), TOTAL))]
    for x, y in itertools.combinations(leaves, 2):
        assert abs(np.corrcoef(x, y)[0, 1]) * np.sqrt(x.size) < 5
    for x in leaves:
        assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) * np.sqrt(x.size) < 5
        assert len(np.unique(x)) > 0.99 * x.size


def test_noise_is_a_function_of_the_key():
    first, again, other = (
        noise_of(jax.random.key(seed), {"a": jnp.zeros(50), "b": jnp.zeros(50)})
        for seed in (1, 1, 2)
    )
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for x, y in itertools.product(jax.tree.leaves(first), jax.tree.leaves(other)):
        assert not np.isin(x, y).any()


@pytest.mark.slow
def test_noise_does_not_depend_on_data():
    # Sums of a few bits, so that adding and subtracting them rounds the noise and nothing else.
    x = jnp.round(jax.random.normal(jax.random.key(0), (1000,)) * 8)
    a, b = (noise_of(jax.random.key(1), total) for total in (x, -3 * x))
    step = 1.5 / 500_000  # floats are rounded to whole steps
    np.testing.assert_allclose(a, b, atol=1e-5 + 2 * step)


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_noise_keeps_the_dtype(dtype):
    total = {"a": jnp.zeros((), dtype), "b": jnp.zeros(0)}
    noisy = fast(lambda key: release(MECHANISM, key, total))(jax.random.key(0))
    assert noisy["a"].dtype == dtype
    assert float(noisy["a"]) != 0


def test_no_noise_is_none():
    silent = privacy.gaussian(clip_norm=1.0, noise_multiplier=0)
    x = jnp.array([1.0, -2.5])
    np.testing.assert_array_equal(release(silent, jax.random.key(0), x), x)


@pytest.mark.ci
def test_hyper_parameters_may_be_traced():
    def run(clip_norm, noise_multiplier):
        m = privacy.gaussian(clip_norm=clip_norm, noise_multiplier=noise_multiplier)
        clipped = m.clip(jnp.full(4, 10.0), jnp.ones(()), ()).update
        return jnp.linalg.norm(clipped), release(m, jax.random.key(0), jnp.zeros(1000)).std()

    norms, stds = fast(jax.vmap(run))(jnp.array([1.0, 2.0]), jnp.array([0.5, 3.0]))
    np.testing.assert_allclose(norms, [1.0, 2.0], rtol=1e-5)
    np.testing.assert_allclose(stds[1] / stds[0], 12.0, rtol=1e-5)


def test_sensitivity_and_event_follow_the_relation():
    assert MECHANISM.sensitivity("add_or_remove_one") == 0.5
    assert MECHANISM.sensitivity("replace_one") == 1.0
    assert MECHANISM.event(1.0).noise_multiplier == 3.0
    assert MECHANISM.event(2.0).noise_multiplier == 1.5
    with pytest.raises(ValueError, match=r"relation must be one of .*'replace_one'.*got 'swap'"):
        MECHANISM.sensitivity("swap")


@pytest.mark.parametrize(
    ("clip_norm", "noise_multiplier", "error", "message"),
    [
        (0.0, 1.0, ValueError, "clip_norm must be greater than 0, got 0.0"),
        (float("inf"), 1.0, ValueError, "clip_norm must be"),
        (float("nan"), 1.0, ValueError, "clip_norm must be"),
        (1.0, -0.1, ValueError, "noise_multiplier must be at least 0, got -0.1"),
        (1.0, float("nan"), ValueError, "noise_multiplier must be"),
        (1.0, None, TypeError, "noise_multiplier must be a real number, got None"),
    ],
)
def test_errors_name_the_argument(clip_norm, noise_multiplier, error, message):
    with pytest.raises(error, match=message):
        privacy.gaussian(clip_norm=clip_norm, noise_multiplier=noise_multiplier)


def test_noise_refuses_what_it_cannot_noise():
    with pytest.raises(TypeError, match=r"total must have floating leaves.*int32 at \['n'\]"):
        release(MECHANISM, jax.random.key(0), {"n": jnp.arange(3)})
    with pytest.raises(TypeError, match="key must be a typed key"):
        release(MECHANISM, jnp.zeros(2, jnp.uint32), jnp.zeros(3))
