"""Local files: read as they are, or refused; nothing is unpickled."""

import json
import os
import pathlib
import sys

import numpy as np
import pytest

from fjx import data


def test_npz_by_client(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, who=np.array(["b", "a", "b"]), x=np.eye(3), y=np.arange(3), names=np.arange(2))
    dataset, names = data.from_npz(path, client="who")
    assert names.tolist() == ["a", "b"]
    assert sorted(dataset.arrays) == ["x", "y"]  # names is not one row an example
    assert dataset.client(1)["y"].tolist() == [0, 2]
    chosen, _ = data.from_npz(path, client="who", fields=["y"])
    assert sorted(chosen.arrays) == ["y"]


def test_npz_leaves_columns_of_texts_unless_named(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, who=np.arange(2), x=np.ones(2), note=np.array(["a", "b"]))
    assert sorted(data.from_npz(path, client="who")[0].arrays) == ["x"]
    with pytest.raises(TypeError, match="must be numbers"):
        data.from_npz(path, client="who", fields=["note"])


def test_npz_refusals(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, who=np.arange(3), x=np.ones(3), short=np.ones(2), thing=np.array([{}, 1, 2]))
    for kwargs, words in (
        ({"client": "nobody"}, "no array 'nobody'"),
        ({"client": "who", "fields": ["z"]}, r"no arrays \['z'\]"),
        ({"client": "who", "fields": ["short"]}, "one row for each of the 3"),
        ({"client": "who", "fields": ["thing"]}, "allow_pickle"),
    ):
        with pytest.raises(ValueError, match=words):
            data.from_npz(path, **kwargs)
    with pytest.raises(FileNotFoundError):
        data.from_npz(tmp_path / "absent.npz", client="who")


def leaf(**changes):
    content = {
        "users": ["u", "v"],
        "num_samples": [2, 1],
        "user_data": {
            "u": {"x": [[0.0], [1.0]], "y": [0, 1]},
            "v": {"x": [[2.0]], "y": [1]},
        },
    }
    return content | changes


def test_leaf_json(tmp_path):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(json.dumps(leaf()))
    second = {"users": ["w"], "num_samples": [1], "user_data": {"w": {"x": [[3.0]], "y": [0]}}}
    two.write_text(json.dumps(second))
    dataset, users = data.from_leaf_json([one, two])
    assert users.tolist() == ["u", "v", "w"]
    assert dataset.sizes.tolist() == [2, 1, 1]
    assert dataset.client(2)["x"].tolist() == [[3.0]]


def test_leaf_json_users_need_not_write_numbers_alike(tmp_path):
    """JSON writers drop the point of 1.0, and a user without samples shows no shape."""
    path = tmp_path / "all.json"
    users = {
        "none": {"x": [], "y": []},
        "ints": {"x": [[0, 1]], "y": [3]},
        "floats": {"x": [[0.5, 1.0], [2.0, 3.0]], "y": [0, 1]},
    }
    content = {"users": list(users), "num_samples": [0, 1, 2], "user_data": users}
    path.write_text(json.dumps(content))
    dataset, _ = data.from_leaf_json(path)
    assert dataset.sizes.tolist() == [0, 1, 2]
    assert dataset.arrays["x"].tolist() == [[0, 1], [0.5, 1], [2, 3]]
    assert (dataset.arrays["x"].dtype, dataset.arrays["y"].dtype) == (np.float32, np.int32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"users": ["u", "u"]}, "occurs twice"),
        ({"users": ["u", "z"]}, "no user_data"),
        ({"num_samples": [2, 2]}, "should have 2 samples"),
        ({"num_samples": [2]}, "1 entries for 2 users"),
        ({"user_data": {"u": {"x": [[1], [2, 3]], "y": [0, 1]}}, "users": ["u"], "num_samples": [2]},
         "regular shape"),
        ({"user_data": {"u": {"x": ["a", "b"], "y": [0, 1]}}, "users": ["u"], "num_samples": [2]},
         "not numeric"),
        ({"user_data": {"u": {"x": [1, 2]}}, "users": ["u"], "num_samples": [2]}, "needs x and y"),
    ],
)  # fmt: skip
def test_leaf_json_refusals(tmp_path, changes, words):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(leaf(**changes)))
    with pytest.raises(ValueError, match=words):
        data.from_leaf_json(path)


def test_other_json_is_refused(tmp_path):
    path = tmp_path / "other.json"
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="not LEAF JSON"):
        data.from_leaf_json(path)


def test_phone_data():
    """The natural partition: 23 people with 70 to 142 windows each."""
    path = pathlib.Path(os.environ.get("FJX_DATA", "/nowhere"), "phone_har.npz")
    if not path.is_file():
        pytest.skip("FJX_DATA names no folder with phone_har.npz")
    dataset, people = data.from_npz(path, client="subject", fields=["x", "y"])
    assert len(people) == dataset.num_clients == 23
    assert (int(dataset.sizes.min()), int(dataset.sizes.max())) == (70, 142)
    assert dataset.arrays["x"].shape[1:] == (128, 6)
    assert dataset.arrays["x"].dtype == np.float16  # as on disk
    with np.load(path) as file:
        mine = file["subject"] == people[7]
        np.testing.assert_array_equal(dataset.client(7)["x"], file["x"][mine])
        np.testing.assert_array_equal(dataset.client(7)["y"], file["y"][mine])


def test_digits():
    """All 1797 images, once each, in the training part or held out; the same in every call."""
    dataset = data.digits(num_clients=30, alpha=0.3)
    assert int(dataset.sizes.sum()) + len(dataset.test["y"]) == 1797
    assert int(dataset.sizes.min()) >= 1
    assert dataset.arrays["x"].shape[1:] == (64,)
    assert float(dataset.arrays["x"].min()) == 0.0
    assert float(dataset.arrays["x"].max()) == 1.0
    again = data.digits(num_clients=30, alpha=0.3)
    assert np.array_equal(dataset.arrays["x"], again.arrays["x"])
    for alpha in (None, np.inf):
        even = data.digits(num_clients=30, alpha=alpha)
        assert int(even.sizes.max() - even.sizes.min()) <= 1


def test_digits_without_scikit_learn_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"fjx\[examples\]"):
        data.digits()
