"""absmax: deterministic, so that its bound is compared with errors and not with means of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire


@functools.cache
def sent(bits, dtype=jnp.float32):
    codec = compressors.absmax(bits=bits)

    def both(x):
        payload, _ = codec.encode(jax.random.key(0), x.astype(dtype), ())
        return payload, codec.decode(payload)

    return jax.jit(both)


@functools.cache
def many(bits):
    return jax.jit(jax.vmap(sent(bits)))


def lost(bits, x):
    """||C(x) - x||^2 / ||x||^2 of each row."""
    x = np.float64(x)
    return np.square(np.float64(many(bits)(np.float32(x))[1]) - x).sum(1) / np.square(x).sum(1)


def delta(bits, d):
    return compressors.absmax(bits=bits).contract(jax.ShapeDtypeStruct((d,), jnp.float32)).delta


@pytest.mark.few(2)
@pytest.mark.parametrize("d", [2, 400])
@pytest.mark.parametrize("bits", [2, 8, 12])
def test_delta_is_attained(bits, d):
    levels = 2 ** (bits - 1) - 1
    x = np.float32([levels, *[0.5] * (d - 1)])
    assert lost(bits, x[None])[0] == pytest.approx((d - 1) / (4 * levels**2 + d - 1), rel=1e-4)
    assert 1 - delta(bits, d) == pytest.approx((d - 1) / (4 * levels**2 + d - 1), rel=1e-9)


@pytest.mark.few(1)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_nothing_exceeds_delta(bits):
    rng = np.random.default_rng(bits)
    levels = 2 ** (bits - 1) - 1
    for d in (2, 30, 400):
        gaussian = rng.standard_normal((50, d))
        halves = rng.integers(0, 2, (50, d)) + 0.5
        halves[:, 0] = levels
        x = np.float32(np.concatenate([gaussian, rng.standard_t(1.1, (50, d)), halves]))
        assert (lost(bits, x) <= (1 - delta(bits, d)) * (1 + 1e-4)).all()


@pytest.mark.few(2)
@pytest.mark.parametrize("bits", [2, 5, 8, 16])
def test_equals_rounding_in_float64(bits):
    """Against NumPy, but for coordinates within rounding of the middle of two levels."""
    x = np.float32(np.random.default_rng(0).standard_normal(1000))
    levels = 2 ** (bits - 1) - 1
    ratio = np.float64(x) / (np.float64(np.abs(x).max()) / levels)
    clear = np.abs(ratio - np.floor(ratio) - 0.5) > 1e-6 * levels
    assert clear.mean() > 0.9
    codes = np.asarray(sent(bits)(x)[0].codes)
    np.testing.assert_array_equal(codes[clear], np.round(ratio)[clear])
    assert np.abs(codes).max() == levels


@pytest.mark.slow
def test_errs_less_than_stochastic_rounding_and_at_most_half_a_step():
    x = np.random.default_rng(1).standard_normal(4096, np.float32)
    payload, decoded = sent(4)(x)
    error = np.abs(np.asarray(decoded) - x)
    assert error.max() <= float(payload.scale) * (0.5 + 1e-6)
    assert error.max() > 0.49 * float(payload.scale)
    assert (error <= np.abs(x) * (1 + 1e-6)).all()
    quantised = compressors.quantize(bits=4)
    draw = jax.jit(lambda key: quantised.decode(quantised.encode(key, x, ())[0]))
    drawn = np.asarray(draw(jax.random.key(2)))
    assert np.square(error).sum() < 0.6 * np.square(drawn - x).sum()


@pytest.mark.ci
def test_bits_zeros_and_dtypes():
    payload, decoded = sent(3, jnp.bfloat16)(jnp.array([0.0, 3.0, -1.0]))
    assert decoded.dtype == jnp.bfloat16
    assert decoded.tolist() == [0.0, 3.0, -1.0]
    assert wire.bits(payload) == 16 + 32
    assert sent(8)(jnp.zeros(5))[1].tolist() == [0.0] * 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_coordinate_spoils_its_leaf(bad):
    x = np.where(np.arange(1000) == 600, bad, 1).astype(np.float32)
    assert np.isnan(sent(8)(x)[1]).all()


def test_arguments():
    with pytest.raises(TypeError, match="bits must be an integer"):
        compressors.absmax(bits=8.0)
    with pytest.raises(ValueError, match="bits must be at least 2 and at most 16"):
        compressors.absmax(bits=1)
