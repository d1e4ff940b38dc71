"""scaled_sign and one_bit_sgd: deterministic, with errors known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire

c = compressors
CODECS = {"scaled_sign": c.scaled_sign(), "one_bit_sgd": c.one_bit_sgd()}
both = pytest.mark.parametrize("name", CODECS)
OTHERS = {
    "lloyd_max": c.lloyd_max(bits=1),
    "quantised": c.chain(c.one_bit_sgd(), c.quantize(bits=2)),
}


@functools.partial(jax.jit, static_argnums=0)
def once(name, x):
    codec = (CODECS | OTHERS)[name]
    return codec.decode(codec.encode(jax.random.key(0), x, codec.init(x))[0])


def lost(name, x):
    """||C(x) - x||^2 / ||x||^2."""
    error = np.asarray(once(name, np.float32(x)), np.float64) - np.float32(x)
    return np.square(error).sum() / np.square(np.float64(x)).sum()


def vectors():
    rng = np.random.default_rng(0)
    for d in (1, 2, 9, 200):
        gaussian = rng.standard_normal(d)
        heavy = rng.standard_t(1.1, d)
        sparse = np.where(rng.random(d) < 0.2, gaussian, 0.0)
        sparse[0] = 1.0
        for x in (gaussian, heavy, sparse, np.abs(gaussian), -np.abs(gaussian) - 0.1):
            yield np.float64(np.float32(x))


def test_the_error_of_scaled_sign_is_exact():
    """(1 - ||x||_1^2 / (d ||x||^2)) ||x||^2, for every x; a Gaussian leaf keeps 2/pi."""
    for x in vectors():
        kept = np.abs(x).sum() ** 2 / (x.size * np.square(x).sum())
        assert lost("scaled_sign", x) == pytest.approx(1 - kept, abs=1e-6)
    x = np.random.default_rng(1).standard_normal(100_000)
    assert lost("scaled_sign", x) == pytest.approx(1 - 2 / np.pi, abs=6 / np.sqrt(x.size))


def test_the_error_of_one_bit_sgd_is_the_variance_within_its_groups():
    for x in vectors():
        groups = [x[x < 0], x[x >= 0]]
        within = sum(np.square(g - g.mean()).sum() for g in groups if g.size)
        assert lost("one_bit_sgd", x) == pytest.approx(within / np.square(x).sum(), abs=1e-6)
        assert lost("one_bit_sgd", x) <= lost("scaled_sign", x) + 1e-6
        residual = x - np.asarray(once("one_bit_sgd", np.float32(x)), np.float64)
        for group in (x < 0, x >= 0):
            assert abs(residual[group].sum()) < 1e-6 * np.abs(x).sum()


@both
def test_delta_is_attained_by_one_coordinate_and_never_exceeded(name):
    for d in (1, 4, 100):
        delta = CODECS[name].contract(jax.ShapeDtypeStruct((d,), jnp.float32)).delta
        assert lost(name, np.eye(d)[0]) == pytest.approx(1 - delta, abs=1e-6)
        assert delta == 1 / d
    for x in vectors():
        assert lost(name, x) <= 1 - 1 / x.size + 1e-6


def test_no_other_scale_errs_less():
    x = np.float64([1.0, -5.0, 2.0, 0.0])
    best = lost("scaled_sign", x) * np.square(x).sum()
    signs = np.where(x < 0, -1, 1)
    assert best == pytest.approx(14.0)
    for scale in (1.9, 2.1, np.linalg.norm(x) / 2):
        assert np.square(scale * signs - x).sum() > best


def test_zero_counts_as_positive():
    """One bit has no third value: jnp.sign(0) = 0 would need one."""
    assert once("scaled_sign", np.float32([0.0, -0.0, -4.0, 0.0])).tolist() == [1, 1, -1, 1]
    assert once("one_bit_sgd", np.float32([0.0, -0.0, -4.0, 3.0])).tolist() == [1, 1, -4, 1]


@both
def test_one_bit_a_coordinate(name):
    scales = {"scaled_sign": 32, "one_bit_sgd": 64}[name]
    for d in (1, 8, 9, 1000):
        for dtype in (jnp.float32, jnp.bfloat16):
            like, key = jax.ShapeDtypeStruct((d,), dtype), jax.eval_shape(jax.random.key, 0)
            payload, _ = jax.eval_shape(CODECS[name].encode, key, like, ())
            assert wire.bits(payload) == 8 * -(-d // 8) + scales
    assert np.unique(once(name, np.random.default_rng(2).standard_normal(999))).size == 2


@both
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_coordinate_spoils_its_leaf(name, bad):
    for sign in (1.0, -1.0):
        x = np.tile(np.float32([-sign, sign]), 500)
        x[77] = bad
        assert np.isnan(once(name, x)).all()


@both
def test_an_overflowing_sum_is_nan_and_zero_is_zero(name):
    assert np.isnan(once(name, np.float32([3e38, 3e38, -1.0]))).all()
    assert once(name, jnp.zeros(4)).tolist() == [0.0] * 4


def test_scaled_sign_is_lloyd_max_with_one_bit():
    """The least-squares scale of any two opposite levels is the mean magnitude."""
    x = np.random.default_rng(3).standard_normal(77, np.float32)
    np.testing.assert_allclose(once("scaled_sign", x), once("lloyd_max", x), rtol=1e-6)


def test_a_quantiser_after_two_means_keeps_what_is_promised():
    """Each mean is a leaf of its own, so a large one cannot spoil the many of the other sign."""
    x = np.float32([1, *[-1e-3] * 999])
    assert OTHERS["quantised"].contract(x).delta == 1 / 1000
    np.testing.assert_allclose(once("quantised", x), x, rtol=1e-6)
