"""PowerSGD: projections, exact on what has the rank, and convergent to the best of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire

N, M = 24, 18


def normal(seed, shape=(N, M)):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def matrix(rank):
    return normal(0, (N, rank)) @ normal(1, (rank, M))


@functools.cache
def programs(rank):
    codec = compressors.power_sgd(rank)
    return codec._replace(encode=jax.jit(codec.encode), decode=jax.jit(codec.decode))


def sent(rank, x, times=1):
    codec = programs(rank)
    state = codec.init(x)
    for _ in range(times):
        payload, state = codec.encode(jax.random.key(0), x, state)
    return payload, np.asarray(codec.decode(payload), np.float64)


@pytest.mark.few(1)
@pytest.mark.parametrize(("rank", "of"), [(1, 1), (2, 1), (2, 2), (4, 3)])
def test_matrices_of_the_rank_are_exact(rank, of):
    x = matrix(of)
    _, y = sent(rank, x)
    np.testing.assert_allclose(y, x, atol=2e-5 * np.abs(x).max())


def test_the_error_is_orthogonal_to_what_is_sent():
    x = normal(1)
    payload, y = sent(2, x)
    np.testing.assert_allclose(np.transpose(payload.left) @ payload.left, np.eye(2), atol=1e-5)
    x = np.asarray(x, np.float64)
    assert np.square(x).sum() == pytest.approx(
        np.square(y).sum() + np.square(x - y).sum(), rel=1e-5
    )


@pytest.mark.few(1)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_one_matrix_again_and_again_converges_to_the_best_approximation(rank):
    """Against the singular values: ratio of errors within 1e-3 of one after 300 messages."""
    x = normal(2)
    _, y = sent(rank, x, times=300)
    values = np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)
    best = np.square(values[rank:]).sum()
    assert np.square(np.asarray(x) - y).sum() == pytest.approx(best, rel=1e-3)
    _, first = sent(rank, x)
    assert np.square(np.asarray(x) - first).sum() > 1.02 * best


def test_a_zero_matrix_is_zero_and_the_next_one_is_not_lost():
    codec = programs(2)
    zero, x = np.zeros((N, M), np.float32), matrix(2)
    payload, state = codec.encode(jax.random.key(0), zero, codec.init(zero))
    assert not np.asarray(codec.decode(payload)).any()
    payload, _ = codec.encode(jax.random.key(0), x, state)
    np.testing.assert_allclose(codec.decode(payload), x, atol=1e-4)


@pytest.mark.ci
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
    x = normal(3)
    codec = compressors.error_feedback(compressors.power_sgd(1))

    def step(carry, _):
        total, state = carry
        payload, state = codec.encode(jax.random.key(0), x, state)
        return (total + codec.decode(payload), state), None

    start = (jnp.zeros((N, M)), codec.init(x))
    (total, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, None, length=60))(start)
    assert np.linalg.norm(np.asarray(total) / 60 - x) / np.linalg.norm(x) < 0.3
    _, once = sent(1, x)
    assert np.linalg.norm(once - x) / np.linalg.norm(x) > 0.7


def test_arguments():
    with pytest.raises(ValueError, match="rank must be"):
        compressors.power_sgd(0)
    with pytest.raises(TypeError, match="rank must be"):
        compressors.power_sgd(1.5)
