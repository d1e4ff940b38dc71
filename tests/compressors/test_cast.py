"""cast: its error bound over all magnitudes, and what it must never do: overflow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors

FORMATS = [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.float8_e5m2]
formats = pytest.mark.parametrize("dtype", FORMATS, ids=lambda d: jnp.dtype(d).name)

# Unit roundoff u = 2^-(mantissa bits + 1), from the formats' definitions.
ROUNDOFF = {"bfloat16": 2**-8, "float16": 2**-11, "float8_e4m3fn": 2**-4, "float8_e5m2": 2**-3}
# Half the least subnormal, over the least that the largest magnitude is scaled to: half of the
# greatest power of two in range.  float16: 2^-25 / 2^14; e4m3fn: 2^-10 / 2^7; e5m2: 2^-17 / 2^14.
FLUSHED = {"bfloat16": 0, "float16": 2**-39, "float8_e4m3fn": 2**-17, "float8_e5m2": 2**-31}


@functools.cache
def sent(dtype, wide=jnp.float32):
    codec = compressors.cast(dtype)

    def both(x):
        payload, _ = codec.encode(jax.random.key(0), x.astype(wide), ())
        return payload, codec.decode(payload)

    return jax.jit(both)


def float64(x):
    return np.asarray(x).astype(np.float64)


@formats
def test_the_bound_holds_at_every_magnitude(dtype):
    """|error| <= u |x| + s max|x|: vectors of one scale, and of coordinates over many scales."""
    name = jnp.dtype(dtype).name
    rng = np.random.default_rng(0)
    for scale in 10.0 ** np.arange(-30, 31, 4):
        alike = rng.standard_normal(500)
        spread = alike * 10 ** rng.uniform(-8, 0, 500)
        for x in (alike, spread):
            x = np.float32(x * scale)
            decoded = float64(sent(dtype)(x)[1])
            magnitude = np.abs(float64(x))
            bound = ROUNDOFF[name] * magnitude + FLUSHED[name] * magnitude.max()
            assert (np.abs(decoded - x) <= bound * (1 + 1e-6) + 2.0**-126).all()


@formats
def test_the_bound_is_not_slack(dtype):
    """Somewhere the error is nearly u |x|: else the roundoff of another format would pass too."""
    x = np.float32(np.linspace(1, 2, 1999))
    error = np.abs(float64(sent(dtype)(x)[1]) - x) / x
    assert error.max() > 0.9 * ROUNDOFF[jnp.dtype(dtype).name] / (1 + 2**-3)


@formats
def test_the_contract_holds_and_is_the_docstring_s(dtype):
    name = jnp.dtype(dtype).name
    for d in (1, 100, 10**4):
        delta = compressors.cast(dtype).contract(jax.ShapeDtypeStruct((d,), jnp.float32)).delta
        assert delta == pytest.approx(1 - (ROUNDOFF[name] + FLUSHED[name] * np.sqrt(d)) ** 2)
    # A message of which nearly all is flushed.
    x = np.float32(np.concatenate([[1.0], np.full(9_999, 0.9 * max(FLUSHED[name], 1e-9))]))
    error = np.square(float64(sent(dtype)(x)[1]) - x).sum()
    assert error <= (1 - delta) * np.square(float64(x)).sum()


def test_nothing_is_promised_where_flushing_may_lose_all():
    # e4m3fn: s sqrt(d) reaches 1 - u at d = (15/16)^2 2^34.
    codec = compressors.cast(jnp.float8_e4m3fn)
    d = int((15 / 16) ** 2 * 2**34)
    assert codec.contract(jax.ShapeDtypeStruct((d - 10**6,), jnp.float32)).delta > 0
    assert codec.contract(jax.ShapeDtypeStruct((d + 10**6,), jnp.float32)).delta is None


@pytest.mark.few(4)
@formats
@pytest.mark.parametrize("wide", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_no_finite_value_overflows(dtype, wide):
    """The largest values of each dtype, alone and beside small ones; also on the way back."""
    top = float(jnp.finfo(wide).max)
    for x in ([top, 1.0], [-top, 0.0], [0.99 * top, -0.97 * top], [top / 2, top / 3]):
        x = jnp.asarray(np.array(x), wide)
        decoded = float64(sent(dtype, wide)(x)[1])
        assert np.isfinite(decoded).all()
        name, magnitude = jnp.dtype(dtype).name, np.abs(float64(x))
        bound = ROUNDOFF[name] * magnitude + FLUSHED[name] * magnitude.max()
        assert (np.abs(decoded - float64(x)) <= bound * (1 + 1e-6)).all()


@pytest.mark.parametrize("magnitude", [1e-7, 1e-6, 1e-5, 1e-3])
@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_small_float16_leaves_keep_their_digits(dtype, magnitude):
    """The subnormals of float16 begin at 6e-5; e5m2 has its exponents, but 8 mantissa bits fewer."""
    x = jnp.asarray(magnitude * np.array([1.0, -0.7, 0.3]), jnp.float16)
    error = np.abs(float64(sent(dtype, jnp.float16)(x)[1]) - float64(x))
    # Decoding rounds to float16 once more: half of its least step.
    assert (error <= ROUNDOFF[jnp.dtype(dtype).name] * np.abs(float64(x)) + 2.0**-25).all()


@formats
def test_the_scale_is_a_power_of_two(dtype):
    """Values of 3 significant bits pass unchanged at any magnitude."""
    x = np.float32([1.75, -1.0, 0.5, 1.25, 0.0])
    for exponent in range(-110, 120, 13):
        scaled = np.ldexp(x, exponent).astype(np.float32)
        np.testing.assert_array_equal(sent(dtype)(scaled)[1], scaled)


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_the_exponent_brings_the_maximum_just_inside(dtype):
    for top in (1.0, 0.999, 3e-30, 7e30):
        payload = sent(dtype)(jnp.array([top, top / 3]))[0]
        largest = float(payload.values[0].astype(jnp.float32))
        assert payload.exponent.dtype == jnp.int16
        greatest_power = 2.0 ** np.floor(np.log2(float(jnp.finfo(dtype).max)))
        assert greatest_power / 2 <= largest <= greatest_power


@pytest.mark.few(2)
@formats
def test_rounds_to_nearest_even(dtype):
    """Against the cast of ml_dtypes, in the range where no scale is needed."""
    x = np.float32(np.random.default_rng(1).uniform(1, 2, 1000))
    expected = x.astype(jnp.dtype(dtype)).astype(np.float32)
    np.testing.assert_array_equal(sent(dtype)(x)[1], expected)
    ulp = 2.0 * ROUNDOFF[jnp.dtype(dtype).name]
    ties = np.float32([1 + 0.5 * ulp, 1 + 1.5 * ulp])
    np.testing.assert_array_equal(sent(dtype)(ties)[1], np.float32([1, 1 + 2 * ulp]))


@pytest.mark.few(6)
@pytest.mark.parametrize("sent_as", [*FORMATS, jnp.float32])
@pytest.mark.parametrize("leaf", [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_what_would_not_be_narrower_is_sent_as_it_is(sent_as, leaf):
    """Between bfloat16 and float16 neither holds the other, and no bit would be saved."""
    codec = compressors.cast(sent_as)
    x = jnp.array([1.0, -2.0, 0.0078125]).astype(leaf)
    payload, _ = codec.encode(jax.random.key(0), x, ())
    narrower = jnp.finfo(sent_as).bits < jnp.finfo(leaf).bits
    assert isinstance(payload, jax.Array) != narrower
    if not narrower:
        assert payload is x
        assert codec.decode(payload) is x
        assert codec.contract(x).delta == 1.0


@formats
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_value_stays_so_and_does_not_touch_the_others(dtype, bad):
    x = np.float32([1.0, bad, -3e-3, 0.4])
    clean = np.where(np.isfinite(x), x, 0).astype(np.float32)
    decoded, reference = np.asarray(sent(dtype)(x)[1]), np.asarray(sent(dtype)(clean)[1])
    assert not np.isfinite(decoded[1])
    np.testing.assert_array_equal(np.delete(decoded, 1), np.delete(reference, 1))


@pytest.mark.few(2)
@formats
def test_zeros_and_subnormals_are_zero(dtype):
    x = jnp.array([0.0, -0.0, 1e-40, -1e-40])
    assert np.abs(float64(sent(dtype)(x)[1])).max() < 1.2e-38
    assert sent(dtype)(jnp.zeros((0,)))[1].shape == (0,)
    assert sent(dtype)(jnp.zeros(()))[1].shape == ()


@pytest.mark.parametrize("wrong", [jnp.int8, "int32", bool, jnp.uint8, jnp.complex64])
def test_a_dtype_that_is_not_floating(wrong):
    with pytest.raises(TypeError, match="cast needs a floating dtype"):
        compressors.cast(wrong)


@pytest.mark.parametrize("wrong", [jnp.float8_e8m0fnu, jnp.float4_e2m1fn])
def test_a_dtype_that_cannot_say_minus_or_nan(wrong):
    with pytest.raises(TypeError, match="a sign and a NaN"):
        compressors.cast(wrong)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float8_e5m2"])
def test_a_name_is_a_dtype(name):
    assert compressors.cast(name).contract(jax.ShapeDtypeStruct((1,), jnp.float32)).delta < 1


def test_not_a_dtype():
    with pytest.raises(TypeError):
        compressors.cast("narrow")
