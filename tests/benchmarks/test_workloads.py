"""The workloads that benchmarks run are those that the recorded figures were measured on."""

import math

import numpy as np
import pytest

from benchmarks import workloads

ALL = list(workloads.WORKLOADS.values())
SMALL = workloads.WORKLOADS["W3"]._replace(clients=3)


def _leaves(tree):
    for value in tree.values():
        yield from _leaves(value) if isinstance(value, dict) else [value]


@pytest.mark.parametrize("workload", ALL, ids=lambda w: w.name)
def test_sizes_are_ragged_between_10_and_400_and_about_100_in_the_mean(workload):
    sizes = workloads.sizes(workload)
    assert sizes.shape == (3 * workload.clients,)
    assert sizes.min() >= 10
    assert sizes.max() <= 400
    # A lognormal with mean 100 and deviation 100 sqrt(exp(0.36) - 1) = 66; four standard errors.
    assert abs(sizes.mean() - 100) < 4 * 66 / math.sqrt(len(sizes))


def test_cohorts_take_turns_and_share_nobody():
    workload = workloads.WORKLOADS["W1"]
    turns = [workloads.cohort(workload, t) for t in range(3)]
    assert sorted(np.concatenate(turns).tolist()) == list(range(60))
    np.testing.assert_array_equal(workloads.cohort(workload, 4), turns[1])


def test_a_second_call_gives_the_same_arrays():
    for one, other in zip(*(workloads.examples(SMALL) for _ in "ab"), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(*(_leaves(workloads.parameters(SMALL)) for _ in "ab"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_client_is_a_window_on_the_packed_arrays():
    x, y = workloads.examples(SMALL)
    clients = workloads.by_client(SMALL)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in clients]), x)
    np.testing.assert_array_equal(np.concatenate([y for _, y in clients]), y)
    assert [len(y) for _, y in clients] == workloads.sizes(SMALL).tolist()


def test_labels_of_text_are_the_tokens_that_follow():
    x, y = workloads.examples(workloads.WORKLOADS["W4"]._replace(clients=2))
    np.testing.assert_array_equal(x[:, 1:], y[:, :-1])


@pytest.mark.parametrize(
    ("name", "parameters"), [("W1", 1_206_590), ("W2", 48_670), ("W3", 108_478), ("W4", 820_522)]
)
def test_models_have_as_many_parameters_as_published(name, parameters):
    leaves = list(_leaves(workloads.parameters(workloads.WORKLOADS[name])))
    assert sum(leaf.size for leaf in leaves) == parameters
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("name", "giga"), [("W1", 158), ("W1-100", 735), ("W2", 19.8), ("W3", 4.6), ("W4", 497)]
)
def test_a_round_costs_what_was_counted_on_another_draw_of_sizes(name, giga):
    assert workloads.flops(workloads.WORKLOADS[name]) == pytest.approx(giga * 1e9, rel=0.03)


def test_operations_of_the_multilayer_perceptron_by_hand():
    # Forward, weights' gradients, and the one gradient of hidden values: 2 operations each.
    one = 2 * (784 * 128 + 128 * 62) + 2 * (784 * 128 + 128 * 62) + 2 * (128 * 62)
    assert workloads.flops(SMALL) == pytest.approx(one * workloads.sizes(SMALL).sum() / 3)


def test_examples_of_the_deterministic_relative_are_all_alike():
    for x, y in workloads.by_client(workloads.deterministic(workloads.WORKLOADS["W1"])):
        assert (x == x[0]).all()
        assert (y == y[0]).all()
