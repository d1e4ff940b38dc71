"""DRIVE and EDEN err as their papers say."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire
from fjx._kernels import gaussian as _gaussian
from fjx.compressors import _eden

D = (0.363380, 0.117482, 0.034548, 0.009501, 0.002505, 0.000644)
"""Distortions of the quantisers of N(0, 1) with 2, 4, ... levels (Max 1960, table 1)."""

C = 1 - 2 / math.pi


DRIVE, EDEN_2 = compressors.drive(), compressors.eden(bits=2)
LLOYD_MAX_2 = compressors.lloyd_max(bits=2)
LEAST = compressors.rotated(compressors.lloyd_max(bits=1))


@functools.cache
def jitted(codec):
    def both(key, x):
        return codec.decode(codec.encode(key, x, codec.init(x))[0])

    return jax.jit(jax.vmap(both, in_axes=(0, None)))


def sent(codec, x, seed, draws):
    """What arrives of ``x``, ``draws`` times: ``f64[draws, d]``."""
    keys = jax.random.split(jax.random.key(seed), draws)
    return np.asarray(jitted(codec)(keys, x), np.float64)


def squared_bias(y, x):
    """Of ||E y - x||^2 / ||x||^2 an estimate without bias: two independent means multiplied."""
    x = np.asarray(x, np.float64)
    return (y[::2].mean(0) - x) @ (y[1::2].mean(0) - x) / (x @ x)


def error(y, x):
    """Of each row of ``y``: ||y - x||^2 / ||x||^2."""
    x = np.asarray(x, np.float64)
    return np.sum((y - x) ** 2, axis=1) / (x @ x)


# --------------------------------------------------------------------------------------------------
# The quantiser of a Gaussian
# --------------------------------------------------------------------------------------------------


@pytest.mark.few(2)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6])
def test_the_quantiser_is_where_lloyd_s_iteration_ends(bits):
    levels, boundaries = _gaussian.gaussian_quantiser(bits)
    cdf = np.vectorize(lambda t: math.erfc(-t / math.sqrt(2)) / 2, otypes=[float])

    def means(inner):
        edges = np.concatenate([[-np.inf], inner, [np.inf]])
        density = np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
        return -np.diff(density) / np.diff(cdf(edges)), np.diff(cdf(edges))

    inner = np.linspace(-3, 3, 2**bits - 1) if bits > 1 else np.zeros(1)
    for _ in range(20_000):
        centroids, _ = means(inner)
        moved = (centroids[:-1] + centroids[1:]) / 2
        inner, step = moved, np.abs(moved - inner).max()
        if step < 1e-13:
            break
    np.testing.assert_allclose(boundaries, inner, atol=1e-9)
    centroids, mass = means(boundaries)
    np.testing.assert_allclose(levels, centroids, atol=1e-12)
    assert 1 - np.sum(mass * levels**2) == pytest.approx(D[bits - 1], abs=6e-7)


def test_eight_bits_are_as_fine():
    levels, boundaries = _gaussian.gaussian_quantiser(8)
    np.testing.assert_allclose(boundaries, (levels[:-1] + levels[1:]) / 2, atol=1e-12)
    assert len(levels) == 256
    assert levels[-1] == pytest.approx(4.603536, abs=1e-6)


def test_one_bit_is_the_scaled_sign_and_zero_is_positive():
    x = np.array([0.0, -0.0, 3.0, -5.0], np.float32)
    y = sent(compressors.lloyd_max(bits=1), x, 0, 1)[0]
    np.testing.assert_allclose(y, [2.0, 2.0, 2.0, -2.0], rtol=1e-6)


@pytest.mark.few(1)
@pytest.mark.parametrize("size", [2, 3, 64])
def test_drive_s_least_error_under_a_uniform_rotation(size):
    """(1 - 2/pi)(1 - 1/d) ||x||^2 for every d (Vargaftik et al. 2021, theorem 1), 6 standard errors.

    A uniform rotation takes x to a uniform point of the sphere, which NumPy draws.
    """
    draws = 20_000
    y = np.random.default_rng(size).normal(size=(draws, size))
    y = (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)
    codec = compressors.lloyd_max(bits=1)
    decode = jax.jit(jax.vmap(lambda v: codec.decode(codec.encode(jax.random.key(0), v, ())[0])))
    error = np.sum((np.asarray(decode(y), np.float64) - y) ** 2, axis=1)
    bound = 6 * error.std() / np.sqrt(draws)
    assert abs(error.mean() - C * (1 - 1 / size)) < bound < 0.02


# --------------------------------------------------------------------------------------------------
# EDEN and DRIVE
# --------------------------------------------------------------------------------------------------


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize(("codec", "size"), [(DRIVE, 64), (EDEN_2, 40)])
def test_what_holds_for_every_seed(codec, size):
    """<x, C(x)> = ||x||^2, hence ||C(x) - x||^2 = ||C(x)||^2 - ||x||^2; also where x is padded."""
    x = np.random.default_rng(size).lognormal(size=size).astype(np.float32)
    y = sent(codec, x, 2, 200)
    power = np.sum(x.astype(np.float64) ** 2)
    np.testing.assert_allclose(y @ x.astype(np.float64), power, rtol=3e-6)
    np.testing.assert_allclose(error(y, x), np.sum(y**2, 1) / power - 1, atol=1e-5)
    assert error(y, x).std() > 1e-3  # the seeds differ


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize(
    "bits",
    [1, 0.1, 1.5, *(pytest.param(b, marks=pytest.mark.slow) for b in (2, 3, 4, 5, 6, 0.5, 2.7))],
)
def test_eden_s_error(bits):
    """D / (1 - D) of ||x||^2 within 2 %, whatever x: 100 messages of 2^13 coordinates.

    D is linear between integers, and 1 for no bits: (pi/2) / b - 1 below one bit.
    """
    rng = np.random.default_rng(1)
    low = math.floor(bits)
    below, above = (1.0, *D)[low], (1.0, *D)[math.ceil(bits)]
    distortion = below + (bits - low) * (above - below)
    codec = compressors.eden(bits=bits)

    @jax.jit
    @jax.vmap
    def errors(key, x):
        y = codec.decode(codec.encode(key, x, codec.init(x))[0])
        return jnp.sum((y - x) ** 2) / jnp.sum(x**2)

    keys = jax.random.split(jax.random.key(1), 100)
    for draw in (rng.normal, rng.lognormal):
        x = draw(size=(100, 2**13)).astype(np.float32)
        mean = np.asarray(errors(keys, x)).mean()
        assert mean == pytest.approx(distortion / (1 - distortion), rel=0.02)


@pytest.mark.slow
def test_one_round_is_biased_and_two_are_not():
    """The sparse e_0 + e_7 / 2: one round leaves sums of two signs, and 5/4 e_0 for every seed."""
    x = np.float32([1, *[0] * 6, 0.5, *[0] * 1016])
    once = sent(compressors.rotated(_eden._unbiased(1), rounds=1), x, 3, 20)
    np.testing.assert_allclose(once, np.tile(1.25 * np.eye(1024)[0], (20, 1)), atol=2e-6)
    twice = sent(DRIVE, x, 3, 2000)
    assert error(twice, x).mean() == pytest.approx(math.pi / 2 - 1, rel=0.02)
    assert abs(squared_bias(twice, x)) < 1e-3


def test_one_round_of_three_coordinates_is_wrong_for_every_seed():
    codec = compressors.rotated(_eden._unbiased(1), rounds=1)
    y = sent(codec, np.float32([1, 3, 5]), 4, 20)
    np.testing.assert_allclose(y, np.tile([0.0, 0.0, 7.0], (20, 1)), atol=2e-6)


@pytest.mark.slow
def test_the_bias_of_small_leaves_is_what_the_docstring_says():
    """About 3e-4 ||x||^2 at e_0 + e_15 / 2 for d' = 16, from 40,000 draws; nothing for one element."""
    x = np.float32([1, *[0] * 14, 0.5])
    assert 1e-4 < squared_bias(sent(DRIVE, x, 5, 40_000), x) < 6e-4
    np.testing.assert_allclose(sent(DRIVE, np.float32([-3]), 5, 20), -3.0, rtol=1e-6)


