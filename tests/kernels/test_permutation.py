"""The permutation that is read without being written down: a bijection, and close to uniform."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjx._kernels.permutation import permute, permute_by, reshuffle, shuffle

MOST = 2000
traced = jax.jit(permute)  # one program for every n


@settings(max_examples=200, deadline=None)
@given(st.integers(1, MOST), st.integers(0, 2**31 - 1))
def test_is_a_bijection(n, seed):
    values = np.asarray(traced(jax.random.key(seed), jnp.arange(MOST), n))
    assert np.array_equal(np.sort(values[:n]), np.arange(n))
    assert ((values >= 0) & (values < n)).all()  # positions past the end stay in range


def test_is_a_bijection_on_the_whole_of_a_large_domain(getkey):
    n = 1_000_003
    values = np.asarray(jax.jit(permute, static_argnums=2)(getkey(), jnp.arange(n), n))
    assert np.array_equal(np.sort(values), np.arange(n))
    # 1 + Poisson(1) / n fixed points are expected of a random permutation.
    assert (values == np.arange(n)).sum() < 10


@pytest.mark.parametrize("n", [0, 1])
def test_of_nothing_and_of_one_thing(n, getkey):
    assert permute(getkey(), jnp.zeros(3, jnp.int32), n).tolist() == [0, 0, 0]


@pytest.mark.few(1)
@pytest.mark.parametrize("n", [2, 7, 2**31 - 1])
def test_traced_n_equals_static_n(n):
    positions = jnp.array([[0, 1], [n // 2, n - 1]])
    static = permute(jax.random.key(1), positions, n)
    assert static.shape == positions.shape
    np.testing.assert_array_equal(traced(jax.random.key(1), positions, n), static)
    assert static.min() >= 0


def test_positions_do_not_depend_on_who_else_is_read(getkey):
    key = getkey()
    whole = traced(jax.random.clone(key), jnp.arange(MOST), 50)
    some = permute(key, jnp.array([40, 3]), 50)
    assert some.tolist() == [int(whole[40]), int(whole[3])]


DRAWS = 24_000


def draw(n, positions, draws=DRAWS):
    keys = jax.random.split(jax.random.key(0), draws)
    at = jnp.arange(positions)
    return np.asarray(jax.jit(jax.vmap(lambda key: permute(key, at, n)))(keys))


def chi_square(counts):
    """In standard deviations above its mean, for equal expectations and k - 1 degrees of freedom."""
    counts = np.asarray(counts, np.float64)
    expected = counts.sum() / counts.size
    free = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - free) / math.sqrt(2 * free)


@pytest.mark.few(1)
@pytest.mark.parametrize("n", [3, 4])
def test_every_permutation_is_as_likely(n):
    """Chi-square of 24,000 draws over all n! permutations, within 4 standard deviations."""
    drawn = [tuple(row) for row in draw(n, n).tolist()]
    counts = [drawn.count(p) for p in itertools.permutations(range(n))]
    assert sum(counts) == DRAWS
    assert abs(chi_square(counts)) < 4


@pytest.mark.slow
def test_pairs_are_as_likely():
    """Two of 50 values and their difference mod n, over 24,000 draws, within 4 deviations."""
    first, second = draw(50, 2).T
    assert abs(chi_square(np.bincount(first, minlength=50))) < 4
    assert abs(chi_square(np.bincount(second, minlength=50))) < 4
    gaps = np.bincount((second - first) % 50, minlength=50)
    assert gaps[0] == 0
    assert abs(chi_square(gaps[1:])) < 4
    ordered = np.bincount(first * 50 + second, minlength=2500).reshape(50, 50)
    assert (np.diag(ordered) == 0).all()
    assert abs(chi_square(ordered[~np.eye(50, dtype=bool)])) < 4


@pytest.mark.slow
def test_epochs_are_shuffled_independently():
    """Chi-square of 36,000 draws over the 6 x 6 pairs of orders of two epochs, within 4 deviations."""

    def both(key):
        order = shuffle(key)
        epochs = jnp.arange(7, 9, dtype=jnp.int32)
        return jax.vmap(lambda e: permute_by(reshuffle(order, e), jnp.arange(3), 3))(epochs)

    drawn = np.asarray(jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(2), 36_000)))
    counts = np.unique(drawn.reshape(len(drawn), 6), axis=0, return_counts=True)[1]
    assert counts.size == 36
    assert abs(chi_square(counts)) < 4
