"""Integer noise drawn from 96 random bits a draw, with 32-bit integer arithmetic only.

The alias method draws from a distribution on few integers.  Its probabilities are integers that add up
to 2^96.  They fill 2^k columns of 2^(96-k) each, and a column holds at most two values.  The first k
random bits choose a column, and the other bits choose one of its two values.

No logarithm of a float is involved, whose rounding an adversary could see.  There is no rejection loop,
in which a cohort would wait for its slowest client.  64 bits would be enough for a few draws; a run
makes many draws (coordinates, clients and rounds), and delta pays for the rounding of the table in each.
"""

import decimal
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fjx._base import Array, Key
from fjx._kernels import random as _random

LARGEST = 3000.0
"""Largest standard deviation of a draw; its table has 2^17 columns."""
_WORDS = 3
_WHOLE = 2 ** (32 * _WORDS)
WRAPS = 1e-6
"""Probability, in one round, that the noise exceeds the room reserved for it."""


class IntegerNoise(NamedTuple):
    """Independent symmetric integers around zero.

    Attributes:
        sample: ``(key, shape) -> i32[shape]``.
        variance: exact variance of one draw.
        distance: upper bound on the total variation between one draw and its law; always below 2^-80.
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

    return _noise(_gaussian_law(sd), tail)


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
# Probabilities, with more digits than 96 bits hold
# --------------------------------------------------------------------------------------------------

_DIGITS = decimal.Context(prec=50)
Weights = tuple[int, ...]
"""Integers 2^96 P(0), 2^96 P(1), ..., rounded; over both signs and zero they add up to 2^96."""


class _Law(NamedTuple):
    """Symmetric law on the integers.

    Attributes:
        weights: its probabilities times 2^96.
        distance: total variation caused by rounding them.
    """

    weights: Weights
    distance: float


@functools.cache
def _gaussian_law(sd: float) -> _Law:
    with decimal.localcontext(_DIGITS):
        # The density falls by the factor q^(2k+1) from k to k + 1, with q = exp(-1 / (2 s^2)).
        q = (-1 / (2 * decimal.Decimal(sd) ** 2)).exp()
        density, step, densities = decimal.Decimal(1), q, []
        for _ in range(_reach(sd)):
            densities.append(density)
            density, step = density * step, step * q * q
        return _rounded(densities)


@functools.cache
def _skellam_law(variance: float) -> _Law:
    with decimal.localcontext(_DIGITS):
        # I_{k-1} = I_{k+1} + (2 k / x) I_k.  Downwards the recurrence is stable from any start (Miller).
        x = decimal.Decimal(variance)
        above, here, densities = decimal.Decimal(0), decimal.Decimal(1), []
        for k in range(_reach(math.sqrt(variance)), 0, -1):
            above, here = here, above + 2 * k * here / x
            densities.append(here)
        return _rounded(densities[::-1])


def _reach(sd: float) -> int:
    """Number of integers beyond which either distribution has mass below 2^-122."""
    return math.ceil(14 * sd) + 50


def _rounded(densities: list[decimal.Decimal]) -> _Law:
    scale = _WHOLE / (densities[0] + 2 * sum(densities[1:]))
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
    # The last term covers the mass beyond the reach, and the error of the fiftieth digit.
    return _Law((_WHOLE - 2 * sum(positive), *positive), float(off) / _WHOLE + 2.0**-121)


def _noise(law: _Law, tail: Callable[[int, float], float]) -> IntegerNoise:
    sample = functools.partial(_draw, _table(law.weights))
    return IntegerNoise(sample, _variance(law.weights), law.distance, tail)


def _variance(weights: Weights) -> float:
    return float(2 * sum(k * k * w for k, w in enumerate(weights)) / _WHOLE)


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


# --------------------------------------------------------------------------------------------------
# The alias method
# --------------------------------------------------------------------------------------------------


class _Table(NamedTuple):
    """Alias table of 2^k columns: below its threshold a column stands for itself, else for its alias.

    Attributes:
        columns: ``u32[2^k, 4]``, the words of the threshold from the highest to the lowest, then the
            alias.
        zero: index of the column that stands for zero.
    """

    columns: np.ndarray
    zero: int


def _table(weights: Weights) -> _Table:
    """Build the alias table by Vose's construction, on integers and therefore exactly."""
    left = [*weights[:0:-1], *weights]
    width = max(1, (len(left) - 1).bit_length())
    left += [0] * (2**width - len(left))
    full = _WHOLE >> width
    alias = list(range(len(left)))
    short = [i for i, weight in enumerate(left) if weight < full]
    long = [i for i, weight in enumerate(left) if weight > full]
    threshold = list(left)
    while short:
        lacking, giving = short.pop(), long[-1]
        threshold[lacking], alias[lacking] = left[lacking], giving
        left[giving] -= full - left[lacking]
        if left[giving] <= full:
            long.pop()
            if left[giving] < full:
                short.append(giving)
            threshold[giving] = left[giving]
    shifts = range(32 * (_WORDS - 1), -1, -32)
    columns = [
        (*(min(t, full) >> shift & 0xFFFFFFFF for shift in shifts), other)
        for t, other in zip(threshold, alias, strict=True)
    ]
    return _Table(np.array(columns, np.uint32), len(weights) - 1)


def _draw(table: _Table, key: Key, shape: tuple[int, ...]) -> Array:
    rest = 32 - (len(table.columns) - 1).bit_length()
    high, *lower = jnp.split(_random.bits(key, (_WORDS * math.prod(shape),)), _WORDS)
    column, high = high >> rest, high & jnp.uint32(2**rest - 1)
    *threshold, alias = jnp.moveaxis(jnp.asarray(table.columns)[column], -1, 0)
    own = jnp.zeros(column.shape, bool)
    for word, least in zip(reversed((high, *lower)), reversed(threshold), strict=True):
        own = (word < least) | ((word == least) & own)
    return (jnp.where(own, column, alias).astype(jnp.int32) - table.zero).reshape(shape)
