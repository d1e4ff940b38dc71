"""What every aggregator promises, and what only sums or only means do."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import SUM, Public
from tests.support import tables

M = 5
WEIGHTS = np.array([3.0, 1.0, 0.0, 2.5, 1.0], np.float32)
ABSENT = 2
MEAN_LIKE = [name for name in tables.AGGREGATORS if name not in ("total", "private")]

every = pytest.mark.parametrize("name", tables.AGGREGATORS)


def messages(dtype=jnp.float32):
    """Stacked messages of M clients, with a matrix, a vector, a scalar and an empty leaf."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=(M, *shape)).astype(dtype)

    return {
        "a": {"matrix": normal(3, 2), "empty": np.zeros((M, 0), dtype)},
        "b": (normal(4), normal()),
    }


def public(state, rank):
    return Public(state, jax.random.key(3), rank, jnp.int32(M))


def contributions(name, stacked, weights):
    """Of each client; nobody's has a key or a rank that matters."""
    aggregator = tables.AGGREGATORS[name]
    state = aggregator.init(jax.tree.map(lambda x: x[0], stacked))

    def one(rank, message, weight):
        key = jax.random.fold_in(jax.random.key(1), rank)
        return aggregator.contribute(key, message, weight, public(state, rank))

    return jax.vmap(one)(jnp.arange(M), stacked, weights), state


@functools.cache
def compiled(name):
    aggregator = tables.AGGREGATORS[name]

    @functools.partial(jax.jit, static_argnums=2)
    def run(stacked, weights, parts=1):
        """By so many sums one after the other, as devices or chunks would."""
        shares, state = contributions(name, stacked, weights)
        if aggregator.combine is SUM:
            sums = [
                jax.tree.map(lambda x, i=i: jnp.sum(x[i::parts], axis=0, dtype=x.dtype), shares)
                for i in range(parts)
            ]
            shares = functools.reduce(functools.partial(jax.tree.map, jnp.add), sums)
        return aggregator.finish(jax.random.key(2), shares, public(state, None))

    return run


def aggregate(name, stacked, weights=WEIGHTS, parts=1):
    return jax.tree.map(np.asarray, compiled(name)(stacked, np.asarray(weights), parts)[0])


@every
def test_aggregates_to_the_shapes_of_one_message_in_float32(name):
    for dtype in (jnp.float32, jnp.bfloat16):
        stacked = messages(dtype=dtype)
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], jnp.float32), stacked)
        found = jax.eval_shape(compiled(name), stacked, jnp.asarray(WEIGHTS))[0]
        chex.assert_trees_all_equal_shapes_and_dtypes(found, one)


@every
def test_the_order_of_clients_does_not_matter(name):
    order = np.array([3, 0, 4, 2, 1])
    permuted = jax.tree.map(lambda x: x[order], messages())
    chex.assert_trees_all_close(
        aggregate(name, permuted, WEIGHTS[order]), aggregate(name, messages()), rtol=1e-6, atol=1e-6
    )


@every
def test_weight_zero_contributes_exactly_nothing(name):
    other = messages()
    for x in jax.tree.leaves(other):
        x[ABSENT] = 1e6
    chex.assert_trees_all_equal(aggregate(name, other), aggregate(name, messages()))
    present = jax.tree.map(lambda x: x + 1, messages())
    moved = aggregate(name, present)["a"]["matrix"] - aggregate(name, messages())["a"]["matrix"]
    assert np.abs(moved).max() > 0


@every
def test_nobody_is_zero(name):
    nothing = aggregate(name, messages(), np.zeros(M, np.float32))
    assert not any(x.any() for x in jax.tree.leaves(nothing))


@pytest.mark.parametrize("name", MEAN_LIKE)
def test_equal_messages_aggregate_to_themselves(name):
    equal = jax.tree.map(lambda x: np.broadcast_to(x[:1], x.shape), messages())
    chex.assert_trees_all_close(
        aggregate(name, equal), jax.tree.map(lambda x: x[0], equal), rtol=1e-6
    )


@pytest.mark.parametrize("name", MEAN_LIKE)
def test_stays_within_the_messages_of_those_who_take_part(name):
    present = jax.tree.map(lambda x: np.delete(np.asarray(x), ABSENT, axis=0), messages())
    for x, sent in zip(
        jax.tree.leaves(aggregate(name, messages())), jax.tree.leaves(present), strict=True
    ):
        assert np.all(x <= sent.max(0) + 1e-6)
        assert np.all(x >= sent.min(0) - 1e-6)


@pytest.mark.parametrize("name", MEAN_LIKE)
def test_only_the_ratios_of_weights_matter(name):
    chex.assert_trees_all_close(
        aggregate(name, messages(), 8 * WEIGHTS), aggregate(name, messages()), rtol=1e-6
    )


@pytest.mark.parametrize(
    "name", [name for name, a in tables.AGGREGATORS.items() if a.combine is SUM]
)
def test_contributions_of_two_halves_add_up_to_the_whole(name):
    """Summed by halves, as two devices or two chunks would, the aggregate is the same."""
    chex.assert_trees_all_close(
        aggregate(name, messages(), parts=2), aggregate(name, messages()), rtol=1e-5, atol=1e-6
    )
