"""Convolutions and poolings made of matrix products, against XLA's."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fjx import layers


def normal(seed, *shape):
    return np.asarray(np.random.default_rng(seed).normal(size=shape), np.float32)


def close(found, expected, tolerance=1e-5):
    """To rounding, relative to the largest: single sums may cancel."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        scale = np.abs(b).max(initial=1e-30)
        np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)


NHWC = ("NHWC", "HWIO", "NHWC")
CASES = {  # lhs, rhs, arguments
    "3x3": ((2, 9, 8, 3), (3, 3, 3, 5), {}),
    "same": ((2, 9, 8, 3), (3, 2, 3, 5), {"padding": "SAME"}),
    "strides": ((2, 9, 8, 3), (3, 3, 3, 5), {"strides": (2, 3), "padding": ((1, 2), (0, 4))}),
    "cropped": ((2, 9, 8, 3), (2, 2, 3, 5), {"padding": ((-1, 2), (3, -2))}),
    "dilated": ((2, 9, 8, 3), (3, 2, 3, 5), {"rhs_dilation": (2, 3)}),
    "transposed": (
        (2, 4, 5, 3),
        (3, 3, 3, 5),
        {"lhs_dilation": (2, 3), "padding": ((2, 2), (2, 1))},
    ),
    "groups": ((2, 7, 8, 6), (3, 3, 2, 9), {"feature_group_count": 3}),
    "depthwise": ((2, 7, 8, 3), (3, 3, 1, 6), {"feature_group_count": 3}),
    "groups of examples": ((6, 7, 8, 4), (3, 3, 4, 6), {"batch_group_count": 3}),
    "1x1": ((2, 4, 4, 3), (1, 1, 3, 5), {}),
    "whole": ((2, 4, 5, 3), (4, 5, 3, 2), {}),
    "one line": ((2, 30, 3), (5, 3, 4), {"numbers": ("NWC", "WIO", "NWC"), "strides": (2,)}),
    "volume": ((1, 4, 5, 4, 2), (2, 3, 2, 2, 3), {"numbers": ("NDHWC", "DHWIO", "NDHWC")}),
    "channels first": ((2, 3, 9, 8), (5, 3, 3, 3), {"numbers": ("NCHW", "OIHW", "NCHW")}),
    "odd numbers": ((9, 2, 8, 3), (3, 5, 3, 3), {"numbers": ("HNWC", "HOWI", "CHNW")}),
    "minimal 3x3": ((2, 14, 12, 16), (3, 3, 16, 16), {}),
    "minimal 5x5": ((2, 12, 13, 16), (5, 5, 16, 17), {"padding": "SAME"}),
    "minimal 2x4": ((2, 21, 16, 17), (2, 4, 17, 16), {}),
    "minimal line": ((2, 64, 16), (5, 16, 20), {"numbers": ("NWC", "WIO", "NWC")}),
    "no examples": ((0, 9, 8, 3), (3, 3, 3, 5), {}),
    "window too large": ((2, 2, 8, 3), (3, 3, 3, 5), {}),
}


def case(name):
    lhs, rhs, options = CASES[name]
    options = dict(options)
    arguments = {
        "window_strides": options.pop("strides", (1,) * (len(lhs) - 2)),
        "padding": options.pop("padding", "VALID"),
        "dimension_numbers": options.pop("numbers", NHWC),
        **options,
    }
    ours = functools.partial(layers.conv_general_dilated, **arguments)
    theirs = functools.partial(lax.conv_general_dilated, precision="highest", **arguments)
    return normal(0, *lhs), normal(1, *rhs), ours, theirs


# Each of these is of two kinds that other rows are of.
TWICE = {"same", "channels first", "minimal 5x5"}


