"""Report of epsilon against rounds, for a reader who did not see the run."""

from typing import Any, NamedTuple

import numpy as np

from fjx import _validate
from fjx.privacy._accounting.caveats import told_beside
from fjx.privacy._accounting.claim import Epsilon, Method, Unit, rounded_up
from fjx.privacy._accounting.terms import Accounting
from fjx.privacy._types import Accountable, Relation
from fjx.samplers._types import Sampler


class Report(NamedTuple):
    """Claims at several numbers of rounds, with everything to tell beside them; see :func:`report`.

    ``str`` is the whole report in words, with a table.

    Attributes:
        claims: epsilons at increasing numbers of rounds.
        noise: the noise, in words.
        caveats: sentences to tell beside the claims.
    """

    claims: tuple[Epsilon, ...]
    noise: str
    caveats: tuple[str, ...]

    def __str__(self) -> str:
        last = self.claims[-1]
        facts = {
            "unit": last.unit,
            "neighbours": last.relation.replace("_", "-"),
            "sampling": last.sampling,
            "noise": self.noise,
            "delta": f"{last.delta:g}",
            "method": ", ".join(sorted({claim.method.upper() for claim in self.claims})),
        }
        rows = [(f"{claim.rounds}", rounded_up(claim)) for claim in self.claims]
        width = max(len("epsilon"), *(len(cell) for row in rows for cell in row))
        lines = [f"{name + ':':<12}{value}" for name, value in facts.items()]
        lines += ["", f"{'rounds':>{width}}  {'epsilon':>{width}}"]
        lines += [f"{rounds:>{width}}  {value:>{width}}" for rounds, value in rows]
        return "\n".join([*lines, "", *(f"- {caveat}." for caveat in self.caveats)])

    def plot(self, axes: Any = None) -> Any:
        """Draw epsilon against rounds with matplotlib.

        Args:
            axes: matplotlib axes to draw on; None for new ones.

        Returns:
            The axes.
        """
        if axes is None:
            from matplotlib import pyplot

            _, axes = pyplot.subplots()
        last = self.claims[-1]
        label = f"{last.sampling}, {self.noise}"
        axes.plot(
            [c.rounds for c in self.claims], [float(c) for c in self.claims], "o-", label=label
        )
        neighbours = last.relation.replace("_", "-")
        axes.set(
            xlabel="rounds",
            ylabel=f"epsilon at delta = {last.delta:g}",
            title=f"{last.unit}-level, {neighbours}, {last.method.upper()}",
        )
        axes.set_ylim(bottom=0)
        axes.legend()
        return axes


def report(
    mechanism: Accountable,
    sampler: Sampler,
    *,
    rounds: int,
    delta: float,
    method: Method = "pld",
    relation: Relation | None = None,
    num_clients: int | None = None,
    unit: Unit = "client",
    points: int = 8,
) -> Report:
    """Report with everything that a reader needs to judge a privacy claim.

    Args:
        mechanism: the mechanism that bounded and noised the sums.
        sampler: the sampler that drew the cohorts.
        rounds: largest number of rounds, at least 1.
        delta: as in :func:`fjx.privacy.epsilon`, like the arguments below.
        method: ``"pld"``, ``"rdp"`` or ``"best"``.
        relation: relation between neighbouring populations.
        num_clients: population size N.
        unit: unit of protection.
        points: number of evenly spaced numbers of rounds to report, at least 1.

    Returns:
        A :class:`Report`, with its ``plot``.

    Raises:
        TypeError: as in :func:`fjx.privacy.epsilon`.
        ValueError: as in :func:`fjx.privacy.epsilon`.

    Examples:
        >>> from fjx import privacy, samplers
        >>> mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=4.0)
        >>> print(report(mechanism, samplers.cyclic(10), rounds=40, delta=1e-6, points=2,
        ...              method="rdp", num_clients=50_000))
        unit:       client
        neighbours: add-or-remove-one
        sampling:   every client once in 10 rounds
        noise:      4 times the sensitivity 1
        delta:      1e-06
        method:     RDP
        <BLANKLINE>
         rounds  epsilon
             20    1.661
             40    2.420
        <BLANKLINE>
        - An absent client counts as one whose update is zero.
        - Covers the models of all rounds, and not what is without noise: ...
    """
    rounds = _validate.static_integer("rounds", rounds, at_least=1)
    points = _validate.static_integer("points", points, at_least=1)
    terms = Accounting(delta, method, relation, unit, num_clients)
    claims = [terms.epsilon(mechanism, sampler, rounds=step) for step in evenly(rounds, points)]
    caveats = (*claims[-1].caveats, *_caveats(mechanism, num_clients))
    return Report(tuple(claims), noise_in_words(mechanism), caveats)


def evenly(rounds: int, points: int) -> list[int]:
    """Evenly spaced numbers of rounds, the last of which is ``rounds``."""
    return sorted({int(x) for x in np.linspace(0, rounds, points + 1).round()[1:]} - {0})


def noise_in_words(mechanism: Accountable) -> str:
    if mechanism.noise_multiplier is None:
        return "as its mechanism says"
    z, moves = mechanism.noise_multiplier, mechanism.sensitivity("add_or_remove_one")
    return f"{float(z):.4g} times the sensitivity {float(moves):.4g}"


def _caveats(mechanism: Accountable, num_clients: int | None) -> list[str]:
    caveats = [
        *told_beside(mechanism),
        "Whoever owns k clients is protected by k epsilon only, and at a larger delta",
        "Choosing among runs by what they gave costs more: what all of them cost, if nothing without "
        "noise decides",
    ]
    if num_clients is None:
        caveats.append("delta should be well below 1 / num_clients, which was not given")
    return caveats
