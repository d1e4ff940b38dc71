"""What a theorem says of an algorithm, as numbers."""

import math
from typing import NamedTuple

from fjx import _validate


class Theory(NamedTuple):
    """What a theorem says.

    Attributes:
        step_size: gamma; of the server, of local steps where clients make them, of the gossip where
            there is no server.
        rate: the factor of the Lyapunov function, below one: in a round, but for :func:`scaffnew`,
            :func:`tamuna` and :func:`compressed_scaffnew` in a local step, and for :func:`fedlin` in the
            two rounds of a step.
        memory: lambda, a, or whatever the algorithm's second parameter is; None if it has none.
        noise: the Lyapunov function's limit is at most ``noise`` times the mean of
            ||grad f_i(x*)||^2; zero where the method converges.
    """

    step_size: float
    rate: float
    memory: float | None = None
    noise: float = 0.0


def positive(**numbers: float) -> None:
    """Raises unless all are positive, and mu at most the smoothness of f and of an f_i."""
    for name, value in numbers.items():
        _validate.number(name, value, above=0)
    for name in ("L", "L_max"):
        if name in numbers and "mu" in numbers and numbers["mu"] > numbers[name]:
            raise ValueError(
                f"mu must be at most {name} = {numbers[name]!r}, got {numbers['mu']!r}: no function is "
                "more convex than it is smooth"
            )


def contraction(delta: float) -> tuple[float, float]:
    """The pair (theta, beta): E||C(e + y) - (e + y)||^2 <= (1 - theta) ||e||^2 + beta ||y||^2."""
    theta = 1 - math.sqrt(1 - delta)
    return theta, (1 - delta) / theta
