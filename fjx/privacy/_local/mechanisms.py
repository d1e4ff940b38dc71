"""Local differential privacy: codecs that randomise a message on the client, before anybody sees it."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Compressor, Contract, Key, Tree
from fjx._kernels import random as _random
from fjx._kernels.inner import inner
from fjx._kernels.rounding import exact_stochastic_round, norm
from fjx._tree import ravel, require_floating, unravel
from fjx.privacy._bounds.clip import clip_by_global_norm
from fjx.privacy._bounds.other_norms import by_l1_norm
from fjx.privacy._local.sphere import along, unit
from fjx.privacy._types import LocalMechanism
from fjx.wire import Codes, Flat


def priv_unit(*, epsilon: float, clip_norm: float) -> LocalMechanism:
    r"""PrivUnit: a random unit vector that leans towards the direction of the message.

    The message is clipped to norm C.  Its direction u is x / ||x||, or the opposite with probability (1
    - ||x|| / C) / 2, so that E[C u] = clip(x).  With probability p the client sends a V that is uniform
    on the cap {v: <v, u> >= t} of the unit sphere, else one that is uniform on the rest of the sphere.
    V decodes to

    .. math:: C \, V / m, \quad m = E\langle V, u \rangle

    With q the cap's share of the sphere, p = e^epsilon q / (1 - q + e^epsilon q).  The height t is the
    one for which m is largest.

    Guarantees:
        - epsilon-differentially private in real arithmetic: densities differ by a factor of exactly
          e^epsilon.
        - Unbiased for messages of norm up to C, and for these E||C V / m - x||^2 = C^2 / m^2 - ||x||^2
          exactly.
        - V is drawn in float32.  Its last bits are not those of the real-valued mechanism.
        - A message that is not finite counts as zero.

    Bits:
        32 d; V is sent as it is.

    Args:
        epsilon: epsilon of the whole message, positive and at most 50.
        clip_norm: clip norm C of the L2 norm of the message.

    Returns:
        A :class:`LocalMechanism` for messages of floating leaves.

    Raises:
        TypeError: an argument is not a Python number; from ``encode``, a leaf is not floating.
        ValueError: an argument is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import privacy, wire
        >>> mechanism = privacy.priv_unit(epsilon=4.0, clip_norm=1.0)
        >>> x = jnp.zeros(16).at[0].set(1.0)
        >>> payload, _ = jax.jit(mechanism.codec.encode)(jax.random.key(0), x, ())
        >>> norm = jnp.linalg.norm(mechanism.codec.decode(payload))
        >>> wire.bits(payload), f"{norm:.1f}"  # 1 / m
        (512, '2.7')

    References:
        Bhowmick, Duchi, Freudiger, Kapoor, Rogers, *Protection Against Reconstruction and Its
        Applications in Private Federated Learning*, 2018 (arXiv:1812.00984).
        Asi, Feldman, Talwar, *Optimal Algorithms for Mean Estimation under Local Differential Privacy*,
        ICML 2022 (arXiv:2205.02466), for the choice of t.
    """
    epsilon = _validate.static_number("epsilon", epsilon, above=0, at_most=50)
    clip_norm = _validate.static_number("clip_norm", clip_norm, above=2.0**-100, at_most=2.0**100)

    def encode(key: Key, vector: Array) -> Array:
        key_sign, key_along, key_around = jax.random.split(key, 3)
        bounded = clip_by_global_norm(vector, clip_norm).update
        # A sphere needs two dimensions to have caps.
        padded = jnp.pad(bounded, (0, max(2 - vector.size, 0)))
        length = norm(padded)
        first = jnp.zeros_like(padded).at[0].set(1.0)
        direction = jnp.where(length > 0, padded / jnp.where(length > 0, length, 1.0), first)
        forward = _random.uniform(key_sign, ()) < (1 + length / clip_norm) / 2
        direction = jnp.where(forward, direction, -direction)
        height = along(key_along, unit(epsilon, padded.size))
        around = _random.normal(key_around, padded.shape)
        around = around - inner(around, direction) * direction
        around = around / jnp.sqrt(jnp.sum(around**2))
        return height * direction + jnp.sqrt(1 - height**2) * around

    def decode(sent: Array) -> Array:
        return sent * np.float32(clip_norm / unit(epsilon, sent.size).mean)

    return LocalMechanism(_of_vectors(encode, decode), epsilon, lambda: _pure(epsilon))


def randomized_response(
    levels: int, *, epsilon: float, low: float, high: float, coordinates: int = 1
) -> LocalMechanism:
    """k-ary randomised response: each coordinate is sent as one of k levels, at times as a random one.

    A coordinate x is cut to [low, high] and rounded at random to one of the two levels beside it.  With
    probability 1 - p that level is sent; otherwise a uniform one of all k.  Level v decodes to
    (v - p c) / (1 - p), with c the centre of the range.

    Guarantees:
        - Each coordinate gets an equal share e of epsilon, e = ln((1 - p + p/k) / (p/k)); hence
          p = k / (exp(e) + k - 1).
        - Unbiased for x within the range.
        - The variance is exactly ((1 - p) E[V^2] + p mean(v^2) - ((1 - p) x + p c)^2) / (1 - p)^2, with
          V the level to which x is rounded.
        - The coin's probabilities are multiples of 2^-23; p is rounded up to one.
        - A coordinate that is not finite counts as the centre.

    Bits:
        d ceil(log2 k), in whole bytes.

    Args:
        levels: number of levels k, 2 to 256.  Two levels have the least variance unless epsilon is
            large.
        epsilon: epsilon of the whole message, positive; at most 12 for each coordinate.
        low: lowest level.
        high: highest level.
        coordinates: number of coordinates of the message, which share epsilon.

    Returns:
        A :class:`LocalMechanism` for messages of so many floating coordinates.

    Raises:
        TypeError: an argument is of another kind; from ``encode``, a leaf is not floating.
        ValueError: an argument is out of range; from ``encode``, the message has another number of
            coordinates.

    Examples:
        >>> import math, jax, jax.numpy as jnp
        >>> from fjx import privacy, wire
        >>> mechanism = privacy.randomized_response(2, epsilon=math.log(3), low=0.0, high=1.0)
        >>> payload, _ = jax.jit(mechanism.codec.encode)(jax.random.key(0), jnp.array(1.0), ())
        >>> wire.bits(payload), float(mechanism.codec.decode(payload)) in (-0.5, 1.5)
        (8, True)

    References:
        Warner, *Randomized Response: A Survey Technique for Eliminating Evasive Answer Bias*, JASA 1965.
        Kairouz, Oh, Viswanath, *Extremal Mechanisms for Local Differential Privacy*, JMLR 2016
        (arXiv:1407.1338).
    """
    k = _validate.static_integer("levels", levels, at_least=2, at_most=256)
    coordinates = _validate.static_integer("coordinates", coordinates, at_least=1)
    epsilon = _validate.static_number("epsilon", epsilon, above=0, at_most=12 * coordinates)
    low = _validate.static_number("low", low)
    high = _validate.static_number("high", high, above=low)
    # Probabilities are multiples of 2^-23.  Rounding p up can only reveal less than promised.
    odds = k / (math.expm1(epsilon / coordinates) + k)
    p = math.ceil(odds * 2**23) / 2**23
    if p == 1:
        raise ValueError(
            f"epsilon = {epsilon!r} shared by {coordinates} coordinates leaves nothing of a message; "
            "raise epsilon, or send fewer coordinates"
        )
    step, centre = (high - low) / (k - 1), (low + high) / 2

    def encode(key: Key, vector: Array) -> Codes:
        if vector.size != coordinates:
            raise ValueError(
                f"epsilon is shared by coordinates = {coordinates}, and the message has {vector.size}; "
                f"make the mechanism with coordinates={vector.size}"
            )
        key_round, key_coin, key_any = jax.random.split(key, 3)
        known = jnp.where(jnp.isfinite(vector), vector, np.float32(centre))
        ratio = (jnp.clip(known, low, high) - np.float32(low)) / np.float32(step)
        level = jnp.clip(exact_stochastic_round(key_round, ratio), 0, k - 1).astype(jnp.int32)
        anything = jax.random.randint(key_any, vector.shape, 0, k)
        random = _random.uniform(key_coin, vector.shape) < p
        return Codes(jnp.where(random, anything, level).astype(jnp.uint8), (k - 1).bit_length())

    def decode(payload: Codes) -> Array:
        value = np.float32(low) + np.float32(step) * payload.codes.astype(jnp.float32)
        return (value - np.float32(p * centre)) * np.float32(1 / (1 - p))

    return LocalMechanism(_of_vectors(encode, decode), epsilon, lambda: _pure(epsilon))


def local_laplace(*, epsilon: float, clip_norm: float) -> LocalMechanism:
    r"""Laplace noise on a message of bounded L1 norm.

    .. math:: \mathrm{clip}(x) + \mathrm{Laplace}(b)^d, \quad b = 2 C / \epsilon

    with clip(x) = x min(1, C / ||x||_1).  Two clipped messages differ by at most 2 C.

    Guarantees:
        - epsilon-differentially private in real arithmetic.
        - Unbiased for messages of L1 norm up to C (1 - 2e-5).
        - The variance of each coordinate is exactly 2 b^2.
        - The noise is drawn in float32, and an adversary may see the lattice of its values.
        - A message that is not finite counts as zero.

    Bits:
        32 d.

    Args:
        epsilon: epsilon of the whole message, positive.
        clip_norm: clip norm C of the L1 norm of the message.

    Returns:
        A :class:`LocalMechanism` for messages of floating leaves.

    Raises:
        TypeError: an argument is not a Python number; from ``encode``, a leaf is not floating.
        ValueError: an argument is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import privacy
        >>> mechanism = privacy.local_laplace(epsilon=2.0, clip_norm=1.0)
        >>> x = jnp.zeros(10_000)
        >>> payload, _ = jax.jit(mechanism.codec.encode)(jax.random.key(0), x, ())
        >>> print(f"{jnp.mean(jnp.abs(mechanism.codec.decode(payload))):.1f}")  # b
        1.0

    References:
        Dwork, McSherry, Nissim, Smith, *Calibrating Noise to Sensitivity in Private Data Analysis*, TCC
        2006.
    """
    epsilon = _validate.static_number("epsilon", epsilon, above=0)
    clip_norm = _validate.static_number("clip_norm", clip_norm, above=2.0**-100, at_most=2.0**100)
    bound, scale = by_l1_norm(clip_norm), np.float32(2 * clip_norm / epsilon)

    def encode(key: Key, vector: Array) -> Array:
        noise = scale * jax.random.laplace(key, vector.shape)
        return bound.clip(vector, jnp.ones(())).update + noise

    def event() -> Any:
        import dp_accounting

        return dp_accounting.LaplaceDpEvent(1 / epsilon)

    return LocalMechanism(_of_vectors(encode, lambda sent: sent), epsilon, event)


def local_gaussian(*, clip_norm: float, noise_multiplier: float) -> LocalMechanism:
    r"""Gaussian noise on a message of bounded L2 norm.

    .. math:: \mathrm{clip}(x) + N(0, (z C)^2 I)

    Two clipped messages differ by up to 2 C.  Hence z counts half as much as in a central mechanism in
    which one client is added or removed.

    Guarantees:
        - ``event`` is that of the real-valued mechanism.
        - Unbiased for messages of norm up to C (1 - 2e-5).
        - The variance of each coordinate is (z C)^2.
        - A message that is not finite counts as zero.

    Bits:
        32 d.

    Args:
        clip_norm: clip norm C of the L2 norm of the message.
        noise_multiplier: noise multiplier z, positive.

    Returns:
        A :class:`LocalMechanism` for messages of floating leaves.  Its ``epsilon`` is inf, because delta
        is not zero.

    Raises:
        TypeError: an argument is not a Python number; from ``encode``, a leaf is not floating.
        ValueError: an argument is out of range.

    Examples:
        >>> import dp_accounting
        >>> from fjx import privacy
        >>> mechanism = privacy.local_gaussian(clip_norm=1.0, noise_multiplier=4.0)
        >>> mechanism.event().noise_multiplier
        2.0

    References:
        Dwork, Roth, *The Algorithmic Foundations of Differential Privacy*, 2014, appendix A.
    """
    clip_norm = _validate.static_number("clip_norm", clip_norm, above=2.0**-100, at_most=2.0**100)
    z = _validate.static_number("noise_multiplier", noise_multiplier, above=0)

    def encode(key: Key, vector: Array) -> Array:
        noise = np.float32(z * clip_norm) * _random.normal(key, vector.shape)
        return clip_by_global_norm(vector, clip_norm).update + noise

    def event() -> Any:
        import dp_accounting

        return dp_accounting.GaussianDpEvent(z / 2)

    return LocalMechanism(_of_vectors(encode, lambda sent: sent), math.inf, event)


def _of_vectors(encode: Callable[[Key, Array], Any], decode: Callable[[Any], Array]) -> Compressor:
    """Build a codec of whole messages from one of float32 vectors."""

    def encode_tree(key: Key, message: Tree, state: Tree) -> tuple[Flat, Tree]:
        _validate.key("key", key)
        require_floating("message", message)
        vector, others, structure = ravel(message)
        return Flat(encode(key, vector.astype(jnp.float32)), others, structure), state

    def decode_tree(payload: Flat) -> Tree:
        return unravel(decode(payload.vector), payload.others, payload.structure)

    # Large messages are clipped, so no contract bounds the error of every message.
    return Compressor(lambda like: (), encode_tree, decode_tree, lambda like: Contract())


@functools.cache
def _pure(epsilon: float) -> Any:
    """Event that dominates every epsilon-private mechanism: randomised response between two answers."""
    import dp_accounting

    return dp_accounting.RandomizedResponseDpEvent(2 / (math.exp(epsilon) + 1), 2)
