"""Sorted columns against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx._kernels.columns import _network, sorted_columns


@pytest.mark.parametrize("n", range(1, 14))
def test_the_network_sorts_zeros_and_ones_so_it_sorts_everything(n):
    """The 0-1 principle of Knuth, section 5.3.4, by all 2^n columns."""
    x = (np.arange(2**n) >> np.arange(n)[:, None]) & 1
    for partner, first in zip(*_network(n), strict=True):
        x = np.where(first[:, None], np.minimum(x, x[partner]), np.maximum(x, x[partner]))
    assert (np.diff(x, axis=0) >= 0).all()


def test_columns_are_sorted_under_vmap_and_their_derivatives_go_to_their_places():
    x = np.random.default_rng(0).normal(size=(2, 9, 20)).astype(np.float32)
    x[0, :3] = np.inf
    x[1, 4] = x[1, 0]
    np.testing.assert_array_equal(jax.vmap(sorted_columns)(jnp.asarray(x)), np.sort(x, axis=1))
    slopes = jax.grad(lambda x: jnp.sum(sorted_columns(x)[2]))(jnp.asarray(x[0, 3:]))
    np.testing.assert_array_equal(slopes, np.argsort(np.argsort(x[0, 3:], axis=0), axis=0) == 2)
