"""Residuals that decay, and residuals under a learning rate that changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors

c = compressors


def run(codec, messages):
    """What is decoded, message by message, and the last state."""

    def step(state, now):
        t, x = now
        payload, state = codec.encode(jax.random.fold_in(jax.random.key(0), t), x, state)
        return state, codec.decode(payload)

    rounds = jnp.arange(len(messages))
    state, decoded = jax.lax.scan(step, codec.init(messages[0]), (rounds, messages))
    return decoded, state


def sent(codec, messages):
    """The same as NumPy's arrays."""
    return jax.tree.map(np.asarray, jax.jit(functools.partial(run, codec))(messages))


MESSAGES = np.random.default_rng(1).standard_normal((6, 8), np.float32)


@pytest.mark.few(1)
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_residual_is_the_discounted_sum_of_what_was_missed(beta):
    """e_t = sum_s beta^(t-s) (x_s - c_s), by unrolling e_t = x_t + beta e_(t-1) - c_t."""
    decoded, state = sent(c.error_feedback(c.top_k(0.25), decay=beta), MESSAGES)
    powers = beta ** np.arange(len(MESSAGES))[::-1]
    expected = (powers[:, None] * (MESSAGES - decoded)).sum(0)
    np.testing.assert_allclose(state.residual, expected, atol=1e-5)


def test_decay_zero_is_the_codec_alone():
    decoded, _ = sent(c.error_feedback(c.top_k(0.25), decay=0.0), MESSAGES)
    np.testing.assert_array_equal(decoded, sent(c.top_k(0.25), MESSAGES)[0])


def test_a_rate_of_zero_leaves_the_residual():
    decay = c.rescaling(lambda t: jnp.array([0.0, 0.4, 0.0, 0.0, 0.2])[t])
    assert [float(decay(t)) for t in range(5)] == [1.0, 0.0, 1.0, 1.0, 0.0]


def test_rescaling_is_feedback_of_steps_in_place_of_gradients():
    """gamma_t C(g_t + gamma_(t-1)/gamma_t e) = C(gamma_t g_t + gamma_(t-1) e), for C is homogeneous."""
    rates = np.float32([0.5, 0.5, 0.05, 0.05, 0.2, 1.0])

    def schedule(t):
        return jnp.asarray(rates)[t]

    gradients, _ = sent(c.error_feedback(c.top_k(0.25), decay=c.rescaling(schedule)), MESSAGES)
    steps, _ = sent(c.error_feedback(c.top_k(0.25)), MESSAGES * rates[:, None])
    np.testing.assert_allclose(rates[:, None] * gradients, steps, rtol=1e-4, atol=1e-6)
    unscaled, _ = sent(c.error_feedback(c.top_k(0.25)), MESSAGES)
    assert np.abs(rates[:, None] * unscaled - steps).max() > 0.1  # what forgetting it would cost


def test_the_count_is_part_of_the_state_only_where_it_is_needed():
    assert c.error_feedback(c.identity()).init(jnp.ones(3)).sent == ()
    codec = c.error_feedback(c.top_k(0.5), decay=c.rescaling(lambda t: 1.0))
    _, state = sent(codec, MESSAGES)
    assert int(state.sent) == len(MESSAGES)


def test_decay_may_be_traced_and_must_be_a_share():
    def last(beta):
        return run(c.error_feedback(c.top_k(0.25), decay=beta), MESSAGES)[1].residual

    both = jax.jit(jax.vmap(last))(np.float32([0.0, 0.5]))
    concrete = sent(c.error_feedback(c.top_k(0.25), decay=0.5), MESSAGES)[1].residual
    np.testing.assert_allclose(both[1], concrete, atol=1e-6)
    with pytest.raises(ValueError, match="decay must be"):
        c.error_feedback(c.identity(), decay=1.5)
    with pytest.raises(TypeError, match="decay"):
        c.error_feedback(c.identity(), decay="half")


@pytest.mark.parametrize("m", [0.0, 0.6])
def test_momentum_correction_is_the_algorithm_of_its_paper(m):
    """Six rounds in NumPy: both velocity and residual are cleared where a coordinate was sent."""
    decoded, state = sent(c.momentum_correction(c.top_k(0.25), momentum=m), MESSAGES)
    u, v, expected = np.zeros(8), np.zeros(8), []
    for x in np.float64(MESSAGES):
        u = m * u + x
        v = v + u
        mask = np.zeros(8, bool)
        mask[np.argsort(-np.abs(v))[:2]] = True
        expected.append(np.where(mask, v, 0))
        u, v = np.where(mask, 0, u), np.where(mask, 0, v)
    np.testing.assert_allclose(decoded, expected, atol=1e-5)
    np.testing.assert_allclose(state.momentum, u, atol=1e-5)
    np.testing.assert_allclose(state.residual, v, atol=1e-5)
    if m == 0:
        plain, feedback = sent(c.error_feedback(c.top_k(0.25)), MESSAGES)
        np.testing.assert_array_equal(decoded, plain)
        np.testing.assert_array_equal(state.residual, feedback.residual)


def test_momentum_correction_remembers_what_a_quantiser_after_it_lost():
    codec = c.momentum_correction(c.chain(c.top_k(0.5), c.quantize(bits=4)), momentum=0.5)
    decoded, state = sent(codec, MESSAGES[:1])
    np.testing.assert_allclose(decoded[0] + state.residual, MESSAGES[0], atol=1e-6)
    assert int(np.count_nonzero(state.momentum)) == int(np.count_nonzero(decoded[0] == 0))


def test_the_ratio_of_momentum_correction_may_change_between_runs():
    """Its warm-up: the state of one ratio is a state of another."""
    dense, sparse = (c.momentum_correction(c.top_k(r)) for r in (0.5, 0.125))
    _, state = sent(dense, MESSAGES)
    payload, _ = jax.jit(sparse.encode)(jax.random.key(2), MESSAGES[0], state)
    assert np.count_nonzero(jax.jit(sparse.decode)(payload)) == 1
