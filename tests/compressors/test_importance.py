"""Probabilities in proportion to magnitudes: their marginals, their sum and what they cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire
from fjx.compressors._importance import _probabilities, _systematic

SIGMAS, DRAWS = 6.0, 4000


probabilities = functools.partial(jax.jit, static_argnums=1)(_probabilities)


@functools.partial(jax.jit, static_argnums=0)
def once(codec, key, x):
    payload, _ = codec.encode(key, x, ())
    return payload, codec.decode(payload)


def best(magnitudes, k):
    """The probabilities of least variance with sum k, by bisection on lambda: an oracle."""
    low, high = 0.0, k / magnitudes[magnitudes > 0].min()
    for _ in range(200):
        middle = (low + high) / 2
        if np.minimum(middle * magnitudes, 1).sum() < k:
            low = middle
        else:
            high = middle
    return np.minimum(low * magnitudes, 1)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 2.5])
def test_probabilities_are_nearly_the_best_and_never_too_many(sigma):
    x = np.exp(sigma * np.random.default_rng(0).normal(size=5000)).astype(np.float32)
    p = np.float64(probabilities(x / x.max(), 500))
    oracle = best(x.astype(np.float64), 500)
    assert p.sum() <= 500
    error, least = (np.sum(x.astype(np.float64) ** 2 * (1 / q - 1)) for q in (p, oracle))
    assert least <= error <= 1.02 * least


def test_each_coordinate_is_kept_with_its_probability_and_never_more_than_their_sum():
    """4000 draws; the count is the sum rounded down or up."""
    p = np.random.default_rng(1).uniform(size=40).astype(np.float32)
    p[:3] = [0.0, 1.0, 2.0**-40]
    starts = jax.random.bits(jax.random.key(0), (DRAWS,), jnp.uint32)
    kept, exact = jax.jit(jax.vmap(lambda s: _systematic(s, jnp.asarray(p))))(starts)
    kept, exact = np.asarray(kept), np.asarray(exact[0], np.float64)
    np.testing.assert_allclose(exact, p, rtol=1e-6, atol=2.0**-32)
    assert exact[2] == 2.0**-32  # what is not zero keeps a chance
    error = np.abs(kept.mean(0) - exact)
    assert (error <= SIGMAS * np.sqrt(exact * (1 - exact) / DRAWS) + 1e-9).all()
    total = exact[1:].sum()
    assert set(kept.sum(1)) <= {int(np.floor(total)), int(np.ceil(total))}


@pytest.mark.slow
def test_the_error_is_that_of_the_marginals():
    """E||C(x) - x||^2 = sum x^2 (1/p - 1), 4000 draws, and less than that of a uniform choice."""
    x = np.random.default_rng(2).lognormal(size=200).astype(np.float32)
    codec = compressors.importance_sampling(0.2)
    keys = jax.random.split(jax.random.key(3), DRAWS)
    decode = jax.jit(jax.vmap(lambda key: codec.decode(codec.encode(key, x, ())[0])))
    errors = np.square(np.asarray(decode(keys), np.float64) - x).sum(1)
    p = np.float64(probabilities(x / x.max(), 40))
    expected = np.sum(np.float64(x) ** 2 * (1 / p - 1))
    assert abs(errors.mean() - expected) < SIGMAS * errors.std() / np.sqrt(DRAWS)
    assert expected < 0.5 * (200 / 40 - 1) * np.sum(x**2)


def test_bits_are_of_those_kept():
    x = np.random.default_rng(4).standard_normal(300, np.float32)
    payload, decoded = once(compressors.importance_sampling(0.1), jax.random.key(5), x)
    n = int(payload.count)
    assert 28 <= n <= 30
    assert wire.bits(payload) == n * 32 + -(-n * 9 // 8) * 8 + 32
    assert np.count_nonzero(decoded) == n


@pytest.mark.ci
def test_what_is_small_has_one_magnitude_and_what_is_large_is_exact():
    x = np.float32([100.0, -50.0, *np.linspace(-1.0, 1.0, 98)])
    payload, _ = once(compressors.importance_sampling(0.1), jax.random.key(6), x)
    values = np.asarray(payload.values)[: int(payload.count)]
    assert values[0] == 100
    assert values[1] == -50
    np.testing.assert_allclose(np.abs(values[2:]), np.abs(values[2]), rtol=1e-5)


@pytest.mark.ci
def test_extremes():
    codec = compressors.importance_sampling(0.5)
    send = jax.jit(lambda key, x: codec.decode(codec.encode(key, x, ())[0]))
    rows = [[0.0] * 4, [3e37] * 4, [1e-37] * 4, [1e30, 1e-30, 0.0, 1.0]]
    for i, row in enumerate(rows):
        decoded = np.asarray(send(jax.random.key(i), jnp.array(row)))
        assert np.isfinite(decoded).all()
        assert decoded.any() == any(row)
        assert not decoded[np.array(row) == 0].any()
    for bad in (np.nan, np.inf, 1e38):
        decoded = np.asarray(send(jax.random.key(9), jnp.array([1.0, 1.0, bad, 1.0])))
        np.testing.assert_array_equal(np.isnan(decoded), [False, False, True, False])
        assert not decoded[[0, 1, 3]].any()
    x = np.random.default_rng(8).standard_normal(9, np.float32)
    whole = once(compressors.importance_sampling(1.0), jax.random.key(9), x)[1]
    np.testing.assert_array_equal(whole, x)
