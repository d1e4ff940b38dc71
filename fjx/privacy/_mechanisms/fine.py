r"""Rounded Gaussian and rounded Laplace noise on a grid as fine as a five hundred thousandth of it.

Adding a real number to an integer and rounding the sum is the same as adding the rounded number.  A sum
of integers plus *rounded* noise is therefore a function of the sum plus real-valued noise, so it has
the privacy of the real-valued mechanism.  Nothing is assumed of floats.

A table of the law would have millions of rows.  Two draws from small tables make one:

*Gaussian.*  Let X be discrete Gaussian of parameter s, and Y = N(0, s^2).  By Poisson summation, the
density of a X + Y is that of N(0, (a^2 + 1) s^2) up to a factor within 2^-112 of one if s >= 2 a.  Its
rounding is a X + round(Y).

*Laplace.*  The floor of Laplace(b) is G or -1 - G, by a fair coin, with G geometric of ratio
q = e^(-1/b).  The quotient and the remainder of G by a are independent: one is geometric of ratio q^a,
and the other is G given that it is below a.

The proofs are in :doc:`/privacy_proofs`.
"""

import decimal
import functools

import jax
import jax.numpy as jnp

from fjx._base import Array, Key
from fjx._kernels import random as _random
from fjx.privacy._mechanisms import alias
from fjx.privacy._mechanisms.alias import WHOLE, Tables
from fjx.privacy._mechanisms.integer_noise import gaussian_law

_S, _A = 1000, 500
GAUSSIAN = float(_S * _A)
"""Standard deviation of :func:`gaussian`, in steps; the true one is larger by the factor 1 + 2e-6."""
_B, _M = 240, 2048
LAPLACE = float(_B * _M)
"""Scale of :func:`laplace`, in steps; the true one is larger by the factor 1 + 2e-6."""
DISTANCE = 2.0**-170
"""Bound on the total variation between one draw and a law that is within 2^-112 of the stated one."""


def gaussian(key: Key, shape: tuple[int, ...]) -> Array:
    """Rounded Gaussian noise, ``i32[shape]``."""
    coarse, small = alias.draw(_gaussian_tables(), key, shape)
    return _A * coarse + small


def laplace(key: Key, shape: tuple[int, ...]) -> Array:
    """Laplace noise rounded down, ``i32[shape]``."""
    key_coin, key_tables = jax.random.split(key)
    quotient, remainder = alias.draw(_geometric_tables(), key_tables, shape)
    magnitude = _M * quotient + remainder
    heads = _random.bits(key_coin, shape) >> 31 == 1
    return jnp.where(heads, magnitude, -1 - magnitude)


@functools.cache
def _gaussian_tables() -> Tables:
    coarse = gaussian_law(float(_S)).weights
    with decimal.localcontext(prec=50):
        small = _whole(_rounded_gaussian(len(coarse)), mirrored=True)
    laws = [([*weights[:0:-1], *weights], 1 - len(weights)) for weights in (coarse, small)]
    return alias.tables(*laws)


def _rounded_gaussian(reach: int) -> list[decimal.Decimal]:
    """P[round(Y) = k] for k < reach, up to a common factor.

    Around k the density is phi(k) sum_n He_n(k / s) (-t / s)^n / n!.  Its integral from -1/2 to 1/2 is
    phi(k) sum_n He_2n(k / s) / (s^2n 4^n (2n + 1)!).
    """
    s = decimal.Decimal(_S)
    q = (-1 / (2 * s * s)).exp()
    density, step, found = decimal.Decimal(1), q, []
    for k in range(reach):
        x, total, factor = k / s, decimal.Decimal(0), decimal.Decimal(1)
        before, here = decimal.Decimal(0), decimal.Decimal(1)  # He_-1 and He_0
        for n in range(2 * _TERMS):
            if n % 2 == 0:
                total += here * factor
                factor /= 4 * s * s * (n + 2) * (n + 3)
            before, here = here, x * here - n * before
        found.append(density * total)
        density, step = density * step, step * q * q
    return found


_TERMS = 7  # the next ones are below 2^-125 of the first


@functools.cache
def _geometric_tables() -> Tables:
    with decimal.localcontext(prec=50):
        b = decimal.Decimal(LAPLACE) * (1 + decimal.Decimal(2) ** -19)
        quotients, remainders = (-_M / b).exp(), (-1 / b).exp()
        reach = 134 * _B  # e^-134 < 2^-192
        laws = [[quotients**k for k in range(reach)], [remainders**k for k in range(_M)]]
        return alias.tables(*((_whole(law), 0) for law in laws))


def _whole(densities: list[decimal.Decimal], *, mirrored: bool = False) -> list[int]:
    """Densities as whole weights that add up to 2^192 (with those of -1, -2, ... if mirrored)."""
    sides = 2 if mirrored else 1
    scale = WHOLE / (densities[0] + sides * sum(densities[1:]))
    rest = [int((density * scale).to_integral_value()) for density in densities[1:]]
    return [WHOLE - sides * sum(rest), *rest]
