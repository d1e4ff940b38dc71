"""Norms of updates, and scaling to a norm, with errors that are known."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import Array
from fjx.privacy._types import Norm

_BLOCK = 64  # additions in a row, see _sum


class Measured(NamedTuple):
    """The norm of a list of arrays, as a product that overflows only if the norm does.

    Attributes:
        finite: ``bool[]``, whether all entries are.  If not, the others mean nothing.
        divisor: about max|x|; no square of x / divisor overflows, nor do all vanish.
        ratio: ||x / divisor||.
        slack: a bound on the relative error of the norm, and of scaling by it.
        least: norms below this one cannot be enforced: XLA takes the entries for zeros, each of which
            may be as large as 2^-126.
    """

    finite: Array
    divisor: Array
    ratio: Array
    slack: float
    least: float

    @property
    def norm(self) -> Array:
        """||x||: ``f32[]``, inf where it overflows."""
        return self.divisor * self.ratio


def measure(arrays: list[Array], norm: Norm) -> Measured:
    """The norm of all entries together; of float32 arrays, none of them empty."""
    finite = _tree.all_finite(arrays)  # a maximum would not do: XLA's may drop a NaN
    peak = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in arrays]))
    # Of a divisor in these bounds the reciprocal, by which XLA may multiply instead, is normal.
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
    # A sum of non-negative numbers, none of which passes through more than k additions, errs by at
    # most k u relatively (Higham, Accuracy and Stability of Numerical Algorithms, 4.2), u = 2^-24; a
    # square root halves that.  The single operations (conversion of the bound, division, square, root,
    # three products, a quotient) are given 12 u, approximate reciprocals of accelerators included.
    return Measured(finite, divisor, ratio, (roundings + 12) * 2.0**-24, spread * 2.0**-102)


def scale_to(x: Array, measured: Measured, limit: Array) -> Array:
    """A part of what was measured, as if all were scaled to norm ``limit`` or a little less.

    The relative error is at most ``measured.slack``, and narrow dtypes are rounded towards zero.
    """
    scale = limit * (1 - measured.slack) / jnp.where(measured.ratio > 0, measured.ratio, 1)
    return narrow(x.astype(jnp.float32) / measured.divisor * scale, x.dtype)


def joint(norm: Norm, values: Sequence[Array | float]) -> Measured:
    """The norm of parts whose norms are ``values``."""
    return measure([jnp.stack([jnp.asarray(value, jnp.float32) for value in values])], norm)


def narrow(x: Array, dtype: jnp.dtype) -> Array:
    """``x`` (float32) in ``dtype``, rounded towards zero."""
    if jnp.finfo(dtype).bits >= 32:
        return x.astype(dtype)
    # Without the barrier XLA may elide the round trip, excess precision being allowed.
    rounded = jax.lax.optimization_barrier(x.astype(dtype))
    outward = jnp.abs(rounded.astype(jnp.float32)) > jnp.abs(x)
    bits = jax.lax.bitcast_convert_type(rounded, f"uint{jnp.finfo(dtype).bits}")
    # One less in sign and magnitude is one step towards zero.
    return jax.lax.bitcast_convert_type(bits - outward.astype(bits.dtype), dtype)


def _sum(x: Array) -> Array:
    """The sum of all entries in blocks of blocks, so that no chain of additions is long."""
    x = x.ravel()
    while x.size > 1:
        x = jnp.pad(x, (0, -x.size % _BLOCK)).reshape(-1, _BLOCK).sum(axis=1)
    return x[0]


def _additions(n: int) -> int:
    """How many additions a number passes through in :func:`_sum` of n of them, at most."""
    return 0 if n == 1 else min(n, _BLOCK) - 1 + _additions(math.ceil(n / _BLOCK))
