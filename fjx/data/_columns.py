"""Columns of tables as arrays; missing values and texts are refused by name.

A table is known by what it can do, so that pandas, Polars, Arrow and Hugging Face are not imported: it
names its columns, and gives a column for a name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fjx._base import Tree

Encoding = Sequence[Any] | Callable[[Any], Any]
"""The categories of a column, whose places are its codes; or a function that makes numbers of it."""


def arrays_of(tree: Tree, name: str = "examples") -> Tree:
    """The tree with NumPy arrays as leaves, and a dict of its columns in place of each table.

    Raises:
        TypeError: a column of a table holds texts, dates or objects.
        ValueError: a column of a table has missing values or cells of unequal shapes.
    """

    def read(path: Any, x: Any) -> Any:
        where = name + jax.tree_util.keystr(path)
        names = _column_names(x)
        if names is None:
            return _plain(where, x)
        if not names or len(set(names)) != len(names):
            raise ValueError(f"{where}: a table needs columns of distinct names, got {names}")
        return {column: _column(f"{where}: column {column!r}", x[column]) for column in names}

    return jax.tree_util.tree_map_with_path(read, tree)


def complete(name: str, values: Any) -> np.ndarray:
    """Labels or ids as an array of numbers or texts.

    Raises:
        TypeError: texts and numbers are mixed.
        ValueError: a value is missing.
    """
    found = np.asarray(values)
    if found.dtype.kind in "US" and not hasattr(values, "dtype"):
        found = np.asarray(values, object)  # in a list of texts NumPy would make a text of NaN
    cells = found.ravel()
    if found.dtype.kind == "O":
        absent = np.array([_absent(cell) for cell in cells], bool)
    else:
        absent = cells != cells  # NaN, and dates that are none
    if absent.any():
        raise ValueError(
            f"{name} must have no missing values (NaN or None), got {absent.sum()}, the first at "
            f"{int(absent.argmax())}; drop or fill them first"
        )
    if found.dtype.kind != "O":
        return found
    if len({isinstance(cell, str) for cell in cells}) > 1:
        raise TypeError(f"{name} must be all texts or all numbers, got both; convert them first")
    return np.array(cells.tolist()).reshape(found.shape) if cells.size else found


def encoded(name: str, values: Any, encoding: Encoding) -> np.ndarray:
    """Numbers in place of the values of a column.

    Raises:
        ValueError: a category occurs twice, or a value is none of them.
    """
    if callable(encoding):
        return np.asarray(encoding(values))
    codes = {category: code for code, category in enumerate(encoding)}
    if len(codes) != len(encoding):
        raise ValueError(f"{name}: each category must occur once in encode, got {list(encoding)}")
    cells = np.asarray(values)
    if unknown := set(cells.ravel().tolist()) - codes.keys():
        raise ValueError(
            f"{name} has values that are no category in encode: {sorted(map(repr, unknown))[:5]}"
        )
    flat = [codes[cell] for cell in cells.ravel().tolist()]
    return np.array(flat, np.int32).reshape(cells.shape)


def unused(path: Any, encode: Mapping[str, Encoding], names: Any) -> None:
    """Raise ValueError if ``encode`` names a column that is not read."""
    if wrong := sorted(set(encode) - set(names)):
        raise ValueError(f"{path}: encode names {wrong}, but the columns are {sorted(names)}")


def _column_names(x: Any) -> list[Any] | None:
    """Names of the columns of a table; None if ``x`` is no table."""
    if isinstance(x, np.ndarray):
        return None if x.dtype.names is None else list(x.dtype.names)
    if isinstance(x, jax.Array) or not hasattr(x, "__len__"):
        return None
    names = getattr(x, "column_names", None)  # Arrow and Hugging Face
    names = getattr(x, "columns", None) if names is None else names  # pandas and Polars
    return None if names is None or callable(names) else list(names)


def _column(where: str, values: Any) -> np.ndarray:
    """Numbers of one column of a table."""
    if _column_names(values) is not None:
        raise ValueError(f"{where} is a table itself; give one of the tables")
    absent = getattr(values, "null_count", 0)  # Arrow and Polars show a missing integer as NaN
    found = _plain(where, values)
    if found.dtype.kind == "O" or (absent() if callable(absent) else absent):
        complete(where, values)
    if found.dtype.kind in "OSUMm":
        raise TypeError(
            f"{where} must hold numbers, got {found.dtype}; encode it first, for example by "
            "np.unique(column, return_inverse=True), or leave it out"
        )
    return complete(where, found) if found.dtype.kind == "f" else found


def _plain(where: str, values: Any) -> np.ndarray:
    """NumPy array of a leaf; cells that are arrays, lists or numbers themselves become one array."""
    try:
        found = values if isinstance(values, np.ndarray) else np.asarray(values)
        if found.dtype.kind == "O" and found.ndim == 1 and found.size:
            found = np.stack([np.asarray(cell) for cell in found])
    except ValueError as error:
        raise ValueError(f"{where} must have cells of one shape; pad or cut them first") from error
    if found.dtype.kind == "O" and not found.ndim:
        raise TypeError(
            f"{where} must be an array or a table in memory, got {type(values).__name__}; "
            "collect a table that is lazy first"
        )
    return found


def _absent(cell: Any) -> bool:
    """True for None, NaN and pandas.NA."""
    try:
        return cell is None or bool(cell != cell)
    except (TypeError, ValueError):  # pandas.NA answers neither yes nor no; a cell may be an array
        return np.ndim(cell) == 0
