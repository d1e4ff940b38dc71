"""Data on the host: the same data, read by nobody before it is needed, and a folder that is checked."""

import json

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import data
from fjx.data._collect import buffers, collect

SIZES = [3, 0, 2, 1, 4]


def dataset(**options):
    clients = [
        {"x": np.arange(8 * i, 8 * i + 2 * n, dtype=np.float32).reshape(n, 2), "y": [np.full(n, i)]}
        for i, n in enumerate(SIZES)
    ]
    return data.from_clients(clients, test=(np.ones(3),), **options)


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=50, deadline=None)
def test_windows_are_copied_whatever_their_order(draw):
    """Against a slow concatenation: gaps, neighbours, empty windows, any order, a roomy buffer."""
    sizes = np.array(draw.draw(st.lists(st.integers(0, 3), min_size=1, max_size=7)))
    starts = np.cumsum(sizes) - sizes
    chosen = np.array(draw.draw(st.permutations(range(len(sizes)))))
    chosen = chosen[: draw.draw(st.integers(0, len(sizes)))].astype(int)
    arrays = {"x": np.arange(sizes.sum() * 2).reshape(-1, 2), "y": np.arange(sizes.sum())}
    out = buffers(arrays, sizes[chosen].sum() + 2)
    offset = collect(arrays, starts[chosen], sizes[chosen], out)
    for i, at in zip(chosen, offset, strict=True):
        for name, x in arrays.items():
            np.testing.assert_array_equal(
                out[name][at : at + sizes[i]], x[starts[i] : starts[i] + sizes[i]]
            )
    used = [at + j for i, at in zip(chosen, offset, strict=True) for j in range(sizes[i])]
    np.testing.assert_array_equal(
        np.sort(used), np.arange(sizes[chosen].sum())
    )  # no gaps, no overlaps


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("dtype", [np.int8, np.float32, jnp.bfloat16])
def test_buffers_begin_where_a_device_may_take_them_over(dtype, rows):
    x = buffers(np.zeros((5, 3), dtype), rows)
    assert x.shape == (max(rows, 1), 3)
    assert x.dtype == dtype
    assert x.ctypes.data % 64 == 0
    assert not x.any()


def test_there_and_back_is_the_same():
    there = data.on_host(dataset())
    assert there.hosted
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(there))
    back = data.on_device(there)
    assert not back.hosted
    chex.assert_trees_all_equal(back, dataset())
    chex.assert_trees_all_equal_dtypes(back, dataset())
    assert data.on_device(back) is back


@pytest.mark.ci
def test_a_cohort_on_the_host_is_the_cohort_on_the_device():
    """Each slot's examples, weights and counts; only where the examples begin differs."""
    ids, stays = np.array([4, 5, 0, 1, 3]), np.array([1, 1, 1, 1, 0], bool)
    here, there = (d.cohort(ids, stays) for d in (dataset(), data.on_host(dataset())))
    chex.assert_trees_all_equal(here._replace(examples=()), there._replace(examples=()))
    np.testing.assert_array_equal(here.examples.size, there.examples.size)
    take = jax.jit(lambda examples, offset: examples._replace(offset=offset).take(jnp.arange(4)))
    for i, size in enumerate(here.examples.size.tolist()):
        one, other = (take(c.examples, c.examples.offset[i]) for c in (here, there))
        chex.assert_trees_all_equal(
            *(jax.tree.map(lambda x, size=size: x[:size], x) for x in (one, other))
        )
    assert len(jax.tree.leaves(there.examples.arrays)[0]) == 3 + 4 + 1


def test_what_is_made_of_data_on_the_host_stays_there():
    there = data.on_host(dataset())
    assert data.take_clients(there, [4, 0]).hosted
    assert data.take_clients(there, [4, 0]).sizes.tolist() == [4, 3]
    heavy = there.with_weights([1, 2, 3, 4, 5])
    assert isinstance(heavy.weights, np.ndarray)
    assert heavy.cohort([4]).weights.tolist() == [5]


def test_packed_arrays_are_not_copied():
    x = np.zeros((3, 2), np.float32)
    there = data.from_packed({"x": x}, [1, 2])
    assert there.arrays["x"] is x
    assert there.sizes.tolist() == [1, 2]


def test_there_may_be_more_examples_on_the_host_than_32_bits_count():
    """A view of one number in 5 * 2^30 places: nothing of that size is allocated."""
    x = np.lib.stride_tricks.as_strided(np.array([7], np.int8), (5 * 2**30,), (0,))
    there = data.from_packed(x, [2**30] * 5)
    assert there.offsets.tolist()[-1] == 5 * 2**30
    start, size = there.windows(np.array([4, 5, 1]))
    assert (start.tolist(), size.tolist()) == ([2**32, 0, 2**30], [2**30, 0, 2**30])
    with pytest.raises(ValueError, match=r"at most 2\^31 - 1 examples, got 5368709120"):
        data.on_device(there)