@functools.cache
def of_one_vector(codec):
    x = np.random.default_rng(0).normal(size=1024).astype(np.float32)
    return x, sent(codec, x, 1, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3, 10, 50])
def test_the_mean_of_n_messages(n):
    """(pi/2 - 1) / n of the unbiased scale; c^2 + (c - c^2) / n, c = 1 - 2/pi, of the other."""

    def of_mean(codec):
        x, y = of_one_vector(codec)
        return error(y[: len(y) // n * n].reshape(-1, n, 1024).mean(1), x).mean()

    unbiased, least = of_mean(DRIVE), of_mean(LEAST)
    assert unbiased == pytest.approx((math.pi / 2 - 1) / n, rel=0.02)
    assert least == pytest.approx(C**2 + (C - C**2) / n, rel=0.02)
    assert (unbiased < least) == (n >= 3)


@pytest.mark.parametrize("power", [-60, 60])
def test_scales_with_the_message_where_squares_would_not(power):
    x = np.random.default_rng(6).standard_normal(40, np.float32)
    large = sent(EDEN_2, np.float32(x * 2.0**power), 7, 200)
    np.testing.assert_array_equal(large, sent(EDEN_2, x, 7, 200) * 2.0**power)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 2.0**126])
def test_what_cannot_be_sent_is_nan_throughout(bad):
    x = np.where(np.arange(40) == 3, bad, 1).astype(np.float32)
    assert np.isnan(sent(LLOYD_MAX_2, x, 0, 1)).all()
    if not np.isfinite(bad):
        assert np.isnan(sent(EDEN_2, x, 8, 200)).all()


