"""Laplace noise, and noise on a grid: laws of the noise, exact sums, norms after rounding."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fjx import privacy, samplers

fast = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def nobody(update):
    return privacy.Contribution(update, jnp.int32(0), jnp.int32(0), jnp.zeros(()))


def test_laplace_noise_and_its_epsilon():
    mechanism = privacy.laplace(clip_norm=0.5, noise_multiplier=3.0)
    zeros = {"a": jnp.zeros(20_000), "b": jnp.zeros((100, 200))}
    noised, state, metrics = fast(mechanism.release)(jax.random.key(0), nobody(zeros), ())
    assert state == ()
    for leaf in jax.tree.leaves(noised):
        assert stats.kstest(np.asarray(leaf).ravel(), stats.laplace(scale=1.5).cdf).pvalue > 1e-4
    a, b = (np.asarray(leaf).ravel() for leaf in jax.tree.leaves(noised))
    assert abs(np.corrcoef(a, b)[0, 1]) * np.sqrt(a.size) < 5
    assert float(metrics["noise_std"]) == pytest.approx(1.5 * math.sqrt(2))
    clipped = mechanism.clip(jnp.array([3.0, -1.0]), jnp.ones(()), ()).update
    assert 0.5 * (1 - 1e-4) < np.abs(np.asarray(clipped, np.float64)).sum() <= 0.5
    # Pure: 1/z where one comes or goes, T/z in T rounds.
    spent = privacy.epsilon(mechanism, samplers.full(), rounds=1, delta=1e-12)
    assert float(spent) == pytest.approx(1 / 3, abs=1e-3)
    with pytest.raises(ValueError, match="calibrated to an L1 norm, and clip_norm bounds the l2"):
        privacy.laplace(clip_norm=privacy.by_global_norm(1.0), noise_multiplier=1.0)


def test_the_grid_keeps_norms_and_sums_exact():
    """Whatever 5000 clients send: integers of norm at most C / gamma, and a sum that loses nothing."""
    gamma = 2.0**-6
    mechanism = privacy.discrete_gaussian(clip_norm=1.0, noise_multiplier=0.0, granularity=gamma)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 40)).astype(np.float32)
    x[:2500] *= (
        rng.uniform(0.9, 1.1, (2500, 1)) / np.linalg.norm(x[:2500], axis=1, keepdims=True)
    ).astype(np.float32)
    own = fast(jax.vmap(lambda v: mechanism.clip(v, jnp.ones(()), ()).update))(jnp.asarray(x))
    steps = np.asarray(own, np.float64) / gamma
    np.testing.assert_array_equal(steps, np.round(steps))
    assert 0.95 / gamma < np.linalg.norm(steps, axis=1).max() <= 1 / gamma
    out, _, metrics = fast(mechanism.release)(jax.random.key(0), nobody(jnp.sum(own, 0)), ())
    np.testing.assert_array_equal(np.asarray(out, np.float64), gamma * steps.sum(0))
    assert int(metrics["unnoised_inexact"]) == 0
    huge = nobody(jnp.array([2.0**19, 1.0]))
    assert int(fast(mechanism.release)(jax.random.key(0), huge, ())[2]["unnoised_inexact"]) == 1


def test_noise_on_the_grid_is_the_discrete_gaussian_with_the_gaussian_curve():
    mechanism = privacy.discrete_gaussian(clip_norm=1.0, noise_multiplier=2.0, granularity=2.0)
    zeros = {"a": jnp.zeros(100_000), "b": jnp.zeros(100_000)}
    noised, _, metrics = fast(mechanism.release)(jax.random.key(3), nobody(zeros), ())
    a, b = (np.asarray(leaf) / 2 for leaf in jax.tree.leaves(noised))
    for k, probability in [(0, 0.3989423), (1, 0.2419707), (-2, 0.0539910)]:
        error = math.sqrt(probability * (1 - probability) / 2e5)
        assert abs(np.mean(np.concatenate([a, b]) == k) - probability) < 5 * error
    assert abs(np.corrcoef(a, b)[0, 1]) * np.sqrt(a.size) < 5
    assert float(metrics["noise_std"]) == pytest.approx(2.0, rel=1e-6)
    orders = np.array([2.0, 7.5])
    np.testing.assert_allclose(mechanism.event(2.0).rdp(orders), orders * 4 / 8)
    gaussian = privacy.gaussian(clip_norm=1.0, noise_multiplier=2.0)
    ours, theirs = (
        privacy.epsilon(m, samplers.full(), rounds=10, delta=1e-5, method="rdp")
        for m in (mechanism, gaussian)
    )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-3)


def test_what_the_grid_refuses():
    make = functools.partial(privacy.discrete_gaussian, clip_norm=1.0, noise_multiplier=1.0)
    with pytest.raises(ValueError, match="granularity must be a power of two"):
        make(granularity=0.1)
    with pytest.raises(ValueError, match=r"at least noise_multiplier \* clip_norm / 3000"):
        make(granularity=2.0**-20)
    with pytest.raises(ValueError, match=r"rounding 400 coordinates .* may add 1.25 to a norm"):
        make(granularity=0.125).clip(jnp.ones(400), jnp.ones(()), ())
