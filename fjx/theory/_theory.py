"""Result of a theorem, as numbers."""

import math
from typing import NamedTuple

from fjx import _validate


class Theory(NamedTuple):
    """Step size, rate and limit that a theorem proves.

    Attributes:
        step_size: step size gamma: of the server; of the local steps, if clients make them; of the
            gossip, if there is no server.
        rate: factor of the Lyapunov function in one round, below one.  For :func:`scaffnew`,
            :func:`tamuna` and :func:`compressed_scaffnew` it is the factor in one local step, for
            :func:`fedlin` in the two rounds of a step.
        memory: second parameter of the algorithm (lambda, a, p); None if there is none.
        noise: limit of the Lyapunov function: at most ``noise`` times the mean of ||grad
            f_i(x*)||^2, zero if the method converges.
    """

    step_size: float
    rate: float
    memory: float | None = None
    noise: float = 0.0


def positive(**numbers: float) -> None:
    """Raise unless all numbers are positive and mu is at most the smoothness of f and of an f_i."""
    for name, value in numbers.items():
        _validate.number(name, value, above=0)
    for name in ("L", "L_max"):
        if name in numbers and "mu" in numbers and numbers["mu"] > numbers[name]:
            raise ValueError(
                f"mu must be at most {name} = {numbers[name]!r}, got {numbers['mu']!r}; the strong "
                "convexity of a function is never larger than its smoothness"
            )


def contraction(delta: float) -> tuple[float, float]:
    """Pair (theta, beta) with E||C(e + y) - (e + y)||^2 <= (1 - theta) ||e||^2 + beta ||y||^2."""
    theta = 1 - math.sqrt(1 - delta)
    return theta, (1 - delta) / theta