# --------------------------------------------------------------------------------------------------
# Blocks, and bits between integers
# --------------------------------------------------------------------------------------------------


BLOCKS = compressors.eden(bits=2, block=64)


@pytest.mark.ci
def test_every_block_keeps_its_own_scale():
    """<x, C(x)> = ||x||^2 in each block, of norms that differ a millionfold."""
    x = np.random.default_rng(0).normal(size=(3, 64)) * np.array([[1.0], [1e-3], [1e3]])
    x = x.astype(np.float32)
    y = sent(BLOCKS, x.reshape(-1), 9, 20)
    y, x = y.reshape(20, 3, 64), x.astype(np.float64)
    np.testing.assert_allclose(np.sum(y * x, 2), np.tile(np.sum(x**2, 1), (20, 1)), rtol=3e-6)
    errors = np.sum((y - x) ** 2, 2) / np.sum(x**2, 1)
    np.testing.assert_allclose(errors.mean(0), D[1] / (1 - D[1]), rtol=0.2)


def test_a_broken_value_spoils_its_block_alone():
    y = sent(BLOCKS, np.where(np.arange(192) == 70, np.nan, 1).astype(np.float32), 9, 20)
    assert np.isnan(y[:, 64:128]).all()
    assert np.isfinite(y[:, :64]).all()
    assert np.isfinite(y[:, 128:]).all()


@pytest.mark.slow
def test_below_one_bit_the_mean_is_right():
    """A quarter of a bit, one x, 4000 times: no bias within 6 standard errors of its estimate."""
    x = np.random.default_rng(0).standard_normal(256, np.float32)
    y = sent(compressors.eden(bits=0.25), x, 2, 4000)
    parts = y.reshape(20, 200, -1).mean(1) - np.asarray(x, np.float64)
    pairs = [a @ b / float(x @ x) for i, a in enumerate(parts) for b in parts[:i]]
    assert abs(np.mean(pairs)) < 6 * np.std(pairs) / np.sqrt(len(pairs)) < 0.01
    assert error(y, x).mean() == pytest.approx(math.pi / 2 / 0.25 - 1, rel=0.02)


