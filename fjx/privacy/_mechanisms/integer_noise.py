"""Integer noise with exact probabilities of 192 bits, drawn with 32-bit integer arithmetic only.

64 bits would be enough for a few draws.  A run makes many draws (coordinates, clients and rounds), and
delta pays for the rounding of the table in each, multiplied by e^epsilon.
"""

import decimal
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from fjx._base import Array, Key
from fjx.privacy._mechanisms import alias
from fjx.privacy._mechanisms.alias import WHOLE

LARGEST = 3000.0
"""Largest standard deviation of a draw; its table has 2^17 columns."""
WRAPS = 1e-6
"""Probability, in one round, that the noise exceeds the room reserved for it."""


class IntegerNoise(NamedTuple):
    """Independent symmetric integers around zero.

    Attributes:
        sample: ``(key, shape) -> i32[shape]``.
        variance: exact variance of one draw.
        distance: upper bound on the total variation between one draw and its law; always below 2^-170.
        tail: ``(shares, probability) -> t``: the sum of ``shares`` draws exceeds t in absolute value
            with at most this probability.
    """

    sample: Callable[[Key, tuple[int, ...]], Array]
    variance: float
    distance: float
    tail: Callable[[int, float], float]


def discrete_gaussian(sd: float) -> IntegerNoise:
    """Discrete Gaussian noise, P(k) proportional to exp(-k^2 / (2 s^2)).

    Its variance is at most s^2; already at s = 1 the difference is only 2e-7.  It is subgaussian with
    parameter s^2, and so are sums of draws (Canonne, Kamath, Steinke, NeurIPS 2020, arXiv:2004.00010).
    """

    def tail(shares: int, probability: float) -> float:
        return sd * math.sqrt(2 * shares * math.log(2 / probability))

    return _noise(gaussian_law(sd), tail)


def skellam(sd: float) -> IntegerNoise:
    """Skellam noise, the difference of two Poisson variables of mean s^2 / 2: P(k) = exp(-s^2) I_k(s^2).

    Its variance is s^2 and its kurtosis is 3 + 1 / s^2.  A sum of such variables is again such a
    variable.  ``jax.random.poisson`` does not serve here.  It compares float32 logarithms of densities,
    and for means of a million their rounding errors are as large as the compared values.
    """

    def tail(shares: int, probability: float) -> float:
        return _skellam_tail(shares * sd**2, probability)

    return _noise(_skellam_law(sd**2), tail)


# --------------------------------------------------------------------------------------------------
# Probabilities, with more digits than 192 bits hold
# --------------------------------------------------------------------------------------------------

DIGITS = decimal.Context(prec=70)
Weights = tuple[int, ...]
"""Integers 2^192 P(0), 2^192 P(1), ..., rounded; over both signs and zero they add up to 2^192."""


class _Law(NamedTuple):
    """Symmetric law on the integers.

    Attributes:
        weights: its probabilities times 2^192.
        distance: total variation caused by rounding them.
    """

    weights: Weights
    distance: float


@functools.cache
def gaussian_law(sd: float) -> _Law:
    with decimal.localcontext(DIGITS):
        # The density falls by the factor q^(2k+1) from k to k + 1, with q = exp(-1 / (2 s^2)).
        q = (-1 / (2 * decimal.Decimal(sd) ** 2)).exp()
        density, step, densities = decimal.Decimal(1), q, []
        for _ in range(_reach(sd)):
            densities.append(density)
            density, step = density * step, step * q * q
        return _rounded(densities)


@functools.cache
def _skellam_law(variance: float) -> _Law:
    with decimal.localcontext(DIGITS):
        # I_{k-1} = I_{k+1} + (2 k / x) I_k.  Downwards the recurrence is stable from any start (Miller).
        x = decimal.Decimal(variance)
        above, here, densities = decimal.Decimal(0), decimal.Decimal(1), []
        for k in range(_reach(math.sqrt(variance)), 0, -1):
            above, here = here, above + 2 * k * here / x
            densities.append(here)
        return _rounded(densities[::-1])


def _reach(sd: float) -> int:
    """Number of integers beyond which either distribution has mass below 2^-200."""
    return math.ceil(17 * sd) + 80


def _rounded(densities: list[decimal.Decimal]) -> _Law:
    scale = WHOLE / (densities[0] + 2 * sum(densities[1:]))
    exact = [density * scale for density in densities[1:]]
    positive = [int(weight.to_integral_value()) for weight in exact]
    # Half of the sum of all errors: k and -k have equal errors, and zero takes the remainder.
    errors: list[decimal.Decimal] = [
        weight - given for weight, given in zip(exact, positive, strict=True)
    ]
    zero = decimal.Decimal(0)
    off = sum((abs(error) for error in errors), zero) + abs(sum(errors, zero))
    while positive and positive[-1] == 0:
        positive.pop()
    # The last term covers the mass beyond the reach, and the error of the seventieth digit.
    return _Law((WHOLE - 2 * sum(positive), *positive), float(off) / WHOLE + 2.0**-190)


def _noise(law: _Law, tail: Callable[[int, float], float]) -> IntegerNoise:
    both = [*law.weights[:0:-1], *law.weights]
    tables = alias.tables((both, 1 - len(law.weights)))

    def sample(key: Key, shape: tuple[int, ...]) -> Array:
        return alias.draw(tables, key, shape)[0]

    return IntegerNoise(sample, _variance(law.weights), law.distance, tail)


def _variance(weights: Weights) -> float:
    return float(2 * sum(k * k * w for k, w in enumerate(weights)) / WHOLE)


def _skellam_tail(variance: float, probability: float) -> float:
    """Tail bound of Chernoff: P[X >= t] <= exp(v (sqrt(1 + u^2) - 1 - u asinh u)), u = t / v."""

    def exponent(t: float) -> float:
        u = t / variance
        return variance * (math.sqrt(1 + u * u) - 1 - u * math.asinh(u))

    low, high = 0.0, 1.0
    while exponent(high) > math.log(probability / 2):
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if exponent(middle) > math.log(probability / 2) else (low, middle)
        )
    return high
