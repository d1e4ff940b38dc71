"""Ternary codes, stochastic casts, microscaling and codebooks against their papers' closed forms."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from fjx import compressors, wire

SIGMAS, DRAWS = 6.0, 4000


@functools.cache
def decoder(codec, draws):
    def one(key, x):
        return codec.decode(codec.encode(key, x, codec.init(x))[0])

    keys, many = jax.random.split(jax.random.key(1), draws), jax.jit(jax.vmap(one, (0, None)))
    return lambda x: np.asarray(many(keys, x), np.float64)


@functools.partial(jax.jit, static_argnums=0)
def once(codec, key, x):
    payload, _ = codec.encode(key, x, codec.init(x))
    return payload, codec.decode(payload)


def normal(size, seed):
    return np.random.default_rng(seed).standard_normal(size, np.float32)


TERNGRAD = compressors.terngrad()
CLIPPED = compressors.terngrad(clip=2.5)


# ---------------------------------------------------------------------------------------- TernGrad


def test_terngrad_has_the_second_moment_of_the_paper():
    """E||C(x)||^2 = max|x| ||x||_1, and ||x||_1 / max|x| codes are not zero: 4000 draws."""
    x = normal(40, 0)
    y = decoder(TERNGRAD, DRAWS)(x)
    x = np.abs(np.float64(x))
    power = np.square(y).sum(1)
    assert abs(power.mean() - x.max() * x.sum()) < SIGMAS * power.std() / np.sqrt(DRAWS)
    count = (y != 0).sum(1)
    assert abs(count.mean() - x.sum() / x.max()) < SIGMAS * count.std() / np.sqrt(DRAWS)


@pytest.mark.few(1)
@pytest.mark.parametrize(("d", "omega"), [(4, 0.5), (16, 1.5), (100, 4.5)])
def test_the_omega_of_terngrad_is_attained(d, omega):
    x = np.float32([1, *[1 / (np.sqrt(d) + 1)] * (d - 1)])
    assert TERNGRAD.contract(x).omega == pytest.approx(omega)
    errors = np.square(decoder(TERNGRAD, DRAWS)(x) - np.asarray(x, np.float64)).sum(1)
    errors /= np.square(np.asarray(x, np.float64)).sum()
    assert abs(errors.mean() - omega) < SIGMAS * errors.std() / np.sqrt(DRAWS)


@pytest.mark.slow
def test_clipping_is_biased_bounded_and_says_so():
    x = normal(400, 2)
    x[3] = 30
    y = decoder(CLIPPED, 500)(x)
    bound = 2.5 * np.sqrt(np.square(np.asarray(x, np.float64)).mean())
    assert np.abs(y).max() == pytest.approx(bound, rel=1e-5)
    promised = CLIPPED.contract(x)
    assert not promised.unbiased
    assert promised.omega == pytest.approx(1 + 2.5**2 / 8)
    shares = np.square(y - np.asarray(x)).sum(1) / np.square(np.asarray(x)).sum()
    assert shares.mean() <= promised.omega
    assert CLIPPED.contract(jnp.ones(6)).unbiased  # 6 <= 2.5^2: nothing can be clipped


def test_five_ternary_codes_are_a_byte():
    key, like = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((23,), jnp.float32)
    payload, _ = jax.eval_shape(TERNGRAD.encode, key, like, ())
    assert wire.bits(payload) == 8 * 5 + 32


# --------------------------------------------------------------------------------------------- casts

FORMATS = [
    jnp.bfloat16,
    jnp.float8_e4m3fn,
    *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in (jnp.float16, jnp.float8_e5m2)),
]


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", FORMATS)
def test_stochastic_casts_go_to_a_neighbour_and_are_right_in_the_mean(dtype):
    x = normal(50, 4)
    y = decoder(compressors.stochastic_cast(dtype), DRAWS)(x)
    x = np.asarray(x, np.float64)
    slack = SIGMAS * y.std(0) / np.sqrt(DRAWS) + 1e-7
    assert (np.abs(y.mean(0) - x) < slack).all()
    for column, value in zip(y.T, x, strict=True):
        values = np.unique(column)
        assert values.size <= 2
        assert values[0] - 1e-7 <= value <= values[-1] + 1e-7


@pytest.mark.parametrize("dtype", FORMATS)
def test_numbers_of_the_format_never_move(dtype):
    x = np.float32([0.0, 1.0, -1.5, 0.25])  # beside the largest all else might be flushed
    y = decoder(compressors.stochastic_cast(dtype), 20)(x)
    np.testing.assert_array_equal(y, np.tile(np.float64(x), (20, 1)))


def test_many_small_updates_are_kept_where_a_cast_to_the_nearest_loses_them():
    """1 + 2^-12 is 1 in bfloat16; in the mean of 40,000 random ones it is there (6 sigma)."""
    x = np.full(40_000, 1 + 2.0**-12, np.float32)
    assert (np.asarray(once(compressors.cast(jnp.bfloat16), jax.random.key(0), x)[1]) == 1).all()
    y = np.float64(once(compressors.stochastic_cast(jnp.bfloat16), jax.random.key(5), x)[1])
    assert abs(y.mean() - 1 - 2.0**-12) < SIGMAS * y.std() / np.sqrt(40_000) < 2.0**-12


# -------------------------------------------------------------------------------------- microscaling


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "float6_e2m3fn"])
def test_blocks_are_what_the_specification_makes_of_them(name):
    """Each block divided by 2^(floor(lg max) - q), cast to the nearest by another library, saturated."""
    format = getattr(ml_dtypes, name)
    x = normal(96, 6) * np.repeat(np.float32([1e-3, 1.0, 3e5]), 32)
    payload, decoded = once(compressors.mx(name), jax.random.key(0), x)
    largest = float(ml_dtypes.finfo(format).max)
    q = np.floor(np.log2(largest))
    rows = x.reshape(3, 32).astype(np.float64)
    scale = 2.0 ** (np.floor(np.log2(np.abs(rows).max(1, keepdims=True))) - q)
    expected = np.clip(rows / scale, -largest, largest).astype(np.float32).astype(format)
    expected = expected.astype(np.float64) * scale
    np.testing.assert_array_equal(decoded, expected.reshape(-1).astype(np.float32))
    width = {"8": 8, "4": 4, "6": 6}[name[5]]
    assert wire.bits(payload) == 96 * width + 3 * 8


@pytest.mark.few(1)
@pytest.mark.parametrize(("bits", "factory"), [(8, "absmax"), (4, "absmax"), (8, "quantize")])
def test_integers_in_blocks_have_a_scale_each(bits, factory):
    codec = compressors.blockwise(getattr(compressors, factory)(bits=bits), size=64)
    x = normal(256, 7) * np.repeat(np.float32([1, 10, 100, 1000]), 64)
    payload, decoded = once(codec, jax.random.key(8), x)
    assert wire.bits(payload) == 256 * bits + 4 * 32
    error = np.abs(np.asarray(decoded) - x).reshape(4, 64).max(1)
    step = np.abs(x).reshape(4, 64).max(1) / (2 ** (bits - 1) - 1)
    assert (error <= step * (0.5001 if factory == "absmax" else 1.0001)).all()


# ----------------------------------------------------------------------------------------- codebooks


@pytest.mark.ci
def test_a_codebook_is_exact_on_as_many_different_blocks():
    x = normal((5, 4), 9)[np.random.default_rng(10).integers(5, size=60)].reshape(-1)
    codec = compressors.product_quantize(codebook=5, block=4)
    payload, decoded = once(codec, jax.random.key(11), x)
    np.testing.assert_allclose(decoded, x, rtol=1e-6)
    assert wire.bits(payload) == 8 * -(-60 * 3 // 8) + 32 * 5 * 4


def test_one_word_of_one_coordinate_is_the_mean():
    x = normal(30, 12) + 3
    _, y = once(compressors.product_quantize(codebook=1, block=1), jax.random.key(13), x)
    np.testing.assert_allclose(y, np.full(30, float(x.mean())), rtol=1e-6)


@pytest.mark.slow
def test_words_are_the_means_of_their_blocks_also_when_some_have_none():
    """Three different blocks and eight words: five are left with nothing, and nothing is NaN."""
    x = np.tile(np.float32([1.0, 2.0, -3.0, 0.5, 7.0, 7.0]), 20)
    _, y = once(compressors.product_quantize(codebook=8, block=2), jax.random.key(14), x)
    np.testing.assert_allclose(y, x, rtol=1e-6)
    x = normal(400, 15)
    payload, y = once(compressors.product_quantize(codebook=6, block=4), jax.random.key(16), x)
    errors = (np.float64(x) - np.asarray(y)).reshape(-1, 4)
    for code in range(6):
        np.testing.assert_allclose(errors[np.asarray(payload.codes) == code].sum(0), 0, atol=1e-4)
