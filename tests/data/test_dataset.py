"""Packed data: what goes in comes out, and a cohort is made canonical or refused."""

import dataclasses
import importlib
import warnings

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import data


def clients_of(sizes):
    starts = np.cumsum([0, *sizes])
    return [
        {"x": np.arange(s, s + n, dtype=np.float32)[:, None], "deep": [np.full(n, i, np.int8)]}
        for i, (s, n) in enumerate(zip(starts, sizes, strict=False))
    ]


@pytest.mark.ci
@hypothesis.given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
@hypothesis.settings(max_examples=25, deadline=None)
def test_a_client_comes_out_as_it_went_in(sizes):
    clients = clients_of(sizes)
    dataset = data.from_clients(clients)
    assert dataset.num_clients == len(sizes)
    assert dataset.sizes.tolist() == sizes
    assert dataset.weights.tolist() == sizes
    for i, client in enumerate(clients):
        chex.assert_trees_all_equal(dataset.client(i), client)
        chex.assert_trees_all_equal_dtypes(dataset.client(i), client)


def test_numbers_of_64_bits_become_32_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = data.from_clients([{"x": np.ones(2), "y": np.ones(2, np.int64)}])
    assert (dataset.arrays["x"].dtype, dataset.arrays["y"].dtype) == (jnp.float32, jnp.int32)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "uint8", "bool"])
def test_other_dtypes_stay(dtype):
    client = np.array([0, 1], jnp.dtype(dtype))
    dataset = data.from_clients([client], test=client)
    assert dataset.arrays.dtype == dataset.test.dtype == dataset.client(0).dtype == dtype


@pytest.mark.parametrize("build", [data.from_clients, lambda x: data.from_packed(x[0], [2])])
def test_bytes_may_come_in_another_order(build):
    for dtype in (">f4", ">i2", ">f8"):
        dataset = build([np.array([1, 2], dtype)])
        assert dataset.client(0).tolist() == [1, 2]
        assert dataset.arrays.dtype.isnative


def test_floats_that_do_not_fit_are_refused_and_infinity_is_not():
    with pytest.raises(ValueError, match=r"must fit float32, got up to 1e\+300"):
        data.from_clients([np.array([1e300, 1.0])])
    assert np.isinf(data.from_clients([np.array([np.inf, 1.0])]).client(0)[0])


def test_weights_whose_sum_is_infinite_are_refused():
    dataset = data.from_clients([np.ones(1, np.float32)] * 2)
    with pytest.raises(ValueError, match="finite sum in float32"):
        dataset.with_weights([3e38, 3e38])


def test_texts_are_refused():
    with pytest.raises(TypeError, match="must be numbers, got <U1"):
        data.from_clients([np.array(["a"])])


def test_more_rows_than_an_offset_can_count_are_refused():
    """By the sizes alone: no test allocates 2^31 rows."""
    pack = importlib.import_module("fjx.data._dataset").pack
    with pytest.raises(ValueError, match="at most 2\\^31 - 1 examples, got 2147483648"):
        pack(np.zeros(1), np.array([2**30, 2**30]))


