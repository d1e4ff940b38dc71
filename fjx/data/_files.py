"""Federated data from local files."""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from fjx.data._dataset import FederatedData, from_clients
from fjx.data._partition import by_id, split


def from_npz(
    path: str | os.PathLike[str], *, client: str, fields: Sequence[str] | None = None
) -> tuple[FederatedData, np.ndarray]:
    """Federated dataset from a ``.npz`` file with one row per example and a column of client ids.

    Args:
        path: path of the file.  The file is never unpickled.
        client: name of the array of client ids, ``[n]``.
        fields: names of the arrays to keep; by default all other numeric arrays of the same length.

    Returns:
        The dataset ``{field: [total, ...]}``, with each client's rows in the order of the file, and the
        clients' ids in the order of the dataset.

    Raises:
        FileNotFoundError: the file does not exist.
        TypeError: one of ``fields`` holds texts.
        ValueError: an array is missing, has another length, or holds Python objects.

    Examples:
        >>> import pathlib, tempfile, numpy as np
        >>> from fjx import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "two.npz"
        ...     np.savez(path, who=np.array([7, 3, 7]), x=np.arange(3.0))
        ...     dataset, names = data.from_npz(path, client="who")
        >>> names.tolist(), dataset.client(1)["x"].tolist()
        ([3, 7], [0.0, 2.0])
    """
    with np.load(path, allow_pickle=False) as file:
        if client not in file.files:
            raise ValueError(f"{path} has no array {client!r} of client ids; it has {file.files}")
        ids = file[client]
        if fields is None:
            others = {name: file[name] for name in file.files if name != client}
            arrays = {
                k: v
                for k, v in others.items()
                if v.shape[:1] == ids.shape[:1] and v.dtype.kind not in "OSUMm"
            }
        else:
            if missing := sorted(set(fields) - set(file.files)):
                raise ValueError(f"{path} has no arrays {missing}; it has {file.files}")
            arrays = {name: file[name] for name in fields}
    wrong = {k: list(v.shape) for k, v in arrays.items() if v.shape[:1] != ids.shape[:1]}
    if wrong or not arrays:
        raise ValueError(
            f"{path}: every field needs one row for each of the {len(ids)} client ids, got {wrong}"
        )
    partition, names = by_id(ids)
    return split(arrays, partition), names


def from_leaf_json(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> tuple[FederatedData, np.ndarray]:
    """Federated dataset from the JSON files of LEAF.

    The form is ``{"users": [...], "num_samples": [...], "user_data": {user: {x, y}}}``.

    JSON does not always distinguish 1.0 from 1, nor an empty image from an empty text.  Therefore x
    and y get the dtype that holds the values of all users, and a user without samples gets the shape
    of the others.

    Args:
        paths: path of one file, or several; users keep their order.

    Returns:
        The dataset ``{"x": ..., "y": ...}``, and the users' names in its order.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the file does not have LEAF's form, a user occurs twice, a number of samples is
            wrong, or examples are not numbers of one shape (encode texts first).

    Examples:
        >>> import json, pathlib, tempfile
        >>> from fjx import data
        >>> leaf = {"users": ["u"], "num_samples": [2],
        ...         "user_data": {"u": {"x": [[0.0], [1.0]], "y": [0, 1]}}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "all.json"
        ...     _ = path.write_text(json.dumps(leaf))
        ...     dataset, users = data.from_leaf_json(path)
        >>> dataset.arrays["y"].tolist(), users.tolist()
        ([0, 1], ['u'])

    References:
        Caldas et al., *LEAF: A Benchmark for Federated Settings*, 2018 (arXiv:1812.01097).
    """
    many = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    clients: dict[str, dict[str, np.ndarray]] = {}
    for path in many:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        if not isinstance(content, dict) or not {"users", "user_data"} <= set(content):
            raise ValueError(f"{path} is not LEAF JSON: it needs 'users' and 'user_data'")
        users = content["users"]
        counts = content.get("num_samples", [None] * len(users))
        if len(counts) != len(users):
            raise ValueError(
                f"{path}: num_samples has {len(counts)} entries for {len(users)} users"
            )
        for user, count in zip(users, counts, strict=True):
            if user in clients or user not in content["user_data"]:
                raise ValueError(f"{path}: user {user!r} occurs twice, or has no user_data")
            clients[user] = _leaf_user(path, user, content["user_data"][user], count)
    columns = [_alike([user[name] for user in clients.values()]) for name in ("x", "y")]
    rows = [{"x": x, "y": y} for x, y in zip(*columns, strict=True)]
    return from_clients(rows), np.array(list(clients))


def _alike(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Arrays of all users in one dtype; arrays without rows get the trailing shape of the others."""
    filled = [x for x in arrays if len(x)]
    if not filled:
        return arrays
    dtype, empty = np.result_type(*filled), (0, *filled[0].shape[1:])
    return [(x if len(x) else x.reshape(empty)).astype(dtype) for x in arrays]


def _leaf_user(path: Any, user: str, content: Any, count: int | None) -> dict[str, np.ndarray]:
    """Arrays x and y of one user, after a check of their dtype and number of samples."""
    try:
        arrays = {name: np.array(content[name]) for name in ("x", "y")}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: user {user!r} needs x and y of regular shape") from error
    for name, values in arrays.items():
        if values.dtype.kind not in "iufb":
            raise ValueError(f"{path}: {name} of user {user!r} is not numeric; encode it first")
        if not values.ndim or len(values) != (count if count is not None else len(arrays["x"])):
            raise ValueError(
                f"{path}: user {user!r} should have {count} samples, {name} has shape "
                f"{list(values.shape)}"
            )
    return arrays
