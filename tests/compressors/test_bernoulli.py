"""Coins for each coordinate, or for all: exact variances, lengths that are what was drawn."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from fjx import compressors, wire

SIGMAS, DRAWS = 6.0, 4000
X = np.random.default_rng(0).standard_normal(50, np.float32)
RAND_P, BERNOULLI = compressors.rand_p(0.2), compressors.bernoulli(0.2)


@functools.cache
def draws(codec):
    """DRAWS messages, and what they decode to."""

    def one(key):
        payload, _ = codec.encode(key, X, ())
        return payload, codec.decode(payload)

    drawn = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), DRAWS))
    return jax.tree.map(np.asarray, drawn)


@functools.cache
def decoder(codec):
    return jax.jit(codec.decode)


@pytest.mark.parametrize("codec", [RAND_P, BERNOULLI], ids=["rand_p", "bernoulli"])
def test_the_variance_is_exactly_that_of_the_docstring(codec):
    x, y = np.float64(X), np.float64(draws(codec)[1])
    assert np.abs(y.mean(0) - x).max() < SIGMAS * y.std(0).max() / np.sqrt(DRAWS)
    errors = np.square(y - x).sum(1)
    expected = 4 * np.square(x).sum()
    assert abs(errors.mean() - expected) < SIGMAS * errors.std() / np.sqrt(DRAWS)
    assert codec.contract(X).omega == pytest.approx(4, rel=1e-5)


def test_rand_p_keeps_a_binomial_number_and_is_billed_for_it():
    payloads, decoded = draws(RAND_P)
    counts = payloads.count
    assert abs(counts.mean() - 10) < SIGMAS * np.sqrt(8 / DRAWS)
    assert abs(counts.var() - 8) < SIGMAS * 8 * np.sqrt(2 / DRAWS)
    for i in range(5):
        payload = jax.tree.map(lambda x, i=i: np.asarray(x[i]), payloads)
        sent = wire.to_bytes(payload)
        assert wire.bits(payload) == 32 * counts[i] + 96 == 8 * len(sent) - wire.header_bits(sent)
        received = decoder(RAND_P)(wire.from_bytes(sent))
        np.testing.assert_array_equal(received, decoded[i])
        assert np.count_nonzero(received) == counts[i]


def test_bernoulli_sends_all_or_a_byte():
    payloads, _ = draws(BERNOULLI)
    sent = payloads.count.astype(int)
    assert abs(sent.mean() - 0.2) < SIGMAS * np.sqrt(0.16 / DRAWS)
    measured = np.asarray(jax.jit(jax.vmap(wire.measured_bits))(payloads))
    np.testing.assert_array_equal(measured, 8 + 1600 * sent)
    for i in (int(np.argmax(sent)), int(np.argmin(sent))):
        payload = jax.tree.map(lambda x, i=i: np.asarray(x[i]), payloads)
        received = decoder(BERNOULLI)(wire.from_bytes(wire.to_bytes(payload)))
        np.testing.assert_allclose(received, X * sent[i] / 0.2, rtol=1e-5)


def test_a_forged_count_reads_nothing_beyond():
    payload = jax.tree.map(lambda leaf: np.asarray(leaf[0]), draws(RAND_P)[0])
    assert payload.count > 3
    fewer = dataclasses.replace(payload, count=np.int32(3))
    assert np.count_nonzero(decoder(RAND_P)(fewer)) == 3


def test_arguments():
    for factory in (compressors.rand_p, compressors.bernoulli):
        with pytest.raises(ValueError, match="p must be"):
            factory(0.0)
        with pytest.raises(TypeError, match="p must be"):
            factory("half")
        assert factory(1.0).contract(X).omega == 0
