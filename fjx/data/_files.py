"""Federated data from local files."""

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fjx.data._columns import Encoding, complete, encoded, unused
from fjx.data._dataset import FederatedData, from_clients
from fjx.data._partition import by_id, split


def from_npz(
    path: str | os.PathLike[str],
    *,
    client: str,
    fields: Sequence[str] | None = None,
    encode: Mapping[str, Encoding] | None = None,
    hosted: bool = False,
) -> tuple[FederatedData, np.ndarray]:
    """Federated dataset from a ``.npz`` file with one row per example and a column of client ids.

    Args:
        path: path of the file; ``~`` is the home folder.  The file is never unpickled.
        client: name of the array of client ids, ``[n]``.
        fields: names of the arrays to keep; by default all other arrays of the same length.
        encode: for columns of texts, the list of their categories, whose places become the numbers; or
            a function of the column that returns numbers.
        hosted: True to keep the dataset on the host, for data larger than the device; see
            :func:`fjx.data.on_host`.

    Returns:
        The dataset ``{field: [total, ...]}``, with each client's rows in the order of the file, and the
        clients' ids in the order of the dataset.

    Raises:
        FileNotFoundError: the file does not exist.
        TypeError: a column holds texts or dates, and ``encode`` does not name it.
        ValueError: the file is no ``.npz`` file; an array is missing, has another length, or holds
            Python objects; a client id or a value is missing (NaN); a value is no category of
            ``encode``.

    Examples:
        >>> import pathlib, tempfile, numpy as np
        >>> from fjx import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "two.npz"
        ...     np.savez(path, who=np.array([7, 3, 7]), x=np.arange(3.0), y=np.array(["b", "a", "b"]))
        ...     dataset, names = data.from_npz(path, client="who", encode={"y": ["a", "b"]})
        >>> names.tolist(), dataset.client(1)["x"].tolist(), dataset.arrays["y"].tolist()
        ([3, 7], [0.0, 2.0], [0, 1, 1])
    """
    path, encode = Path(path).expanduser(), encode or {}
    with path.open("rb") as raw:
        file = _opened_npz(path, raw)
        if client not in file.files:
            raise ValueError(f"{path} has no array {client!r} of client ids; it has {file.files}")
        if missing := sorted(set(fields or ()) - set(file.files)):
            raise ValueError(f"{path} has no arrays {missing}; it has {file.files}")
        ids = _array(path, file, client)
        wanted = [name for name in file.files if name != client] if fields is None else fields
        arrays = {name: _array(path, file, name) for name in wanted}
    if fields is None:  # arrays of another length are no columns
        arrays = {k: v for k, v in arrays.items() if v.shape[:1] == ids.shape[:1]}
    wrong = {k: list(v.shape) for k, v in arrays.items() if v.shape[:1] != ids.shape[:1]}
    if wrong or not arrays or ids.ndim != 1 or not ids.size:
        raise ValueError(
            f"{path}: {client!r} must be a vector of client ids, at least one, and every field needs "
            f"one row for each of the {ids.shape[0] if ids.ndim else 0} client ids, got {wrong}"
        )
    unused(path, encode, arrays)
    numbers = {
        name: encoded(f"{path}: {name!r}", values, encode[name])
        if name in encode
        else _numeric(f"{path}: {name!r}", name, values)
        for name, values in arrays.items()
    }
    try:
        partition, names = by_id(ids)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {client!r}: {error}") from error
    return split(numbers, partition, hosted=hosted), names


