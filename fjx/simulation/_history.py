"""The reports of a run: by round, by evaluation, and as rows of a table."""

from typing import Any, NamedTuple

import numpy as np

from fjx import _validate
from fjx._base import Array, Metrics
from fjx.rounds._metrics import metric_of


class History(NamedTuple):
    """Reports of a run, stacked.

    Attributes:
        rounds: arrays ``[rounds]`` by name: the algorithm's metrics, ``truncated`` (clients that
            the sampler drew but had no slot for) and ``finite`` (True if the model is finite after
            the round).  If ``participant_ids`` were asked for, they are ``i32[rounds, slots]``: the
            ids of the clients that sent a message; a slot without one holds the number of clients.
            If the aggregate is noised, they are called ``unnoised_participant_ids``.
        evaluations: arrays ``[evaluations, ...]`` by name: the results of ``evaluate``.
        evaluated_at: ``i32[evaluations]``, the number of rounds done at each evaluation.
    """

    rounds: Metrics
    evaluations: Metrics
    evaluated_at: Array

    def rows(self) -> list[dict[str, Any]]:
        """One row a round as a dict, for a file, a logger or ``pandas.DataFrame(history.rows())``.

        A row holds ``round`` (from 1), the metrics of the round under their names, and after an
        evaluation its scores under ``eval/`` and their names.  An evaluation before the first
        round is the row of round 0.  Scalars are numbers of Python, and other values are arrays.

        Raises:
            ValueError: the history is of several runs, with axes in front.

        Examples:
            >>> import numpy as np
            >>> from fjx import simulation
            >>> history = simulation.History(
            ...     {"loss": np.array([2.0, 1.0])}, {"accuracy": np.array([0.5])}, np.array([2]))
            >>> history.rows()
            [{'round': 1, 'loss': 2.0}, {'round': 2, 'loss': 1.0, 'eval/accuracy': 0.5}]
        """
        _require_one_run(self)
        first, rows = first_round(self), {}
        for i, values in enumerate(_unstacked(self.rounds)):
            rows[first + i] = {"round": first + i, **values}
        evaluated_at = np.asarray(self.evaluated_at).tolist()
        for at, values in zip(evaluated_at, _unstacked(self.evaluations), strict=False):
            named = {f"{EVALUATED}{name}": value for name, value in values.items()}
            rows[at] = {"round": at, **rows.get(at, {}), **named}
        return [rows[round] for round in sorted(rows)]

    def participation(self, num_clients: int) -> np.ndarray:
        """Number of rounds in which each client sent a message: ``i64[num_clients]``.

        Raises:
            ValueError: the history holds no ``participant_ids``, or is of several runs.

        Examples:
            >>> import numpy as np
            >>> from fjx import simulation
            >>> ids = {"participant_ids": np.array([[0, 2], [2, 3]])}  # 3 clients: one slot is empty
            >>> simulation.History(ids, {}, np.array([2])).participation(3).tolist()
            [1, 0, 2]
        """
        num_clients = _validate.static_integer("num_clients", num_clients, at_least=1)
        ids = metric_of(self.rounds, "participant_ids")
        if ids is None:
            raise ValueError(
                "the history does not say who took part: give simulate(participant_ids=True)"
            )
        _require_one_run(self)
        return np.bincount(np.asarray(ids).ravel(), minlength=num_clients + 1)[:num_clients]


EVALUATED = "eval/"
"""The beginning of the names of scores in a row, where metrics of a round may be called the same."""


def first_round(history: History) -> int:
    """Number of the first round of a history, from 1; a later part of a run has a later one."""
    return int(history.evaluated_at[-1]) - _length(history.rounds) + 1


def _require_one_run(history: History) -> None:
    axes = list(np.shape(history.evaluated_at)[:-1])
    if axes:
        raise ValueError(
            f"this needs the history of one run, but the history has axes {axes} in front, of runs "
            "that were vmapped: choose one by jax.tree.map(lambda x: x[i], history)"
        )


def _length(arrays: Metrics) -> int:
    return min((len(x) for x in arrays.values()), default=0)


def _unstacked(arrays: Metrics) -> list[dict[str, Any]]:
    """The entries of stacked arrays; scalars as numbers of Python."""
    lists = {name: _entries(np.asarray(x)) for name, x in arrays.items()}
    return [{name: x[i] for name, x in lists.items()} for i in range(_length(arrays))]


def _entries(array: np.ndarray) -> list[Any]:
    return array.tolist() if array.ndim == 1 else list(array)
