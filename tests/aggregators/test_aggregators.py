"""Means, totals and medians against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import Public, aggregators


def run(aggregator, stacked, weights):
    """The aggregate of one round."""
    stacked = jax.tree.map(jnp.asarray, stacked)
    return aggregators.aggregate(jax.random.key(0), aggregator, stacked, weights=weights)[0]


X = np.random.default_rng(0).normal(size=(6, 3, 2)).astype(np.float32)
X[2] = X[0]  # a tie
WEIGHTS = np.array([2, 0, 5, 1, 3, 0.5], np.float32)


def test_mean_is_the_weighted_average():
    expected = np.average(X.astype(np.float64), axis=0, weights=WEIGHTS)
    np.testing.assert_allclose(run(aggregators.mean(), X, WEIGHTS), expected, rtol=1e-5)


def test_uniform_mean_is_the_average_of_those_who_take_part():
    expected = X[WEIGHTS > 0].astype(np.float64).mean(0)
    actual = run(aggregators.uniform(aggregators.mean()), X, WEIGHTS)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_total_divides_by_what_it_was_told_and_not_by_who_came():
    expected = X[WEIGHTS > 0].astype(np.float64).sum(0) / 20
    np.testing.assert_allclose(run(aggregators.scaled_sum(20), X, WEIGHTS), expected, rtol=1e-5)


def test_integers_are_averaged_as_numbers():
    counts = np.array([[1, 2], [2, 5]], np.int32)
    actual = run(aggregators.mean(), counts, [1, 3])
    np.testing.assert_allclose(actual, [1.75, 4.25])


@pytest.mark.parametrize(
    "present",
    [
        pytest.param([1, 1, 1, 1, 1, 0], id="odd"),
        pytest.param([1, 1, 1, 1, 1, 1], id="even"),
        pytest.param([1, 0, 1, 1, 0, 0], id="tie"),
        pytest.param([0, 1, 0, 0, 1, 0], id="two"),
        pytest.param([0, 0, 0, 1, 0, 0], id="one"),
    ],
)
def test_median_is_numpy_s_over_those_who_take_part(present):
    present = np.array(present, bool)
    expected = np.median(X[present], axis=0)
    for scale in (1, 100):  # a weight is presence, nothing else
        actual = run(aggregators.median(), X, scale * present)
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_a_minority_cannot_move_the_median_out_of_the_others_range():
    attacked = X.copy()
    attacked[:2] = [[[3e38]], [[-3e38]]]
    actual = np.asarray(run(aggregators.median(), attacked, np.ones(6)))
    assert (actual <= X[2:].max(0)).all()
    assert (actual >= X[2:].min(0)).all()


def test_the_middle_two_may_be_as_large_as_floats_go():
    """Their mean is finite, so it has to be found without their sum."""
    large = np.full((2, 1), 3e38, np.float32)
    np.testing.assert_allclose(run(aggregators.median(), large, [1, 1]), [3e38], rtol=1e-6)


def test_per_field_tells_the_fields_apart():
    a = aggregators.per_field(a=aggregators.mean(), b=aggregators.scaled_sum(10))
    actual = run(a, {"a": X, "b": X}, WEIGHTS)
    np.testing.assert_allclose(actual["a"], np.average(X, axis=0, weights=WEIGHTS), rtol=1e-5)
    np.testing.assert_allclose(actual["b"], X[WEIGHTS > 0].sum(0) / 10, rtol=1e-5)


def test_per_field_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="all that sum or all that stack"):
        aggregators.per_field(a=aggregators.mean(), b=aggregators.median())
    with pytest.raises(ValueError, match="at least one"):
        aggregators.per_field()
    with pytest.raises(ValueError, match=r"aggregators for \['a'\], the message has \['b'\]"):
        aggregators.per_field(a=aggregators.mean()).init({"b": 0.0})
    with pytest.raises(ValueError, match="the message has"):
        aggregators.per_field(a=aggregators.mean()).init([0.0])


@pytest.mark.parametrize("denominator", [0, -1.0, float("nan")])
def test_total_needs_a_positive_denominator(denominator):
    with pytest.raises(ValueError, match="denominator"):
        aggregators.scaled_sum(denominator)


def test_the_median_of_a_cohort_without_slots_is_zero():
    nobody = jnp.zeros((0, 3)), jnp.zeros(0, bool)
    public = Public((), jax.random.key(1), None, jnp.int32(0))
    message, _, _ = aggregators.median().finish(jax.random.key(0), nobody, public)
    assert message.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: aggregators.uniform(aggregators.mean),
        lambda: aggregators.per_field(a=3),
        lambda: aggregators.private(1.0, 2),
    ],
)
def test_what_is_no_aggregator_or_mechanism_is_refused(make):
    with pytest.raises(TypeError, match=r"needs a fjx\.(Aggregator|privacy\.Mechanism)"):
        make()
