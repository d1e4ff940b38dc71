"""fixed_step, k_level and subtractive_dither: each has an error whose law is known exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire

c = compressors
SIGMAS = 6.0


@functools.partial(jax.jit, static_argnums=0)
def many(codec, keys, x):
    """Decoded, for many keys and one x."""
    return jax.vmap(lambda key: codec.decode(codec.encode(key, x, ())[0]))(keys)


@functools.partial(jax.jit, static_argnums=0)
def once(codec, x):
    payload, _ = codec.encode(jax.random.key(0), x, ())
    return payload, codec.decode(payload)


@functools.partial(jax.jit, static_argnums=0)
def decode(codec, payload):
    return codec.decode(payload)


def draws(codec, x, n=4000, seed=1):
    keys = jax.random.split(jax.random.key(seed), n)
    return np.asarray(many(codec, keys, np.float32(x)), np.float64)


def omega(codec, d):
    return codec.contract(jax.ShapeDtypeStruct((d,), jnp.float32)).omega


FIXED, COARSE = c.fixed_step(0.25, bits=6), c.fixed_step(0.1, bits=2)
LEVELS = {k: c.k_level(levels=k) for k in (2, 3, 4, 5, 16, 300)}
DITHER = {b: c.subtractive_dither(bits=b) for b in (2, 4, 8)}
EVERY = [FIXED, LEVELS[2], LEVELS[300], DITHER[4]]


# -------------------------------------------------------------------------------------- fixed step


@pytest.mark.slow
def test_the_variance_of_each_coordinate_is_that_of_its_fraction():
    """h^2 f (1 - f), 20,000 draws, within 6 standard errors, and unbiased."""
    f = np.array([0.0, 0.01, 0.25, 0.5, 0.9, 0.0])
    x = 0.25 * (f + np.array([-3, 2, -1, 0, 30, -31]))
    y = draws(FIXED, x, 20_000)
    variance = 0.25**2 * f * (1 - f)
    assert (np.abs(y.mean(0) - x) <= SIGMAS * np.sqrt(variance / 20_000)).all()
    kurtosis = np.mean((y - x) ** 4, axis=0)
    assert (np.abs(np.mean((y - x) ** 2, 0) - variance) <= SIGMAS * np.sqrt(kurtosis / 2e4)).all()
    assert (y[:, [0, 5]] == x[[0, 5]]).all()


def test_the_grid_of_any_step_never_moves():
    for step in (0.1, 1 / 3, 2.0**-126, 7e20):
        codec = c.fixed_step(step, bits=16)
        codes = np.unique(np.linspace(-32767, 32767, 501).round())
        np.testing.assert_array_equal(once(codec, np.float32(codes * step))[0].codes, codes)


@pytest.mark.parametrize("over", [0.1001, 0.15, 0.2, 1e38, np.inf, -np.inf, np.nan, -0.11])
def test_an_overflow_is_never_silent_and_never_random(over):
    """2 bits of step 0.1 reach [-0.1, 0.1]; the codes of the others are not touched."""
    y = draws(COARSE, [0.1, over, -0.1, 0.0], 100)
    assert np.isnan(y[:, 1]).all()
    np.testing.assert_allclose(y[:, [0, 2, 3]], np.broadcast_to([0.1, -0.1, 0], (100, 3)), 1e-6)


def test_codes_of_clients_can_be_added():
    x = np.random.default_rng(0).uniform(-3, 3, (10, 50)).astype(np.float32)
    encoded = [once(FIXED, row) for row in x]
    total = sum(np.asarray(payload.codes, np.int32) for payload, _ in encoded)
    np.testing.assert_allclose(0.25 * total, sum(np.asarray(y) for _, y in encoded), rtol=1e-6)
    assert all(wire.bits(payload) == 6 * 50 + 4 for payload, _ in encoded)  # 38 bytes


# ----------------------------------------------------------------------------------------- k-level


def exact_variance(x, k):
    x = np.asarray(x, np.float64)
    step = (x.max() - x.min()) / (k - 1)
    f = np.modf((x - x.min()) / step)[0]
    f[x == x.max()] = 0
    return step**2 * (f * (1 - f)).sum()


def worst(k, d):
    """Where omega is attained: two extremes, and all others alike."""
    gaps, n = k - 1, d - 2
    if k % 2 == 0:
        return np.concatenate([[gaps / 2, -gaps / 2], np.zeros(n)])
    u = 1 / (2 * (1 + 2 * omega(LEVELS[k], d) / d))
    t = n * u / d
    return np.concatenate([[gaps / 2 - t, -gaps / 2 - t], np.full(n, u - t)])


@pytest.mark.parametrize("k", [2, 3, 4, 5, 16])
@pytest.mark.parametrize("d", [3, 10, 1000])
def test_omega_is_attained_and_is_less_than_the_paper_s(k, d):
    x = worst(k, d)
    assert exact_variance(x, k) / np.square(x).sum() == pytest.approx(omega(LEVELS[k], d), rel=1e-6)
    assert omega(LEVELS[k], d) < d / (2 * (k - 1) ** 2)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_nothing_exceeds_omega(k):
    rng = np.random.default_rng(k)
    for d in (3, 20, 300):
        for near in (rng.standard_normal(d), rng.standard_t(1.1, d), rng.random(d), worst(k, d)):
            for _ in range(20):
                x = near + 0.3 * rng.random() * rng.standard_normal(d) + rng.choice([0, 0.3, -1.0])
                assert exact_variance(x, k) <= omega(LEVELS[k], d) * np.square(x).sum() * (1 + 1e-9)


@pytest.mark.few(1)
@pytest.mark.parametrize("k", [2, 3, 16])
def test_draws_have_the_exact_variance(k):
    x = np.float32(3 + np.random.default_rng(k).standard_normal(30))
    y = draws(LEVELS[k], x)
    errors = np.square(y - x).sum(1)
    slack = SIGMAS * errors.std() / np.sqrt(len(y))
    assert slack < 0.1 * errors.mean()
    assert abs(errors.mean() - exact_variance(x, k)) < slack
    if k == 2:
        binary = ((x.max() - np.float64(x)) * (x - np.float64(x.min()))).sum()
        assert exact_variance(x, 2) == pytest.approx(binary, rel=1e-9)


def suresh(x, uniform, k):
    """Section 2 of the paper, coordinate by coordinate: levels B(r), and Y = B(r + 1) with odds."""
    low, high = min(x), max(x)
    levels = [low + r * (high - low) / (k - 1) for r in range(k)]
    out = []
    for value, u in zip(x, uniform, strict=True):
        r = max(j for j in range(k - 1) if levels[j] <= value)
        odds = (value - levels[r]) / (levels[r + 1] - levels[r])
        out.append(levels[r + 1] if u < odds else levels[r])
    return np.array(out)


@pytest.mark.few(1)
@pytest.mark.parametrize("k", [2, 5, 16])
def test_equals_the_paper_fed_with_the_same_uniforms(k):
    x = np.random.default_rng(3).standard_normal(257)
    uniform = jax.random.uniform(jax.random.fold_in(jax.random.key(0), 0), x.shape)
    decoded = once(LEVELS[k], np.float32(x))[1]
    np.testing.assert_allclose(decoded, suresh(x, np.asarray(uniform), k), rtol=1e-5, atol=1e-6)


@pytest.mark.few(2)
@pytest.mark.parametrize(("k", "width"), [(2, 1), (3, 2), (4, 2), (5, 3), (16, 4), (300, 9)])
def test_k_levels_cost_their_logarithm_and_two_floats(k, width):
    x = np.random.default_rng(4).standard_normal(4096, np.float32)
    payload, decoded = once(LEVELS[k], x)
    assert wire.bits(payload) == 4096 * width + 64
    assert k / 2 < len(np.unique(decoded)) <= k


@pytest.mark.slow
def test_rotation_hurts_two_levels_of_a_skewed_vector_and_helps_sixteen():
    """Lognormal, d = 4096, in the mean over 20 vectors and keys."""
    x = np.random.default_rng(5).lognormal(size=(20, 4096)).astype(np.float32)
    codecs = [c.rotated(LEVELS[2]), LEVELS[2], c.rotated(LEVELS[16]), LEVELS[16]]

    @jax.jit
    @jax.vmap
    def send(key, v):
        keys = jax.random.split(key, len(codecs))
        return [
            codec.decode(codec.encode(keys[i], v, codec.init(v))[0])
            for i, codec in enumerate(codecs)
        ]

    sent = send(jax.random.split(jax.random.key(6), 20), x)
    lost = [(np.square(y - x).sum(1) / np.square(x).sum(1)).mean() for y in map(np.asarray, sent)]
    assert lost[0] > 1.3 * lost[1]
    assert lost[2] < 0.5 * lost[3]


# ------------------------------------------------------------------------------------------ dither


@pytest.mark.few(1)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_errors_are_uniform_whatever_x_is(bits):
    """20,000 draws at grid points, halves and in between: variance 1/12, fourth moment 1/80.

    And no correlation of one coordinate's error with another's.
    """
    top = 2 ** (bits - 1) - 1
    x = np.array([top, 0, 0.5, 0.25, -0.9, -top])
    errors = draws(DITHER[bits], x, 20_000) - x
    assert np.abs(errors).max() <= 0.5 + 1e-5
    n = len(errors)
    assert np.abs(errors.mean(0)).max() < SIGMAS * np.sqrt(1 / 12 / n)
    assert np.abs((errors**2).mean(0) - 1 / 12).max() < SIGMAS * np.sqrt((1 / 80 - 1 / 144) / n)
    assert np.abs((errors**4).mean(0) - 1 / 80).max() < SIGMAS * np.sqrt((1 / 2304) / n)
    correlation = np.corrcoef(errors.T) - np.eye(6)
    assert np.abs(correlation).max() < SIGMAS / np.sqrt(n)


@pytest.mark.slow
def test_the_dither_s_omega_is_attained_by_one_coordinate():
    for bits, codec in DITHER.items():
        x = np.eye(9)[4]
        errors = np.square(draws(codec, x) - x).sum(1)
        assert errors.mean() == pytest.approx(omega(codec, 9), abs=SIGMAS * errors.std() / 63)
        assert omega(codec, 9) == 9 / (12 * (2 ** (bits - 1) - 1) ** 2)


@pytest.mark.slow
def test_a_third_of_the_worst_error_of_stochastic_rounding():
    """With many levels a fraction is anything: f (1 - f) is 1/6 in the mean, a dither 1/12."""
    x = np.random.default_rng(8).standard_normal(2000)
    dither, rounded = (
        np.square(draws(codec, x, 50) - np.float32(x)).mean()
        for codec in (DITHER[8], c.quantize(bits=8))
    )
    assert rounded / dither == pytest.approx(2, rel=0.05)
    assert wire.bits(once(DITHER[8], np.float32(x))[0]) == 2000 * 8 + 32 + 64


# --------------------------------------------------------------------------------------- extremes


@pytest.mark.few(1)
@pytest.mark.parametrize("codec", EVERY[1:], ids=["2", "300", "dither"])
def test_extreme_magnitudes_are_scaled_copies(codec):
    x = np.float32([0.11, -1.0, 0.52, 0.0, 1.0])
    reference = once(codec, x)[1]
    for scale in (2.0**-110, 2.0**100):
        decoded = np.float64(once(codec, np.float32(x * scale))[1])
        np.testing.assert_allclose(decoded / scale, reference, rtol=1e-5)


@pytest.mark.few(3)
@pytest.mark.parametrize("codec", EVERY[1:], ids=["2", "300", "dither"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_coordinate_spoils_its_leaf_and_can_be_written(codec, bad):
    payload, decoded = once(codec, np.where(np.arange(1000) == 77, bad, 1).astype(np.float32))
    assert np.isnan(decoded).all()
    assert np.isnan(decode(codec, wire.from_bytes(wire.to_bytes(payload)))).all()


def test_the_whole_range_of_float32_is_nan_or_right():
    top = float(np.finfo(np.float32).max)
    decoded = np.asarray(once(LEVELS[300], np.float32([top, -top, 0.0]))[1], np.float64)
    np.testing.assert_allclose(decoded / top, [1, -1, 0], atol=2 / 299)
    assert np.isnan(once(LEVELS[2], np.float32([top, -top, 0.0]))[1]).all()


@pytest.mark.few(2)
@pytest.mark.parametrize("value", [0.0, 3.25, -7e-20, 1e38])
def test_constants_are_exact_with_levels_between_least_and_largest(value):
    for codec in LEVELS.values():
        assert once(codec, np.full(5, value, np.float32))[1].tolist() == [np.float32(value)] * 5


def test_forged_codes_are_refused():
    u8 = functools.partial(jnp.array, dtype=jnp.uint8)
    i8 = functools.partial(jnp.array, dtype=jnp.int8)
    one, seed = jnp.float32(1), jnp.zeros(2, jnp.uint32)
    for forged in (
        wire.KLevel(u8([0, 3]), one, one, 3, "float32"),
        wire.FixedStep(i8([0]), -1.0, 4, "float32"),
        wire.FixedStep(i8([0]), 1.0, 1, "float32"),
        wire.SubtractivelyDithered(i8([-8]), one, seed, 4, "float32", "threefry2x32"),
        wire.SubtractivelyDithered(i8([0]), one, seed, 4, "float32", "none"),
    ):
        with pytest.raises(ValueError, match="payload refused"):
            wire.from_bytes(wire.to_bytes(forged))


def test_arguments():
    for wrong in (0.0, -1.0, 1e-40, np.inf, 1e38):
        with pytest.raises(ValueError, match="step must be"):
            c.fixed_step(wrong)
    with pytest.raises(TypeError, match="step must be a real number"):
        c.fixed_step("1")
    for make, name in ((c.k_level, "levels"), (c.subtractive_dither, "bits")):
        with pytest.raises(TypeError, match=f"{name} must be an integer"):
            make(**{name: 4.0})
        with pytest.raises(ValueError, match=f"{name} must be at least 2"):
            make(**{name: 1})
