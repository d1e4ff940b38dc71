"""What a run reached, against what it cost: bits, rounds and local steps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fjx._base import Traffic
from fjx.simulation._ledger import Ledger
from fjx.simulation._program import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Curve(NamedTuple):
    """A score after some rounds and what they cost, as arrays ``[..., points]``.

    Leading axes, if any, are repetitions, of seeds say; a cost that all share may be without them.

    Attributes:
        score: what was measured.
        rounds: done by then.
        bits: moved by then, in whichever direction is looked at.
        steps: of local training that a client did by then; None where nobody counts them.
    """

    score: np.ndarray
    rounds: np.ndarray
    bits: np.ndarray
    steps: np.ndarray | None = None


def curve(history: History, traffic: Traffic, score: str) -> Curve:
    """The course of a run: a score of its evaluations against rounds, bits of uplink and local steps.

    Args:
        history: of :func:`fjx.simulate` or a :class:`Program`, with an ``evaluate``; of several runs
            that were vmapped, with their axes in front.
        traffic: ``algorithm.traffic(params)``, which a result's ledger has too.
        score: one of the names that ``evaluate`` reported.

    Returns:
        A :class:`Curve` of this part of a run; its steps are those of the mean participant, where
        clients report ``steps``; a round in which they do not counts as none.

    Raises:
        KeyError: there is no such score.

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
    # All runs are evaluated after the same rounds; a resumed run's are counted from its beginning.
    before = rounds.reshape(-1)[-1] - np.shape(history.rounds["invited"])[-1]
    at = rounds.reshape(-1, values.shape[-1])[0] - before - 1
    steps = history.rounds.get("steps")
    return Curve(
        score=values,
        rounds=rounds,
        bits=Ledger.of(traffic, history.rounds).cumulative_uplink[..., at],
        steps=None if steps is None else np.nancumsum(steps, axis=-1, dtype=np.float64)[..., at],
    )


def plot(
    curves: Mapping[str, Curve],
    *,
    against: Sequence[str] = ("bits", "rounds", "steps"),
    score: str = "score",
    log: bool = False,
) -> "Figure":
    """Draws curves by name, a panel for each cost: the median of repetitions, and their range.

    Args:
        curves: by the name of what ran.
        against: fields of a :class:`Curve`; a curve without one is left out of its panel.
        score: what the vertical axis says.
        log: whether the vertical axis is logarithmic, for what tends to zero.

    Returns:
        A ``matplotlib.figure.Figure`` of its own, known to no window: ``plot(...).savefig("x.png")``.

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
            marker = "o" if len(x) == 1 else None  # a line through one point would not be seen
            style = {"ls": _STYLES[number // 10 % 4], "marker": marker}
            (lines[name],) = panel.plot(x, middle, f"C{number}", **style)
            panel.fill_between(x, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    panels[0].set_ylabel(score)
    figure.legend(lines.values(), lines, loc="outside right upper", fontsize="small")
    return figure


_STYLES = ("-", "--", ":", "-.")


def _spread(costs: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, ...]:
    """The median cost, and the median, least and largest score, at each point."""
    points = np.shape(score)[-1]
    costs, scores = (np.reshape(x, (-1, points)) for x in (costs, score))
    return (
        np.median(costs, axis=0),
        np.median(scores, axis=0),
        scores.min(axis=0),
        scores.max(axis=0),
    )
