"""Distributed Gaussian and Skellam noise: integers from the clients, for a secure sum."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Key
from fjx._kernels.rounding import exact_stochastic_round
from fjx.privacy import _curves
from fjx.privacy._bounds.clip import clip_by_global_norm
from fjx.privacy._bounds.norms import measure
from fjx.privacy._curves import Curve
from fjx.privacy._mechanisms.integer_noise import (
    LARGEST,
    WRAPS,
    IntegerNoise,
    discrete_gaussian,
    skellam,
)
from fjx.privacy._types import DistributedMechanism, Encoded, Relation, RenyiCurve, require_relation


def distributed_gaussian(
    *,
    clip_norm: float,
    noise_multiplier: float,
    granularity: float,
    bits: int,
    clients: int,
    dimension: int,
    dropped: int = 0,
    colluding: int = 0,
    beta: float = math.exp(-0.5),
) -> DistributedMechanism:
    r"""Distributed discrete Gaussian mechanism: rounded messages plus integer noise.

    Use it with a secure sum, which reveals only the sum of the clients' integers.  Client i sends

    .. math:: R(\mathrm{clip}(x_i) / \gamma) + N_{\mathbb Z}(s^2) \mod 2^b

    R rounds each coordinate up or down at random, and repeats all of them until ||R(x)|| is at most

    min(c + sqrt(d), sqrt(c^2 + d/4 + sqrt(2 ln(1/beta)) (c + sqrt(d)/2))),  c = C / gamma.

    N_Z is the discrete Gaussian.  The server represents the sum mod 2^b around zero and multiplies it by
    gamma.  The noise on the sum has standard deviation z C even if ``dropped`` clients are missing and
    ``colluding`` clients have told their noise to the reader of the sum, because each client's noise has
    the parameter

    s = z C / (gamma sqrt(n - dropped - colluding)).

    Messages should be flat, with each coordinate about C / sqrt(d); :func:`fjx.aggregators.rotated`
    makes them so.  No 64-bit arithmetic is needed.

    Guarantees:
        - A client's integers before noise have at most the norm above, whatever it sends and however
          floats round.
        - Sums are exact mod 2^b, in any order.
        - ``event`` is that of the paper, for the noise of n - dropped - colluding clients, at orders of
          at least 2.  It states how far the tables of their draws (d for each client) are from ideal
          ones, and that distance is charged to delta.
        - Coordinates are cut so that the codes of n clients and their noise fit in b bits.  The
          coordinates cut are counted in ``saturated``.
        - A sum wraps with probability at most 1e-6 a round; nothing can detect that.
        - With beta = 0 no rounding is repeated.  The decoded sum of unclipped messages is then unbiased
          (up to 2^-23 gamma), and its error has a variance of at most gamma^2 / 4 + (gamma s)^2 for each
          client and coordinate.

    Args:
        clip_norm: clip norm C of the L2 norm of a message.
        noise_multiplier: noise multiplier z, at least 0.
        granularity: distance gamma of two values of a coordinate; s should be at least 1/2.
        bits: number of bits b, 2 to 32.
        clients: largest size n of a cohort.
        dimension: number d of coordinates of a message, rotated and padded.
        dropped: number of the n clients that may be missing; if more are, nothing is released.
        colluding: number of participants that are not trusted to keep their noise secret.
        beta: largest probability that a rounding is repeated; 0 repeats none, at the cost of a larger
            norm.

    Returns:
        A :class:`DistributedMechanism` for :func:`fjx.aggregators.distributed`.

    Raises:
        TypeError: an argument is not a Python number of its kind; tables are computed from them.
        ValueError: an argument is out of range, or ``bits`` are too few for a flat message and its
            noise.

    Examples:
        >>> import jax, jax.numpy as jnp, math
        >>> mechanism = distributed_gaussian(clip_norm=1.0, noise_multiplier=1.0, granularity=1e-2,
        ...     bits=16, clients=100, dimension=1024)
        >>> x = jnp.full(1024, 1 / 32)
        >>> keys = jax.random.split(jax.random.key(0), 100)
        >>> codes = jax.jit(jax.vmap(lambda key: mechanism.encode(key, x).codes))(keys)
        >>> total = mechanism.decode(codes.sum(0, dtype=jnp.uint32), jnp.int32(100))
        >>> print(f"{jnp.mean(total) - 100 / 32:.1f} +- {jnp.std(total):.1f}")
        0.0 +- 1.0
        >>> round(mechanism.sensitivity("add_or_remove_one"), 2)
        1.02

    References:
        Kairouz, Liu, Steinke, *The Distributed Discrete Gaussian Mechanism for Federated Learning with
        Secure Aggregation*, ICML 2021 (arXiv:2102.06387).
    """

    def curve(l2: float, l1: float, sd: float, shares: int) -> Curve:
        return _curves.discrete_gaussians(l2, l1, sd=sd, shares=shares, dimension=dimension)

    return _distributed(
        "discrete Gaussian",
        discrete_gaussian,
        curve,
        clip_norm=clip_norm,
        noise_multiplier=noise_multiplier,
        granularity=granularity,
        bits=bits,
        clients=clients,
        dimension=dimension,
        dropped=dropped,
        colluding=colluding,
        beta=beta,
    )


def distributed_skellam(
    *,
    clip_norm: float,
    noise_multiplier: float,
    granularity: float,
    bits: int,
    clients: int,
    dimension: int,
    dropped: int = 0,
    colluding: int = 0,
    beta: float = math.exp(-0.5),
) -> DistributedMechanism:
    """Distributed Skellam mechanism: :func:`distributed_gaussian` with Skellam noise.

    A Skellam variable is the difference of two Poisson variables, and a sum of Skellam variables is
    again one.  The noise of the sum is therefore known exactly for any number of clients, and s need not
    have a certain size.

    Guarantees:
        - Those of :func:`distributed_gaussian` hold.
        - ``event`` is known at integer orders.

    Args:
        clip_norm: clip norm C of the L2 norm of a message.
        noise_multiplier: noise multiplier z, at least 0.
        granularity: distance gamma of two values of a coordinate.
        bits: number of bits b, 2 to 32.
        clients: largest size n of a cohort.
        dimension: number d of coordinates of a message, rotated and padded.
        dropped: number of the n clients that may be missing; if more are, nothing is released.
        colluding: number of participants that are not trusted to keep their noise secret.
        beta: largest probability that a rounding is repeated; 0 repeats none.

    Returns:
        A :class:`DistributedMechanism` for :func:`fjx.aggregators.distributed`.

    Raises:
        TypeError: an argument is not a Python number of its kind.
        ValueError: an argument is out of range, or ``bits`` are too few.

    Examples:
        >>> import numpy as np
        >>> mechanism = distributed_skellam(clip_norm=1.0, noise_multiplier=1.0, granularity=1e-2,
        ...     bits=16, clients=100, dimension=1024)
        >>> mechanism.event(1.0).rdp(np.array([2.0, 2.5])).round(3).tolist()
        [1.037, inf]

    References:
        Agarwal, Kairouz, Liu, *The Skellam Mechanism for Differentially Private Federated Learning*,
        NeurIPS 2021 (arXiv:2110.04995).
    """

    def curve(l2: float, l1: float, sd: float, shares: int) -> Curve:
        return _curves.skellam(l2, l1, variance=shares * sd**2)

    return _distributed(
        "Skellam",
        skellam,
        curve,
        clip_norm=clip_norm,
        noise_multiplier=noise_multiplier,
        granularity=granularity,
        bits=bits,
        clients=clients,
        dimension=dimension,
        dropped=dropped,
        colluding=colluding,
        beta=beta,
    )


def _distributed(
    family: str,
    noise_of: Callable[[float], IntegerNoise],
    curve: Callable[[float, float, float, int], Curve],
    *,
    clip_norm: float,
    noise_multiplier: float,
    granularity: float,
    bits: int,
    clients: int,
    dimension: int,
    dropped: int,
    colluding: int,
    beta: float,
) -> DistributedMechanism:
    """Common part of both mechanisms: everything but the noise and the curve of its sum."""
    clip_norm = _validate.static_number("clip_norm", clip_norm, above=0)
    noise_multiplier = _validate.static_number("noise_multiplier", noise_multiplier, at_least=0)
    gamma = _validate.static_number("granularity", granularity, above=2.0**-100, at_most=2.0**100)
    bits = _validate.static_integer("bits", bits, at_least=2, at_most=32)
    clients = _validate.static_integer("clients", clients, at_least=1)
    dimension = _validate.static_integer("dimension", dimension, at_least=1)
    dropped = _validate.static_integer("dropped", dropped, at_least=0)
    colluding = _validate.static_integer("colluding", colluding, at_least=0)
    beta = _validate.static_number("beta", beta, at_least=0, below=1)
    shares = honest_shares(clients, dropped, colluding)
    radius = clip_norm / gamma
    if radius > 2**22:
        raise ValueError(
            f"granularity must be at least clip_norm / 2^22, got {granularity!r}: float32 cannot "
            "represent fractions of such a fine step"
        )
    sd = noise_multiplier * clip_norm / (gamma * math.sqrt(shares))
    if sd > LARGEST:
        raise ValueError(
            f"granularity = {granularity!r} makes a client's noise {sd:.4g} steps wide, and {LARGEST:g} "
            "are supported at most; take a coarser step, which loses nothing while the noise is "
            "a few steps wide"
        )
    noise = noise_of(sd) if sd > 0 else None
    room = _room(noise, radius, bits=bits, clients=clients, dimension=dimension)
    l2 = _curves.rounded_norm(radius, dimension=dimension, beta=beta)
    l1 = _curves.rounded_sum(l2, dimension)

    def encode(key: Key, vector: Array) -> Encoded:
        key_round, key_noise = jax.random.split(key)
        # The margin covers the quotient below, whose relative error is at most 2^-23.
        bounded = clip_by_global_norm(vector, clip_norm * (1 - 2.0**-22))
        steps = bounded.update / np.float32(gamma)
        fitting = jnp.clip(steps, -room, room)
        integers = _conditional_round(key_round, fitting, l2, radius).astype(jnp.int32)
        if noise is not None:
            integers = integers + noise.sample(key_noise, vector.shape)
        codes = jax.lax.bitcast_convert_type(integers, jnp.uint32) & jnp.uint32(2**bits - 1)
        saturated = jnp.sum(fitting != steps, dtype=jnp.int32)
        return Encoded(codes, bounded.norm, bounded.clipped, bounded.finite, saturated)

    def decode(total: Array, count: Array) -> Array:
        # The highest of the b bits is the sign.
        high = jax.lax.bitcast_convert_type(total << (32 - bits), jnp.int32)
        return (high >> (32 - bits)).astype(jnp.float32) * np.float32(gamma)

    def sensitivity(relation: Relation) -> float:
        require_relation(relation)
        return gamma * l2 * (1 if relation == "add_or_remove_one" else 2)

    def event(moves: float) -> RenyiCurve:
        words = (
            f"distributed {family} noise of multiplier {noise_multiplier:.4g} by {shares} of {clients} "
            f"clients, steps of {gamma:.4g}, {dimension} coordinates"
        )
        if noise is None:
            return RenyiCurve(lambda orders: np.full(np.shape(orders), np.inf), words)
        # Only these shares are counted: the other clients' noise is independent of theirs.
        distance = shares * dimension * noise.distance
        return RenyiCurve(curve(moves * l2, moves * l1, sd, shares), words, distance)

    return DistributedMechanism(
        encode=encode,
        decode=decode,
        bits=bits,
        dimension=dimension,
        clients=clients,
        least=clients - dropped,
        colluding=colluding,
        variance=gamma**2 * (noise.variance if noise else 0.0),
        noise_multiplier=noise_multiplier,
        sensitivity=sensitivity,
        event=event,
    )


def honest_shares(clients: int, dropped: int, colluding: int) -> int:
    """Number of clients whose noise is certain to be present and secret.

    Raises:
        ValueError: there is none.
    """
    shares = clients - dropped - colluding
    if shares < 1:
        raise ValueError(
            f"with clients = {clients}, dropped = {dropped} and colluding = {colluding}, nobody's noise "
            "is left; lower dropped or colluding"
        )
    return shares


def _room(
    noise: IntegerNoise | None, radius: float, *, bits: int, clients: int, dimension: int
) -> int:
    """Largest integer that each of n clients may add, with the tail of the noise allowed for."""
    half = 2 ** (bits - 1) - 1
    tail = noise.tail(clients, WRAPS / dimension) if noise else 0.0
    room = math.floor((half - tail) / clients)
    # After a random rotation a coordinate exceeds t with probability at most 2 exp(-t^2 d / (2 c^2)).
    log_tail = math.log(2 * dimension * clients / WRAPS)
    wanted = math.ceil(radius * min(1.0, math.sqrt(2 * log_tail / dimension)))
    if room < wanted:
        enough = math.ceil(math.log2(clients * wanted + tail + 1)) + 1
        raise ValueError(
            f"bits = {bits} are too few: {clients} clients with coordinates up to {wanted} steps and "
            f"noise up to {tail:.0f} could wrap modulo 2^{bits}; take bits = {enough}, a coarser "
            "granularity, or fewer clients"
        )
    return min(room, 2**23)


def _conditional_round(key: Key, steps: Array, limit: float, radius: float) -> Array:
    """Round every coordinate at random, and repeat all of them until their norm is within the limit."""
    if not steps.size or limit >= radius + math.sqrt(steps.size):
        return exact_stochastic_round(key, steps)

    def attempt(number: Array) -> tuple[Array, Array, Array]:
        rounded = exact_stochastic_round(jax.random.fold_in(key, number), steps)
        measured = measure([rounded], "l2")
        return number + 1, rounded, measured.norm <= limit * (1 - measured.slack)

    def again(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        return attempt(carry[0])

    return jax.lax.while_loop(lambda carry: ~carry[2], again, attempt(jnp.int32(0)))[1]
