"""Caps of the unit sphere: the best height, and the height of a random point inside or outside."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array, Key
from fjx._kernels import random as _random


class Caps(NamedTuple):
    """Sphere in R^d cut in two: the cap {v: <v, u> >= t} and the rest.

    Attributes:
        dimension: d, at least 2.
        height: t.
        share: q, the probability that a uniform point lies in the cap.
        inside: p, the probability of drawing a point of the cap.
        outside: 2^64 (1 - p), a whole number.
        mean: m, the resulting mean E<V, u>.
    """

    dimension: int
    height: float
    share: float
    inside: float
    outside: int
    mean: float


@functools.cache
def unit(epsilon: float, dimension: int) -> Caps:
    """Cap that estimates best if the densities inside and outside differ by the factor e^epsilon.

    A uniform <V, u> has density c (1 - t^2)^((d-3)/2) with c = 1 / B(1/2, (d-1)/2).  Its first moment is
    M = c (1 - t^2)^((d-1)/2) / (d - 1) above t, and -M below.  Hence m = M (p/q - (1-p)/(1-q)).

    1 - p is enlarged by the factor 1 + 2^-20 and rounded up to a multiple of 2^-64.  The factor is far
    above the rounding errors of q and of the arc in two dimensions, so the densities differ by at most
    e^epsilon.
    """
    from scipy import special

    half = (dimension - 1) / 2
    # Caps much smaller than e^-epsilon are never best.
    top = min(1 - 1e-6, (math.sqrt(2 * epsilon) + 3) / math.sqrt(dimension))
    heights = (
        np.linspace(0, top, 8192).astype(np.float32).astype(np.float64)
    )  # as they are compared
    shares = special.betainc(half, 0.5, 1 - heights**2) / 2
    moments = np.exp(half * np.log1p(-(heights**2)) - special.betaln(0.5, half)) / (dimension - 1)
    means = moments * math.expm1(epsilon) / (1 + math.expm1(epsilon) * shares)
    means = np.where(shares >= 1e-3 * min(1.0, math.exp(5 - epsilon)), means, 0.0)
    best = int(np.argmax(means))
    share, moment = float(shares[best]), float(moments[best])
    chance = (1 - share) / (1 + math.expm1(epsilon) * share)
    outside = min(math.ceil(chance * (1 + 2.0**-20) * 2**64), 2**64 - 1)
    inside = 1 - outside / 2**64
    mean = moment * (inside / share - outside / 2**64 / (1 - share))
    return Caps(dimension, float(heights[best]), share, inside, outside, mean)


def along(key: Key, caps: Caps) -> Array:
    """``f32[]``, <V, u>, drawn by rejection from a few scalars in any dimension."""
    key_coin, key_tries = jax.random.split(key)
    high, low = _random.words(key_coin, ())
    limit, rest = jnp.uint32(caps.outside >> 32), jnp.uint32(caps.outside & 0xFFFFFFFF)
    inside = (high > limit) | ((high == limit) & (low >= rest))
    if caps.dimension == 2:  # on a circle the angle is uniform
        edge, share = np.float32(math.acos(caps.height)), _random.uniform(key_tries, ())
        return jnp.cos(jnp.where(inside, share * edge, edge + share * (np.float32(math.pi) - edge)))
    k, t = (caps.dimension - 3) / 2, caps.height
    # log (1 - h^2)^k is concave and lies below its tangent at t:
    # (1 - h^2)^k <= (1 - t^2)^k exp(-slope (h - t)).
    slope = 2 * k * t / (1 - t * t)
    rate = max(slope, 1e-3)
    slack = np.float32((rate - slope) * (1 - t))
    by_tangent = rate * t >= 1 or k <= 4

    def anywhere(key: Key) -> tuple[Array, Array]:
        """Proposal on [-1, 1] and the logarithm of its acceptance: (1 - h^2)^k <= exp(-k h^2)."""
        if k == 0:
            return 2 * _random.uniform(key, ()) - 1, jnp.zeros(())
        height = np.float32(1 / math.sqrt(2 * k)) * _random.normal(key, ())
        square = jnp.minimum(height**2, 1.0)
        return height, np.float32(k) * (jnp.log1p(-square) + square)

    def above(key: Key) -> tuple[Array, Array]:
        """Proposal on [t, 1], a truncated exponential, and the logarithm of its acceptance."""
        whole = -math.expm1(-rate * (1 - t))
        beyond = -jnp.log1p(-np.float32(whole) * _random.uniform(key, ())) / np.float32(rate)
        square = beyond * (beyond + np.float32(2 * t)) / np.float32(1 - t * t)
        log_ratio = np.float32(k) * jnp.log1p(-jnp.minimum(square, 1.0)) if k else jnp.zeros(())
        return np.float32(t) + beyond, log_ratio + np.float32(rate) * beyond - slack

    def attempt(number: Array) -> tuple[Array, Array, Array]:
        key_try = jax.random.fold_in(key_tries, number)
        key_anywhere, key_above, key_accept = jax.random.split(key_try, 3)
        height, chance = anywhere(key_anywhere)
        fits = (height >= t) == inside
        if by_tangent:
            high, high_chance = above(key_above)
            height, chance = jnp.where(inside, high, height), jnp.where(inside, high_chance, chance)
            fits = inside | fits
        return number + 1, height, fits & (jnp.log1p(-_random.uniform(key_accept, ())) < chance)

    first = attempt(jnp.int32(0))
    return jax.lax.while_loop(lambda carry: ~carry[2], lambda carry: attempt(carry[0]), first)[1]
