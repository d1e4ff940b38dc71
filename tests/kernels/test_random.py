"""The generator written out is JAX's generator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx._kernels import random as _random

SHAPES = [(), (3,), (1024,), (5, 999), (1025, 2, 3), (0, 5000)]
PAIRS = {
    "bits": (_random.bits, lambda key, shape: jax.random.bits(key, shape, jnp.uint32)),
    "uniform": (_random.uniform, jax.random.uniform),
    "normal": (_random.normal, jax.random.normal),
}


@pytest.mark.few(3)
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_are_those_of_jax(name, shape, getkey):
    ours, theirs = PAIRS[name]
    key = getkey()
    found, expected = ours(jax.random.clone(key), shape), theirs(jax.random.clone(key), shape)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)


def test_keys_may_be_mapped_over(getkey):
    keys = jax.random.split(getkey(), 3)
    found = jax.jit(jax.vmap(lambda key: _random.bits(key, (2000,))))(keys)
    expected = jax.vmap(lambda key: jax.random.bits(key, (2000,)))(jax.random.clone(keys))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_other_generators_are_left_to_jax(impl):
    key = jax.random.key(0, impl=impl)
    expected = jax.random.bits(jax.random.clone(key), (2000,))
    np.testing.assert_array_equal(_random.bits(key, (2000,)), expected)


def test_a_key_is_used_up(getkey):
    @jax.jit
    def twice(key):
        return _random.bits(key, (2000,)) + _random.bits(key, (2000,))

    with jax.debug_key_reuse(True), pytest.raises(jax.errors.KeyReuseError):
        twice(getkey())
