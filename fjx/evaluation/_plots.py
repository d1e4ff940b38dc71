"""Plots of a sweep: a score against its cost, with bands over seeds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fjx._base import Key
from fjx.evaluation._rows import label
from fjx.evaluation._sweep import Sweep
from fjx.evaluation._tables import interval_of
from fjx.simulation import Ledger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AXES = {
    "rounds": "rounds",
    "bytes": "bytes sent by clients",
    "seconds": "seconds of running",
}
_STYLES = ("-", "--", ":", "-.")


def plot(
    sweep: Sweep,
    metric: str,
    *,
    against: Sequence[str] = ("rounds", "bytes", "seconds"),
    level: float = 0.95,
    key: Key | None = None,
    log: bool = False,
) -> "Figure":
    """Plot a score against its cost: a line for each setting, a panel for each cost.

    A line is the mean over seeds, and its band the interval of that mean.  One seed has no band.

    Args:
        sweep: result of :func:`sweep`.
        metric: name of a score of ``evaluate``, or of a metric of the rounds.
        against: costs among ``"rounds"``, ``"bytes"`` (sent by clients, the mean over seeds) and
            ``"seconds"`` (running time of a run, as in ``sweep.run_seconds``, spread evenly over
            its rounds).
        level: level of the bands.
        key: key of bootstrap intervals; by default they are Student's.
        log: True for a logarithmic vertical axis.

    Returns:
        A ``matplotlib.figure.Figure`` that belongs to no window; save it by ``.savefig("x.png")``.

    Raises:
        ImportError: matplotlib is not installed (the extra ``examples``).
        KeyError: there is no such score or metric.
        ValueError: a cost is unknown, or the metric is no scalar of a run.

    Examples:
        >>> import numpy as np
        >>> from fjx import evaluation, simulation
        >>> history = simulation.History(
        ...     {}, {"accuracy": np.ones((1, 3, 2))}, np.full((1, 3, 2), [5, 10]))
        >>> result = evaluation.Sweep(
        ...     ({"lr": 0.1},), (0, 1, 2), history, (None,), np.ones((1, 3)), None, 1)
        >>> figure = evaluation.plot(result, "accuracy", against=["rounds", "seconds"])
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['rounds', 'seconds of running']
    """
    for cost in against:
        if cost not in _AXES:
            raise ValueError(f"against must be among {', '.join(_AXES)}, got {cost!r}")
    at, values = sweep.evaluated(metric)
    if values.ndim != 3:
        raise ValueError(
            f"{metric!r} is no number of a run but has shape {list(values.shape[3:])}: reduce it "
            "inside evaluate, or plot it by hand"
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot needs matplotlib: pip install 'fjx[examples]'") from error

    figure = Figure(figsize=(1 + 4 * len(against), 4), layout="constrained")
    panels = figure.subplots(1, len(against), sharey=True, squeeze=False)[0]
    lines = {}
    for panel, cost in zip(panels, against, strict=True):
        panel.set_xlabel(_AXES[cost])
        panel.ticklabel_format(axis="x", scilimits=(-3, 5))
        panel.set_yscale("log" if log else "linear")
        for i, setting in enumerate(sweep.settings):
            x = _cost(sweep, cost, i, at)
            band = interval_of(values[i].T.astype(np.float64), level, key)
            style = {"ls": _STYLES[i // 10 % 4], "marker": "o" if len(at) == 1 else None}
            (lines[i],) = panel.plot(x, band.mean, f"C{i}", label=label(setting), **style)
            panel.fill_between(x, band.low, band.high, color=f"C{i}", alpha=0.15, linewidth=0)
    panels[0].set_ylabel(metric)
    if any(map(label, sweep.settings)):
        figure.legend(handles=list(lines.values()), loc="outside right upper", fontsize="small")
    return figure


def _cost(sweep: Sweep, cost: str, setting: int, at: np.ndarray) -> np.ndarray:
    """Cost after these rounds, the mean over seeds."""
    if cost == "rounds":
        return at
    if cost == "seconds":
        rounds = sweep.history.evaluated_at[0, 0, -1]
        return at / rounds * sweep.run_seconds[setting].mean()
    metrics = {name: x[setting] for name, x in sweep.history.rounds.items()}
    sent: np.ndarray = Ledger.of(sweep.traffic[setting], metrics).cumulative_uplink.mean(axis=0)
    return sent[at - 1] / 8
