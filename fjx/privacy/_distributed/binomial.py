"""Poisson binomial mechanism: random counts instead of added noise."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Key
from fjx._kernels import random as _random
from fjx.privacy import _curves
from fjx.privacy._distributed.rounded import honest_shares
from fjx.privacy._types import DistributedMechanism, Encoded, Relation, RenyiCurve, require_relation


def poisson_binomial(
    *,
    bound: float,
    theta: float,
    trials: int,
    clients: int,
    dimension: int,
    dropped: int = 0,
    colluding: int = 0,
) -> DistributedMechanism:
    r"""Poisson binomial mechanism: each client sends random counts that encode its coordinates.

    No noise is added; the counts themselves are random.  Client i cuts each coordinate x to [-c, c] and
    sends a count of at most m:

    .. math:: Z \sim \mathrm{Binomial}(m, 1/2 + \theta x / c)

    The sum of n counts estimates the sum of the coordinates by c / (m theta) (sum Z - n m / 2).  It has
    no tail, so it never wraps.

    *What is proved and what is not.*  ``event`` is the divergence of two sums for one coordinate,
    computed exactly for the worst client and the worst others, times d.  That these are the worst was
    searched, over all others that are at the ends of the interval for small n and m.  It is *not proved*
    for other n and m, and each claim carries that caveat.

    Guarantees:
        - Unbiased for coordinates within the bound, up to 2^-23 c / theta.
        - The sum has variance c^2 / (m theta^2) sum_i p_i (1 - p_i), with p_i = 1/2 + theta x_i / c.  It
          is at most n c^2 / (4 m theta^2).
        - No sum wraps.
        - Coins have 23 bits.  theta is rounded down to a multiple of 2^-23, which makes both ends exact.
          A probability in between is rounded up to such a multiple, and stays between them.
        - A coordinate beyond the bound is cut, and counted in ``saturated``.
        - A message that is not finite counts as zero.

    Bits:
        d ceil(log2(n m + 1)).

    Args:
        bound: bound c on the magnitude of each coordinate: the L-infinity norm of a message.
        theta: slope theta from 2^-23 to 1/2 - 2^-20; a smaller one is more private.
        trials: number of trials m, 1 to 1024.
        clients: largest size n of a cohort.
        dimension: number d of coordinates of a message, rotated and padded.
        dropped: number of the n clients that may be missing; if more are, nothing is released.
        colluding: number of participants that are not trusted to keep their randomness secret.

    Returns:
        A :class:`DistributedMechanism` for :func:`fjx.aggregators.distributed`.  Its ``sensitivity`` is
        in the L-infinity norm.

    Raises:
        TypeError: an argument is not a Python number of its kind.
        ValueError: an argument is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> mechanism = poisson_binomial(bound=1.0, theta=0.25, trials=15, clients=100, dimension=4)
        >>> mechanism.bits
        11
        >>> keys = jax.random.split(jax.random.key(0), 100)
        >>> x = jnp.array([1.0, 0.5, 0.0, -1.0])
        >>> codes = jax.jit(jax.vmap(lambda key: mechanism.encode(key, x).codes))(keys)
        >>> mean = mechanism.decode(codes.sum(0, dtype=jnp.uint32), jnp.int32(100)) / 100
        >>> bool(jnp.all(jnp.abs(mean - x) < 3 * jnp.sqrt(mechanism.variance / 100)))
        True

    References:
        Chen, Ozgur, Kairouz, *The Poisson Binomial Mechanism for Unbiased Federated Learning with Secure
        Aggregation*, ICML 2022 (arXiv:2207.09916).
    """
    bound = _validate.static_number("bound", bound, above=2.0**-100, at_most=2.0**100)
    theta = _validate.static_number("theta", theta, at_least=2.0**-23, at_most=0.5 - 2.0**-20)
    theta = math.floor(theta * 2**23) / 2**23
    trials = _validate.static_integer("trials", trials, at_least=1, at_most=1024)
    clients = _validate.static_integer("clients", clients, at_least=1, at_most=2**20)
    dimension = _validate.static_integer("dimension", dimension, at_least=1)
    dropped = _validate.static_integer("dropped", dropped, at_least=0)
    colluding = _validate.static_integer("colluding", colluding, at_least=0)
    shares = honest_shares(clients, dropped, colluding)
    unit = bound / (trials * theta)

    def encode(key: Key, vector: Array) -> Encoded:
        finite = jnp.all(jnp.isfinite(vector))
        known = jnp.where(finite, vector, 0.0)
        fitting = jnp.clip(known, -bound, bound)
        # A device may divide inexactly; the clip keeps every probability in the accounted range.
        chance = 0.5 + np.float32(theta) * (fitting / np.float32(bound))
        chance = jnp.clip(chance, np.float32(0.5 - theta), np.float32(0.5 + theta))

        def one(trial: Array, count: Array) -> Array:
            coin = _random.uniform(jax.random.fold_in(key, trial), vector.shape)
            return count + (coin < chance).astype(jnp.uint32)

        codes = jax.lax.fori_loop(0, trials, one, jnp.zeros(vector.shape, jnp.uint32))
        saturated = jnp.sum(fitting != known, dtype=jnp.int32)
        norm = jnp.where(finite, jnp.sqrt(jnp.sum(known**2)), jnp.nan)
        return Encoded(codes, norm, saturated > 0, finite, saturated)

    def decode(total: Array, count: Array) -> Array:
        # Twice the centred sum is an integer.
        twice = jax.lax.bitcast_convert_type(2 * total, jnp.int32) - trials * count
        return np.float32(unit / 2) * twice.astype(jnp.float32)

    def sensitivity(relation: Relation) -> float:
        require_relation(relation)
        return bound if relation == "add_or_remove_one" else 2 * bound

    def event(moves: float) -> RenyiCurve:
        words = (
            f"Poisson binomial mechanism of {trials} trials and theta {theta:.4g} by {shares} of "
            f"{clients} clients, {dimension} coordinates"
        )
        other = 0.5 - theta * (moves - 1)  # a coordinate moves from c to 0, or to -c
        curve = _curves.poisson_binomial(
            0.5 - theta, other, trials=trials, shares=shares, dimension=dimension
        )
        return RenyiCurve(
            curve,
            words,
            caveat="The worst case of the Poisson binomial mechanism is assumed at the ends of the "
            "interval; that was searched, and is not proved",
        )

    return DistributedMechanism(
        encode=encode,
        decode=decode,
        bits=(clients * trials).bit_length(),
        dimension=dimension,
        clients=clients,
        least=clients - dropped,
        colluding=colluding,
        variance=trials * unit**2 / 4,
        noise_multiplier=math.sqrt(shares * trials * unit**2 / 4) / bound,
        sensitivity=sensitivity,
        event=event,
    )
