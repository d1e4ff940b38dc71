"""Rotations, and the quantisers that live on them: DRIVE and EDEN."""

import functools
import math
from collections.abc import Callable
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _tree, _validate
from fjx._base import EXACT, Array, Compressor, Contract, Key, TreeLike
from fjx._hadamard import rotate, unrotate
from fjx._lift import lift
from fjx.compressors._chain import chain, require_compressor
from fjx.wire import LloydMax, Rotated
from fjx.wire._payload import padded_size

# --------------------------------------------------------------------------------------------------
# The randomised Hadamard transform
# --------------------------------------------------------------------------------------------------


def rotated(codec: Compressor, *, rounds: int = 2) -> Compressor:
    r"""Rotates each leaf at random before a codec, and back after it.

    A leaf x is padded with zeros to d' = 2^m coordinates, the codec encodes
    Rx = H D_rounds ... H D_1 x in float32, and the decoded vector is rotated back and cut to size.
    H is the orthonormal Walsh-Hadamard matrix; the signs D_r follow from a seed of the sender, which
    is on the wire.  A rotation spreads what a quantiser must span: the largest |(Rx)_i| is about
    ||x|| sqrt(2 ln d' / d'), whatever x is.

    Guarantees: R is orthogonal for every seed, so the contract is that of the codec for d'
        coordinates, where dropping the padding can only shrink the error; a projection stays one
        where nothing is padded; a leaf with a non-finite value is not finite anywhere when the codec
        sees it; bits: those of the codec for d' coordinates + 64 per leaf.  One round is not enough
        for sparse x and codecs whose own promise depends on the rotation (DRIVE, EDEN).

    Args:
        codec: sees float32 vectors of 2^m coordinates.  A state of it would live in coordinates that
            change every round: give it none, and put ``error_feedback`` around ``rotated``.
        rounds: of signs and Hadamard transform, at least 1.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: ``codec`` is not a Compressor, or ``rounds`` not an integer.
        ValueError: ``rounds`` is less than 1.

    Examples:
        One large coordinate costs a quantiser less once it is spread:

        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> x = jnp.ones(256).at[3].set(16.0)
        >>> def error(codec):
        ...     payload, _ = codec.encode(jax.random.key(0), x, codec.init(x))
        ...     return float(jnp.sum((codec.decode(payload) - x) ** 2)), wire.bits(payload)
        >>> plain = compressors.quantize(bits=4)
        >>> (before, cost), (after, more) = error(plain), error(compressors.rotated(plain))
        >>> after < before / 2, more - cost
        (True, 64)

    References:
        Ailon, Chazelle, *The Fast Johnson-Lindenstrauss Transform*, SIAM Journal on Computing 2009;
        Suresh, Yu, Kumar, McMahan, *Distributed Mean Estimation with Limited Communication*,
        ICML 2017 (arXiv:1611.00429).
    """
    require_compressor("rotated", codec)
    rounds = _validate.static_integer("rounds", rounds, at_least=1)
    pipeline = chain(_rotation(rounds), codec)

    def contract(message_like: TreeLike) -> Contract:
        promised = pipeline.contract(message_like)
        sizes = [leaf.size for leaf in jax.tree.leaves(message_like) if _tree.is_float(leaf)]
        whole = all(padded_size(size) == size for size in sizes)
        return promised._replace(projection=promised.projection and whole)

    return pipeline._replace(contract=contract)


def _rotation(rounds: int) -> Compressor:
    """The rotation as a codec that loses nothing, and leaves a vector for the next one in a chain."""

    def encode(key: Key, x: Array) -> Rotated:
        flat = x.reshape(-1).astype(jnp.float32)
        flat = jnp.pad(flat, (0, padded_size(x.size) - x.size))
        seed, impl = jax.random.key_data(key), str(jax.random.key_impl(key))
        return Rotated(rotate(key, flat, rounds=rounds), seed, x.shape, x.dtype.name, rounds, impl)

    def decode(payload: Rotated) -> Array:
        key = jax.random.wrap_key_data(payload.seed, impl=payload.impl)
        flat = unrotate(key, payload.vector, rounds=payload.rounds)
        return flat[: math.prod(payload.shape)].reshape(payload.shape).astype(payload.dtype)

    return lift(encode, decode, lambda leaf: EXACT, node=Rotated)


# --------------------------------------------------------------------------------------------------
# The quantiser of a Gaussian
# --------------------------------------------------------------------------------------------------