@pytest.mark.few(3)
@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.slow) if x in TWICE else x for x in CASES]
)
def test_convolutions_and_their_gradients_are_xla_s(name):
    x, w, ours, theirs = case(name)

    @jax.jit
    def both(x, w):
        def all_of(convolve):
            y, pull = jax.vjp(convolve, x, w)
            return y, pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

        return all_of(ours), all_of(theirs)

    # Transforms of the minimal algorithm have entries up to 5 an axis, by which rounding grows.
    tolerance = 3e-5 if name.startswith("minimal") else 1e-5
    close(*both(x, w), tolerance)


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["strides", "minimal 3x3", "depthwise"])
def test_either_operand_may_be_mapped_over(name):
    x, w, ours, theirs = case(name)

    @jax.jit
    def both(x, w):
        xs, ws = jnp.stack([x, 2 * x]), jnp.stack([w, w**2])
        operands = {(0, None): (xs, w), (None, 0): (x, ws), (0, 0): (xs, ws)}
        return [
            [jax.vmap(convolve, axes)(*of) for axes, of in operands.items()]
            for convolve in (ours, theirs)
        ]

    close(*both(x, w))


def test_derivatives_of_higher_order_and_forward_mode():
    x, w, ours, theirs = case("minimal 3x3")

    def curvature(convolve, x, w):
        def slope(x):
            return jax.grad(lambda w: jnp.sum(jnp.sin(convolve(x, w) / 10)))(w)

        return jax.jvp(slope, (x,), (jnp.cos(x),))[1]

    close(*jax.jit(lambda x, w: [curvature(f, x, w) for f in (ours, theirs)])(x, w))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32])
def test_other_dtypes(dtype):
    x, w = (10 * normal(2, 1, 6, 6, 2)).astype(dtype), (10 * normal(3, 3, 3, 2, 4)).astype(dtype)
    arguments = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": NHWC}
    wide = jnp.float32 if dtype == jnp.bfloat16 else jnp.int32

    @jax.jit
    def both(x, w):
        return [
            [convolve(x, w, preferred_element_type=type_, **arguments) for type_ in (None, wide)]
            for convolve in (layers.conv_general_dilated, lax.conv_general_dilated)
        ]

    for found, expected, tolerance in zip(*both(x, w), (1e-2, 1e-5), strict=True):
        assert found.dtype == expected.dtype
        close(np.asarray(found, np.float32), np.asarray(expected, np.float32), tolerance)


# --------------------------------------------------------------------------------------------------
# Pooling
# --------------------------------------------------------------------------------------------------

POOLS = {
    "side by side": ((2, 6, 8, 3), (2, 2), (2, 2), "VALID"),
    "with a rest": ((2, 7, 9, 3), (2, 3), (2, 3), "VALID"),
    "overlapping": ((2, 7, 9, 3), (3, 3), (2, 1), "VALID"),
    "same": ((2, 7, 9, 3), (3, 2), (2, 2), "SAME"),
    "padded": ((2, 6, 6, 3), (2, 2), (2, 2), ((1, 1), (2, 0))),
    "a line": ((2, 9, 3), (3,), None, "VALID"),
}


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.slow) if x == "same" else x for x in POOLS]
)
def test_pools_and_their_gradients_are_flax_s(name):
    shape, window, strides, padding = POOLS[name]
    x = np.round(2 * normal(4, *shape))  # many ties

    @jax.jit
    def both(x):
        def all_of(pool):
            y, pull = jax.vjp(lambda x: pool(x, window, strides=strides, padding=padding), x)
            return y, pull(1 + jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape))

        return all_of(layers.max_pool), all_of(nn.max_pool)

    close(*both(x))


@pytest.mark.parametrize("strides", [(2,), (1,)])
def test_nan_is_the_largest_and_ties_go_to_the_first(strides):
    pool = jax.jit(lambda x: layers.max_pool(x.reshape(1, -1, 1), (2,), strides=strides).ravel())
    for at in range(4):
        x = np.arange(4, dtype=np.float32)
        x[at] = np.nan
        windows = [x[i : i + 2] for i in range(0, 3, strides[0])]
        assert np.isnan(pool(x)).tolist() == [bool(np.isnan(w).any()) for w in windows]
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(pool(x))))(jnp.ones(4))
    assert gradient.tolist() == ([1, 0, 1, 0] if strides == (2,) else [1, 1, 1, 0])


def test_integers_are_pooled():
    x = jnp.array([3, -5, -7, -6]).reshape(1, 4, 1)
    assert layers.max_pool(x, (2,), strides=(2,)).ravel().tolist() == [3, -6]
