"""Local files: read as they are, or refused; nothing is unpickled."""

import json
import os
import pathlib
import sys

import jax
import numpy as np
import pytest

from fjx import data, simulation
from fjx.simulation._checkpoint import Checkpoints


def test_npz_by_client(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, who=np.array(["b", "a", "b"]), x=np.eye(3), y=np.arange(3), names=np.arange(2))
    dataset, names = data.from_npz(path, client="who")
    assert names.tolist() == ["a", "b"]
    assert sorted(dataset.arrays) == ["x", "y"]  # names is not one row an example
    assert dataset.client(1)["y"].tolist() == [0, 2]
    chosen, _ = data.from_npz(path, client="who", fields=["y"])
    assert sorted(chosen.arrays) == ["y"]


@pytest.mark.parametrize("column", [["a", "b", "a"], np.array(["2026-01-01"] * 3, "M8[D]")])
def test_npz_drops_no_column_of_texts(tmp_path, column):
    """A label that is a text must not disappear: it is encoded, left out on request, or refused."""
    path = tmp_path / "rows.npz"
    np.savez(path, who=np.arange(3), x=np.ones(3), label=np.array(column))
    for fields in (None, ["label"]):
        with pytest.raises(
            TypeError, match=r"rows.npz: 'label' must be numbers.* encode=\{'label'"
        ):
            data.from_npz(path, client="who", fields=fields)
    assert sorted(data.from_npz(path, client="who", fields=["x"])[0].arrays) == ["x"]
    categories = np.unique(column).tolist()[::-1]
    for encode in (categories, lambda values: [categories.index(v) for v in values.tolist()]):
        dataset, _ = data.from_npz(path, client="who", encode={"label": encode})
        codes = dataset.arrays["label"].tolist()
        assert [categories[code] for code in codes] == np.array(column).tolist()
    for encode, words in (
        ({"label": ["z"]}, r"rows.npz: 'label' has values that are no category"),
        ({"label": ["a", "a"]}, "each category must occur once"),
        ({"lable": ["a"]}, r"encode names \['lable'\], but the columns are \['label', 'x'\]"),
    ):
        with pytest.raises(ValueError, match=words):
            data.from_npz(path, client="who", encode=encode)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"a,b\n1,2\n", "array"])
def test_other_files_are_no_npz(tmp_path, content):
    path = tmp_path / "rows.npz"
    if content == "array":
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"rows.npz is .*no \.npz file"):
        data.from_npz(path, client="who")


def test_npz_refusals(tmp_path):
    path = tmp_path / "rows.npz"
    ids = {"none": np.ones(0), "gap": np.array([1, np.nan, 2]), "square": np.ones((3, 3))}
    arrays = {
        "x": np.ones(3),
        "short": np.ones(2),
        "empty": np.ones(0),
        "thing": np.array([{}, 1, 2]),
    }
    np.savez(path, who=np.arange(3), **ids, **arrays)
    for kwargs, words in (
        ({"client": "nobody"}, "no array 'nobody'"),
        ({"client": "who", "fields": ["z"]}, r"no arrays \['z'\]"),
        ({"client": "who", "fields": ["short"]}, "one row for each of the 3"),
        (
            {"client": "who", "fields": ["thing"]},
            "rows.npz: 'thing' .* Python objects .*allow_pickle",
        ),
        ({"client": "none", "fields": ["empty"]}, "rows.npz: 'none' must be .* at least one"),
        ({"client": "gap", "fields": ["x"]}, "rows.npz: 'gap': ids must have no missing values"),
        ({"client": "square", "fields": ["x"]}, "rows.npz: 'square' must be a vector"),
    ):
        with pytest.raises(ValueError, match=words):
            data.from_npz(path, **kwargs)
    with pytest.raises(FileNotFoundError):
        data.from_npz(tmp_path / "absent.npz", client="who")