@functools.cache
def gaussian_quantiser(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The 2^bits levels, and the boundaries between them, that distort N(0, 1) least (Lloyd, Max).

    Each level is the mean of its cell, each boundary the midpoint of its levels.  Newton's method finds
    the fixed point of Lloyd's iteration, which itself needs 90,000 steps to get there for 256 levels.
    """
    half = 2 ** (bits - 1)  # the positive cells; the others mirror them
    # Panter and Dite: for many levels their density is that of a normal of variance 3.
    start = NormalDist(0, math.sqrt(3))
    inner = np.array([start.inv_cdf(0.5 + 0.5 * j / half) for j in range(1, half)])
    for _ in range(9):
        edges = np.concatenate([[0.0], inner, [np.inf]])
        density = np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
        tail = np.array([math.erfc(t / math.sqrt(2)) / 2 for t in edges])
        mass = tail[:-1] - tail[1:]
        levels = (density[:-1] - density[1:]) / mass
        # How the level below a boundary, and the one above it, move with the boundary.
        below = density[1:-1] * (inner - levels[:-1]) / mass[:-1]
        above = density[1:-1] * (levels[1:] - inner) / mass[1:]
        jacobian = np.diag(1 - (below + above) / 2)
        jacobian -= np.diag(above[:-1], -1) / 2 + np.diag(below[1:], 1) / 2
        inner = inner - np.linalg.solve(jacobian, inner - (levels[:-1] + levels[1:]) / 2)
    return np.concatenate([-levels[::-1], levels]), np.concatenate([-inner[::-1], [0.0], inner])


def _rounded(
    bits: int,
    scale: Callable[[Array, Array], Array],
    contract: Callable[[jax.ShapeDtypeStruct], Contract],
) -> Compressor:
    """Sends x as ``scale(q, x) q``, q being sqrt(d) x / ||x|| rounded to the levels of a Gaussian."""
    bits = _validate.static_integer("bits", bits, at_least=1, at_most=8)

    def encode(key: Key, x: Array) -> LloydMax:
        levels, boundaries = _tables(bits)
        x32 = x.astype(jnp.float32)
        # A maximum alone may lose a NaN.
        top = jnp.where(jnp.all(jnp.isfinite(x32)), jnp.max(jnp.abs(x32), initial=0.0), jnp.nan)
        # Of squares none must overflow, nor all vanish; XLA may divide by a product with 1 / top.
        usable = (top >= 2.0**-126) & (top <= 2.0**125)
        unit = jnp.where(usable, x32 / jnp.where(usable, top, 1.0), 0.0)
        power = jnp.where(usable, jnp.sum(unit**2), 1.0)
        z = unit * jnp.sqrt(x.size / power)
        codes = jnp.searchsorted(boundaries, z, side="right").astype(jnp.uint8)  # sgn(0) = +1
        # A broken message must not decode to a sound one; zero in, zero out.
        unusable = jnp.where(top < 1.0, 0.0, jnp.nan)
        factor = jnp.where(usable, top * scale(levels[codes], unit), unusable)
        return LloydMax(codes, factor, bits, x.dtype.name)

    def decode(payload: LloydMax) -> Array:
        levels, _ = _tables(payload.bits)
        return (levels[payload.codes] * payload.scale).astype(payload.dtype)

    return lift(encode, decode, contract, node=LloydMax)


def _tables(bits: int) -> tuple[Array, Array]:
    levels, boundaries = gaussian_quantiser(bits)
    return jnp.asarray(levels, jnp.float32), jnp.asarray(boundaries, jnp.float32)


def lloyd_max(*, bits: int) -> Compressor:
    """Rounds each leaf to the 2^bits levels that suit a Gaussian best, scaled by least squares.

    With z = sqrt(d) x / ||x|| and q_i the level nearest to z_i of the Lloyd-Max quantiser of N(0, 1),
    x is sent as S q, where S = <q, x> / ||q||^2 makes the error least.  With one bit this is the
    scaled sign, (||x||_1 / d) sgn(x) with sgn(0) = +1.

    ``rotated(lloyd_max(bits=b))`` is EDEN, or DRIVE for b = 1, with the minimum-distortion scale: its
    error is less than that of :func:`eden` in one message, and has a floor in the mean of many.

    Guarantees: deterministic; ||C(x)||^2 + ||x - C(x)||^2 = ||x||^2; ||C(x) - x||^2 <=
        (1 - 1/d) ||x||^2, attained for one bit by one non-zero coordinate; a zero leaf stays zero, but
        a zero beside others does not; a leaf with a non-finite value, or with max|x| > 2^125, decodes
        to NaN throughout, and one with max|x| < 2^-126 to zero; bits: d * bits + 32 per leaf.  On many
        Gaussian coordinates the error tends to D_b ||x||^2, D_b = 0.363, 0.117, 0.0345, 0.0095, ...

    Args:
        bits: of one code, 1 to 8.

    Returns:
        A :class:`fjx.Compressor` with contract delta = 1/d, a projection.

    Raises:
        TypeError: ``bits`` is not an integer.
        ValueError: ``bits`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.lloyd_max(bits=1)
        >>> payload, _ = codec.encode(jax.random.key(0), jnp.array([1.0, -5.0, 2.0, 0.0]), ())
        >>> [round(float(value), 5) for value in codec.decode(payload)], wire.bits(payload)
        ([2.0, -2.0, 2.0, 2.0], 40)

    References:
        Max, *Quantizing for Minimum Distortion*, IRE Transactions on Information Theory 1960; Lloyd,
        *Least Squares Quantization in PCM*, IEEE Transactions on Information Theory 1982; Karimireddy
        et al., *Error Feedback Fixes SignSGD*, ICML 2019 (arXiv:1901.09847), for the scaled sign.
    """

    def least_squares(q: Array, x: Array) -> Array:
        return jnp.sum(q * x) / jnp.sum(q**2)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        # |q| and |x| are ordered alike and agree in sign, so both are sums of indicators of sets that
        # contain one another, whose cosines are at least 1 / sqrt(d): <q, x>^2 >= ||q||^2 ||x||^2 / d.
        return Contract(delta=1 / max(leaf.size, 1), projection=True)

    return _rounded(bits, least_squares, contract)


# --------------------------------------------------------------------------------------------------
# EDEN and DRIVE
# --------------------------------------------------------------------------------------------------


def eden(*, bits: int) -> Compressor:
    """EDEN: rotates each leaf, rounds it to the levels of a Gaussian, and scales for no bias.

    With y = Rx as in :func:`rotated`, z = sqrt(d') y / ||y|| and q_i the level nearest to z_i of the
    Lloyd-Max quantiser of N(0, 1), C(x) = R^T S q with S = ||x||^2 / <q, y>.

    Were R uniform over all rotations, E[C(x)] would be x, and the mean of n messages would err n times
    less than one.  Two rounds of signs and Hadamard transform are nearly that.  Measured with one bit
    on Gaussian, lognormal, constant and sparse x, ||E[C(x)] - x||^2 / ||x||^2 is up to 0.23 for d' = 4,
    0.011 for d' = 8, 3e-4 for d' = 16, and below 1e-5 from d' = 64 on; more bits, less bias.  So
    ``flatten(eden(bits=b))``, for which small leaves do not exist, is better than leaf by leaf.

    Guarantees: <x, C(x)> = ||x||^2 for every seed, to rounding, so that the bias is orthogonal to x and
        ||C(x) - x||^2 = ||C(x)||^2 - ||x||^2 <= (d' - 1) ||x||^2; exact for leaves of one element; a
        zero leaf stays zero; a leaf with a non-finite value decodes to NaN throughout; bits:
        d' * bits + 96 per leaf, d' the next power of two.  Not promised, but close for d' >= 64:
        E||C(x) - x||^2 = D ||x||^2, D = 0.571, 0.133, 0.0358, 0.00959, 0.00251, 0.000645, 0.000164,
        0.000041 for 1 to 8 bits, times d / d'.

    Args:
        bits: of one code, 1 to 8.

    Returns:
        A :class:`fjx.Compressor` with contract omega = d' - 1, unbiased where all leaves have one
        element.  For the minimum-distortion scale see :func:`lloyd_max`.

    Raises:
        TypeError: ``bits`` is not an integer.
        ValueError: ``bits`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.eden(bits=2)
        >>> x = jnp.linspace(-1.0, 2.0, 13)
        >>> payload, _ = codec.encode(jax.random.key(0), x, codec.init(x))
        >>> round(float(jnp.vdot(x, codec.decode(payload)) / jnp.vdot(x, x)), 4), wire.bits(payload)
        (1.0, 128)

    References:
        Vargaftik, Ben Basat, Portnoy, Mendelson, Ben-Itzhak, Mitzenmacher, *EDEN*, ICML 2022
        (arXiv:2108.08842).
    """
    return rotated(_unbiased(bits))


def _unbiased(bits: int) -> Compressor:
    """EDEN without its rotation, which is to make this unbiased."""

    def scale(q: Array, x: Array) -> Array:
        return jnp.sum(x**2) / jnp.sum(q * x)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        # ||C(x)||^2 = ||q||^2 ||x||^4 / <q, x>^2 <= d ||x||^2, as in lloyd_max.
        exact, omega = leaf.size <= 1, float(max(leaf.size - 1, 0))
        return Contract(unbiased=exact, omega=omega, delta=1.0 if exact else None)

    return _rounded(bits, scale, contract)


def drive() -> Compressor:
    """DRIVE: the signs of a rotated leaf, and one scale; :func:`eden` with one bit.

    With y = Rx as in :func:`rotated`, C(x) = R^T (||x||^2 / ||y||_1) sgn(y), sgn(0) being +1.

    Guarantees: those of :func:`eden`; bits: d' + 96 per leaf, d' the next power of two.

    Returns:
        A :class:`fjx.Compressor`.  ``rotated(lloyd_max(bits=1))`` has the minimum-distortion scale
        ||y||_1 / d' instead, for which E||C(x) - x||^2 is about (1 - 2/pi) ||x||^2, not
        (pi/2 - 1) ||x||^2; of the mean of n messages, (1 - 2/pi)^2 remains: from n = 3 on,
        ``drive`` is better.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.drive()
        >>> x = jnp.linspace(-1.0, 2.0, 13)
        >>> payload, _ = codec.encode(jax.random.key(0), x, codec.init(x))
        >>> round(float(jnp.vdot(x, codec.decode(payload)) / jnp.vdot(x, x)), 4), wire.bits(payload)
        (1.0, 112)

    References:
        Vargaftik, Ben Basat, Portnoy, Mendelson, Ben-Itzhak, Mitzenmacher, *DRIVE: One-bit Distributed
        Mean Estimation*, NeurIPS 2021 (arXiv:2105.08339).
    """
    return eden(bits=1)