@pytest.mark.parametrize("bits", [0.3, 1.5, 2.25])
def test_least_squares_is_a_projection_between_integers_too(bits):
    x = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    codec = compressors.lloyd_max(bits=bits)
    y = sent(codec, x, 0, 1)[0]
    assert np.sum(y * (x - y)) == pytest.approx(0, abs=1e-5)
    assert len(np.unique(y)) <= 2 ** math.ceil(bits) + 2 ** math.floor(bits)
    delta = codec.contract(jax.ShapeDtypeStruct((5, 8), jnp.float32)).delta
    assert delta is None or 0 < delta < 1 / 40


@pytest.mark.ci
def test_the_bound_between_integers_holds_where_it_is_tight():
    """One large coordinate among the coarse or the fine ones: the worst for one quantiser."""
    for bits in (1.01, 1.5, 3.5):
        codec = compressors.lloyd_max(bits=bits)
        for at in (0, 39):
            x = np.where(np.arange(40) == at, 1, 1e-6).astype(np.float32)
            y = sent(codec, x, 0, 1)[0]
            assert np.square(x - y).sum() <= 1 - codec.contract(x).delta


@pytest.mark.few(2)
@pytest.mark.parametrize("size", [0, 1, 2, 13, 1000])
def test_bits_of_eden(size):
    key = jax.eval_shape(jax.random.key, 0)
    like = jax.ShapeDtypeStruct((size,), jnp.bfloat16)

    def cost(bits, block=None):
        codec = compressors.eden(bits=bits, block=block)
        return wire.bits(jax.eval_shape(codec.encode, key, like, codec.init(like))[0])

    def octets(bits):
        return -(-bits // 8) * 8

    padded = 2 ** math.ceil(math.log2(size)) if size else 0
    for bits in (1, 3, 8):
        assert cost(bits) == octets(padded * bits) + 96
    k = round(padded / 4)
    assert cost(2.25) == octets(3 * k) + octets(2 * (padded - k)) + 96
    k = max(k, min(padded, 1))
    assert cost(0.25) == octets(k) + 96
    inside = min(padded, 64)
    blocks = -(-size // inside) if size else 0
    assert cost(2, 64) == octets(2 * inside * blocks) + 32 * max(blocks, 1) + 64
    k = round(inside / 2)
    fine, coarse = octets(2 * k * blocks), octets((inside - k) * blocks)
    assert cost(1.5, 64) == fine + coarse + 32 * max(blocks, 1) + 64


def test_contracts_of_eden():
    def of(codec, n):
        return codec.contract(jax.ShapeDtypeStruct((n,), jnp.float32))

    assert of(EDEN_2, 1).unbiased
    assert not of(EDEN_2, 2).unbiased
    assert of(EDEN_2, 13).omega == 15
    assert of(compressors.eden(bits=2, block=64), 1000).omega == 63
    assert of(compressors.eden(bits=0.5), 16).omega == (16**2 - 2 * 16) / 8 + 1
    assert 15 < of(compressors.eden(bits=2.5), 16).omega < 100


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: compressors.eden(bits=0), ValueError),
        (lambda: compressors.eden(bits="2"), TypeError),
        (lambda: compressors.lloyd_max(bits=8.5), ValueError),
        (lambda: compressors.eden(bits=1, block=48), ValueError),
    ],
)
def test_refusals_name_the_argument(make, error):
    with pytest.raises(error, match=r"bits|block"):
        make()


def test_codes_that_do_not_fit_the_shape_are_refused():
    def received(coarse, bits=2):
        codes = jnp.zeros(3, jnp.uint8), jnp.zeros(coarse, jnp.uint8)
        payload = wire.MixedLloydMax(*codes, jnp.float32(1), bits, (8,), "float32")
        return wire.from_bytes(wire.to_bytes(payload))

    assert received(5).bits == 2
    assert received(0, bits=1).bits == 1
    for coarse, bits in ((4, 2), (5, 1)):
        with pytest.raises(ValueError, match=r"MixedLloydMax|no bits"):
            received(coarse, bits)
