"""Coins for each coordinate, or for all: exact variances, lengths that are what was drawn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire

SIGMAS, DRAWS = 6.0, 4000
X = jax.random.normal(jax.random.key(0), (50,))


def draws(codec):
    keys = jax.random.split(jax.random.key(1), DRAWS)
    return jax.jit(jax.vmap(lambda key: codec.encode(key, X, ())[0]))(keys)


@pytest.mark.parametrize("factory", [compressors.rand_p, compressors.bernoulli])
def test_the_variance_is_exactly_that_of_the_docstring(factory):
    codec = factory(0.2)
    y = np.asarray(jax.vmap(codec.decode)(draws(codec)), np.float64)
    x = np.asarray(X, np.float64)
    assert np.abs(y.mean(0) - x).max() < SIGMAS * y.std(0).max() / np.sqrt(DRAWS)
    errors = np.square(y - x).sum(1)
    expected = 4 * np.square(x).sum()
    assert abs(errors.mean() - expected) < SIGMAS * errors.std() / np.sqrt(DRAWS)
    assert codec.contract(X).omega == pytest.approx(4, rel=1e-5)


def test_rand_p_keeps_a_binomial_number_and_is_billed_for_it():
    codec = compressors.rand_p(0.2)
    payloads = draws(codec)
    counts = np.asarray(payloads.count)
    assert abs(counts.mean() - 10) < SIGMAS * np.sqrt(8 / DRAWS)
    assert abs(counts.var() - 8) < SIGMAS * 8 * np.sqrt(2 / DRAWS)
    for i in range(5):
        payload = jax.tree.map(lambda x, i=i: x[i], payloads)
        sent = wire.to_bytes(payload)
        assert wire.bits(payload) == 32 * counts[i] + 96 == 8 * len(sent) - wire.header_bits(sent)
        received = codec.decode(wire.from_bytes(sent))
        np.testing.assert_array_equal(received, codec.decode(payload))
        assert int((received != 0).sum()) == counts[i]


def test_bernoulli_sends_all_or_a_byte():
    codec = compressors.bernoulli(0.3)
    payloads = draws(codec)
    sent = np.asarray(payloads.count).astype(int)
    assert abs(sent.mean() - 0.3) < SIGMAS * np.sqrt(0.21 / DRAWS)
    measured = np.asarray(jax.jit(jax.vmap(wire.measured_bits))(payloads))
    np.testing.assert_array_equal(measured, 8 + 1600 * sent)
    for i in (int(np.argmax(sent)), int(np.argmin(sent))):
        payload = jax.tree.map(lambda x, i=i: x[i], payloads)
        received = codec.decode(wire.from_bytes(wire.to_bytes(payload)))
        np.testing.assert_allclose(received, np.asarray(X) * sent[i] / 0.3, rtol=1e-5)


def test_a_forged_count_reads_nothing_beyond():
    codec = compressors.rand_p(0.5)
    payload, _ = codec.encode(jax.random.key(2), X, ())
    fewer = dataclasses.replace(payload, count=jnp.int32(3))
    assert int((codec.decode(fewer) != 0).sum()) == 3


def test_arguments():
    for factory in (compressors.rand_p, compressors.bernoulli):
        with pytest.raises(ValueError, match="p must be"):
            factory(0.0)
        with pytest.raises(TypeError, match="p must be"):
            factory("half")
        assert factory(1.0).contract(X).omega == 0
