"""Results of a run against their cost: bits, rounds and local steps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fjx._base import Traffic
from fjx.rounds._metrics import metric_of
from fjx.simulation._ledger import Ledger
from fjx.simulation._program import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Curve(NamedTuple):
    """A score and its cost after some of the rounds, as arrays ``[..., points]``.

    Leading axes, if any, are repetitions, for example over seeds.  A cost that all repetitions
    share may lack them.

    Attributes:
        score: measured score.
        rounds: rounds done by then.
        bits: bits sent by then, in the direction of interest.
        steps: local training steps of a client by then; None if nobody counts them.
    """

    score: np.ndarray
    rounds: np.ndarray
    bits: np.ndarray
    steps: np.ndarray | None = None


def curve(history: History, traffic: Traffic, score: str) -> Curve:
    """Score of a run's evaluations against rounds, uplink bits and local steps.

    Args:
        history: history of :func:`fjx.simulate` or of a :class:`Program`, with an ``evaluate``.
            Runs that were vmapped have their axes in front.
        traffic: bits of a client in a round, ``algorithm.traffic(params)``; the ledger of a result
            has it too.
        score: name of a score that ``evaluate`` reports.

    Returns:
        A :class:`Curve` of this part of a run.  Its steps are the mean over the participants, if
        clients report ``steps``; a round in which they do not counts as zero.

    Raises:
        KeyError: there is no such score.
        ValueError: the score is one number a client, which is no curve.

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> dataset = fjx.data.from_clients([jnp.array([1.0]), jnp.array([3.0])])
        >>> result = fjx.simulate(
        ...     jax.random.key(0), fjx.algorithms.fedavg(
        ...         lambda w, x, key: jnp.mean((w - x) ** 2), client_lr=0.25, batch_size=1),
        ...     jnp.array(0.0), dataset, sampler=fjx.samplers.full(), rounds=2, evaluate_every=1,
        ...     evaluate=lambda w: {"distance": jnp.abs(w - 2)})
        >>> course = fjx.simulation.curve(result.history, result.ledger.traffic, "distance")
        >>> course.score.tolist(), course.bits.tolist(), course.steps.tolist()
        ([1.0, 0.5], [64, 128], [1.0, 2.0])
    """
    values = np.asarray(history.evaluations[score])
    rounds = np.asarray(history.evaluated_at)
    if values.ndim > rounds.ndim:
        raise ValueError(
            f"a curve needs one number an evaluation, but {score!r} has shape {list(values.shape)}: "
            "reduce it first, as in history._replace(evaluations={'worst': np.nanmin(x, axis=-1)})"
        )
    # All runs are evaluated after the same rounds.  A resumed run counts rounds from its beginning.
    before = rounds.reshape(-1)[-1] - np.shape(history.rounds["finite"])[-1]
    at = rounds.reshape(-1, values.shape[-1])[0] - before
    steps = metric_of(history.rounds, "steps")

    def spent(total: np.ndarray) -> np.ndarray:
        """Cost at the evaluations, of the total after each round; no round costs nothing."""
        nothing = np.zeros((*total.shape[:-1], 1), total.dtype)
        return np.concatenate([nothing, total], axis=-1)[..., at]

    return Curve(
        score=values,
        rounds=rounds,
        bits=spent(Ledger.of(traffic, history.rounds).cumulative_uplink),
        steps=None if steps is None else spent(np.nancumsum(steps, axis=-1, dtype=np.float64)),
    )


def plot(
    curves: Mapping[str, Curve],
    *,
    against: Sequence[str] = ("bits", "rounds", "steps"),
    score: str = "score",
    log: bool = False,
) -> "Figure":
    """Plot curves by name, with one panel for each cost.

    A curve shows the median of its repetitions, and a band from the least to the largest.

    Args:
        curves: curves by the name of the run.
        against: fields of a :class:`Curve`, one panel each; a panel leaves out curves that lack its
            field.
        score: label of the vertical axis.
        log: True for a logarithmic vertical axis, useful for a score that tends to zero.

    Returns:
        A ``matplotlib.figure.Figure`` that belongs to no window; save it with
        ``plot(...).savefig("x.png")``.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: a cost is not a field of a curve.

    Examples:
        >>> import numpy as np
        >>> from fjx import simulation
        >>> ten = np.arange(1, 11)
        >>> figure = simulation.plot(
        ...     {"halving": simulation.Curve(0.5**ten, ten, 320 * ten)}, against=("bits",), log=True)
        >>> figure.axes[0].get_xlabel(), figure.axes[0].get_yscale()
        ('bits', 'log')
    """
    for cost in against:
        if cost not in ("rounds", "bits", "steps"):
            raise ValueError(f'against must be among "bits", "rounds" and "steps", got {cost!r}')
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 4 * len(against), 4), layout="constrained")
    panels = figure.subplots(1, len(against), sharey=True, squeeze=False)[0]
    lines: dict[str, Any] = {}
    for panel, cost in zip(panels, against, strict=True):
        panel.set_xlabel(cost)
        panel.set_xscale("log" if cost == "bits" else "linear")
        panel.set_yscale("log" if log else "linear")
        for number, (name, course) in enumerate(curves.items()):
            costs = getattr(course, cost)
            if costs is None:
                continue
            x, middle, low, high = _spread(costs, course.score)
            marker = "o" if len(x) == 1 else None  # a line through one point is invisible
            style = {"ls": _STYLES[number // 10 % 4], "marker": marker}
            (lines[name],) = panel.plot(x, middle, f"C{number}", **style)
            panel.fill_between(x, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    panels[0].set_ylabel(score)
    figure.legend(lines.values(), lines, loc="outside right upper", fontsize="small")
    return figure


_STYLES = ("-", "--", ":", "-.")


def _spread(costs: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, ...]:
    """Median cost, and median, least and largest score, at each point."""
    points = np.shape(score)[-1]
    costs, scores = (np.reshape(x, (-1, points)) for x in (costs, score))
    return (
        np.median(costs, axis=0),
        np.median(scores, axis=0),
        scores.min(axis=0),
        scores.max(axis=0),
    )