@pytest.mark.parametrize("name", ["y", "x"])
def test_npz_with_missing_values_is_refused_by_name(tmp_path, name):
    """A label that is NaN becomes some class once it is cast to an integer."""
    path = tmp_path / "rows.npz"
    columns = {"x": np.ones((3, 2)), "y": np.ones(3)}
    columns[name][1] = np.nan
    np.savez(path, who=np.arange(3), **columns)
    with pytest.raises(ValueError, match=rf"rows.npz: '{name}' must have no missing values"):
        data.from_npz(path, client="who")


def test_files_may_stay_on_the_host(tmp_path):
    npz, json_path = tmp_path / "rows.npz", tmp_path / "all.json"
    np.savez(npz, who=np.array([1, 0, 1]), x=np.arange(3.0))
    json_path.write_text(json.dumps(leaf()))
    for read in (lambda **how: data.from_npz(npz, client="who", **how),
                 lambda **how: data.from_leaf_json(json_path, **how)):  # fmt: skip
        (here, names), (there, same) = read(hosted=True), read()
        assert here.hosted
        assert not there.hosted
        assert names.tolist() == same.tolist()
        for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(data.on_host(there)), strict=True):
            assert isinstance(a, np.ndarray)
            np.testing.assert_array_equal(a, b)


def test_hidden_files_of_a_folder_are_no_leaf_files(tmp_path):
    """On foreign disks macOS writes ._all.json beside all.json."""
    (tmp_path / "all.json").write_text(json.dumps(leaf()))
    (tmp_path / "._all.json").write_bytes(b"\x00\x05\x16\x07")
    assert data.from_leaf_json(tmp_path)[1].tolist() == ["u", "v"]
    with pytest.raises(ValueError, match="paths must name a file or a folder, got none"):
        data.from_leaf_json([])


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
        ({"users": ["u"], "num_samples": [2]}, r"bad.json: 'users' does not list \['v'\]"),
        ({"users": [1.5, "v"]}, "bad.json: users must be texts or integers, got 1.5"),
        ({"users": 3}, "bad.json is not LEAF JSON"),
        ({"user_data": ["u", "v"]}, "bad.json is not LEAF JSON"),
        ({"users": [], "user_data": {}, "num_samples": []}, "nobody has a sample in .*bad.json"),
        ({"user_data": {u: {"x": [], "y": []} for u in "uv"}, "num_samples": [0, 0]},
         "nobody has a sample in .*bad.json"),
        ({"user_data": {u: {"x": [1], "y": [float("nan")]} for u in "uv"}, "num_samples": [1, 1]},
         "y of user 'u' in .*bad.json has values that are missing"),
        ({"user_data": {u: {"x": [1], "y": [None]} for u in "uv"}, "num_samples": [1, 1]},
         "y of user 'u' in .*bad.json is not numeric"),
        ({"user_data": {"u": {"x": [1], "y": [1]}, "v": {"x": [1], "y": [1], "z": [1]}},
          "num_samples": [1, 1]}, "all users must have the columns"),
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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[1, 2]", "not LEAF JSON"),
        (b"", "is empty or no JSON file"),
        (b"x,y\n1,2", "is empty or no JSON file"),
        ('{"users": ["J\xf6rg"]}'.encode("latin-1"), "is not text in UTF-8, UTF-16 or UTF-32"),
        (b'{"users": ["u"], "user_data": {"u": {"x": [1], "y": [1]}, "u": {"x": [2], "y": [2]}}}',
         r"an object has \['u'\] twice"),
    ],
)  # fmt: skip
def test_other_files_are_no_leaf_json(tmp_path, content, words):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="other.json.*" + words):
        data.from_leaf_json(path)


def users_of(names):
    columns = {str(name): {"x": [[0.5 * i]], "y": [i]} for i, name in enumerate(names)}
    return {"users": names, "num_samples": [1] * len(names), "user_data": columns}


