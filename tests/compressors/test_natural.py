"""natural and natural_dithering: exact laws by closed form, and levels that are truly so few."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire

SIGMAS = 6.0
NATURAL = compressors.natural()


@jax.jit
def powers(keys, x):
    """Many decodings of one x."""
    return jax.vmap(lambda key: NATURAL.decode(NATURAL.encode(key, x, ())[0]))(keys)


@functools.cache
def dithered(levels):
    codec = compressors.natural_dithering(levels=levels)

    def one(key, x):
        payload, _ = codec.encode(key, x, ())
        return payload.codes, codec.decode(payload)

    return jax.jit(jax.vmap(one, (0, None)))


@functools.cache
def encoder(codec):
    """One message and what it decodes to."""

    def one(key, x):
        payload, _ = codec.encode(key, x, ())
        return payload, codec.decode(payload)

    return jax.jit(one)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def spoilt(bad):
    x = np.ones(1000, np.float32)
    x[600] = bad
    return x


# ----------------------------------------------------------------------------------------- natural


def natural_share(x):
    """E||C(x) - x||^2 / ||x||^2 in float64: the variance between 2^e and 2^(e+1) is (a - l)(u - a)."""
    a = np.abs(np.float64(x))
    lower = 2.0 ** np.floor(np.log2(a))
    return ((a - lower) * (2 * lower - a)).sum(-1) / np.square(a).sum(-1)


def test_omega_is_attained_at_four_thirds_and_never_exceeded():
    assert natural_share(np.float64([4 / 3, -2 / 3, 64 / 3])) == pytest.approx(1 / 8, rel=1e-12)
    x = np.random.default_rng(0).standard_normal((1000, 7))
    assert natural_share(x).max() < 1 / 8
    assert natural_share(np.linspace(1, 2, 10_001)[:-1, None]).max() <= 1 / 8
    contract = NATURAL.contract(jax.ShapeDtypeStruct((7,), jnp.bfloat16))
    assert (contract.unbiased, contract.omega, contract.delta) == (True, 1 / 8, 7 / 8)


def test_a_gaussian_loses_less():
    """0.0818, from the literature; 10^6 samples in float64, and 10^5 draws of the codec."""
    x = np.random.default_rng(1).standard_normal(10**6)
    assert natural_share(x) == pytest.approx(0.0818, abs=3e-4)
    x = np.float32(x[:100_000])
    errors = np.square(np.float64(powers(keys(1), x)[0]) - x)
    slack = SIGMAS * errors.std() / np.sqrt(x.size)
    assert abs(errors.mean() - natural_share(x) * np.square(np.float64(x)).mean()) < slack < 0.005


def test_a_coordinate_goes_up_with_the_probability_of_its_mantissa():
    """20,000 draws of 14 mantissas at several exponents and both signs; 6 standard errors."""
    mantissa = np.array([0.001, 0.1, 1 / 3, 0.5, 0.75, 0.9, 0.999])
    scales = np.float32([[1.0], [-1.0], [2.0**-120], [-(2.0**100)]])
    x = np.float32(scales * (1 + mantissa))
    ratio = np.asarray(powers(keys(20_000), x)) / scales
    assert set(np.unique(ratio)) == {1.0, 2.0}
    slack = SIGMAS * np.sqrt(mantissa * (1 - mantissa) / 20_000)
    assert (np.abs((ratio == 2).mean(0) - mantissa) < slack + 1e-6).all()


def test_powers_of_two_and_zero_never_move():
    x = np.float32([0.0, *2.0 ** np.arange(-126, 128), *-(2.0 ** np.arange(-126, 128))])
    np.testing.assert_array_equal(powers(keys(50), x), np.tile(x, (50, 1)))


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_nine_bits_are_all_there_is(dtype):
    x = np.random.default_rng(2).standard_normal(101).astype(dtype)
    payload, decoded = encoder(NATURAL)(jax.random.key(0), x)
    assert wire.bits(payload) == 8 * math.ceil(9 * 101 / 8)
    chex.assert_trees_all_equal(wire.from_bytes(wire.to_bytes(payload)), payload)
    assert decoded.dtype == dtype
    exact = np.asarray(decoded).astype(np.float64)
    assert np.isin(np.frexp(exact)[0], [0.5, -0.5]).all()
    assert (np.sign(exact) == np.sign(np.asarray(x).astype(np.float64))).all()


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("dtype", "top"), [(jnp.float32, 2.0**127), (jnp.bfloat16, 2.0**127), (jnp.float16, 2.0**15)]
)
def test_the_top_of_the_range_does_not_become_infinite(dtype, top):
    """Beyond the largest power of two there is no upper neighbour: NaN throughout, always."""
    assert powers(keys(9), np.array([top, -top], dtype)).tolist() == [[top, -top]] * 9
    assert np.isnan(np.float32(powers(keys(9), np.array([1.01 * top, 1.0], dtype)))).all()


def test_subnormals_are_zero_or_the_least_normal():
    decoded = np.unique(powers(keys(200), np.float32([1e-39, 7e-39])))
    assert set(decoded.tolist()) <= {0.0, 2.0**-126}


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_bad_coordinate_spoils_its_leaf(bad):
    assert np.isnan(powers(keys(1), spoilt(bad))).all()


# ------------------------------------------------------------------------------- natural_dithering


def dithered_share(x, levels):
    """E||C(x) - x||^2 / ||x||^2 by a search among the levels, one coordinate after another."""
    grid = np.array([0.0, *(2.0 ** (i + 1 - levels) for i in range(levels))])
    shares = []
    for row in np.atleast_2d(np.float64(x)):
        error = 0.0
        for y in np.abs(row) / np.linalg.norm(row):
            lower, upper = grid[grid <= y + 1e-15].max(), grid[grid >= y - 1e-15].min(initial=1.0)
            error += (y - lower) * (upper - y)
        shares.append(error)
    return np.array(shares)


def omega(levels, d):
    codec = compressors.natural_dithering(levels=levels)
    return codec.contract(jax.ShapeDtypeStruct((d,), jnp.float32)).omega


@pytest.mark.parametrize(("levels", "d"), [(1, 16), (2, 100), (4, 400)])
def test_omega_of_long_leaves_is_attained_by_equal_magnitudes(levels, d):
    assert omega(levels, d) == pytest.approx(2.0 ** (1 - levels) * math.sqrt(d) - 1)
    assert dithered_share(np.ones(d), levels)[0] == pytest.approx(omega(levels, d), rel=1e-9)


def test_omega_of_short_leaves_is_nearly_attained():
    """Of (2/3, 1/9, ..., 1/9), of norm 1: 1/8 + 2 r^2 / 9, but that one coordinate is not small."""
    x = [2 / 3, *[1 / 9] * 45]
    assert np.linalg.norm(x) == pytest.approx(1)
    assert dithered_share(x, 3)[0] == pytest.approx(1 / 8 + 2 * 45 / 16 / 9, rel=1e-9)
    assert omega(3, 46) == pytest.approx(1 / 8 + 2 * 46 / 16 / 9, rel=1e-9)


def test_equal_magnitudes_are_not_the_worst_below_nine_fourths():
    """At r = 2.1 one coordinate of 1/3 beside equal ones loses more than the r - 1 of equal ones."""
    levels, d = 7, 18_064
    x = np.full(d, np.sqrt((1 - 1 / 9) / (d - 1)))
    x[0] = 1 / 3
    r = 2.0 ** (1 - levels) * math.sqrt(d)
    share = dithered_share(x, levels)[0]
    assert r - 1 + 0.004 < share <= omega(levels, d) < share + 2e-4


@pytest.mark.parametrize("levels", [1, 2, 3, 7])
def test_nothing_exceeds_omega_and_omega_no_published_bound(levels):
    rng = np.random.default_rng(levels)
    for d in (1, 2, 5, 20, 81):
        gaussian = rng.standard_normal((15, d))
        flat = 1 + 0.1 * gaussian
        heavy = rng.standard_t(1.1, (15, d))
        low = 2.0 ** (1 - levels) * 4 / 9 * np.ones((15, d))
        low[:, 0] = rng.uniform(0.1, 2, 15)
        x = np.concatenate([gaussian, flat, heavy, low])
        assert dithered_share(x, levels).max() <= omega(levels, d) * (1 + 1e-12)
        r = 2.0 ** (1 - levels) * math.sqrt(d)
        assert omega(levels, d) <= 1 / 8 + min(r, r**2)


@pytest.mark.few(1)
@pytest.mark.parametrize(("levels", "d"), [(2, 30), (4, 30)])
def test_draws_have_the_exact_law(levels, d):
    """4000 draws of a Gaussian vector: mean and variance within 6 standard errors."""
    draws = 4000
    x = np.float32(np.random.default_rng(3).standard_normal(d))
    decoded = np.float64(dithered(levels)(keys(draws), x)[1])
    slack = SIGMAS * decoded.std(0) / np.sqrt(draws) + 1e-5
    assert (np.abs(decoded.mean(0) - x) < slack).all()
    errors = np.square(decoded - x).sum(1) / np.square(x).sum()
    expected = dithered_share(x, levels)[0]
    assert abs(errors.mean() - expected) < SIGMAS * errors.std() / np.sqrt(draws) < 0.1 * expected


@pytest.mark.few(1)
@pytest.mark.parametrize("levels", [1, 5, 31])
def test_there_are_no_more_magnitudes_than_levels_and_zero(levels):
    """A published implementation returned its input, billed as compressed, and was unbiased."""
    x = np.float32(np.random.default_rng(4).standard_normal(2000)) ** 5
    payload, decoded = encoder(compressors.natural_dithering(levels=levels))(jax.random.key(0), x)
    magnitudes = np.unique(np.abs(np.asarray(decoded)))
    assert 1 < magnitudes.size <= levels + 1
    assert np.abs(np.asarray(payload.codes)).max() <= levels
    ratios = magnitudes[magnitudes > 0] / np.linalg.norm(np.float64(x))
    np.testing.assert_allclose(ratios, 2.0 ** np.round(np.log2(ratios)), rtol=1e-5)
    assert wire.bits(payload) == 2000 * (1 + math.ceil(math.log2(levels + 1))) + 32


def test_levels_never_move():
    """(2, 1, ..., 1) of norm 4, whose coordinates are 1/2 and 1/4 of it, at any magnitude."""
    x = np.float32([2.0, 0.0, *[1.0] * 12])
    for factor in (1.0, -1.0, 1e-30, 1e30):
        decoded = np.float64(dithered(3)(keys(50), np.float32(x * factor))[1]) / factor
        np.testing.assert_allclose(decoded, np.tile(x, (50, 1)), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_coordinate_spoils_its_dithered_leaf(bad):
    assert np.isnan(dithered(3)(keys(1), spoilt(bad))[1]).all()


def test_arguments():
    with pytest.raises(TypeError, match="levels must be an integer"):
        compressors.natural_dithering(levels=3.0)
    for wrong in (0, 32):
        with pytest.raises(ValueError, match="levels must be at least 1 and at most 31"):
            compressors.natural_dithering(levels=wrong)
