"""Tables are read by column, and what is missing or no number is refused by name."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
import pytest

from fjx import data, simulation

KEY = jax.random.key(0)
COLUMNS = {"a": [1.5, 2.5, 3.5], "y": [0, 1, 0], "v": [[1, 2], [3, 4], [5, 6]]}
PARTS = [[2], [0, 1]]


@dataclasses.dataclass
class Frame:
    """The part of a table of pandas or Polars that is used; columns are arrays of objects, at worst."""

    content: Mapping

    @property
    def columns(self):
        return list(self.content)

    def __len__(self):
        return len(next(iter(self.content.values())))

    def __getitem__(self, name):
        column = np.empty(len(self), object)
        column[:] = self.content[name]
        return column


@dataclasses.dataclass
class Dataset:
    """The part of a Hugging Face dataset that is used; columns are lists."""

    content: Mapping

    @property
    def column_names(self):
        return list(self.content)

    def __len__(self):
        return len(next(iter(self.content.values())))

    def __getitem__(self, name):
        return self.content[name]


def of_library(module, maker):
    def make(content):
        library = pytest.importorskip(module)
        return getattr(library, maker)(content)

    return pytest.param(make, id=module)


def hugging_face(content):
    return pytest.importorskip("datasets").Dataset.from_dict(content)


TABLES = [
    Frame,
    Dataset,
    of_library("pandas", "DataFrame"),
    of_library("polars", "DataFrame"),
    of_library("pyarrow", "table"),
    hugging_face,
]
every = pytest.mark.parametrize("table", TABLES)


@every
def test_a_table_is_the_dict_of_its_columns(table):
    found = data.split(table(COLUMNS), PARTS, test=table(COLUMNS))
    expected = data.split({k: np.array(v) for k, v in COLUMNS.items()}, PARTS)
    assert found.arrays.keys() == COLUMNS.keys()
    for name in COLUMNS:
        assert found.arrays[name].dtype == expected.arrays[name].dtype
        np.testing.assert_array_equal(found.arrays[name], expected.arrays[name])
        np.testing.assert_array_equal(found.test[name], COLUMNS[name])
    clients = data.from_clients([table(COLUMNS), table(COLUMNS)])
    assert (clients.sizes.tolist(), clients.client(1)["y"].tolist()) == ([3, 3], [0, 1, 0])
    packed = data.from_packed({"in": table(COLUMNS)}, [1, 2])
    assert packed.client(1)["in"]["v"].tolist() == [[3, 4], [5, 6]]
    score = simulation.evaluation(lambda w, batch: {"a": w * batch["a"]}, table(COLUMNS))
    assert float(score(2.0)["a"]) == 5.0


@every
@pytest.mark.parametrize(
    ("column", "error", "words"),
    [
        (["a", "b", "c"], TypeError, "must hold numbers, .*np.unique"),
        ([0, 1, None], ValueError, "no missing values .* got 1, the first at 2"),
        ([0.0, None, 1.0], ValueError, "no missing values .* got 1, the first at 1"),
        ([float("nan"), 0.0, 1.0], ValueError, "no missing values .* got 1, the first at 0"),
        ([[1], [1, 2], [3]], ValueError, "cells of one shape; pad or cut"),
    ],
    ids=["texts", "missing", "null", "nan", "ragged"],
)
def test_no_column_is_dropped_or_filled(table, column, error, words):
    with pytest.raises(error, match=f"examples: column 'label' .*{words}"):
        data.split(table({"x": [1.0, 2.0, 3.0], "label": column}), PARTS)


def test_tables_that_are_none():
    with pytest.raises(ValueError, match="column 'train' is a table itself"):
        data.split(Dataset({"train": Dataset(COLUMNS)}), PARTS)
    with pytest.raises(ValueError, match="columns of distinct names"):
        data.split(Frame({}), PARTS)
    with pytest.raises(TypeError, match=r"examples must be an array or a table .* got object"):
        data.split(object(), PARTS)
    with pytest.raises(TypeError, match=r"client 0\['y'\]|examples\['y'\] must be numbers"):
        data.from_clients([{"x": np.ones(1), "y": np.array(["a"])}])
    rows = np.array([(1, 2.0), (3, 4.0)], [("a", int), ("b", float)])
    assert data.split(rows, [[1], [0]]).client(0)["b"].tolist() == [4.0]


MISSING = {
    "nan": np.array([0.0, np.nan, 1.0, 1.0]),
    "none": [0, None, 1, 1],
    "texts": ["a", None, "b", "b"],
    "nan among texts": ["a", float("nan"), "b", "b"],
    "no date": np.array(["2026-01-01", "NaT", "2026-01-02", "2026-01-02"], "M8[D]"),
}


@pytest.mark.parametrize("labels", MISSING.values(), ids=MISSING)
@pytest.mark.parametrize(
    "use",
    [
        lambda labels: data.dirichlet(KEY, labels, num_clients=2, alpha=1.0),
        lambda labels: data.shards(KEY, labels, num_clients=2),
        lambda labels: data.by_id(labels),
        lambda labels: data.statistics(data.from_clients([np.ones(4)]), labels),
    ],
    ids=["dirichlet", "shards", "by_id", "statistics"],
)
def test_missing_labels_are_refused(use, labels):
    """NaN is no class: dirichlet gave such an example to an owner out of uninitialised memory."""
    with pytest.raises(ValueError, match=r"must have no missing values .* got 1, the first at 1"):
        use(labels)


def test_labels_may_be_texts_but_not_both():
    labels = np.array(["b", "a", "b"], object)
    assert data.by_id(labels)[1].tolist() == ["a", "b"]
    with pytest.raises(TypeError, match="ids must be all texts or all numbers"):
        data.by_id(["1", 1])


def test_a_partition_of_the_host_stays_there():
    """The whole never lies on the device."""
    examples = {"x": np.arange(6.0, dtype=np.float32)}
    dataset = data.split(examples, [[5, 0], [3]], hosted=True)
    assert dataset.hosted
    assert dataset.offsets.dtype == np.int64
    assert dataset.client(0)["x"].tolist() == [5.0, 0.0]
    for found, on_device in zip(
        jax.tree.leaves(data.on_device(dataset)),
        jax.tree.leaves(data.split(examples, [[5, 0], [3]])),
        strict=True,
    ):
        np.testing.assert_array_equal(found, on_device)
