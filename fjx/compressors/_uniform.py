"""Uniform quantisers with another grid than the leaf's own around zero: fixed, shifted, dithered."""

import math

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Compressor, Contract, Key
from fjx._kernels import random as _random
from fjx._kernels.rounding import in_units, largest, stochastic_round, unbiased
from fjx.compressors._lift import lift
from fjx.wire import FixedStep, KLevel, SubtractivelyDithered


def fixed_step(step: float, *, bits: int = 8) -> Compressor:
    """Unbiased stochastic rounding of each coordinate to a multiple of a fixed step.

    Coordinate x_i lies between two multiples of h; it is sent as the upper one with probability
    frac(x_i / h), else as the lower one.  The step is the same for every client and round and does not
    travel, so that codes of different clients may be added; no leaf is read twice.

    Guarantees: with L = 2^(bits-1) - 1, of float32 leaves and |x_i| <= L h unbiased, with variance
        h^2 f (1 - f), f = frac(x_i / h), which is at most h^2 / 4; a multiple of h, such as zero, never
        moves; a coordinate beyond L h, or not finite, decodes to NaN, by a code that means nothing
        else: an overflow is never silent; bits: d * bits per leaf, without any scale.

    Args:
        step: h, greater than 0 and a normal float32.
        bits: of one code, 2 to 16.

    Returns:
        A :class:`fjx.Compressor`; of its error, which does not scale with x, the contract has no bound.

    Raises:
        TypeError: ``step`` is not a number, or ``bits`` not an integer.
        ValueError: one is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.fixed_step(0.5, bits=4)
        >>> x = jnp.array([1.0, -3.5, 0.0, 4.0])
        >>> payload, _ = codec.encode(jax.random.key(0), x, ())
        >>> codec.decode(payload).tolist(), wire.bits(payload)
        ([1.0, -3.5, 0.0, nan], 16)

    References:
        Gupta, Agrawal, Gopalakrishnan, Narayanan, *Deep Learning with Limited Numerical Precision*,
        ICML 2015 (arXiv:1502.02551), for stochastic rounding in fixed point.
    """
    step = _validate.static_number("step", step, at_least=2.0**-126, at_most=2.0**111)
    bits = _validate.static_integer("bits", bits, at_least=2, at_most=16)
    top, overflow = 2 ** (bits - 1) - 1, -(2 ** (bits - 1))
    integer = jnp.int8 if bits <= 8 else jnp.int16

    def encode(key: Key, x: Array) -> FixedStep:
        ratio = x.astype(jnp.float32) / step
        # What stochastic_round takes for L; a NaN is not within anything.
        within = jnp.abs(ratio) <= top * (1 + 2.0**-21)
        codes = jnp.where(within, stochastic_round(key, ratio), overflow).astype(integer)
        return FixedStep(codes, step, bits, x.dtype.name)

    def decode(payload: FixedStep) -> Array:
        x = payload.codes.astype(jnp.float32) * payload.step
        broken = payload.codes == -(2 ** (payload.bits - 1))
        return jnp.where(broken, jnp.nan, x).astype(payload.dtype)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        return Contract(unbiased=jnp.finfo(leaf.dtype).bits >= 32)

    return lift(encode, decode, contract, node=FixedStep)


def k_level(*, levels: int) -> Compressor:
    """Unbiased stochastic rounding of each leaf to so many levels between its least and its largest.

    With k levels, x_i lies between two of min x + j s, s = (max x - min x) / (k - 1); it is sent as
    the upper one with probability frac((x_i - min x) / s), else as the lower one.  Where the
    coordinates are not centred at zero this grid is finer than that of :func:`quantize`; but zero is
    not on it.  Two levels are the binary quantisation of the paper, and ``rotated(k_level(levels=k))``
    is its rotated one.

    Guarantees: of float32 leaves unbiased (a narrower one is rounded once more when it is decoded);
        |error_i| < s, and the variance is s^2 sum f (1 - f), for k = 2 the sum of
        (max x - x_i) (x_i - min x); with L = k - 1, omega = (d - 2) / (2 L^2) for even k, attained at
        x = (1, 0, ..., 0, -1), and d / 4 (sqrt(1 + 4 (d - 2) / (d L^2)) - 1), which is less, for odd
        k, attained too; a constant leaf is exact; a leaf with a non-finite value, or with s > 2^125,
        decodes to NaN throughout, and one with s < 2^-126 to its least; bits:
        d * ceil(log2 k) + 64 per leaf.

    Args:
        levels: k, 2 to 65536.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: ``levels`` is not an integer.
        ValueError: ``levels`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.k_level(levels=4)
        >>> payload, _ = codec.encode(jax.random.key(0), jnp.array([3.0, 0.0, 1.0, 2.0]), ())
        >>> payload.codes.tolist(), float(payload.least), wire.bits(payload)
        ([3, 0, 1, 2], 0.0, 72)

    References:
        Suresh, Yu, Kumar, McMahan, *Distributed Mean Estimation with Limited Communication*,
        ICML 2017 (arXiv:1611.00429), where omega is bounded by d / (2 (k - 1)^2).
    """
    levels = _validate.static_integer("levels", levels, at_least=2, at_most=2**16)
    integer, gaps = jnp.uint8 if levels <= 2**8 else jnp.uint16, levels - 1

    def encode(key: Key, x: Array) -> KLevel:
        x32 = x.astype(jnp.float32)
        broken = jnp.logical_not(jnp.all(jnp.isfinite(x32)))
        least = jnp.min(x32, initial=jnp.inf) if x.size else jnp.float32(0)
        most = jnp.max(x32, initial=-jnp.inf) if x.size else jnp.float32(0)
        step = jnp.where(broken, jnp.nan, most / gaps - least / gaps)
        ratio, step = in_units(x32 - least, step)
        codes = jnp.clip(stochastic_round(key, ratio), 0, gaps).astype(integer)
        return KLevel(codes, jnp.where(broken, 0.0, least), step, levels, x.dtype.name)

    def decode(payload: KLevel) -> Array:
        # By halves where the whole span is beyond float32, though no level is.
        half = jnp.where(payload.step > 2.0**100, 0.5, 1.0)
        above = payload.codes.astype(jnp.float32) * (half * payload.step)
        # Fused with the sum the product would not be rounded, in some programs and not in others.
        x = (half * payload.least + jax.lax.optimization_barrier(above)) / half
        return x.astype(payload.dtype)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        # In units of s, let zero lie t <= 1/2 from the nearest level.  The two extremes are exact, and
        # their squares sum to L^2 / 2 + 2 c^2 at least, c being the distance of their midpoint from
        # zero: c >= 0 where that is midway between levels (k even), c >= t where it is a level.  Each
        # of the others, n = d - 2, errs by u (1 - u), u being its distance from a level, and weighs
        # (u - t)^2 at least.  For even k, u = t = 1/2.  For odd k, the largest of
        # n u (1 - u) - omega (n (u - t)^2 + 2 t^2), over t and then over u, is
        # n / (4 (1 + 2 omega / d)), and that is omega L^2 / 2 for the omega sought.
        d, n = max(leaf.size, 1), max(leaf.size - 2, 0)
        if levels % 2 == 0:
            return unbiased(leaf, n / (2 * gaps**2))
        return unbiased(leaf, d / 4 * (math.sqrt(1 + 4 * n / (d * gaps**2)) - 1))

    return lift(encode, decode, contract, node=KLevel)