@pytest.mark.parametrize(
    ("clients", "words"),
    [
        ([], "at least one client"),
        ([{}], "needs arrays"),
        ([{"x": np.ones(2)}, {"y": np.ones(2)}], "one structure: client 1"),
        ([np.ones((2, 3)), np.ones((2, 4))], "client 1 has float64"),
        ([np.ones(2, np.float32), np.ones(2, np.int32)], "client 1 has int32"),
        ([{"x": np.ones(2), "y": np.ones(3)}], "unequal leading axes"),
        ([np.float32(1.0)], "need a leading axis"),
        ([{"x": [[1.0], [2.0]]}], "give arrays, not lists"),
        ([np.array([0, 2**31])], "integers must fit int32, got 0 to 2147483648"),
        ([np.array([2**32], np.uint64)], "integers must fit uint32"),
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
    with pytest.raises(ValueError, match="4294967297"):  # which is 1 in 32 bits
        dataset.cohort(np.array([2**32 + 1]))
    with pytest.raises(ValueError, match="ids must be a vector"):
        dataset.cohort(np.array([[0]]))
    assert dataset.cohort(jnp.array([3, 0, 3])).rejected == 0  # padding may repeat


def test_concrete_ids_are_refused_inside_a_traced_program_too():
    with pytest.raises(ValueError, match="distinct"):
        jax.jit(lambda dataset: dataset.cohort(np.array([1, 1])).ids)(DATASET)


@pytest.mark.parametrize(
    ("taking_part", "error", "words"),
    [
        (np.array([1, 0]), TypeError, "taking_part must be boolean, got int"),
        (np.array([True]), ValueError, "one entry for each of 2 ids"),
    ],
)
def test_taking_part_is_one_boolean_an_id(taking_part, error, words):
    with pytest.raises(error, match=words):
        DATASET.cohort(np.array([0, 1]), taking_part)


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
    cohort = _cohort(DATASET, jnp.array(ids, jnp.int32))
    assert cohort.ids.tolist() == expected
    assert int(cohort.rejected) == rejected
    assert int(cohort.population) == 4
    sizes = [2, 0, 3, 1, 0]
    assert cohort.examples.size.tolist() == [sizes[i] for i in expected]
    assert cohort.weights.tolist() == [sizes[i] for i in expected]


DATASET = data.from_clients(clients_of([2, 0, 3, 1]))
_cohort = jax.jit(data.FederatedData.cohort)


@pytest.mark.parametrize("place", [lambda x: x, data.on_host], ids=["device", "host"])
def test_a_population_without_examples_has_no_cohorts(place):
    dataset = place(data.from_clients([np.zeros((0, 2))] * 3))
    with pytest.raises(ValueError, match=r"none of the 3 clients .* has an example"):
        dataset.cohort(np.arange(2))


def test_dropped_and_empty_clients_weigh_nothing():
    weighted = DATASET.with_weights(np.array([5.0, 6.0, 7.0, 8.0]))
    cohort = weighted.cohort(jnp.array([0, 1, 2]), jnp.array([True, True, False]))
    assert cohort.weights.tolist() == [5.0, 0.0, 0.0]
    assert cohort.ids.tolist() == [0, 1, 2]
    assert cohort.examples.size.tolist() == [2, 0, 3]


def test_windows_gather_the_right_rows_under_vmap():
    examples = DATASET.examples(jnp.array([2, 0, 9]))
    axes = examples._replace(arrays=None, offset=0, size=0)
    batch, mask = jax.jit(jax.vmap(lambda e: e.batch(0, 4), in_axes=(axes,)))(examples)
    batch = jax.tree.map(np.asarray, batch)
    assert mask.sum(1).tolist() == [3, 2, 0]
    assert batch["x"][0, :, 0].tolist() == [2.0, 3.0, 4.0, 2.0]
    assert batch["x"][1, :, 0].tolist() == [0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_the_cohort_takes_its_own_rows_in_one_program(place):
    """Data as an argument of jit, examples under vmap, against slices of each client."""
    dataset = dataclasses.replace(DATASET, arrays=jax.tree.map(place, DATASET.arrays))

    @jax.jit
    def last_and_first(dataset, ids):
        def one(offset, size):
            examples = fjx.Examples(dataset.arrays, offset, size)
            return examples.take(jnp.array([size - 1, 0]))

        examples = dataset.cohort(ids).examples
        return jax.vmap(one)(examples.offset, examples.size)

    rows = last_and_first(dataset, jnp.array([3, 0, 2]))
    for row, i in enumerate([3, 0, 2]):
        want = jax.tree.map(lambda x: x[[-1, 0]], dataset.client(i))
        chex.assert_trees_all_equal(jax.tree.map(lambda x, row=row: x[row], rows), want)


def test_cohorts_of_many_rounds_under_vmap():
    many = jax.jit(jax.vmap(DATASET.cohort))(jnp.array([[0, 0], [3, 9], [2, 1]], jnp.int32))
    assert many.ids.tolist() == [[0, 4], [3, 4], [2, 1]]
    assert many.rejected.tolist() == [1, 1, 0]
    assert many.weights.tolist() == [[2, 0], [1, 0], [3, 0]]


def test_data_are_an_argument_of_a_program_and_no_constant():
    text = (
        jax.jit(lambda d, ids: d.cohort(ids).examples.take(ids))
        .lower(DATASET, jnp.array([1]))
        .as_text()
    )
    assert "dense<[[0.0" not in text
    assert DATASET.num_clients == 4
