"""Callbacks between the blocks of a run, and writers of its history."""

import csv
import io
import json
import math
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx.simulation._history import EVALUATED, History, first_round
from fjx.simulation._program import SimulationState

Callback = Callable[[int, SimulationState, History], None]
"""A function ``(round, state, history)`` that :func:`fjx.simulate` calls after each block of rounds.

``round`` is the number of rounds done, ``state`` the state after them, and ``history`` the reports
of this block alone, as NumPy arrays.  With ``evaluate_first`` the first call is for round 0, with a
history of no round.

The next block overwrites the state in place, so copy what should last, as by
``jax.tree.map(jnp.copy, state.params)``.  With several processes every process calls its callbacks.
"""


def together(callbacks: Sequence[Callback]) -> Callback:
    """Call all of them, in order; raises TypeError unless they are functions in a list or a tuple."""
    if callable(callbacks) or not all(map(callable, callbacks)):
        raise TypeError(
            "callbacks must be a list of functions (round, state, history), got "
            f"{callbacks!r}; one function is [function]"
        )

    def call(round: int, state: SimulationState, history: History) -> None:
        for callback in callbacks:
            callback(round, state, history)

    return call


def csv_writer(path: str | os.PathLike[str]) -> Callback:
    """Write the scalars of a run to a CSV file, one line a round.

    The columns are those of :meth:`History.rows`: ``round``, the metrics of the round and, under
    ``eval/``, the scores of the last evaluation if there was one after this round.  Other fields
    are empty.  Values that are no scalars, such as scores by client, are left out; see
    :func:`jsonl_writer`.

    Guarantees:
        - The lines of a block are in the file before the next block begins.
        - A run that is resumed from a checkpoint goes on in its file; rounds that run again replace
          their lines.  A run from the beginning overwrites the file.

    Args:
        path: file to write; its folder is made if it does not exist.  With several processes the
            first one writes.

    Returns:
        A :data:`Callback`.

    Raises:
        ValueError: a resumed run finds another file in its place (from the callback).

    Examples:
        >>> import jax, jax.numpy as jnp, pathlib, tempfile, fjx
        >>> dataset = fjx.data.from_clients([jnp.array([1.0]), jnp.array([3.0])])
        >>> algorithm = fjx.algorithms.fedavg(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2), client_lr=0.5, batch_size=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = fjx.simulate(
        ...         jax.random.key(0), algorithm, jnp.array(0.0), dataset,
        ...         sampler=fjx.samplers.full(), rounds=1,
        ...         callbacks=[fjx.simulation.csv_writer(f"{folder}/run.csv")])
        ...     print(pathlib.Path(f"{folder}/run.csv").read_text(), end="")
        round,finite,invited,loss,nonfinite,participants,rejected,steps,truncated
        1,True,2,5.0,0,2,0,1.0,0
    """

    def lines(history: History) -> tuple[str, list[str]]:
        scored = {f"{EVALUATED}{name}": x for name, x in history.evaluations.items()}
        columns = ["round", *sorted(_scalars(history.rounds)), *sorted(_scalars(scored))]
        header, *rest = [_csv_line(columns)] + [
            _csv_line([row.get(name, "") for name in columns]) for row in history.rows()
        ]
        return header, rest

    def round_of(line: str) -> int:
        return int(next(csv.reader([line]))[0])

    return _line_writer(path, lines, round_of)


def jsonl_writer(path: str | os.PathLike[str]) -> Callback:
    """Write the reports of a run to a file of JSON lines, one object a round.

    The objects are the rows of :meth:`History.rows`.  Arrays, such as scores by client and
    ``participant_ids``, are lists, so a line is as long as a report.  Numbers that are not finite
    are ``null``, because JSON has no words for them; the metric ``finite`` tells a run that
    diverged.

    Guarantees:
        - The lines of a block are in the file before the next block begins.
        - A run that is resumed from a checkpoint goes on in its file; rounds that run again replace
          their lines.  A run from the beginning overwrites the file.

    Args:
        path: file to write; its folder is made if it does not exist.  With several processes the
            first one writes.

    Returns:
        A :data:`Callback`.

    Raises:
        ValueError: a resumed run finds another file in its place (from the callback).

    Examples:
        >>> import jax.numpy as jnp, numpy as np, pathlib, tempfile
        >>> from fjx import simulation
        >>> history = simulation.History(
        ...     {"loss": np.array([1.0, np.nan])}, {"gap": np.array([[0.5, 1.5]])}, np.array([2]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     simulation.jsonl_writer(f"{folder}/run.jsonl")(2, None, history)
        ...     print(pathlib.Path(f"{folder}/run.jsonl").read_text(), end="")
        {"round": 1, "loss": 1.0}
        {"round": 2, "loss": null, "eval/gap": [0.5, 1.5]}
    """

    def lines(history: History) -> tuple[str, list[str]]:
        return "", [
            json.dumps({name: _json(x) for name, x in row.items()}, allow_nan=False) + "\n"
            for row in history.rows()
        ]

    def round_of(line: str) -> int:
        return int(json.loads(line)["round"])

    return _line_writer(path, lines, round_of)


