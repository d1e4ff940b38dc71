"""Integer noise, from 96 random bits a draw and integer arithmetic on 32.

A distribution on few integers is drawn by the alias method: its probabilities, as integers that add up
to 2^96, fill 2^k columns of 2^(96-k) each, with at most two values in a column.  The first k random bits
choose a column, the others one of its two values.  No logarithm of a float is involved, whose rounding
an adversary could see, and no loop that some client of a cohort is last to leave.  64 bits would do for
a few draws; what a run of many coordinates, clients and rounds is charged for its tables adds up.
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
"""The largest standard deviation of a draw: its table has 2^17 columns."""
_WORDS = 3
_WHOLE = 2 ** (32 * _WORDS)
WRAPS = 1e-6
"""The probability, a round, that noise is not given room for."""


class IntegerNoise(NamedTuple):
    """Independent integers around zero.

    Attributes:
        sample: ``(key, shape) -> i32[shape]``.
        variance: of one draw, exactly.
        distance: the total variation of one draw from its law, at most; always below 2^-80.
        tail: ``(shares, probability) -> t``: the sum of so many draws exceeds t, in absolute value, with
            no more than this probability.
    """

    sample: Callable[[Key, tuple[int, ...]], Array]
    variance: float
    distance: float
    tail: Callable[[int, float], float]


def discrete_gaussian(sd: float) -> IntegerNoise:
    """P(k) proportional to exp(-k^2 / (2 s^2)).

    Its variance is at most s^2, and less by 2e-7 only already at s = 1.  It is subgaussian with s^2, and
    so are sums (Canonne, Kamath, Steinke, NeurIPS 2020, arXiv:2004.00010).
    """

    def tail(shares: int, probability: float) -> float:
        return sd * math.sqrt(2 * shares * math.log(2 / probability))

    return _noise(_gaussian_law(sd), tail)


def skellam(sd: float) -> IntegerNoise:
    """The difference of two Poisson variables of mean s^2 / 2: P(k) = exp(-s^2) I_k(s^2).

    Its variance is s^2 and its kurtosis 3 + 1 / s^2; a sum of such variables is one again.
    ``jax.random.poisson`` would not do for it: it compares float32 logarithms of densities, whose
    rounding for means of a million is as large as what they are compared with.
    """

    def tail(shares: int, probability: float) -> float:
        return _skellam_tail(shares * sd**2, probability)

    return _noise(_skellam_law(sd**2), tail)


# --------------------------------------------------------------------------------------------------
# Probabilities, to more digits than 96 bits hold
# --------------------------------------------------------------------------------------------------

_DIGITS = decimal.Context(prec=50)
Weights = tuple[int, ...]
"""2^96 P(0), 2^96 P(1), ..., rounded; both signs and zero together have 2^96."""


class _Law(NamedTuple):
    """A symmetric law on the integers.

    Attributes:
        weights: its probabilities.
        distance: the total variation that rounding them costs.
    """

    weights: Weights
    distance: float


@functools.cache
def _gaussian_law(sd: float) -> _Law:
    with decimal.localcontext(_DIGITS):
        # From k to k + 1 the density falls by q^(2k+1), q = exp(-1 / (2 s^2)).
        q = (-1 / (2 * decimal.Decimal(sd) ** 2)).exp()
        density, step, densities = decimal.Decimal(1), q, []
        for _ in range(_reach(sd)):
            densities.append(density)
            density, step = density * step, step * q * q
        return _rounded(densities)


@functools.cache
def _skellam_law(variance: float) -> _Law:
    with decimal.localcontext(_DIGITS):
        # I_{k-1} = I_{k+1} + (2 k / x) I_k, stable downwards (Miller), whatever it starts from.
        x = decimal.Decimal(variance)
        above, here, densities = decimal.Decimal(0), decimal.Decimal(1), []
        for k in range(_reach(math.sqrt(variance)), 0, -1):
            above, here = here, above + 2 * k * here / x
            densities.append(here)
        return _rounded(densities[::-1])


def _reach(sd: float) -> int:
    """Beyond this many integers either distribution has less than 2^-122."""
    return math.ceil(14 * sd) + 50


def _rounded(densities: list[decimal.Decimal]) -> _Law:
    scale = _WHOLE / (densities[0] + 2 * sum(densities[1:]))
    exact = [density * scale for density in densities[1:]]
    positive = [int(weight.to_integral_value()) for weight in exact]
    # Half of the sum of all errors: those of k and -k are alike, and zero has what is left.
    errors: list[decimal.Decimal] = [
        weight - given for weight, given in zip(exact, positive, strict=True)
    ]
    zero = decimal.Decimal(0)
    off = sum((abs(error) for error in errors), zero) + abs(sum(errors, zero))
    while positive and positive[-1] == 0:
        positive.pop()
    # The last term is for what is beyond reach, and for the fiftieth digit.
    return _Law((_WHOLE - 2 * sum(positive), *positive), float(off) / _WHOLE + 2.0**-121)


def _noise(law: _Law, tail: Callable[[int, float], float]) -> IntegerNoise:
    sample = functools.partial(_draw, _table(law.weights))
    return IntegerNoise(sample, _variance(law.weights), law.distance, tail)


def _variance(weights: Weights) -> float:
    return float(2 * sum(k * k * w for k, w in enumerate(weights)) / _WHOLE)


def _skellam_tail(variance: float, probability: float) -> float:
    """Chernoff: P[X >= t] <= exp(v (sqrt(1 + u^2) - 1 - u asinh u)), u = t / v."""

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
    """2^k columns: below its threshold a column stands for itself, else for its alias.

    Attributes:
        columns: ``u32[2^k, 4]``: the words of the threshold, the highest first, and the alias.
        zero: which column stands for zero.
    """

    columns: np.ndarray
    zero: int


def _table(weights: Weights) -> _Table:
    """Vose's construction, on integers and so exact."""
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
