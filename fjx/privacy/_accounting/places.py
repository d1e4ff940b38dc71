"""A client in a random one of several places, and how many of them a claim counts.

With noise that is independent between rounds, all places hide the client.  With correlated noise, places
that are close to each other share the noise of a row, so each gets less.  A claim may take it for known
in which class the client's place is, where a class has every g-th place: fewer places hide the client
then, with more noise for each.  The claim holds for every g, and g depends on no data.  So the g with
the least divergence is taken.
"""

import functools
import math
from collections.abc import Callable

from fjx.privacy._types import Accountable, Mechanism, Places

_ALL, _FINER = 16, 1.2  # numbers of places that are tried: all small ones, then a geometric series


def hidden(mechanism: Accountable, places: Places) -> tuple[int, float] | None:
    """Number of places that hide a client, and what it sends in one of them.

    Args:
        mechanism: the mechanism.
        places: the places of the sampler; ``apart`` is not read.

    Returns:
        The number, and the norm of what a client sends in one place, in units of its largest
        contribution to a round.  None if nothing is known, or if there is one place only.
    """
    if places.number < 2:
        return None
    if mechanism.correlation is None:
        return places.number, 1.0
    if not isinstance(mechanism, Mechanism) or mechanism.place is None:
        return None
    noise = getattr(mechanism.event(1.0), "noise_multiplier", 0.0)
    options = _options(mechanism.place, places)

    def divergence(option: tuple[int, float]) -> float:
        """Of order 2, of P against Q: log(1 + (e^(s^2) - 1) / n) for each release."""
        count, moves = option
        shift = moves / noise if noise else math.inf
        if shift > 20:
            return shift**2
        return math.log1p(math.expm1(shift**2) / count)

    return min(options, key=divergence)


@functools.lru_cache(maxsize=64)
def _options(place: Callable[[Places], float], places: Places) -> list[tuple[int, float]]:
    """Numbers of places of a class, with the norm of one place, for the widest gap of each number."""
    counts, count = [], 2
    while count <= places.number:
        counts.append(count)
        count = count + 1 if count < _ALL else math.ceil(_FINER * count)
    apart = sorted({places.number // count for count in (*counts, places.number)})
    return [(places.number // gap, place(places._replace(apart=gap))) for gap in apart]