def subtractive_dither(*, bits: int) -> Compressor:
    """Rounds each coordinate plus a random number to the nearest level, and subtracts it again.

    With L = 2^(bits-1) - 1 and scale s = max|x| / L, coordinate x_i is sent as the integer nearest to
    x_i / s + u_i and received as s times that integer less u_i, the u_i being uniform in
    [-1/2, 1/2).  They follow from a seed of the sender, which is on the wire.  The error, unlike that
    of :func:`quantize`, does not depend on x but for the scale; and where x is not near levels it is
    smaller.  Of sparse leaves it is larger: a zero is not received as zero.

    Guarantees: the errors, over s, are independent and uniform in [-1/2, 1/2], whatever x is, so that
        each has variance s^2 / 12 exactly; of float32 leaves unbiased (a narrower one is rounded once
        more when it is decoded); omega = d / (12 L^2), attained by one non-zero coordinate; a zero
        leaf stays zero; a leaf with a non-finite value, or with s > 2^125, decodes to NaN throughout,
        and one with s < 2^-126 to zero; bits: d * bits + 32 + 64 per leaf, of which the seed is 64.

    Args:
        bits: of one code, 2 to 16.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: ``bits`` is not an integer.
        ValueError: ``bits`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec, x = compressors.subtractive_dither(bits=4), jnp.array([7.0, 1.5, -3.2])
        >>> payload, _ = codec.encode(jax.random.key(0), x, ())
        >>> bool(jnp.all(jnp.abs(codec.decode(payload) - x) <= 0.5)), wire.bits(payload)
        (True, 112)

    References:
        Roberts, *Picture Coding Using Pseudo-Random Noise*, IRE Transactions on Information Theory
        1962; Schuchman, *Dither Signals and Their Effect on Quantization Noise*, IEEE Transactions on
        Communication Technology 1964.
    """
    bits = _validate.static_integer("bits", bits, at_least=2, at_most=16)
    integer, top = jnp.int8 if bits <= 8 else jnp.int16, 2 ** (bits - 1) - 1

    def encode(key: Key, x: Array) -> SubtractivelyDithered:
        x32 = x.astype(jnp.float32)
        ratio, scale = in_units(x32, largest(x32) / top)
        # |x / s| <= L, so that L + 1/2 is never passed.
        codes = jnp.clip(jnp.round(ratio + _dither(key, x.shape)), -top, top).astype(integer)
        seed, impl = jax.random.key_data(key), str(jax.random.key_impl(key))
        return SubtractivelyDithered(codes, scale, seed, bits, x.dtype.name, impl)

    def decode(payload: SubtractivelyDithered) -> Array:
        key = jax.random.wrap_key_data(payload.seed, impl=payload.impl)
        units = payload.codes.astype(jnp.float32) - _dither(key, payload.codes.shape)
        return (units * payload.scale).astype(payload.dtype)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        return unbiased(leaf, leaf.size / (12 * top**2))  # ||x|| >= max|x| = L s

    return lift(encode, decode, contract, node=SubtractivelyDithered)


def _dither(key: Key, shape: tuple[int, ...]) -> Array:
    """Uniform in [-1/2, 1/2)."""
    return jax.lax.optimization_barrier(_random.uniform(key, shape)) - 0.5
