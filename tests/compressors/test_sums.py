"""Sums, choices and multiples of codecs: the algebra of their contracts against what they do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import Contract, compressors, wire

c = compressors
X = np.random.default_rng(0).standard_normal(60, np.float32)
DRAWS = 4000
SIGMAS = 6.0


def errors(codec, x=X, draws=DRAWS):
    """Squared errors of many messages over ||x||^2, and the mean of the decoded messages."""
    state = codec.init(x)
    keys = jax.random.split(jax.random.key(1), draws)
    decoded = jax.jit(jax.vmap(lambda key: codec.decode(codec.encode(key, x, state)[0])))(keys)
    decoded, x = np.asarray(decoded, np.float64), np.asarray(x, np.float64)
    return np.square(decoded - x).sum(1) / np.square(x).sum(), decoded


@functools.partial(jax.jit, static_argnums=0)
def once(codec, key, x):
    payload, _ = codec.encode(key, x, codec.init(x))
    return payload, codec.decode(payload)


def test_scaled_has_the_error_of_the_theorem():
    """(1/(1+w)) C of rand-k: for every x the error is exactly w/(1+w), for the bound is attained."""
    codec = c.scaled(c.rand_k(0.2))
    error, _ = errors(codec)
    assert codec.contract(X).delta == pytest.approx(0.2)
    assert abs(error.mean() - 0.8) < SIGMAS * error.std() / np.sqrt(DRAWS)


def test_scaled_sends_what_the_codec_sends():
    inner, codec = c.quantize(bits=3), c.scaled(c.quantize(bits=3))
    key = jax.random.key(2)
    plain, decoded = once(inner, jax.random.clone(key), X)
    payload, smaller = once(codec, key, X)
    np.testing.assert_array_equal(plain.codes, payload.codes)
    np.testing.assert_allclose(smaller * (1 + inner.contract(X).omega), decoded, rtol=1e-6)


def test_scaled_refuses_what_has_no_omega():
    codec = c.scaled(c.top_k(0.1))
    with pytest.raises(ValueError, match="give the factor"):
        jax.eval_shape(functools.partial(once, codec), jax.random.key(0), X)
    assert codec.contract(X) == Contract()


@pytest.mark.slow
def test_feedback_needs_the_scale_where_omega_is_large():
    """X <- x - g/2 with g = x on one client, rand-k of 1/10: with feedback around the unscaled codec the
    model runs away; scaled, it converges.
    """
    norms = {}
    for name, codec in {
        "unscaled": c.error_feedback(c.rand_k(0.1), decay=lambda t: 1.0),
        "scaled": c.error_feedback(c.scaled(c.rand_k(0.1))),
    }.items():

        def step(carry, t, codec=codec):
            x, state = carry
            payload, state = codec.encode(jax.random.fold_in(jax.random.key(3), t), x / 20, state)
            return (x - codec.decode(payload), state), None

        (x, _), _ = jax.lax.scan(step, (jnp.asarray(X), codec.init(X)), jnp.arange(600))
        norms[name] = np.linalg.norm(x)
    assert norms["scaled"] < 1e-3
    assert not norms["unscaled"] < 1e3


def test_induced_is_unbiased_with_the_omega_of_the_theorem():
    codec = c.induced(c.top_k(0.25), c.rand_k(0.25))
    assert codec.contract(X).omega == pytest.approx(3 * 0.75)
    error, decoded = errors(codec)
    rest = np.sort(np.square(np.asarray(X)))[:45].sum() / np.square(np.asarray(X)).sum()
    assert abs(error.mean() - 3 * rest) < SIGMAS * error.std() / np.sqrt(DRAWS)  # exact for rand-k
    bias = decoded.mean(0) - np.asarray(X)
    assert np.abs(bias).max() < SIGMAS * decoded.std(0).max() / np.sqrt(DRAWS) + 1e-6


def test_induced_promises_nothing_that_does_not_follow():
    assert c.induced(c.top_k(0.1), c.top_k(0.1)).contract(X) == Contract()
    assert c.induced(c.flatten(c.qsgd(levels=1)), c.rand_k(0.5)).contract(X) == Contract(
        unbiased=True
    )


@pytest.mark.few(1)
@pytest.mark.parametrize("times", [1, 2, 5])
def test_repeated_top_k_is_top_k_of_more(times):
    codec = c.repeat(c.top_k(0.1), times=times)
    payload, decoded = once(codec, jax.random.key(0), X)
    expected = np.where(np.abs(X) >= np.sort(np.abs(X))[-6 * times], X, 0)
    np.testing.assert_array_equal(decoded, expected)
    assert codec.contract(X).delta == pytest.approx(1 - 0.9**times)
    assert wire.bits(payload) == times * (6 * 32 + 40)


@pytest.mark.slow
def test_mixture_chooses_as_often_as_it_says():
    shares = (0.2, 0.5, 0.3)
    codec = c.mixture(c.quantize(bits=2), c.rand_k(0.1), c.cast(jnp.bfloat16), probabilities=shares)
    keys = jax.random.split(jax.random.key(4), DRAWS)
    payloads, decoded = jax.jit(jax.vmap(lambda key: once(codec, key, X)))(keys)
    decode = jax.jit(codec.decode)
    counts = np.bincount(np.asarray(payloads.which), minlength=3) / DRAWS
    slack = SIGMAS * np.sqrt(np.multiply(shares, np.subtract(1, shares)) / DRAWS)
    np.testing.assert_array_less(np.abs(counts - shares), slack)
    costs = [8 + 60 * 2 + 32, 8 + 6 * 32 + 64, 8 + 60 * 16]
    measured = jax.jit(jax.vmap(wire.measured_bits))(payloads)
    payloads = jax.tree.map(np.asarray, payloads)
    for i in (np.argmax(payloads.which == number) for number in range(3)):
        payload = jax.tree.map(lambda x, i=i: np.asarray(x[i]), payloads)
        assert wire.bits(payload) == costs[int(payload.which)] == int(measured[i])
        data = wire.to_bytes(payload)
        assert 8 * len(data) - wire.header_bits(data) == costs[int(payload.which)]
        np.testing.assert_array_equal(decode(wire.from_bytes(data)), decoded[i])
    assert (
        wire.bits(jax.eval_shape(lambda p: jax.tree.map(lambda x: x[0], p), payloads)) == costs[2]
    )


@pytest.mark.slow
def test_the_omega_of_a_mixture_is_the_mean():
    codec = c.mixture(c.rand_k(0.1), c.rand_k(0.5), probabilities=(0.25, 0.75))
    omega = 0.25 * 9 + 0.75 * 1
    assert codec.contract(X).omega == pytest.approx(omega)
    error, _ = errors(codec)
    assert abs(error.mean() - omega) < SIGMAS * error.std() / np.sqrt(DRAWS)


def test_states_move_only_where_they_are_used():
    codec = c.mixture(
        c.error_feedback(c.top_k(0.1)), c.error_feedback(c.scaled_sign()), probabilities=(0.5, 0.5)
    )
    state = codec.init(X)
    payload, after = jax.jit(codec.encode)(jax.random.key(5), X, state)
    used = int(payload.which)
    assert float(jnp.abs(after.parts[used].residual).max()) > 0
    assert float(jnp.abs(after.parts[1 - used].residual).max()) == 0


def test_arguments():
    with pytest.raises(ValueError, match="a probability for each"):
        c.mixture(c.identity(), probabilities=(0.5, 0.5))
    with pytest.raises(ValueError, match="with sum 1"):
        c.mixture(c.identity(), c.identity(), probabilities=(0.5, 0.6))
    with pytest.raises(ValueError, match="1 to 256 codecs"):
        c.mixture(probabilities=())
    with pytest.raises(ValueError, match="times must be"):
        c.repeat(c.identity(), times=0)
    for function in (c.scaled, lambda x: c.induced(x, x), lambda x: c.repeat(x, times=1)):
        with pytest.raises(TypeError, match="Compressor"):
            function("top_k")
