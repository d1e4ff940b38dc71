"""Norms of updates and scaling to a norm, with known error bounds."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import Array
from fjx.privacy._types import Norm

_BLOCK = 64  # additions in one chain, see _sum


class Measured(NamedTuple):
    """Norm of a list of arrays, kept as a product that overflows only if the norm does.

    Attributes:
        finite: ``bool[]``, true if all entries are finite.  Otherwise the other fields are meaningless.
        divisor: ``f32[]``, about max|x|.  No square of x / divisor overflows, and not all of them
            vanish.
        ratio: ``f32[]``, ||x / divisor||.
        slack: bound on the relative error of the norm, and of scaling by it.
        least: smallest norm that can be enforced.  Below it, XLA treats the entries as zeros although
            each may be as large as 2^-126.
    """

    finite: Array
    divisor: Array
    ratio: Array
    slack: float
    least: float

    @property
    def norm(self) -> Array:
        """``f32[]``, the norm ||x||; inf if it overflows."""
        return self.divisor * self.ratio


def measure(arrays: list[Array], norm: Norm) -> Measured:
    """Norm of all entries of the arrays together; the arrays are float32 and none is empty."""
    finite = _tree.all_finite(arrays)  # max|x| does not tell: XLA's maximum may drop a NaN
    peak = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in arrays]))
    # Within these limits the divisor's reciprocal is a normal number; XLA may multiply by it instead.
    divisor = jnp.clip(peak, 2.0**-125, 2.0**125)
    entries = sum(x.size for x in arrays)
    additions = _additions(max(x.size for x in arrays)) + _additions(len(arrays))
    match norm:
        case "l2":
            squares = jnp.stack([_sum(jnp.square(x / divisor)) for x in arrays])
            ratio, roundings, spread = jnp.sqrt(_sum(squares)), additions / 2, math.sqrt(entries)
        case "l1":
            sums = jnp.stack([_sum(jnp.abs(x / divisor)) for x in arrays])
            ratio, roundings, spread = _sum(sums), float(additions), float(entries)
        case "linf":
            ratio, roundings, spread = peak / divisor, 0.0, 1.0
    # If no number passes through more than k additions, a sum of non-negative numbers has a relative
    # error of at most k u, u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 4.2).  A
    # square root halves that.  The single operations (conversion of the bound, division, square, root,
    # three products, a quotient) get 12 u, which covers the approximate reciprocals of accelerators.
    return Measured(finite, divisor, ratio, (roundings + 12) * 2.0**-24, spread * 2.0**-102)


def scale_to(x: Array, measured: Measured, limit: Array) -> Array:
    """Scale one measured array as if all together were scaled to norm ``limit`` or slightly less.

    The relative error is at most ``measured.slack``.  Narrow dtypes are rounded towards zero.
    """
    scale = limit * (1 - measured.slack) / jnp.where(measured.ratio > 0, measured.ratio, 1)
    return narrow(x.astype(jnp.float32) / measured.divisor * scale, x.dtype)


def joint(norm: Norm, values: Sequence[Array | float]) -> Measured:
    """Norm of an update whose parts have the norms ``values``."""
    return measure([jnp.stack([jnp.asarray(value, jnp.float32) for value in values])], norm)


def narrow(x: Array, dtype: jnp.dtype) -> Array:
    """Convert ``x`` (float32) to ``dtype``, rounding towards zero."""
    if jnp.finfo(dtype).bits >= 32:
        return x.astype(dtype)
    # Without the barrier XLA may remove the conversion and back, because it allows excess precision.
    rounded = jax.lax.optimization_barrier(x.astype(dtype))
    outward = jnp.abs(rounded.astype(jnp.float32)) > jnp.abs(x)
    bits = jax.lax.bitcast_convert_type(rounded, f"uint{jnp.finfo(dtype).bits}")
    # Floats are stored as sign and magnitude, so subtracting 1 from the bits is one step towards zero.
    return jax.lax.bitcast_convert_type(bits - outward.astype(bits.dtype), dtype)


def _sum(x: Array) -> Array:
    """Sum of all entries, in blocks of blocks so that no chain of additions is long."""
    x = x.ravel()
    while x.size > 1:
        x = jnp.pad(x, (0, -x.size % _BLOCK)).reshape(-1, _BLOCK).sum(axis=1)
    return x[0]


def _additions(n: int) -> int:
    """Largest number of additions that one of n numbers passes through in :func:`_sum`."""
    return 0 if n == 1 else min(n, _BLOCK) - 1 + _additions(math.ceil(n / _BLOCK))