def tensorboard_writer(folder: str | os.PathLike[str]) -> Callback:
    """Write the scalars of a run as events of TensorBoard, with the number of the round as the step.

    The names are those of :meth:`History.rows`: metrics of rounds under their own names, and scores
    under ``eval/``.  Values that are no scalars are left out.  It needs tensorboardX, which needs
    neither TensorFlow nor PyTorch.

    Guarantees:
        - All events are in the folder once nobody holds the callback, or the process ends in order.
          tensorboardX writes them in a thread, so a process that is killed may lose the last ones.
        - If a run is resumed from a checkpoint, TensorBoard shows rounds that run again once.

    Args:
        folder: folder of the events of this run; the folder above it holds the runs to compare.
            With several processes the first one writes.

    Returns:
        A :data:`Callback`.

    Raises:
        ImportError: tensorboardX is not installed.

    Examples:
        >>> from fjx import simulation
        >>> writer = simulation.tensorboard_writer("runs/fedavg")  # doctest: +SKIP
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "tensorboard_writer needs tensorboardX: pip install 'fjx[tensorboard]'"
        ) from error
    return _Events(os.path.expanduser(folder), SummaryWriter)


class _Events:
    """Callback that writes events; its file is closed when nobody holds it, or the process ends."""

    def __init__(self, folder: str, summary_writer: Callable[..., Any]) -> None:
        self._folder, self._summary_writer = folder, summary_writer
        self._events: Any = None
        self._last: int | None = None

    def __call__(self, round: int, state: SimulationState, history: History) -> None:
        if jax.process_index() != 0:
            return
        first = _first_row(history)
        if not _follows(first, self._last):
            # TensorBoard hides older events of the purged step and of later ones.  The suffix, because
            # two files of one second would have one name.
            self._events = self._summary_writer(
                self._folder,
                purge_step=first if first > 1 else 0,
                filename_suffix=f".{time.time_ns()}",
            )
            weakref.finalize(self, self._events.close)
        for row in history.rows():
            for name, value in row.items():
                if name != "round" and not isinstance(value, np.ndarray):
                    self._events.add_scalar(name, float(value), row["round"])
        self._events.flush()
        self._last = round


def _line_writer(
    path: str | os.PathLike[str],
    lines: Callable[[History], tuple[str, list[str]]],
    round_of: Callable[[str], int],
) -> Callback:
    """Callback that writes a header and then the lines of each block.

    Args:
        path: file to write.
        lines: function of a history that returns the header, which may be empty, and the lines.
        round_of: function of a line that returns the round in it.
    """
    path = os.path.abspath(os.path.expanduser(path))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    last: int | None = None

    def write(round: int, state: SimulationState, history: History) -> None:
        nonlocal last
        if jax.process_index() != 0:
            return
        first, (header, rows) = _first_row(history), lines(history)
        if not _follows(first, last):
            _cut(path, header, first, round_of)
        with open(path, "a", encoding="utf-8", newline="") as file:
            file.writelines(rows if file.tell() else [header, *rows])
        last = round

    return write


def _cut(path: str, header: str, first: int, round_of: Callable[[str], int]) -> None:
    """Cut a file before the line of round ``first``, or wholly if that is the first round."""
    with open(path, "a+b") as file:
        file.seek(0)
        kept = 0
        for number, line in enumerate(file if first > 1 else ()):
            if not line.endswith(b"\n"):  # the process was killed while it wrote
                break
            text = line.decode("utf-8")
            if header and number == 0:
                if text != header:
                    raise ValueError(
                        f"the run is resumed, but {path} was written by a run with other columns: "
                        f"{text.strip()!r}; give another file"
                    )
            elif _round_in(text, round_of, path) >= first:
                break
            kept += len(line)
        file.truncate(kept)


def _round_in(line: str, round_of: Callable[[str], int], path: str) -> int:
    try:
        return round_of(line)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"the run is resumed, but {path} has a line that is no report of a round: "
            f"{line.strip()!r}; give another file"
        ) from error


def _follows(first: int, last: int | None) -> bool:
    """True if a block begins where the writer ended, and is not of another or a resumed run."""
    return last is not None and first == last + 1


def _first_row(history: History) -> int:
    """Number of the first row of a history."""
    return min(first_round(history), int(history.evaluated_at[0]))


def _scalars(arrays: Mapping[str, Any]) -> list[str]:
    return [name for name, x in arrays.items() if np.ndim(x) == 1]


def _csv_line(fields: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(fields)
    return line.getvalue()


def _json(value: Any) -> Any:
    """The value in words of JSON."""
    if isinstance(value, np.ndarray):
        if not jnp.issubdtype(value.dtype, jnp.floating):
            return value.tolist()
        numbers = value.astype(np.float64)
        words = numbers.astype(object)
        words[~np.isfinite(numbers)] = None
        return words.tolist()
    return None if isinstance(value, float) and not math.isfinite(value) else value
