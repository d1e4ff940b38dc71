"""Count-sketches: linear to the bit on integers, unbiased, with the variance of their collisions."""

import functools

import jax
import numpy as np
import pytest

from fjx import compressors, wire
from fjx._kernels.sketch import estimate, sketch

SIGMAS, DRAWS = 6.0, 4000
sketched = functools.partial(jax.jit, static_argnames=("rows", "columns"))(sketch)
estimated = functools.partial(jax.jit, static_argnums=2)(estimate)


def normal(size, seed):
    return np.random.default_rng(seed).standard_normal(size, np.float32)


def test_sums_of_sketches_are_sketches_of_sums_bit_for_bit():
    x, y = np.random.default_rng(0).integers(-1000, 1000, (2, 100)).astype(np.float32)
    key = jax.random.key(1)
    tables = [np.asarray(sketched(key, v, rows=3, columns=16)) for v in (x, y, x + y)]
    np.testing.assert_array_equal(tables[0] + tables[1], tables[2])


@pytest.mark.ci
def test_the_sketch_is_what_its_estimates_say():
    """Of unit vectors: one entry a row, of size one, where and as the estimate looks for it."""
    key = jax.random.key(2)
    for j in (0, 15, 16, 99):
        table = np.asarray(sketched(key, np.eye(100, dtype=np.float32)[j], rows=5, columns=16))
        assert (np.abs(table).sum(1) == 1).all()
        assert np.asarray(estimated(key, table, 100))[j] == 1


@pytest.mark.slow
def test_one_row_is_unbiased_with_the_variance_of_its_collisions():
    """E(estimate_j - x_j)^2 = sum of squares outside of j's block, over the columns: 4000 draws."""
    d, columns = 70, 16
    x = normal(d, 3)
    keys = jax.random.split(jax.random.key(4), DRAWS)
    got = np.asarray(
        jax.jit(jax.vmap(lambda key: estimate(key, sketch(key, x, rows=1, columns=columns), d)))(
            keys
        ),
        np.float64,
    )
    x = np.asarray(x, np.float64)
    assert np.abs(got.mean(0) - x).max() < SIGMAS * got.std(0).max() / np.sqrt(DRAWS)
    block = np.arange(d) // columns
    others = np.array([np.square(x)[block != b].sum() for b in block])
    errors = np.square(got - x).sum(1)
    expected = others.sum() / columns
    assert abs(errors.mean() - expected) < SIGMAS * errors.std() / np.sqrt(DRAWS)
    assert expected <= (d - 1) / columns * np.square(x).sum()


@pytest.mark.slow
def test_medians_find_the_large_among_the_small():
    x, large = 0.01 * normal(5000, 5), np.array([7, 1234, 4999])
    x[large] = [10.0, -20.0, 15.0]
    codec = compressors.count_sketch(rows=5, columns=256)
    payload, _ = jax.jit(codec.encode)(jax.random.key(6), x, ())
    decoded = np.asarray(jax.jit(codec.decode)(payload))
    np.testing.assert_allclose(decoded[large], x[large], atol=0.5)
    assert set(np.argsort(-np.abs(decoded))[:3].tolist()) == set(large.tolist())
    assert wire.bits(payload) == 32 * 5 * 256 + 64


@pytest.mark.slow
def test_a_random_projection_errs_by_d_plus_1_over_k():
    """Exactly (d + 1) / k ||x||^2 in expectation, for any x: 4000 draws of two vectors."""
    d, k = 24, 6
    codec = compressors.random_projection(k / d)
    keys = jax.random.split(jax.random.key(7), DRAWS)
    decode = jax.vmap(lambda key, x: codec.decode(codec.encode(key, x, ())[0]), (0, None))
    decode = jax.jit(decode)
    for x in (normal(d, 8), 2 * np.eye(d, dtype=np.float32)[3]):
        got, exact = np.float64(decode(keys, x)), np.float64(x)
        assert np.abs(got.mean(0) - exact).max() < SIGMAS * got.std(0).max() / np.sqrt(DRAWS)
        errors = np.square(got - exact).sum(1)
        expected = (d + 1) / k * exact @ exact
        assert abs(errors.mean() - expected) < SIGMAS * errors.std() / np.sqrt(DRAWS)


def test_a_random_projection_is_s_transposed_s_over_k():
    """From the decoded unit vectors: symmetric, of rank k, and payloads of one key add up."""
    d, k = 12, 3
    codec = compressors.random_projection(k / d)
    key = jax.random.key(9)

    @jax.jit
    @jax.vmap
    def send(x):
        payload, _ = codec.encode(jax.random.clone(key), x, ())
        return payload, codec.decode(payload)

    payloads, matrix = jax.tree.map(np.asarray, send(np.eye(d, dtype=np.float32)))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    s = payloads.values.T
    np.testing.assert_allclose(matrix, s.T @ s / k, atol=1e-5)
    assert np.linalg.matrix_rank(matrix, tol=1e-4) == k
    assert wire.bits(jax.tree.map(lambda x: x[0], payloads)) == 32 * k + 64
