"""A sweep as rows of a table, in files that other programs read."""

import csv
import json
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from fjx.evaluation._sweep import Sweep
from fjx.simulation import History, tensorboard_writer
from fjx.simulation._callbacks import _json as in_json


def rows(sweep: Sweep) -> list[dict[str, Any]]:
    """Tidy rows: one a run, round and metric, for ``pandas.DataFrame(evaluation.rows(sweep))``.

    A row holds ``run``, ``seed``, the hyper-parameters under their names, ``round`` (from 1),
    ``metric`` and ``value``.  Scores of ``evaluate`` are called ``eval/`` and their name.  A value that
    is no scalar, such as scores by client, is an array.

    Args:
        sweep: result of :func:`sweep`.

    Returns:
        A list of dicts with the same keys.

    Raises:
        ValueError: a hyper-parameter is called like another column.

    Examples:
        >>> import numpy as np
        >>> from fjx import evaluation, simulation
        >>> history = simulation.History(
        ...     {"loss": np.ones((1, 1, 2))}, {"gap": np.zeros((1, 1, 1))}, np.full((1, 1, 1), 2))
        >>> result = evaluation.Sweep(
        ...     ({"lr": 0.1},), (7,), history, (None,), np.ones((1, 1)), None, 1)
        >>> evaluation.rows(result)[-1]
        {'run': 0, 'seed': 7, 'lr': 0.1, 'round': 2, 'metric': 'eval/gap', 'value': 0.0}
    """
    return list(_rows(sweep))


def write_csv(sweep: Sweep, path: str | os.PathLike[str]) -> None:
    """Write :func:`rows` to a CSV file; values that are no scalars are left out.

    Args:
        sweep: result of :func:`sweep`.
        path: file to write; its folder is made if it does not exist.

    Raises:
        ValueError: a hyper-parameter is called like another column.

    Examples:
        >>> from fjx import evaluation
        >>> evaluation.write_csv(result, "runs.csv")  # doctest: +SKIP
    """
    columns = _columns(sweep)
    with _opened(path) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in _rows(sweep) if not isinstance(row["value"], np.ndarray))


def write_jsonl(sweep: Sweep, path: str | os.PathLike[str]) -> None:
    """Write :func:`rows` to a file of JSON lines; arrays are lists, and NaN is ``null``.

    Args:
        sweep: result of :func:`sweep`.
        path: file to write; its folder is made if it does not exist.

    Raises:
        ValueError: a hyper-parameter is called like another column.

    Examples:
        >>> from fjx import evaluation
        >>> evaluation.write_jsonl(result, "runs.jsonl")  # doctest: +SKIP
    """
    with _opened(path) as file:
        for row in _rows(sweep):
            line = {name: in_json(value) for name, value in row.items()}
            file.write(json.dumps(line, allow_nan=False) + "\n")


def write_tensorboard(sweep: Sweep, folder: str | os.PathLike[str]) -> None:
    """Write each run as events of TensorBoard, in a folder of its own that is named by its setting.

    Args:
        sweep: result of :func:`sweep`.
        folder: folder of all runs.

    Raises:
        ImportError: tensorboardX is not installed.

    Examples:
        >>> from fjx import evaluation
        >>> evaluation.write_tensorboard(result, "runs")  # doctest: +SKIP
    """
    for i, setting in enumerate(sweep.settings):
        for j, seed in enumerate(sweep.seeds):
            name = f"{label(setting)}, seed={seed}".replace(os.sep, "-").strip(", ")
            history = history_of(sweep, i, j)
            rounds = int(history.evaluated_at[-1])
            tensorboard_writer(os.path.join(folder, name))(rounds, None, history)  # type: ignore[arg-type]


def history_of(sweep: Sweep, setting: int, seed: int) -> History:
    """History of one run, by the places of its setting and its seed.

    Args:
        sweep: result of :func:`sweep`.
        setting: place of the setting in ``sweep.settings``.
        seed: place of the seed in ``sweep.seeds``.

    Returns:
        A :class:`fjx.simulation.History`.

    Examples:
        >>> from fjx import evaluation
        >>> evaluation.history_of(result, 0, 2).participation(100)  # doctest: +SKIP
    """
    history: History = jax.tree.map(lambda x: x[setting, seed], sweep.history)
    return history


def label(setting: dict[str, Any]) -> str:
    """A setting in words."""
    return ", ".join(f"{name}={_shown(value)}" for name, value in setting.items())


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _columns(sweep: Sweep) -> list[str]:
    own = ["round", "metric", "value"]
    names = list(sweep.settings[0])
    if clash := {*names} & {"run", "seed", *own}:
        raise ValueError(
            f"the hyper-parameter {min(clash)!r} is called like a column of the table; rename it"
        )
    return ["run", "seed", *names, *own]


def _rows(sweep: Sweep) -> Iterator[dict[str, Any]]:
    _columns(sweep)
    for i, setting in enumerate(sweep.settings):
        for j, seed in enumerate(sweep.seeds):
            run = {"run": i * len(sweep.seeds) + j, "seed": seed, **setting}
            for row in history_of(sweep, i, j).rows():
                at = row.pop("round")
                for metric, value in row.items():
                    yield {**run, "round": at, "metric": metric, "value": value}


def _opened(path: str | os.PathLike[str]) -> Any:
    path = os.path.abspath(os.path.expanduser(path))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return open(path, "w", encoding="utf-8", newline="")
