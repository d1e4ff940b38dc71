"""Every public aggregator keeps the laws of ``fjx.testing``; means keep three more."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import aggregators, testing
from fjx.testing import _aggregator
from fjx.testing._aggregator_trial import BASE, NOBODY, OTHER
from fjx.testing._laws import jit
from tests.support import tables

TRACED = {"keeps_structure_and_dtypes", "is_a_pure_function", "uses_each_key_once"}
"""Laws that compile nothing."""

RARER = {
    *("uniform_mean", "compressed", "as_vector", "sketched", "fetch_sgd", "assigned_mean"),
    *("correlated_quantization", "around"),
}
LONGER = {"distributed", "perm_k", "shared_rand_k", "private", "rotated"}
ROBUST = {"krum", "geometric_median", "nearest_neighbour_mixing", "centered_clipping"}
"""A rule of each kind, beside the median."""


RARER_ROBUST = {
    *("trimmed_mean", "mean_around_median", "multi_krum", "bulyan", "mda", "smea", "caf", "dnc"),
    *("autogm", "sign_guard", "bucketing", "adaptive_clipping", "norm_bounding", "fltrust"),
}
"""Rules that ``tests/aggregators/test_robust.py`` compares in CI, in one program."""

RARER |= RARER_ROBUST


def tier(name, law):
    others = tables.AGGREGATORS.keys() - RARER
    if law in TRACED:
        return tables.tier(name, others - ROBUST, tables.AGGREGATORS.keys() - RARER_ROBUST)
    return tables.tier(name, others - LONGER - ROBUST, LONGER | ROBUST)


@functools.cache
def laws(name):
    aggregator, others = tables.AGGREGATORS[name]
    return {law.name: law for law in testing.aggregator_laws(aggregator, **others)}


@tables.cases(
    {name: [law.__name__ for law in _aggregator.LAWS] for name in tables.AGGREGATORS},
    tier,
)
def test_law(name, law):
    laws(name)[law].check()


@tables.rows(tables.AGGREGATORS, set(tables.AGGREGATORS) - RARER - ROBUST, ROBUST)
def test_a_mean_over_nobody_is_nan(name):
    """A zero would be read as a value.  Counts are integers; what does not depend on them is public."""
    aggregator, _ = tables.AGGREGATORS[name]
    *_, this = next(iter(laws(name).values())).check.args  # the trial, whose programs laws share
    someone, another, nobody = (this.aggregate(given)[2] for given in (BASE, OTHER, NOBODY))
    for metric, value in nobody.items():
        is_public = value == someone[metric] == another[metric]
        is_noised = aggregator.mechanisms and "unnoised_" not in metric
        if not (np.issubdtype(value.dtype, np.integer) or is_public or is_noised):
            assert np.isnan(value), metric


WEIGHTS = np.array([3.0, 1.0, 0.0, 2.5, 1.0], np.float32)
ABSENT = 2
MEANS = ["mean", "uniform_mean", "median", "per_field"]


def messages():
    """Stacked messages of five clients, with a matrix, a vector, a scalar and an empty leaf."""
    normal = np.random.default_rng(0).normal
    like = _aggregator.message_like()
    return jax.tree.map(lambda x: normal(size=(5, *x.shape)).astype(np.float32), like)


@functools.cache
def compiled(name):
    aggregator, _ = tables.AGGREGATORS[name]
    return jit(
        lambda stacked, weights: aggregators.aggregate(
            jax.random.key(0), aggregator, stacked, weights=weights
        )[0]
    )


def aggregate(name, stacked, weights=WEIGHTS):
    return jax.tree.map(np.asarray, compiled(name)(stacked, jnp.asarray(weights)))


@pytest.mark.parametrize("name", MEANS)
def test_equal_messages_aggregate_to_themselves(name):
    equal = jax.tree.map(lambda x: np.broadcast_to(x[:1], x.shape), messages())
    chex.assert_trees_all_close(
        aggregate(name, equal), jax.tree.map(lambda x: x[0], equal), rtol=1e-6
    )


@pytest.mark.parametrize("name", MEANS)
def test_stays_within_the_messages_of_those_who_take_part(name):
    present = jax.tree.map(lambda x: np.delete(np.asarray(x), ABSENT, axis=0), messages())
    for x, sent in zip(
        jax.tree.leaves(aggregate(name, messages())), jax.tree.leaves(present), strict=True
    ):
        assert np.all(x <= sent.max(0) + 1e-6)
        assert np.all(x >= sent.min(0) - 1e-6)


@pytest.mark.parametrize("name", MEANS)
def test_only_the_ratios_of_weights_matter(name):
    chex.assert_trees_all_close(
        aggregate(name, messages(), 8 * WEIGHTS), aggregate(name, messages()), rtol=1e-6
    )


@pytest.mark.parametrize("name", [*MEANS, "scaled_sum", "private"])
def test_weight_zero_counts_for_nothing_whatever_it_sends(name):
    """A round sends zeros for such a client; these aggregators do not rely on it."""
    other = messages()
    for x in jax.tree.leaves(other):
        x[ABSENT] = 1e6
    chex.assert_trees_all_equal(aggregate(name, other), aggregate(name, messages()))
