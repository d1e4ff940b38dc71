"""Result of a theorem, as numbers."""

import math
import sys
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


def proved(step_size: float, rate: float, **others: float) -> Theory:
    """A :class:`Theory` of these numbers, which must be within the range of float64.

    Raises:
        ValueError: a number over- or underflows.
    """
    found = Theory(step_size, rate, **others)
    if not step_size >= sys.float_info.min or not math.isfinite(rate + found.noise):
        raise ValueError(
            f"the constants are beyond the range of float64: the theorem gives {found}; give a larger "
            "delta, a smaller omega, or scale L and mu together"
        )
    return found


def positive(**numbers: float) -> None:
    """Raise unless all numbers are positive, and mu <= L <= L_max, L_tilde, L_hat.

    The mean of the clients' functions is never less smooth than the constants of the clients say.
    """
    for name, value in numbers.items():
        _validate.number(name, value, above=0)
    _in_order(numbers, "mu", ("L", "L_max"), "the strong convexity of a function", "its smoothness")
    _in_order(
        numbers, "L", ("L_max", "L_tilde", "L_hat"), "the smoothness of a mean", "that of its terms"
    )


def _in_order(
    numbers: dict[str, float], small: str, larger: tuple[str, ...], one: str, other: str
) -> None:
    """Raise if the constant called ``small`` is larger than one of the others, beyond rounding."""
    for large in larger:
        if small not in numbers or large not in numbers:
            continue
        # Constants are often computed in float32.
        if numbers[small] > numbers[large] * (1 + 1e-5):
            raise ValueError(
                f"{small} must be at most {large} = {numbers[large]!r}, got {numbers[small]!r}; "
                f"{one} is never larger than {other}"
            )


def contraction(delta: float) -> tuple[float, float]:
    """Pair (theta, beta) with E||C(e + y) - (e + y)||^2 <= (1 - theta) ||e||^2 + beta ||y||^2."""
    theta = delta / (1 + math.sqrt(1 - delta))  # 1 - sqrt(1 - delta), which cancels
    return theta, (1 - delta) / theta