@pytest.mark.parametrize(
    ("arrays", "sizes", "error", "words"),
    [
        (np.zeros(3), [1.0, 2.0], TypeError, "sizes must be integers, got float64"),
        (np.zeros(3), [[1, 2]], ValueError, r"a vector of one client or more, got shape \[1, 2\]"),
        (np.zeros(0), np.zeros(0, int), ValueError, "one client or more"),
        (np.zeros(3), [4, -1], ValueError, r"in \[0, 2\^31\), got -1 to 4"),
        (np.zeros(3), [1, 1], ValueError, r"the 2 examples .* only leaf has shape \[3\]"),
        ({"x": np.zeros(2), "y": np.zeros(())}, [1, 1], ValueError, r"\['y'\] has shape \[\]"),
        ({}, [1], ValueError, "got an empty pytree"),
        (np.array(["a"]), [1], TypeError, "must be numbers"),
    ],
)
def test_packed_arrays_that_do_not_fit_are_refused(arrays, sizes, error, words):
    with pytest.raises(error, match=words):
        data.from_packed(arrays, sizes)


def test_a_traced_round_cannot_read_the_host():
    there = data.on_host(dataset())
    with pytest.raises(ValueError, match="a traced round cannot read examples on the host"):
        jax.jit(lambda ids: there.cohort(ids).weights)(jnp.arange(2))
    algorithm = fjx.algorithms.fedsgd(lambda w, x, key: w, learning_rate=0.1)
    with pytest.raises(ValueError, match="cannot read a dataset on the host"):
        fjx.simulation.program(algorithm, there, sampler=fjx.samplers.full())


# --------------------------------------------------------------------------------------------------
# Folders
# --------------------------------------------------------------------------------------------------


def test_what_is_saved_is_opened(tmp_path):
    """Structures and dtypes that NumPy's format does not know, a client without examples, a test."""
    arrays = {
        "x": np.ones((3, 2), jnp.bfloat16),
        "z": ([np.arange(3, dtype=np.int8)], np.zeros(3, bool)),
    }
    whole = data.from_packed(arrays, [2, 0, 1], weights=[1, 0.5, 2], test=[np.float32([1, 2])])
    data.save(whole, tmp_path / "new" / "folder")
    found = data.open(tmp_path / "new" / "folder")
    chex.assert_trees_all_equal(found, whole)
    chex.assert_trees_all_equal_dtypes(found, whole)
    assert all(isinstance(x, np.memmap) for x in jax.tree.leaves(found.arrays))
    assert not found.arrays["x"].flags.writeable
    with pytest.raises(FileExistsError, match="holds a dataset already"):
        data.save(whole, tmp_path / "new" / "folder")


def test_nothing_may_be_saved(tmp_path):
    data.save(data.from_packed(np.zeros((0, 3), np.float32), [0, 0]), tmp_path)
    found = data.open(tmp_path)
    assert (found.num_clients, found.arrays.shape, found.test) == (2, (0, 3), None)


def test_trees_that_json_cannot_describe_are_refused(tmp_path):
    odd = data.from_packed(fjx.Stateful(np.zeros(1), np.zeros(1)), [1])
    with pytest.raises(TypeError, match="not Stateful"):
        data.save(odd, tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no dataset"):  # nothing half-written is read
        data.open(tmp_path)


def rewrite(path, **changes):
    header = json.loads((path / "dataset.json").read_text())
    (path / "dataset.json").write_text(json.dumps({**header, **changes}))


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda p: rewrite(p, version=2), ValueError, "of version 2; this fjx reads version 1"),
        (lambda p: rewrite(p, format="x"), ValueError, r"dataset\.json was not written by"),
        (lambda p: (p / "dataset.json").write_text("{"), ValueError, "was not written by"),
        (lambda p: rewrite(p, arrays={"set": []}), ValueError, "describes something unknown"),
        (lambda p: rewrite(p, clients=4), ValueError, "offsets of clients"),
        (
            lambda p: np.save(p / "offsets.npy", np.array([1, 2, 3])),
            ValueError,
            "offsets of clients",
        ),
        (lambda p: np.save(p / "arrays.npy", np.ones(3)), ValueError, r"holds float64\[3\]"),
        (lambda p: (p / "arrays.npy").write_bytes(b"x" * 200), ValueError, "is damaged"),
        (lambda p: (p / "weights.npy").unlink(), FileNotFoundError, "weights.npy"),
    ],
)
def test_a_folder_is_checked_when_it_is_opened(tmp_path, spoil, error, words):
    data.save(data.from_packed(np.ones(3, np.float32), [1, 2]), tmp_path)
    spoil(tmp_path)
    with pytest.raises(error, match=words):
        data.open(tmp_path)
