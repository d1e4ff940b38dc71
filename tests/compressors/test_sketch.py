"""Count-sketches: linear to the bit on integers, unbiased, with the variance of their collisions."""

import jax
import jax.numpy as jnp
import numpy as np

from fjx import compressors, wire
from fjx._sketch import estimate, sketch

SIGMAS, DRAWS = 6.0, 4000


def test_sums_of_sketches_are_sketches_of_sums_bit_for_bit():
    keys = jax.random.split(jax.random.key(0), 2)
    x, y = (jax.random.randint(key, (100,), -1000, 1000).astype(jnp.float32) for key in keys)
    key = jax.random.key(1)
    tables = [sketch(key, v, rows=3, columns=16) for v in (x, y, x + y)]
    np.testing.assert_array_equal(tables[0] + tables[1], tables[2])


def test_the_sketch_is_what_its_estimates_say():
    """Of unit vectors: one entry a row, of size one, where and as the estimate looks for it."""
    key = jax.random.key(2)
    for j in (0, 15, 16, 99):
        x = jnp.zeros(100).at[j].set(1.0)
        table = np.asarray(sketch(key, x, rows=5, columns=16))
        assert (np.abs(table).sum(1) == 1).all()
        assert float(estimate(key, jnp.asarray(table), 100)[j]) == 1


def test_one_row_is_unbiased_with_the_variance_of_its_collisions():
    """E(estimate_j - x_j)^2 = sum of squares outside of j's block, over the columns: 4000 draws."""
    d, columns = 70, 16
    x = jax.random.normal(jax.random.key(3), (d,))
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


def test_medians_find_the_large_among_the_small():
    x = 0.01 * jax.random.normal(jax.random.key(5), (5000,))
    large = jnp.array([7, 1234, 4999])
    x = x.at[large].set(jnp.array([10.0, -20.0, 15.0]))
    codec = compressors.count_sketch(rows=5, columns=256)
    payload, _ = codec.encode(jax.random.key(6), x, ())
    decoded = codec.decode(payload)
    np.testing.assert_allclose(decoded[large], x[large], atol=0.5)
    assert set(np.argsort(-np.abs(np.asarray(decoded)))[:3].tolist()) == set(large.tolist())
    assert wire.bits(payload) == 32 * 5 * 256 + 64


def test_a_random_projection_errs_by_d_plus_1_over_k():
    """Exactly (d + 1) / k ||x||^2 in expectation, for any x: 4000 draws of two vectors."""
    d, k = 24, 6
    codec = compressors.random_projection(k / d)
    keys = jax.random.split(jax.random.key(7), DRAWS)
    for x in (jax.random.normal(jax.random.key(8), (d,)), jnp.zeros(d).at[3].set(2.0)):
        decode = jax.jit(jax.vmap(lambda key, x=x: codec.decode(codec.encode(key, x, ())[0])))
        got, exact = np.asarray(decode(keys), np.float64), np.asarray(x, np.float64)
        assert np.abs(got.mean(0) - exact).max() < SIGMAS * got.std(0).max() / np.sqrt(DRAWS)
        errors = np.square(got - exact).sum(1)
        expected = (d + 1) / k * exact @ exact
        assert abs(errors.mean() - expected) < SIGMAS * errors.std() / np.sqrt(DRAWS)


def test_a_random_projection_is_s_transposed_s_over_k():
    """From the decoded unit vectors: symmetric, of rank k, and payloads of one key add up."""
    d, k = 12, 3
    codec = compressors.random_projection(k / d)
    key = jax.random.key(9)
    payloads = jax.vmap(lambda x: codec.encode(jax.random.clone(key), x, ())[0])(jnp.eye(d))
    matrix = np.asarray(jax.vmap(codec.decode)(payloads))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    s = np.asarray(payloads.values).T
    np.testing.assert_allclose(matrix, s.T @ s / k, atol=1e-5)
    assert np.linalg.matrix_rank(matrix, tol=1e-4) == k
    assert wire.bits(jax.tree.map(lambda x: x[0], payloads)) == 32 * k + 64
