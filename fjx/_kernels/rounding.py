"""Shared parts of quantisers: the span of a leaf, coordinates in units of a step, and rounding."""

import math

import jax
import jax.numpy as jnp

from fjx._base import Array, Contract, Key
from fjx._kernels import random as _random


def largest(x: Array) -> Array:
    """max|x|, or NaN if a coordinate is not finite; a maximum alone may lose a NaN."""
    return jnp.where(jnp.all(jnp.isfinite(x)), jnp.max(jnp.abs(x), initial=0.0), jnp.nan)


def norm(x: Array) -> Array:
    """||x||, not finite if a coordinate is not; no square overflows, and not all of them vanish."""
    # x is divided by a power of two, which is exact.
    _, exponent = jnp.frexp(largest(x))
    return jnp.ldexp(jnp.sqrt(jnp.sum(jnp.ldexp(x, -exponent) ** 2)), exponent)


def in_powers_of_two(x: Array) -> tuple[Array, Array, Array]:
    """``x / 2^e`` in [-1, 1], e, and a flag that x is broken: not finite, or beyond 2^125.

    The division is exact.  After it no square overflows, and not all squares vanish.
    """
    top = largest(x)
    usable = (top >= 2.0**-126) & (top <= 2.0**125)
    _, exponent = jnp.frexp(jnp.where(usable, top, 1.0))
    unit = jnp.where(usable, x * jnp.ldexp(jnp.ones_like(top), -exponent), 0.0)
    return unit, exponent, ~(top <= 2.0**125)


def in_units(x: Array, unit: Array) -> tuple[Array, Array]:
    """``x / unit``, and the unit by which to multiply again.

    A broken message must not decode to a finite one, and zero must stay zero.  So a unit that is
    not finite or above 2^125 becomes NaN, and one below 2^-126 becomes 0.  The ratio is zero in
    both cases.
    """
    # XLA may multiply by the reciprocal of the unit, which must not be subnormal either.
    usable = (unit >= 2.0**-126) & (unit <= 2.0**125)
    ratio = jnp.where(usable, x / jnp.where(usable, unit, 1.0), 0.0)
    return ratio, jnp.where(usable, unit, jnp.where(unit < 1.0, 0.0, jnp.nan))


def stochastic_round(key: Key, ratio: Array) -> Array:
    """``ratio`` rounded up with the probability of its fractional part, and down otherwise: unbiased."""
    # Rounding may move a coordinate slightly off the grid (two divisions, 2 ulp each on a GPU).  Such
    # a coordinate must not move by a whole step.
    nearest = jnp.round(ratio)
    ratio = jnp.where(jnp.abs(ratio - nearest) <= 2.0**-21 * jnp.abs(ratio), nearest, ratio)
    return exact_stochastic_round(key, ratio)


def exact_stochastic_round(key: Key, ratio: Array) -> Array:
    """:func:`stochastic_round` for ratios to powers of two, which are exact."""
    # The barrier keeps the draw apart from its consumer; some compilers for phones need this.
    uniform = jax.lax.optimization_barrier(_random.uniform(key, ratio.shape))
    lower = jnp.floor(ratio)
    return jnp.where(uniform < ratio - lower, lower + 1, lower)  # u < p: never up if p = 0


def power_of_two(exponent: Array) -> Array:
    """2^e in float32, made from its bits, for -126 <= e <= 127."""
    return jax.lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)


def binade(x: Array, least: int) -> Array:
    """The e with 2^e <= |x| < 2^(e + 1) as ``i32``, but at least ``least``, which is above -127."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.maximum((bits >> 23 & 255) - 127, least)


def unbiased(leaf: jax.ShapeDtypeStruct, omega: float) -> Contract:
    """The contract of an unbiased codec; it also contracts if omega < 1.

    It holds for leaves that are not :func:`narrow`.
    """
    promised = Contract(unbiased=True, omega=omega, delta=1 - omega if omega < 1 else None)
    return unless_narrow(leaf, promised)


def narrow(leaf: jax.ShapeDtypeStruct) -> bool:
    """True for a float leaf narrower than float32, which is rounded once more in decoding."""
    return bool(jnp.finfo(leaf.dtype).bits < 32)


def after_rounding(leaf: jax.ShapeDtypeStruct, promised: Contract) -> Contract:
    """What is left of a bound on the error if a :func:`narrow` leaf is rounded once more.

    With u the unit roundoff of the leaf and r^2 = 1 - delta, Minkowski's inequality bounds the error by
    (r + u (1 + r)) ||x||, because the norm of what is rounded is at most (1 + r) ||x||.  A dtype with
    fewer exponents than float32 rounds small values to zero, so nothing is promised for it.
    """
    if not narrow(leaf):
        return promised
    if promised.delta is None or float(jnp.finfo(leaf.dtype).max) < 2.0**127:
        return Contract()
    r, u = math.sqrt(1 - promised.delta), float(jnp.finfo(leaf.dtype).eps) / 2
    delta = 1 - (r + u * (1 + r)) ** 2
    return Contract(delta=delta if delta > 0 else None)


def unless_narrow(leaf: jax.ShapeDtypeStruct, promised: Contract) -> Contract:
    """``promised``, but nothing for a :func:`narrow` leaf."""
    return Contract() if narrow(leaf) else promised
