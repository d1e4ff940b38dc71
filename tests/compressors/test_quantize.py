"""quantize: its variance is known exactly, so it is compared with that and not with a bound."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire

SIGMAS = 6.0


@functools.cache
def encoder(bits, dtype=jnp.float32):
    """``(key, x) -> (codes, scale, decoded)``, compiled once for each shape."""
    codec = compressors.quantize(bits=bits)

    def both(key, x):
        payload, _ = codec.encode(key, x.astype(dtype), ())
        return payload.codes, payload.scale, codec.decode(payload)

    return jax.jit(both)


@functools.cache
def many(bits):
    """The same for many keys and one x."""
    return jax.jit(jax.vmap(encoder(bits), (0, None)))


def omega(bits, d):
    return compressors.quantize(bits=bits).contract(jax.ShapeDtypeStruct((d,), jnp.float32)).omega


def exact_variance(x, bits):
    """E||C(x) - x||^2 = s^2 sum f (1 - f) with f the fractional part of x / s, in float64."""
    x = np.asarray(x, np.float64)
    scale = np.abs(x).max(-1, keepdims=True) / (2 ** (bits - 1) - 1)
    ratio = np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)
    fraction = ratio - np.floor(ratio)
    return (scale[..., 0] ** 2) * (fraction * (1 - fraction)).sum(-1)


def worst_vector(bits, d):
    levels = 2 ** (bits - 1) - 1
    a = (np.sqrt(1 + (d - 1) / levels**2) - 1) * levels / (d - 1)
    return np.concatenate([[1.0], np.full(d - 1, a)])


# ------------------------------------------------------------------------------------------- omega


@pytest.mark.parametrize("d", [2, 16, 100, 1000, 10**6])
@pytest.mark.parametrize("bits", [2, 3, 5, 8, 16])
def test_omega_is_attained(bits, d):
    x = worst_vector(bits, d)
    share = exact_variance(x, bits) / np.square(x).sum()
    np.testing.assert_allclose(share, omega(bits, d), rtol=1e-6)


@pytest.mark.parametrize(("d", "value"), [(4, 0.5), (16, 1.5), (100, 4.5)])
def test_two_bits_are_terngrad(d, value):
    """Of ternary codes omega is (sqrt(d) - 1) / 2, and E||C(x)||^2 = ||x||_inf ||x||_1 exactly."""
    assert omega(2, d) == pytest.approx(value, rel=1e-12)
    x = np.random.default_rng(d).standard_normal(d)
    second_moment = exact_variance(x, 2) + np.square(x).sum()
    assert second_moment == pytest.approx(np.abs(x).max() * np.abs(x).sum(), rel=1e-12)


@pytest.mark.few(1)
@pytest.mark.parametrize(("bits", "d"), [(2, 100), (3, 16), (4, 1000)])
def test_draws_have_the_exact_variance(bits, d):
    """4000 draws at the worst vector and at a Gaussian one, within 6 standard errors."""
    draws = 4000
    rng = np.random.default_rng(0)
    for x in (worst_vector(bits, d), rng.standard_normal(d)):
        x = np.float32(x)
        keys = jax.random.split(jax.random.key(d), draws)
        decoded = np.asarray(many(bits)(keys, x)[2], np.float64)
        errors = np.square(decoded - x).sum(1)
        slack = SIGMAS * errors.std() / np.sqrt(draws)
        assert slack < 0.1 * errors.mean()  # so that a factor would be seen
        assert abs(errors.mean() - exact_variance(x, bits)) < slack


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_nothing_exceeds_omega(bits):
    """1000 vectors: Gaussian, sparse, flat, heavy-tailed, near the worst; none is worse."""
    rng = np.random.default_rng(bits)
    for d in (2, 7, 50, 400):
        n = 50
        gaussian = rng.standard_normal((n, d))
        sparse = gaussian * (rng.random((n, d)) < 0.1)
        flat = 1 + 0.1 * rng.standard_normal((n, d))
        heavy = rng.standard_t(1.1, (n, d))
        near = worst_vector(bits, d) * np.exp(0.05 * gaussian)
        x = np.concatenate([gaussian, sparse, flat, heavy, near])
        energy = np.square(x).sum(1)
        assert (exact_variance(x, bits) <= omega(bits, d) * energy * (1 + 1e-12)).all()
        assert (exact_variance(near, bits) / np.square(near).sum(1)).max() > 0.8 * omega(bits, d)


# ------------------------------------------------------------------------------------ distribution


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "bits", [2, 8, *(pytest.param(bits, marks=pytest.mark.slow) for bits in (4, 12))]
)
def test_a_code_is_its_lower_neighbour_plus_a_bernoulli(bits):
    """20,000 draws of 21 fractions, all in one vector; counts within 6 standard errors."""
    draws, levels = 20_000, 2 ** (bits - 1) - 1
    fractions = np.array([0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999])
    ratios = np.concatenate([[levels], fractions, -fractions, levels - 1 + fractions])
    x = np.float32(0.3 * ratios)
    codes = np.asarray(many(bits)(jax.random.split(jax.random.key(1), draws), x)[0], np.int64)
    lower = np.floor(ratios).astype(int)
    up = codes - lower
    assert set(np.unique(up)) <= {0, 1}
    p = np.clip(np.float64(x) / (np.float64(x[0]) / levels) - lower, 0, 1)
    # 2^-24 levels of rounding in x / s, and a uniform of 2^-23.
    tolerance = SIGMAS * np.sqrt(p * (1 - p) / draws) + levels * 2.0**-22 + 2.0**-23
    assert (np.abs(up.mean(0) - p) < tolerance).all()


def test_coordinates_are_rounded_independently():
    """Codes of equal coordinates, and of equal leaves, are uncorrelated over 20,000 draws."""
    codec = compressors.quantize(bits=2)
    x = jnp.array([1.0, 0.5, 0.5])
    encode = jax.jit(jax.vmap(lambda key: codec.encode(key, {"a": x, "b": x}, ())[0]))
    payload = encode(jax.random.split(jax.random.key(2), 20_000))
    codes = np.concatenate([np.asarray(payload[k].codes)[:, 1:] for k in "ab"], axis=1)
    correlation = np.corrcoef(codes.T.astype(np.float64))
    off = correlation[~np.eye(4, dtype=bool)]
    assert np.abs(off).max() < SIGMAS / np.sqrt(20_000)


@pytest.mark.few(4)
@pytest.mark.parametrize(
    "bits", [2, 8, 16, *(pytest.param(bits, marks=pytest.mark.slow) for bits in (3, 5, 12))]
)
@pytest.mark.parametrize("top", [1.0, 0.1, 0.37, 12345.678, 3e-30])
def test_the_grid_never_moves(bits, top):
    """Every grid point and the largest coordinate, 200 draws each: u < p with p = 0 is never true."""
    levels = 2 ** (bits - 1) - 1
    codes = np.unique(np.linspace(-levels, levels, 401).round().astype(int))
    codes = np.resize(codes, 402 if codes.size > 200 else 16)  # one shape for many widths
    codes[0] = levels
    x = np.float32(codes * (np.float64(top) / levels))
    sent = np.asarray(many(bits)(jax.random.split(jax.random.key(3), 200), x)[0])
    np.testing.assert_array_equal(sent, np.broadcast_to(codes, sent.shape))


@pytest.mark.ci
def test_the_extreme_level_does_not_wrap():
    """127 + 1 is -128 in int8; of 10^5 vectors whose maximum rounds badly none wraps."""
    maxima = np.float32(np.exp(np.random.default_rng(4).uniform(-60, 60, 100_000)))
    x = np.stack([maxima, -maxima], axis=1)
    keys = jax.random.split(jax.random.key(4), len(maxima))
    for bits, levels in ((8, 127), (16, 32767)):
        codes, _, decoded = jax.jit(jax.vmap(encoder(bits)))(keys, x)
        np.testing.assert_array_equal(np.unique(codes), [-levels, levels])
        np.testing.assert_allclose(decoded, x, rtol=2e-7)


@pytest.mark.parametrize(
    "bits", [2, 8, *(pytest.param(bits, marks=pytest.mark.slow) for bits in (3, 4))]
)
def test_there_are_no_more_values_than_levels(bits):
    """Against codecs that return their input and bill for a compressed one."""
    x = np.random.default_rng(5).standard_normal(4096, np.float32)
    _, scale, decoded = encoder(bits)(jax.random.key(6), x)
    values = np.unique(np.asarray(decoded))
    assert 2 ** (bits - 1) < values.size <= 2**bits - 1
    assert (np.abs(np.asarray(decoded) - x) < float(scale) * (1 + 1e-6)).all()


# ------------------------------------------------------------------------------------------ oracle


def qsgd_max_norm(x, uniform, levels):
    """QSGD as in Alistarh et al., section 3.1, with the max norm: sign and magnitude, one by one."""
    norm, out = max(abs(v) for v in x), []
    for value, u in zip(x, uniform, strict=True):
        position = abs(value) / norm * levels
        lower = int(np.floor(position))
        # The paper rounds |x| up if u < f.  The library rounds x up, so for a negative x, whose
        # fraction is 1 - f, the magnitude grows if u >= 1 - f: the same law from the same uniform.
        up = (u < position - lower) if value >= 0 else (u >= 1 - (position - lower))
        out.append(np.sign(value) * norm * (lower + up) / levels)
    return np.array(out)


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_equals_qsgd_fed_with_the_same_uniforms(bits):
    x = np.random.default_rng(7).standard_normal(257)
    key = jax.random.key(8)
    uniform = np.asarray(jax.random.uniform(jax.random.fold_in(key, 0), x.shape), np.float64)
    expected = qsgd_max_norm(x, uniform, 2 ** (bits - 1) - 1)
    decoded = encoder(bits)(jax.random.key(8), np.float32(x))[2]
    np.testing.assert_allclose(decoded, expected, rtol=1e-6)


# ------------------------------------------------------------------------------- dtypes and extremes


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn])
def test_narrow_leaves_are_rounded_with_full_uniforms(dtype):
    """A fraction of 1/512 in a narrow leaf: uniforms of bfloat16 have steps of 1/256.

    20,000 coordinates; the count of the upper neighbour within 6 standard errors.
    """
    x = np.array([1.0, *[2.0**-9] * 20_000], dtype)
    codes, _, decoded = encoder(2, dtype)(jax.random.key(9), x)
    assert decoded.dtype == dtype
    up = np.asarray(codes)[1:].mean()
    assert abs(up - 2.0**-9) < SIGMAS * np.sqrt(2.0**-9 / 20_000)


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_largest_finite_value_survives(dtype):
    top = float(jnp.finfo(dtype).max)
    top = min(top, 2.0**125)  # the documented limit of a leaf in float32 range
    for bits in (2, 8, 16):
        x = np.array([top, -top, 0.0], dtype)
        decoded = encoder(bits, dtype)(jax.random.key(0), x)[2]
        np.testing.assert_array_equal(np.asarray(decoded, np.float32), np.asarray(x, np.float32))


@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1e30, 4e37])
@pytest.mark.parametrize("bits", [2, 4, 7])
def test_extreme_magnitudes_are_scaled_copies(scale, bits):
    x = np.float32([0.11, -1.0, 0.52, 0.0, 1.0])
    reference = encoder(bits)(jax.random.key(1), x)
    codes, _, decoded = encoder(bits)(jax.random.key(1), np.float32(x * np.float64(scale)))
    np.testing.assert_array_equal(codes, reference[0])
    np.testing.assert_allclose(np.float64(decoded) / scale, reference[2], rtol=1e-6)


@pytest.mark.few(2)
@pytest.mark.parametrize("bits", [2, 3, 8, 16])
def test_beyond_the_range_it_is_nan_or_zero_and_never_another_message(bits):
    levels = 2 ** (bits - 1) - 1
    tiny = np.float32([1e-39, -1e-40, 0.9 * levels * 2.0**-126])
    assert np.asarray(encoder(bits)(jax.random.key(0), tiny)[2]).tolist() == [0.0] * 3
    huge = np.float32(3.4e38)
    decoded = np.asarray(encoder(bits)(jax.random.key(0), np.float32([huge, 0.0, -huge]))[2])
    if levels * 2.0**125 < 3.4e38:
        assert np.isnan(decoded).all()
    else:
        np.testing.assert_allclose(decoded, [huge, 0.0, -huge], rtol=1e-6)


@functools.cache
def three_hundred():
    """Messages of 300 coordinates encoded, and decoded, by 8 bits."""
    codec = compressors.quantize(bits=8)

    def one(key, x):
        payload, _ = codec.encode(key, x, ())
        return payload, codec.decode(payload)

    return jax.jit(jax.vmap(one)), jax.jit(codec.decode)


@pytest.mark.few(1)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_coordinate_spoils_its_leaf_and_can_be_written(bad):
    """Wherever it stands, in a leaf longer than a vector register; and codes stay on the grid."""
    send, decode = three_hundred()
    x = np.where(np.eye(300) > 0, bad, 1).astype(np.float32)
    payload, decoded = send(jax.random.split(jax.random.key(0), 300), x)
    assert np.isnan(decoded).all()
    one = jax.tree.map(lambda leaf: np.asarray(leaf[7]), payload)
    received = wire.from_bytes(wire.to_bytes(one))
    assert np.isnan(decode(received)).all()


@pytest.mark.parametrize("value", [0.0, 3.25, -7e-20])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3)])
def test_constants_are_exact(value, shape):
    x = np.full(shape, value, np.float32)
    decoded = encoder(4)(jax.random.key(0), x)[2]
    assert decoded.shape == shape
    np.testing.assert_allclose(decoded, x, rtol=2e-7)


# --------------------------------------------------------------------------------------- arguments


def test_arguments():
    for wrong in (4.0, "4", None, True):
        with pytest.raises(TypeError, match="bits must be an integer"):
            compressors.quantize(bits=wrong)
    for wrong in (1, 0, -2, 17):
        with pytest.raises(ValueError, match="bits must be at least 2 and at most 16"):
            compressors.quantize(bits=wrong)
    with pytest.raises(TypeError, match="must be a Python int"):
        jax.jit(
            lambda b: compressors.quantize(bits=b).encode(jax.random.key(0), jnp.ones(2), ())[0]
        )(4)
    with pytest.raises(TypeError):
        compressors.quantize(4)


def test_an_integer_of_numpy_is_an_integer():
    codec = compressors.quantize(bits=np.int64(4))
    payload, _ = jax.jit(codec.encode)(jax.random.key(0), np.ones(3, np.float32), ())
    assert wire.from_bytes(wire.to_bytes(payload)).bits == 4
