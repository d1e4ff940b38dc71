"""Data on the host: in NumPy arrays, in memory maps, and in a folder."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Tree
from fjx.data._columns import arrays_of
from fjx.data._dataset import FederatedData, pack

_FORMAT, _VERSION, _HEADER = "fjx.data", 1, "dataset.json"


def on_host(dataset: FederatedData) -> FederatedData:
    """The same data on the host, so that at most two cohorts are on the device at a time.

    Args:
        dataset: dataset on the device or on the host.

    Returns:
        The dataset with NumPy arrays.  :func:`fjx.simulate` gives the same results for it.

    Examples:
        >>> import numpy as np
        >>> from fjx import data
        >>> dataset = data.on_host(data.from_clients([np.ones((2, 3)), np.ones((1, 3))]))
        >>> type(dataset.arrays), dataset.hosted
        (<class 'numpy.ndarray'>, True)
    """
    arrays, weights, test = jax.tree.map(
        np.asarray, (dataset.arrays, dataset.weights, dataset.test)
    )
    return FederatedData(arrays, np.asarray(dataset.offsets, np.int64), weights, test)


def on_device(dataset: FederatedData) -> FederatedData:
    """The same data on the default device, the inverse of :func:`on_host`.

    Args:
        dataset: dataset on the device or on the host.

    Returns:
        The dataset with JAX arrays.

    Raises:
        ValueError: there are more than 2^31 - 1 examples.

    Examples:
        >>> import numpy as np
        >>> from fjx import data
        >>> data.on_device(data.from_packed(np.ones(3), [2, 1])).hosted
        False
    """
    if not dataset.hosted:
        return dataset
    sizes = np.diff(dataset.offsets)
    return pack(dataset.arrays, sizes, weights=dataset.weights, test=dataset.test)


def from_packed(
    arrays: Tree, sizes: Any, *, weights: Any = None, test: Tree | None = None
) -> FederatedData:
    """Dataset on the host from arrays that are in the order of their clients.

    Guarantees:
        - Arrays of at most 32 bits, memory maps included, are neither copied nor read.

    Args:
        arrays: pytree of ``[total, ...]``, NumPy arrays or memory maps (``np.load(path,
            mmap_mode="r")``): the rows of client 0, then those of client 1, and so on.  There may be
            more than 2^31 rows.  A table of pandas, Polars, Arrow or Hugging Face is read as a dict of
            its columns.
        sizes: ``i[num_clients]``, number of examples of each client.
        weights: ``f32[num_clients]``, weight of each client; by default its number of examples.
        test: central test examples.

    Returns:
        A :class:`FederatedData` on the host.

    Raises:
        TypeError: sizes are not integers, or a leaf holds texts, dates or objects.
        ValueError: there are no clients or no arrays; a size is negative; the number of rows differs
            from the sum of sizes; or a client has more than 2^31 - 1 examples.

    Examples:
        >>> import numpy as np
        >>> from fjx import data
        >>> dataset = data.from_packed({"x": np.arange(3.0, dtype=np.float32)}, [2, 1])
        >>> dataset.num_clients, dataset.client(0)["x"].tolist()
        (2, [0.0, 1.0])
    """
    sizes = np.asarray(sizes)
    if sizes.dtype.kind not in "iu":
        raise TypeError(f"sizes must be integers, got {sizes.dtype}")
    if sizes.ndim != 1 or not sizes.size:
        raise ValueError(
            f"sizes must be a vector of one client or more, got shape {list(sizes.shape)}"
        )
    if sizes.min() < 0 or sizes.max() >= 2**31:
        raise ValueError(f"sizes must be in [0, 2^31), got {sizes.min()} to {sizes.max()}")
    if not jax.tree.leaves(arrays):
        raise ValueError("from_packed needs arrays, got an empty pytree")
    arrays, total = arrays_of(arrays), int(sizes.sum(dtype=np.int64))
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        if np.shape(leaf)[:1] != (total,):
            where = jax.tree_util.keystr(path) or "the only leaf"
            raise ValueError(
                f"arrays need one row for each of the {total} examples that sizes add up to; "
                f"{where} has shape {list(np.shape(leaf))}"
            )
    return pack(arrays, sizes, weights=weights, test=test, hosted=True)


def save(dataset: FederatedData, folder: str | os.PathLike[str]) -> None:
    """Write a dataset into a folder, as plain ``.npy`` files and a small JSON file.

    The JSON file is written last, so a folder whose writing was interrupted cannot be opened.

    Args:
        dataset: dataset on the device or on the host; its pytrees consist of dicts, lists and tuples.
        folder: folder that is created if needed; it must not hold a dataset.

    Raises:
        FileExistsError: the folder holds a dataset.
        TypeError: a pytree has nodes of another kind.

    Examples:
        >>> import tempfile, numpy as np
        >>> from fjx import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data.save(data.from_clients([np.ones(2), np.ones(3)]), folder)
        ...     data.open(folder).sizes.tolist()
        [2, 3]
    """
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / _HEADER).exists():
        raise FileExistsError(f"{folder} holds a dataset already; give another folder")
    dataset = on_host(dataset)
    header: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "clients": dataset.num_clients,
    }
    for field in dataclasses.fields(dataset):
        header[field.name] = _write(getattr(dataset, field.name), folder, field.name)
    (folder / _HEADER).write_text(json.dumps(header, indent=1), encoding="utf-8")


def open(folder: str | os.PathLike[str]) -> FederatedData:
    """Dataset on the host that :func:`save` wrote, with memory maps as arrays.

    Only the offsets and weights are read before a client takes part.

    Args:
        folder: folder that was given to :func:`save`.

    Returns:
        A :class:`FederatedData` on the host.

    Raises:
        FileNotFoundError: the folder holds no dataset, or one of its files is missing.
        ValueError: the files differ from the description in the JSON file, or are of a later version.

    Examples:
        >>> import tempfile, numpy as np
        >>> from fjx import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data.save(data.from_clients([{"x": np.arange(4)}]), folder)
        ...     dataset = data.open(folder)
        >>> type(dataset.arrays["x"]), dataset.client(0)["x"].tolist()
        (<class 'numpy.memmap'>, [0, 1, 2, 3])
    """
    folder = Path(folder).expanduser()
    if not (folder / _HEADER).exists():
        raise FileNotFoundError(f"{folder} holds no dataset ({_HEADER}) that data.save wrote")
    try:
        header = json.loads((folder / _HEADER).read_bytes())
        known = header["format"] == _FORMAT
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ValueError(f"{folder / _HEADER} was not written by data.save")
    if header["version"] != _VERSION:
        raise ValueError(
            f"{folder} is of version {header['version']}; this fjx reads version {_VERSION}"
        )
    arrays, offsets, weights, test = (
        _read(header[field.name], folder) for field in dataclasses.fields(FederatedData)
    )
    offsets = np.array(offsets)
    if offsets[0] != 0 or len(offsets) != header["clients"] + 1 or (np.diff(offsets) < 0).any():
        raise ValueError(
            f"{folder}: the offsets of clients must be {header['clients'] + 1} numbers that begin "
            "at 0 and never decrease"
        )
    if len(weights) != header["clients"]:
        raise ValueError(f"{folder}: {header['clients']} clients, but {len(weights)} weights")
    if any(len(x) != offsets[-1] for x in jax.tree.leaves(arrays)):
        raise ValueError(f"{folder}: each array must have {offsets[-1]} rows, as the offsets say")
    return FederatedData(arrays, offsets, weights, test).with_weights(weights)


def _write(tree: Tree, folder: Path, name: str) -> Any:
    """Write the leaves of a tree to files named after their place in it, and return its description."""
    if tree is None:
        return None
    if isinstance(tree, np.ndarray):
        # NumPy's format has only NumPy's dtypes.  Others (bfloat16) are stored as unsigned integers.
        plain = tree.view(f"u{tree.dtype.itemsize}") if tree.dtype.kind == "V" else tree
        np.save(folder / f"{name}.npy", plain)
        return {"file": f"{name}.npy", "dtype": tree.dtype.name, "shape": list(tree.shape)}
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        named = enumerate(tree.items())
        return {"dict": {key: _write(x, folder, f"{name}.{i}") for i, (key, x) in named}}
    if type(tree) in (list, tuple):
        parts = [_write(x, folder, f"{name}.{i}") for i, x in enumerate(tree)]
        return {type(tree).__name__: parts}
    raise TypeError(
        f"save writes arrays in dicts with string keys, lists and tuples, not {type(tree).__name__} "
        f"(in {name}); build the dataset from these containers"
    )


def _read(description: Any, folder: Path) -> Tree:
    """Tree with the given description, with memory maps as leaves."""
    match description:
        case None:
            return None
        case {"dict": parts}:
            return {key: _read(part, folder) for key, part in parts.items()}
        case {"list": parts}:
            return [_read(part, folder) for part in parts]
        case {"tuple": parts}:
            return tuple(_read(part, folder) for part in parts)
        case {"file": file, "dtype": name, "shape": shape}:
            dtype, path = jnp.dtype(name), folder / file
            try:
                # An empty file cannot be mapped.
                x = np.load(path, mmap_mode="r" if 0 not in shape else None, allow_pickle=False)
            except ValueError as error:
                raise ValueError(f"{path} is damaged: {error}") from error
            stored = np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype
            if x.dtype != stored or list(x.shape) != shape:
                raise ValueError(
                    f"{path} holds {x.dtype}{list(x.shape)}; {_HEADER} says {name}{shape}"
                )
            return x.view(dtype)
    raise ValueError(f"{folder / _HEADER} describes something unknown: {description}")
