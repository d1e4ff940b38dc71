"""Caps of the sphere: how high one is to be, and a point in it or out of it."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _random
from fjx._base import Array, Key


class Caps(NamedTuple):
    """A sphere in R^d cut in two: {v: <v, u> >= t} and the rest.

    Attributes:
        dimension: d, at least 2.
        height: t.
        share: q, the probability that a uniform point lies in the cap.
        inside: p, the probability with which one of the cap is drawn.
        mean: m, E<V, u> then.
    """

    dimension: int
    height: float
    share: float
    inside: float
    mean: float


@functools.cache
def unit(epsilon: float, dimension: int) -> Caps:
    """The cap that estimates best when densities in and out of it differ by e^epsilon.

    A uniform <V, u> has the density c (1 - t^2)^((d-3)/2), c = 1 / B(1/2, (d-1)/2), whose first moment
    above t is M = c (1 - t^2)^((d-1)/2) / (d - 1), and -M below; so m = M (p/q - (1-p)/(1-q)).
    """
    from scipy import special

    half = (dimension - 1) / 2
    # No cap that is worth while is smaller than about e^-epsilon.
    top = min(1 - 1e-6, (math.sqrt(2 * epsilon) + 3) / math.sqrt(dimension))
    heights = np.linspace(0, top, 8192)
    shares = special.betainc(half, 0.5, 1 - heights**2) / 2
    moments = np.exp(half * np.log1p(-(heights**2)) - special.betaln(0.5, half)) / (dimension - 1)
    means = moments * math.expm1(epsilon) / (1 + math.expm1(epsilon) * shares)
    means = np.where(shares >= 1e-3 * min(1.0, math.exp(5 - epsilon)), means, 0.0)
    best = int(np.argmax(means))
    share = float(shares[best])
    inside = share * math.exp(epsilon) / (1 + math.expm1(epsilon) * share)
    return Caps(dimension, float(heights[best]), share, inside, float(means[best]))


def along(key: Key, caps: Caps) -> Array:
    """``f32[]``: <V, u>, drawn by rejection: a handful of scalars, whatever the dimension."""
    key_coin, key_tries = jax.random.split(key)
    inside = _random.uniform(key_coin, ()) < caps.inside
    k, t = (caps.dimension - 3) / 2, caps.height
    # Of a concave logarithm of the density the tangent at t is above it: an exponential, cut at 1.
    rate = 2 * k * t / (1 - t * t)
    tangent = k > 0 and rate * t >= 1

    def attempt(number: Array) -> tuple[Array, Array, Array]:
        key_try = jax.random.fold_in(key_tries, number)
        key_one, key_rest, key_cap, key_accept = jax.random.split(key_try, 4)
        one = _random.normal(key_one, ())
        rest = 2 * jax.random.gamma(key_rest, np.float32((caps.dimension - 1) / 2))
        anywhere = one / jnp.sqrt(one**2 + rest)
        if not tangent:
            return number + 1, anywhere, (anywhere >= t) == inside
        # Distances beyond t; the tail beyond 1 is rejected.
        beyond = -jnp.log1p(-_random.uniform(key_cap, ())) / np.float32(rate)
        height = np.float32(t) + beyond
        square = jnp.minimum((height**2 - np.float32(t * t)) / np.float32(1 - t * t), 1.0)
        excess = np.float32(k) * jnp.log1p(-square) + np.float32(rate) * beyond
        accept = jnp.log1p(-_random.uniform(key_accept, ())) < excess
        return (
            number + 1,
            jnp.where(inside, height, anywhere),
            jnp.where(inside, accept & (height < 1), anywhere < t),
        )

    first = attempt(jnp.int32(0))
    done = jax.lax.while_loop(lambda carry: ~carry[2], lambda carry: attempt(carry[0]), first)
    return done[1]
