"""qsgd: its variance is known exactly, and its omega is the least that holds."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire

SIGMAS = 6.0


def omega(levels, d):
    return compressors.qsgd(levels=levels).contract(jax.ShapeDtypeStruct((d,), jnp.float32)).omega


def exact_share(x, levels):
    """E||C(x) - x||^2 / ||x||^2 = sum f (1 - f) / s^2, f the fractional part of s |x| / ||x||."""
    x = np.asarray(x, np.float64)
    y = levels * np.abs(x) / np.linalg.norm(x, axis=-1, keepdims=True)
    fraction = y - np.floor(y)
    return (fraction * (1 - fraction)).sum(-1) / levels**2


@functools.cache
def many(levels):
    """``(keys, x) -> (codes, scale, decoded)``, compiled once for each shape."""
    codec = compressors.qsgd(levels=levels)

    def one(key, x):
        payload, _ = codec.encode(key, x, ())
        return payload.codes, payload.scale, codec.decode(payload)

    return jax.jit(jax.vmap(one, (0, None)))


# ------------------------------------------------------------------------------------------- omega


@pytest.mark.parametrize(("levels", "d"), [(1, 4), (1, 100), (1, 10**6), (3, 36), (4, 1000)])
def test_omega_is_attained_by_equal_magnitudes_of_long_leaves(levels, d):
    assert omega(levels, d) == pytest.approx(math.sqrt(d) / levels - 1)
    assert exact_share(np.ones(d), levels) == pytest.approx(omega(levels, d), rel=1e-9)


@pytest.mark.parametrize(
    ("levels", "odd"),
    # Halves of odd numbers whose squares sum to s^2, that is odd numbers with sum of squares 4 s^2.
    [(3, (5, 3, 1, 1)), (2, (3, *[1] * 7)), (5, (9, 3, 3, 1)), (4, (7, 3, *[1] * 6))],
)
def test_omega_is_attained_by_odd_halves_of_short_leaves(levels, odd):
    assert np.square(odd).sum() == 4 * levels**2
    assert exact_share(odd, levels) == pytest.approx(len(odd) / (4 * levels**2), rel=1e-9)
    assert omega(levels, len(odd)) == pytest.approx(len(odd) / (4 * levels**2), rel=1e-9)


@pytest.mark.parametrize("levels", [1, 2, 3, 7, 40])
def test_nothing_exceeds_omega_and_omega_no_published_bound(levels):
    """1000 vectors: Gaussian, sparse, flat, heavy-tailed, near the odd halves; none is worse."""
    rng = np.random.default_rng(levels)
    for d in (1, 2, 7, 50, 400):
        gaussian = rng.standard_normal((40, d))
        sparse = gaussian * (rng.random((40, d)) < 0.1)
        sparse[:, 0] += 1e-3
        flat = 1 + 0.1 * gaussian
        heavy = rng.standard_t(1.1, (40, d))
        halves = rng.integers(0, 2, (40, d)) + 0.5 + 0.05 * gaussian
        x = np.concatenate([gaussian, sparse, flat, heavy, halves])
        assert exact_share(x, levels).max() <= omega(levels, d) * (1 + 1e-12)
        r = math.sqrt(d) / levels
        assert omega(levels, d) <= min(r, r**2)


@pytest.mark.few(1)
@pytest.mark.parametrize(("levels", "d"), [(1, 64), (7, 64)])
def test_draws_have_the_exact_variance(levels, d):
    """4000 draws of a flat and of a Gaussian vector, within 6 standard errors."""
    draws = 4000
    for x in (np.ones(d), np.random.default_rng(0).standard_normal(d)):
        x = np.float32(x)
        decoded = many(levels)(jax.random.split(jax.random.key(d), draws), x)[2]
        errors = np.square(np.asarray(decoded, np.float64) - x).sum(1) / np.square(x).sum()
        slack = SIGMAS * errors.std() / np.sqrt(draws)
        assert slack < 0.2 * errors.mean()
        assert abs(errors.mean() - exact_share(x, levels)) < slack


def test_most_codes_of_a_long_leaf_are_zero():
    """E||C(x)||_0 = sum min(1, s |x_i| / ||x||) <= s (s + sqrt(d)); 500 draws, 6 standard errors."""
    levels, d, draws = 3, 1024, 500
    x = np.random.default_rng(1).standard_normal(d).astype(np.float32)
    expected = np.minimum(1, levels * np.abs(x) / np.linalg.norm(x)).sum()
    codes = many(levels)(jax.random.split(jax.random.key(0), draws), x)[0]
    counts = (np.asarray(codes) != 0).sum(1)
    assert abs(counts.mean() - expected) < SIGMAS * counts.std() / np.sqrt(draws)
    assert expected < levels * (levels + math.sqrt(d)) < d / 9


# ------------------------------------------------------------------------------------------- codes


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "levels", [1, 7, 32767, *(pytest.param(levels, marks=pytest.mark.slow) for levels in (5, 8))]
)
def test_codes_stay_on_the_grid_and_cost_the_least_width(levels):
    """One coordinate alone is the norm: its code is s, never s + 1, at any magnitude."""
    width = math.ceil(math.log2(2 * levels + 1))
    for d in (1, 9):
        payload = jax.eval_shape(
            compressors.qsgd(levels=levels).encode, jax.random.key(0), jnp.zeros(d), ()
        )[0]
        assert wire.bits(payload) == 8 * math.ceil(d * width / 8) + 32
    for value in (1.0, -0.1, 0.37, 1e-25, -1e30):
        keys = jax.random.split(jax.random.key(1), 200)
        codes, _, decoded = many(levels)(keys, np.float32([0.0, value, 0.0]))
        np.testing.assert_array_equal(codes, np.tile([0, np.sign(value) * levels, 0], (200, 1)))
        np.testing.assert_allclose(np.asarray(decoded)[:, 1], np.float32(value), rtol=3e-7)


@pytest.mark.slow
def test_there_are_no_more_values_than_levels():
    x = np.random.default_rng(5).standard_normal(4096, np.float32)
    x[0] = 200
    _, scale, decoded = many(5)(jax.random.split(jax.random.key(6), 4), x)
    assert np.unique(np.asarray(decoded)).size <= 2 * 5 + 1
    assert (np.abs(np.asarray(decoded) - x) <= np.max(scale) * (1 + 1e-6)).all()


def test_squares_neither_overflow_nor_vanish():
    x = np.float32([3.0, -4.0, 0.0])
    for factor in (1e-30, 1e-20, 1e20, 1e30):
        decoded = many(5)(jax.random.split(jax.random.key(0), 3), np.float32(x * factor))[2]
        np.testing.assert_allclose(np.float64(decoded) / factor, np.tile(x, (3, 1)), rtol=1e-6)


@pytest.mark.few(2)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_norm_that_is_not_finite_spoils_the_leaf(bad):
    x = np.ones(1000, np.float32)
    x[[7, 8]] = bad
    assert np.isnan(many(3)(jax.random.split(jax.random.key(0), 2), x)[2]).all()


def test_arguments():
    for wrong in (4.0, "4", None, True):
        with pytest.raises(TypeError, match="levels must be an integer"):
            compressors.qsgd(levels=wrong)
    for wrong in (0, -2, 2**15):
        with pytest.raises(ValueError, match="levels must be at least 1 and at most 32767"):
            compressors.qsgd(levels=wrong)
