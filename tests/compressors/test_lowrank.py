"""PowerSGD: projections, exact on what has the rank, and convergent to the best of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire

N, M = 24, 18


def matrix(rank, seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    return jax.random.normal(keys[0], (N, rank)) @ jax.random.normal(keys[1], (rank, M))


def sent(rank, x, times=1):
    codec = compressors.power_sgd(rank)
    state = codec.init(x)
    step = jax.jit(codec.encode)
    for _ in range(times):
        payload, state = step(jax.random.key(0), x, state)
    return payload, np.asarray(codec.decode(payload), np.float64)


@pytest.mark.parametrize(("rank", "of"), [(1, 1), (2, 1), (2, 2), (4, 3)])
def test_matrices_of_the_rank_are_exact(rank, of):
    x = np.asarray(matrix(of), np.float64)
    _, y = sent(rank, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(y, x, atol=2e-5 * np.abs(x).max())


def test_the_error_is_orthogonal_to_what_is_sent():
    x = jax.random.normal(jax.random.key(1), (N, M))
    payload, y = sent(2, x)
    np.testing.assert_allclose(payload.left.T @ payload.left, np.eye(2), atol=1e-5)
    x = np.asarray(x, np.float64)
    assert np.square(x).sum() == pytest.approx(
        np.square(y).sum() + np.square(x - y).sum(), rel=1e-5
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_one_matrix_again_and_again_converges_to_the_best_approximation(rank):
    """Against the singular values: ratio of errors within 1e-3 of one after 300 messages."""
    x = jax.random.normal(jax.random.key(2), (N, M))
    _, y = sent(rank, x, times=300)
    values = np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)
    best = np.square(values[rank:]).sum()
    assert np.square(np.asarray(x) - y).sum() == pytest.approx(best, rel=1e-3)
    _, first = sent(rank, x)
    assert np.square(np.asarray(x) - first).sum() > 1.02 * best


def test_a_zero_matrix_is_zero_and_the_next_one_is_not_lost():
    codec = compressors.power_sgd(2)
    zero, x = jnp.zeros((N, M)), matrix(2)
    payload, state = codec.encode(jax.random.key(0), zero, codec.init(zero))
    assert not np.asarray(codec.decode(payload)).any()
    payload, _ = codec.encode(jax.random.key(0), x, state)
    np.testing.assert_allclose(codec.decode(payload), x, atol=1e-4)


def test_small_leaves_and_vectors_are_sent_as_they_are_and_bits_are_those_of_the_factors():
    x = {"w": jnp.ones((N, 3, 6)), "b": jnp.ones(N), "small": jnp.ones((3, 3)), "n": jnp.arange(4)}
    codec = compressors.power_sgd(2)
    payload, _ = codec.encode(jax.random.key(0), x, codec.init(x))
    assert isinstance(payload["w"], wire.LowRank)
    assert payload["small"] is x["small"]
    assert wire.bits(payload) == 32 * (2 * (N + 18) + N + 9 + 4)
    assert codec.decode(payload)["w"].shape == (N, 3, 6)


def test_feedback_recovers_what_one_message_loses():
    """The sum of 60 messages of one matrix, fed back, is 60 times the matrix but for the residual."""
    x = jax.random.normal(jax.random.key(3), (N, M))
    codec = compressors.error_feedback(compressors.power_sgd(1))

    def step(carry, _):
        total, state = carry
        payload, state = codec.encode(jax.random.key(0), x, state)
        return (total + codec.decode(payload), state), None

    (total, _), _ = jax.lax.scan(step, (jnp.zeros_like(x), codec.init(x)), None, length=60)
    error = jnp.linalg.norm(total / 60 - x) / jnp.linalg.norm(x)
    assert float(error) < 0.3
    _, once = sent(1, x)
    assert np.linalg.norm(once - np.asarray(x)) / np.linalg.norm(np.asarray(x)) > 0.7


def test_arguments():
    with pytest.raises(ValueError, match="rank must be"):
        compressors.power_sgd(0)
    with pytest.raises(TypeError, match="rank must be"):
        compressors.power_sgd(1.5)
