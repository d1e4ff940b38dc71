"""The mean over s owners of each coordinate: who owns what, and what becomes of it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import aggregators, wire
from fjx.aggregators._assigned import owned

TREE = {"a": jnp.zeros((3, 4)), "b": jnp.zeros(()), "c": jnp.zeros((0, 2)), "d": jnp.zeros(7)}
SIZES = [
    (5, 2),
    pytest.param(4, 4, marks=pytest.mark.slow),
    (64, 1),
]  # c and s, with more clients than parts


def public(key, rank, c, like=None):
    template = None if like is None else fjx.Template.of(like)
    return fjx.Public((), key, rank, jnp.int32(c), template=template)


def masks(key, like, c, s, ranks=None):
    """``bool[ranks, d]``."""
    ranks = jnp.arange(c) if ranks is None else ranks

    def one(rank):
        held = owned(like, public(key, rank, c), clients=c, owners=s)
        return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(held)])

    return np.asarray(jax.jit(jax.vmap(one))(ranks))


@functools.partial(jax.jit, static_argnums=0)
def aggregate(a, key, messages, weights):
    return aggregators.aggregate(jax.random.clone(key), a, messages, weights=weights)[0]


def public_key(key):
    """The key that all clients of a round of :func:`fjx.aggregators.aggregate` share."""
    return jax.random.split(jax.random.clone(key), 3)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("c", "s"), SIZES)
def test_every_coordinate_has_s_owners_and_nobody_owns_more_than_a_share(c, s):
    d = 20
    for seed in range(3):
        held = masks(jax.random.key(seed), TREE, c, s)
        assert held.shape == (c, d)
        assert (held.sum(0) == s).all()
        assert held.sum(1).max() <= -(-d * s // c)
        assert held.sum(1).min() >= d * s // c
    assert not masks(jax.random.key(0), TREE, c, s, jnp.array([c, c + 3])).any()


@pytest.mark.slow
def test_any_s_of_the_c_own_a_coordinate_with_equal_probability():
    """6000 rounds, each of the ten pairs of five: counts within 5 standard errors."""
    c, s, draws = 5, 2, 6000
    keys = jax.random.split(jax.random.key(1), draws)

    @jax.jit
    @jax.vmap
    def draw(key):
        def one(rank):
            return owned(jnp.zeros(4), public(key, rank, c), clients=c, owners=s)

        return jax.vmap(one)(jnp.arange(c))

    held = np.asarray(draw(keys))
    for k in range(4):
        for pair in itertools.combinations(range(c), s):
            count = held[:, pair, k].all(1).sum()
            assert abs(count - draws / 10) < 5 * np.sqrt(draws * 0.1 * 0.9)


@pytest.mark.few(1)
@pytest.mark.parametrize(("c", "s"), SIZES)
def test_what_is_sent_are_the_coordinates_owned(c, s):
    """In their order; the array is of the same length for all, and zeros fill it up."""
    a, key = aggregators.assigned_mean(clients=c, owners=s), jax.random.key(4)
    vector = np.arange(1.0, 21.0, dtype=np.float32)
    parts = np.split(vector, [12, 13, 13])
    message = {"a": parts[0].reshape(3, 4), "b": parts[1].reshape(()), "c": np.zeros((0, 2)),
               "d": parts[3]}  # fmt: skip
    message = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), message)
    held = masks(key, message, c, s)
    encode = jax.jit(jax.vmap(lambda rank: a.encode(None, message, public(key, rank, c))))
    for mine, sent in zip(held, np.asarray(encode(jnp.arange(c))), strict=True):
        assert wire.bits(sent) == 32 * -(-20 * s // c)
        np.testing.assert_array_equal(sent[: mine.sum()], vector[mine])
        assert not sent[mine.sum() :].any()


@pytest.mark.ci
def test_the_mean_is_over_the_owners_who_came():
    c, s, d = 6, 3, 17
    a, key = aggregators.assigned_mean(clients=c, owners=s), jax.random.key(2)
    x = jax.random.normal(jax.random.key(3), (c, d))
    held = masks(public_key(key), x[0], c, s)
    for weights in ([9.0] * 6, [1.0, 0, 2.0, 0, 0, 1.0], [0, 0, 0, 5.0, 0, 0], [0.0] * 6):
        came = held & (np.array(weights) > 0)[:, None]
        expected = np.where(came, x, 0).sum(0) / np.maximum(came.sum(0), 1)
        result = aggregate(a, key, x, jnp.array(weights))
        np.testing.assert_allclose(result, expected, atol=1e-6)
    every = aggregators.assigned_mean(clients=c, owners=c)
    plain = aggregators.uniform(aggregators.mean())
    weights = jnp.array([1.0, 0, 2.0, 0, 0, 1.0])
    np.testing.assert_array_equal(
        aggregate(every, key, x, weights), aggregate(plain, key, x, weights)
    )


@pytest.mark.slow
def test_its_error_is_that_of_a_sample_without_replacement():
    """4000 rounds: unbiased, and the mean squared error of its docstring, to 6 standard errors."""
    c, s, d, draws = 6, 2, 9, 4000
    a, x = (
        aggregators.assigned_mean(clients=c, owners=s),
        jax.random.normal(jax.random.key(5), (c, d)),
    )
    keys = jax.random.split(jax.random.key(6), draws)
    results = jax.jit(jax.vmap(lambda key: aggregate(a, key, x, jnp.ones(c))))(keys)
    error = np.asarray(results, np.float64) - np.asarray(x, np.float64).mean(0)
    assert (np.abs(error.mean(0)) < 6 * error.std(0) / np.sqrt(draws)).all()
    squared = np.square(error).sum(1)
    spread = np.square(np.asarray(x - x.mean(0, keepdims=True))).sum(1).mean()
    expected = (c - s) / (s * (c - 1)) * spread
    assert abs(squared.mean() - expected) < 6 * squared.std() / np.sqrt(draws)


def test_arguments():
    with pytest.raises(ValueError, match="owners"):
        aggregators.assigned_mean(clients=3, owners=4)
    with pytest.raises(TypeError, match="clients"):
        aggregators.assigned_mean(clients=3.0, owners=2)
    a = aggregators.assigned_mean(clients=3, owners=2)
    with pytest.raises(TypeError, match="floats"):
        a.init({"n": jnp.int32(0)})
    with pytest.raises(ValueError, match="too many"):
        a.init(jax.ShapeDtypeStruct((2**31,), jnp.float32))