@pytest.mark.parametrize("names", [[3, 10], ["3", "10"], ["J\xf6rg", "\u674e"], [7, "seven"]])
def test_leaf_json_users_may_be_integers(tmp_path, names):
    """JSON has no integer names of objects: ``user_data`` calls user 3 "3"."""
    path = tmp_path / "all.json"
    path.write_text(json.dumps(users_of(names)))
    dataset, users = data.from_leaf_json(path)
    assert users.tolist() == (names if len(set(map(type, names))) == 1 else list(map(str, names)))
    assert dataset.arrays["y"].tolist() == [0, 1]
    path.write_text(json.dumps(users_of([3, "3"])))
    with pytest.raises(ValueError, match="user '3' occurs twice"):
        data.from_leaf_json(path)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"]
)
def test_leaf_json_in_any_unicode(tmp_path, encoding):
    """Editors and PowerShell write byte-order marks and UTF-16."""
    path = tmp_path / "all.json"
    path.write_text(json.dumps(users_of(["J\xf6rg"]), ensure_ascii=False), encoding=encoding)
    assert data.from_leaf_json(path)[1].tolist() == ["J\xf6rg"]


def test_leaf_json_in_folders(tmp_path):
    """LEAF writes a folder of files; they are read by name, beside files that are named."""
    folder = tmp_path / "train"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"train has no \.json files"):
        data.from_leaf_json(folder)
    for name, user in (("b", "second"), ("a", "first")):
        (folder / f"{name}.json").write_text(json.dumps(users_of([user])))
    (folder / "notes.txt").write_text("not data")
    last = tmp_path / "last.json"
    last.write_text(json.dumps(users_of(["third"])))
    assert data.from_leaf_json([folder, last])[1].tolist() == ["first", "second", "third"]


def test_leaf_json_texts_are_encoded_on_request(tmp_path):
    """Shakespeare in LEAF: x is a text of some characters, y is the next one."""
    path = tmp_path / "all.json"
    play = {"x": ["to b", "o be"], "y": ["e", "!"], "raw": ["one", "two"]}
    path.write_text(json.dumps({"users": ["R"], "num_samples": [2], "user_data": {"R": play}}))
    with pytest.raises(ValueError, match=r"x of user 'R' in .*all.json is not numeric; .* encode="):
        data.from_leaf_json(path)
    letters = " !beot"
    encode = {"x": lambda xs: [[letters.index(c) for c in x] for x in xs], "y": letters}
    with pytest.raises(ValueError, match=r"raw of user 'R'"):
        data.from_leaf_json(path, encode=encode)
    dataset, _ = data.from_leaf_json(path, fields=["x", "y"], encode=encode)
    assert ["".join(letters[c] for c in x) for x in dataset.arrays["x"].tolist()] == play["x"]
    assert [letters[c] for c in dataset.arrays["y"].tolist()] == play["y"]


def test_paths_may_begin_at_home_or_be_relative(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    np.savez(tmp_path / "rows.npz", who=np.arange(3), x=np.ones(3))
    (tmp_path / "all.json").write_text(json.dumps(leaf()))
    dataset, _ = data.from_npz("~/rows.npz", client="who")
    assert data.from_leaf_json("~/all.json")[0].num_clients == 2
    data.save(dataset, "~/saved")
    assert data.open("~/saved").num_clients == 3
    table = simulation.mapped_table("~/table")(np.ones(2), 3)
    assert pathlib.Path(table.filename).parent == tmp_path / "table"
    monkeypatch.chdir(tmp_path)
    assert data.open("saved").num_clients == data.from_npz("rows.npz", client="who")[0].num_clients
    before = jax.config.jax_compilation_cache_dir
    try:
        simulation.cache_compilations("~/cache")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    with Checkpoints.open("~/run"):
        assert (tmp_path / "run").is_dir()


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


@pytest.mark.ci
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
    assert len(data.digits(num_clients=3, test_fraction=1e-6).test["y"]) == 1
    for alpha in (None, np.inf):
        even = data.digits(num_clients=30, alpha=alpha)
        assert int(even.sizes.max() - even.sizes.min()) <= 1


def test_digits_without_scikit_learn_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"fjx\[examples\]"):
        data.digits()
