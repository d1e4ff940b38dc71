"""Exact selection of the largest, against a stable sort."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx._kernels import select as _select

LONG = _select._SHORT + 1000 - 7  # no multiple of a word
select = jax.jit(_select.largest_magnitudes, static_argnums=1)
positions = jax.jit(_select.positions, static_argnums=1)


def normal(seed=0, shape=(LONG,)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_sorting(x, k):
    magnitudes = np.abs(np.asarray(x, np.float32))
    magnitudes[np.isnan(magnitudes)] = np.inf
    return np.sort(np.argsort(-magnitudes, kind="stable")[:k])


def broken(x):
    x[[7, 500, 501]] = np.inf, np.nan, -np.inf
    return x


VECTORS = {
    "normal": normal(),
    "few values, many ties": np.round(2 * normal(1)),
    "all alike": np.full(LONG, -3.0, np.float32),
    "zeros": np.zeros(LONG, np.float32),
    "tiny and huge": normal(2) * 10.0 ** np.random.default_rng(3).uniform(-44, 38, LONG),
    "not finite": broken(normal(4)),
    "all NaN": np.full(LONG, np.nan, np.float32),
    "one bit apart": np.nextafter(np.float32(1), 2, dtype=np.float32)
    + np.float32(2**-23) * (np.arange(LONG) % 5).astype(np.float32),
}


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize("name", VECTORS)
def test_the_largest_are_those_that_come_first_in_a_stable_sort(name):
    for k in (1, 700, LONG - 1):
        found = np.sort(np.asarray(select(VECTORS[name].astype(np.float32), k)))
        np.testing.assert_array_equal(found, by_sorting(VECTORS[name].astype(np.float32), k))


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_floats_have_many_ties(dtype):
    x = normal(5).astype(dtype)
    np.testing.assert_array_equal(np.sort(select(x, 900)), by_sorting(x, 900))


@pytest.mark.slow
def test_clients_and_seeds_may_be_mapped_over():
    x = normal(6, (2, 3, LONG))
    many = jax.jit(jax.vmap(jax.vmap(functools.partial(_select.largest_magnitudes, k=650))))
    found = np.sort(np.asarray(many(x)))
    for seed, client in np.ndindex(2, 3):
        np.testing.assert_array_equal(found[seed, client], by_sorting(x[seed, client], 650))


@pytest.mark.slow
def test_values_may_be_differentiated():
    """The derivative of what is kept is what is kept of the derivative."""
    x, v = normal(7), normal(8)

    def largest(x):
        return x[_select.largest_magnitudes(x, 700)]

    kept, tangent = jax.jit(lambda x, v: jax.jvp(largest, (x,), (v,)))(x, v)
    chosen = np.asarray(select(x, 700))
    np.testing.assert_array_equal(kept, x[chosen])
    np.testing.assert_array_equal(tangent, v[chosen])
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(largest(x))))(x)
    assert np.asarray(gradient).sum() == 700


def test_positions_are_those_of_the_bits():
    words = np.random.default_rng(9).integers(0, 2**32, 50, dtype=np.uint32)
    words[[3, 4, 20]] = 0, 2**32 - 1, 1
    bits = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))
    for k in (1, 33, len(bits)):
        np.testing.assert_array_equal(positions(words, k), bits[:k])
