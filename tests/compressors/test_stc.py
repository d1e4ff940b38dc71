"""Sparse ternary compression and thresholds: exact errors, exact lengths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire


@functools.cache
def both(codec):
    def run(x):
        payload, _ = codec.encode(jax.random.key(0), x, codec.init(x))
        return payload, codec.decode(payload)

    return jax.jit(run)


STC = {ratio: compressors.stc(ratio) for ratio in (0.01, 0.1, 0.5)}


@pytest.mark.few(1)
@pytest.mark.parametrize("ratio", STC)
def test_the_error_of_stc_is_its_formula(ratio):
    x = np.random.default_rng(1).standard_normal(1000)
    k = round(1000 * ratio)
    _, y = both(STC[ratio])(np.float32(x))
    kept = np.sort(np.abs(x))[-k:]
    expected = np.square(x).sum() - kept.sum() ** 2 / k
    assert np.square(np.asarray(y) - x).sum() == pytest.approx(expected, rel=1e-5)
    assert np.unique(np.abs(np.asarray(y))).size == 2


@pytest.mark.slow
def test_gaussian_energy_that_stc_keeps():
    """0.0836 of 1 %, 0.4255 of 10 %, within what 2^18 draws vary."""
    x = np.random.default_rng(2).standard_normal(2**18, np.float32)
    for ratio, energy in ((0.01, 0.0836), (0.1, 0.4255)):
        _, y = both(STC[ratio])(x)
        share = np.square(np.float64(y)).sum() / np.square(np.float64(x)).sum()
        assert share == pytest.approx(energy, abs=0.004)


@pytest.mark.few(1)
@pytest.mark.parametrize(("d", "ratio"), [(16, 0.5), (100, 0.01), (9, 1 / 3), (64, 0.125)])
def test_the_bound_of_stc_is_attained(d, ratio):
    codec = compressors.stc(ratio)
    delta = codec.contract(jax.ShapeDtypeStruct((d,), jnp.float32)).delta
    worst = []
    for x in (2 * np.eye(d, dtype=np.float32)[3], np.ones(d, np.float32)):
        _, y = both(codec)(x)
        worst.append(np.square(np.asarray(y) - x).sum() / np.square(x).sum())
    assert max(worst) == pytest.approx(1 - delta, rel=1e-5)


@pytest.mark.slow
def test_the_bits_of_stc_with_and_without_golomb_codes():
    x = np.random.default_rng(3).standard_normal(100_000, np.float32)
    plain, decoded = both(STC[0.01])(x)
    assert wire.bits(plain) == 1000 + 32 + 1000 * 17
    payload, y = both(compressors.entropy(STC[0.01], "golomb"))(x)
    assert wire.bits(payload) / 100_000 == pytest.approx(0.0911, rel=0.01)
    np.testing.assert_array_equal(y, decoded)


def test_a_threshold_keeps_what_it_says_and_is_billed_for_it():
    x = np.random.default_rng(4).standard_normal(300, np.float32)
    payload, y = both(compressors.threshold(1.5))(x)
    expected = np.where(np.abs(x) >= 1.5, x, 0)
    np.testing.assert_array_equal(y, expected)
    n = int((expected != 0).sum())
    assert int(payload.count) == n
    assert wire.bits(payload) == 32 + 32 * n + 8 * -(-9 * n // 8)
    received = wire.from_bytes(wire.to_bytes(payload))
    np.testing.assert_array_equal(compressors.threshold(1.5).decode(received), expected)


def test_negative_vectors_and_zeros_are_not_sent():
    """A threshold of max x, not of max |x|, would send all; one of zero would send zeros."""
    _, y = both(compressors.threshold(3.5))(-np.arange(1, 6, dtype=np.float32))
    assert y.tolist() == [0, 0, 0, -4, -5]
    payload, _ = both(compressors.threshold(0.1))(np.zeros(50, np.float32))
    assert wire.bits(payload) == 32


def test_of_more_than_the_room_holds_the_largest_are_kept():
    codec = compressors.threshold(0.5, room=0.25)
    payload, y = both(codec)(jnp.array([1.0, -3.0, 2.0, 1.0, 0.0, 0.6, 4.0, 0.1]))
    assert y.tolist() == [0, -3, 0, 0, 0, 0, 4, 0]
    assert int(payload.count) == 2


def test_a_quantiser_after_a_threshold_is_billed_for_what_is_kept():
    codec = compressors.chain(compressors.threshold(1.5), compressors.quantize(bits=8))
    x = np.random.default_rng(5).standard_normal(300, np.float32)
    payload, decoded = both(codec)(x)
    n = int(payload.count)
    assert wire.bits(payload) == 32 + 8 * n + 32 + 8 * -(-9 * n // 8)
    received = wire.from_bytes(wire.to_bytes(payload))
    np.testing.assert_array_equal(jax.jit(codec.decode)(received), decoded)


def test_arguments():
    with pytest.raises(ValueError, match="tau must be"):
        compressors.threshold(0.0)
    with pytest.raises(ValueError, match="room must be"):
        compressors.threshold(1.0, room=0.0)
    with pytest.raises(ValueError, match="fixed length"):
        compressors.blockwise(compressors.threshold(1.0), size=4)