def from_leaf_json(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    fields: Sequence[str] | None = None,
    encode: Mapping[str, Encoding] | None = None,
    hosted: bool = False,
) -> tuple[FederatedData, np.ndarray]:
    """Federated dataset from the JSON files of LEAF.

    The form is ``{"users": [...], "num_samples": [...], "user_data": {user: {x, y}}}``.

    JSON does not always distinguish 1.0 from 1, nor an empty image from an empty text.  Therefore each
    column gets the dtype that holds the values of all users, and a user without samples gets the shape
    of the others.  Users may be integers; JSON makes texts of them in ``user_data``.

    Args:
        paths: path of one file, of a folder of ``.json`` files, which are read in the order of their
            names but for hidden ones, or several; users keep their order.  ``~`` is the home folder.
            Texts are in UTF-8, UTF-16 or UTF-32.
        fields: names of the columns of a user to keep; by default all.
        encode: for columns of texts, the list of their categories, whose places become the numbers; or
            a function of one user's column that returns numbers.
        hosted: True to keep the dataset on the host, for data larger than the device; see
            :func:`fjx.data.on_host`.

    Returns:
        The dataset ``{"x": ..., "y": ...}``, and the users' names in its order: integers if all are.

    Raises:
        FileNotFoundError: a file does not exist, or a folder has no ``.json`` file.
        ValueError: a file does not have LEAF's form, a user occurs twice, a number of samples is wrong,
            nobody has a sample, a value is missing (null or NaN), or examples are not numbers of one
            shape and ``encode`` does not name their column; ``paths`` is empty.

    Examples:
        >>> import json, pathlib, tempfile
        >>> from fjx import data
        >>> leaf = {"users": ["u"], "num_samples": [2],
        ...         "user_data": {"u": {"x": [[0.0], [1.0]], "y": ["no", "yes"]}}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "all.json"
        ...     _ = path.write_text(json.dumps(leaf))
        ...     dataset, users = data.from_leaf_json(folder, encode={"y": ["no", "yes"]})
        >>> dataset.arrays["y"].tolist(), users.tolist()
        ([0, 1], ['u'])

    References:
        Caldas et al., *LEAF: A Benchmark for Federated Settings*, 2018 (arXiv:1812.01097).
    """
    many = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not many:
        raise ValueError("paths must name a file or a folder, got none")
    files = [file for path in many for file in _json_files(Path(path).expanduser())]
    clients: dict[str, dict[str, np.ndarray]] = {}
    names: list[str | int] = []
    for path in files:
        content = _read_json(path)
        if (
            not isinstance(content, dict)
            or not isinstance(users := content.get("users"), list)
            or not isinstance(columns := content.get("user_data"), dict)
        ):
            raise ValueError(
                f"{path} is not LEAF JSON: it needs 'users', a list, and 'user_data', an object"
            )
        counts = content.get("num_samples", [None] * len(users))
        if len(counts) != len(users):
            raise ValueError(
                f"{path}: num_samples has {len(counts)} entries for {len(users)} users"
            )
        for user, count in zip(users, counts, strict=True):
            if isinstance(user, bool) or not isinstance(user, str | int):
                raise ValueError(f"{path}: users must be texts or integers, got {user!r}")
            if str(user) in clients or str(user) not in columns:
                raise ValueError(f"{path}: user {user!r} occurs twice, or has no user_data")
            where = f"user {user!r} in {path}"
            clients[str(user)] = _leaf_user(where, columns[str(user)], count, fields, encode or {})
            names.append(user)
        if unlisted := sorted(set(columns) - {str(user) for user in users}):
            raise ValueError(f"{path}: 'users' does not list {unlisted[:5]}, which have user_data")
    if not any(len(x) for user in clients.values() for x in user.values()):
        raise ValueError(f"nobody has a sample in {', '.join(map(str, files))}")
    first = next(iter(clients.values()))
    if other := [name for name, user in clients.items() if user.keys() != first.keys()]:
        raise ValueError(
            f"all users must have the columns {sorted(first)}; user {other[0]!r} has "
            f"{sorted(clients[other[0]])}; choose columns by fields"
        )
    columns = [_alike([user[name] for user in clients.values()]) for name in first]
    rows = [dict(zip(first, values, strict=True)) for values in zip(*columns, strict=True)]
    all_integers = all(isinstance(name, int) for name in names)
    return from_clients(rows, hosted=hosted), np.array(names if all_integers else list(clients))


def _opened_npz(path: Path, raw: Any) -> Any:
    """The arrays of an open file, or ValueError if it is no ``.npz`` file."""
    try:
        file = np.load(raw, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npz file; write it by np.savez ({error})") from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError(f"{path} is one array, no .npz file; write it by np.savez")
    return file


def _array(path: Path, file: Any, name: str) -> np.ndarray:
    """One array of an open ``.npz`` file, or ValueError if it would have to be unpickled."""
    try:
        return file[name]
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: {name!r} cannot be read; Python objects are refused ({error})"
        ) from error


def _numeric(where: str, name: str, values: np.ndarray) -> np.ndarray:
    """The values, or TypeError if they are no numbers, or ValueError if one is missing."""
    if values.dtype.kind in "OSUMm":
        raise TypeError(
            f"{where} must be numbers, got {values.dtype}; encode it, for example by "
            f"encode={{{name!r}: [...]}} with its categories, or leave it out by fields"
        )
    return complete(where, values) if values.dtype.kind == "f" else values


def _json_files(path: Path) -> list[Path]:
    """The path itself, or the ``.json`` files of a folder by name, without hidden ones."""
    if not path.is_dir():
        return [path]
    if files := sorted(p for p in path.glob("*.json") if not p.name.startswith(".")):
        return files
    raise FileNotFoundError(f"the folder {path} has no .json files")


def _read_json(path: Path) -> Any:
    """Content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark."""
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_distinct)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8, UTF-16 or UTF-32; convert it to UTF-8 ({error})"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is empty or no JSON file: {error}") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these names and values; Python's own reader keeps the last of equal names."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"an object has {twice[:5]} twice")
    return found


def _alike(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Arrays of all users in one dtype; arrays without rows get the trailing shape of the others."""
    filled = [x for x in arrays if len(x)]
    if not filled:
        return arrays
    dtype, empty = np.result_type(*filled), (0, *filled[0].shape[1:])
    return [(x if len(x) else x.reshape(empty)).astype(dtype) for x in arrays]


def _leaf_user(
    where: str,
    content: Any,
    count: int | None,
    fields: Sequence[str] | None,
    encode: Mapping[str, Encoding],
) -> dict[str, np.ndarray]:
    """Arrays of one user, after a check of their dtype and number of samples."""
    names = ("x", "y", *sorted(set(content) - {"x", "y"})) if fields is None else tuple(fields)
    if not isinstance(content, dict) or not set(names) <= set(content):
        raise ValueError(f"{where} needs {' and '.join(names)}, has {list(content)}")
    unused(where, encode, names)
    arrays = {}
    for name in names:
        try:
            arrays[name] = np.asarray(content[name])
            if name in encode and arrays[name].size:
                arrays[name] = encoded(f"{name} of {where}", content[name], encode[name])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where} needs {name} of regular shape: {error}") from error
    for name, values in arrays.items():
        if values.dtype.kind not in "iufb":
            raise ValueError(
                f"{name} of {where} is not numeric; encode it, for example by "
                f"encode={{{name!r}: [...]}} with its categories, or choose columns by fields"
            )
        if np.isnan(values).any():
            raise ValueError(
                f"{name} of {where} has values that are missing (NaN); drop those samples, or fill them"
            )
        if not values.ndim or len(values) != (len(arrays[names[0]]) if count is None else count):
            raise ValueError(
                f"{where} should have {count} samples, {name} has shape {list(values.shape)}"
            )
    return arrays
