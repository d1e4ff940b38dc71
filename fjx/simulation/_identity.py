"""The identity of a dataset in a few words: its form, the clients' sizes and weights, and some rows."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fjx._base import Array
from fjx.data import FederatedData

_BYTES = 2**20  # of the rows of a column that are read


def data_of(dataset: FederatedData) -> dict[str, Any]:
    """Facts by which the data of two runs can be compared, without reading all of them.

    Two datasets with the same facts may still differ in a row that was not read.  The digests tell
    nothing of the data but by a comparison with other data.
    """
    columns = jax.tree_util.tree_leaves_with_path(dataset.arrays)
    forms = [
        f"{jax.tree_util.keystr(path, simple=True, separator='/')}: {np.dtype(x.dtype).name}"
        f"{list(x.shape[1:])}"
        for path, x in columns
    ]
    return {
        "clients": dataset.num_clients,
        "examples": len(columns[0][1]),
        "columns": forms,
        "sizes": _digest([np.asarray(dataset.offsets, np.int64), np.asarray(dataset.weights)]),
        "rows": _digest([_rows(x) for _, x in columns]),
    }


def difference(found: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What differs, in words."""
    for name in ("clients", "examples"):
        if found[name] != given[name]:
            return f"{found[name]} {name}, and this run has {given[name]}"
    if found["columns"] != given["columns"]:
        return f"columns {found['columns']}, and this run has {given['columns']}"
    what = "sizes or weights of its clients" if found["sizes"] != given["sizes"] else "examples"
    return f"other {what} than this run"


def _rows(x: Array | np.ndarray) -> np.ndarray:
    """Rows from everywhere in a column; none of a column that other processes hold."""
    if not getattr(x, "is_fully_addressable", True) or not len(x):
        return np.zeros(0)
    size = int(np.prod(x.shape[1:])) * np.dtype(x.dtype).itemsize
    count = min(len(x), max(_BYTES // max(size, 1), 2))
    at = np.linspace(0, len(x) - 1, count).astype(np.int64)
    if isinstance(x, np.ndarray) or jax.default_backend() == "cpu":
        return np.asarray(x)[at]
    return np.asarray(x[at])


def _digest(arrays: list[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for x in arrays:
        digest.update(repr(x.shape).encode())
        digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()
