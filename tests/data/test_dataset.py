"""Packed data: what goes in comes out, and a cohort is made canonical or refused."""

import warnings

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import data


def clients_of(sizes):
    starts = np.cumsum([0, *sizes])
    return [
        {"x": np.arange(s, s + n, dtype=np.float32)[:, None], "deep": [np.full(n, i, np.int8)]}
        for i, (s, n) in enumerate(zip(starts, sizes, strict=False))
    ]


@hypothesis.given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
@hypothesis.settings(max_examples=25, deadline=None)
def test_a_client_comes_out_as_it_went_in(sizes):
    clients = clients_of(sizes)
    dataset = data.from_clients(clients)
    assert dataset.num_clients == len(sizes)
    assert dataset.sizes.tolist() == sizes
    assert dataset.weights.tolist() == sizes
    for i, client in enumerate(clients):
        chex.assert_trees_all_equal(dataset.client(i), jax.tree.map(jnp.asarray, client))


def test_numbers_of_64_bits_become_32_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = data.from_clients([{"x": np.ones(2), "y": np.ones(2, np.int64)}])
    assert (dataset.arrays["x"].dtype, dataset.arrays["y"].dtype) == (jnp.float32, jnp.int32)


@pytest.mark.parametrize(
    ("clients", "words"),
    [
        ([], "at least one client"),
        ([{}], "needs arrays"),
        ([{"x": np.ones(2)}, {"y": np.ones(2)}], "one structure: client 1"),
        ([np.ones((2, 3)), np.ones((2, 4))], "client 1 has float64"),
        ([np.ones(2, np.float32), np.ones(2, np.int32)], "client 1 has int32"),
        ([{"x": np.ones(2), "y": np.ones(3)}], "unequal leading axes"),
        ([np.float32(1.0)], "trailing shape"),
    ],
)
def test_clients_that_do_not_fit_are_refused(clients, words):
    with pytest.raises(ValueError, match=words):
        data.from_clients(clients)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [1.0, np.nan], [[1.0, 2.0]]])
def test_weights_are_checked(weights):
    with pytest.raises(ValueError, match="weights must be"):
        data.from_clients([np.ones(1), np.ones(2)], weights=weights)


def test_cohort_of_concrete_ids_refuses_the_impossible():
    dataset = data.from_clients(clients_of([1, 0, 3]))
    for ids, bad in ([0, 0], "[0]"), ([5, 1], "[5]"), ([-1], "[-1]"):
        with pytest.raises(ValueError, match="distinct") as error:
            dataset.cohort(jnp.array(ids))
        assert bad in str(error.value)
    assert dataset.cohort(jnp.array([3, 0, 3])).rejected == 0  # padding may repeat


def test_ids_are_integers():
    """A mask or a score in their place would be truncated to some."""
    for ids in (np.array([0.5, 1.7]), np.array([True, False])):
        with pytest.raises(TypeError, match="ids must be integers"):
            data.from_clients(clients_of([1, 0, 3])).cohort(ids)


@hypothesis.given(st.lists(st.integers(-2, 5), min_size=6, max_size=6))
@hypothesis.settings(max_examples=40, deadline=None)
def test_cohort_of_traced_ids_pads_and_counts(ids):
    """Against a loop over the slots: the first of equals stays, what is impossible becomes padding."""
    seen, expected, rejected = set(), [], 0
    for i in ids:
        bad = not 0 <= i <= 4 or (i in seen and i != 4)
        rejected += bad
        expected.append(4 if bad else i)
        seen.add(i)
    cohort = _cohort(jnp.array(ids, jnp.int32))
    assert cohort.ids.tolist() == expected
    assert int(cohort.rejected) == rejected
    assert int(cohort.population) == 4
    sizes = [2, 0, 3, 1, 0]
    assert cohort.examples.size.tolist() == [sizes[i] for i in expected]
    assert cohort.weights.tolist() == [sizes[i] for i in expected]


DATASET = data.from_clients(clients_of([2, 0, 3, 1]))
_cohort = jax.jit(lambda ids: DATASET.cohort(ids))


def test_dropped_and_empty_clients_weigh_nothing():
    weighted = DATASET.with_weights(np.array([5.0, 6.0, 7.0, 8.0]))
    cohort = weighted.cohort(jnp.array([0, 1, 2]), jnp.array([True, True, False]))
    assert cohort.weights.tolist() == [5.0, 0.0, 0.0]
    assert cohort.ids.tolist() == [0, 1, 2]
    assert cohort.examples.size.tolist() == [2, 0, 3]


def test_windows_gather_the_right_rows_under_vmap():
    examples = DATASET.examples(jnp.array([2, 0, 9]))
    axes = examples._replace(arrays=None, offset=0, size=0)
    batch, mask = jax.vmap(lambda e: e.batch(0, 4), in_axes=(axes,))(examples)
    assert mask.sum(1).tolist() == [3, 2, 0]
    assert batch["x"][0, :, 0].tolist() == [2.0, 3.0, 4.0, 2.0]
    assert batch["x"][1, :, 0].tolist() == [0.0, 1.0, 0.0, 0.0]


def test_data_are_an_argument_of_a_program_and_no_constant():
    text = (
        jax.jit(lambda d, ids: d.cohort(ids).examples.take(ids))
        .lower(DATASET, jnp.array([1]))
        .as_text()
    )
    assert "dense<[[0.0" not in text
    assert DATASET.num_clients == 4
