"""Uniform quantisers with other grids: a fixed step, the range of the leaf, or a random shift."""

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

    Coordinate x_i lies between two multiples of the step h.  It is rounded up with probability
    frac(x_i / h), and down otherwise.  The step is the same for every client and round and is not
    sent, so codes of different clients may be added.  Each leaf is read only once.

    Guarantees:
        - Unbiased for float32 leaves and |x_i| <= L h with L = 2^(bits-1) - 1.  The variance is h^2
          f (1 - f) <= h^2 / 4 with f = frac(x_i / h).
        - A multiple of h, such as zero, never moves.
        - An overflow is never silent: a coordinate that is beyond L h or not finite has a code of
          its own, and decodes to NaN.

    Bits:
        d * bits per leaf; there is no scale.

    Args:
        step: step size h, greater than 0 and a normal float32.
        bits: width of a code, 2 to 16.

    Returns:
        A :class:`fjx.Compressor`.  Its contract has no bound, since the error does not scale with
        x.

    Raises:
        TypeError: ``step`` is not a number, or ``bits`` is not an integer.
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
        # stochastic_round takes numbers this near to L for L.  The comparison is false for NaN.
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
    """Unbiased stochastic rounding of each leaf to k levels between its least and largest coordinate.

    The levels are min x + j s with s = (max x - min x) / (k - 1).  Coordinate x_i lies between two
    of them.  It is rounded up with probability frac((x_i - min x) / s), and down otherwise.  If the
    coordinates are not centred at zero, this grid is finer than that of :func:`quantize`; but zero
    is not on it.  Two levels are the binary quantisation of the paper, and
    ``rotated(k_level(levels=k))`` is its rotated one.

    Guarantees:
        - Unbiased for float32 leaves: E[C(x)] = x.  Narrower leaves are rounded once more in
          decoding.
        - |error_i| < s.
        - The variance is s^2 sum f (1 - f).  For k = 2 this is the sum of (max x - x_i) (x_i - min
          x).
        - For even k, omega = (d - 2) / (2 L^2) with L = k - 1, attained at x = (1, 0, ..., 0, -1).
        - For odd k, omega = d / 4 (sqrt(1 + 4 (d - 2) / (d L^2)) - 1), which is less, and attained
          too.
        - A constant leaf is exact.
        - A leaf with a non-finite value, or with s > 2^125, decodes to NaN everywhere.
        - A leaf with s < 2^-126 decodes to its least coordinate everywhere.

    Bits:
        d * ceil(log2 k) + 64 per leaf.

    Args:
        levels: number of levels k, 2 to 65536.

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
        Suresh, Yu, Kumar, McMahan, *Distributed Mean Estimation with Limited Communication*, ICML
        2017 (arXiv:1611.00429), where omega is bounded by d / (2 (k - 1)^2).
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
        # The span may overflow float32 though no level does; half of it does not.
        half = jnp.where(payload.step > 2.0**100, 0.5, 1.0)
        above = _exact_products(payload.codes.astype(jnp.float32), half * payload.step)
        return ((half * payload.least + above) / half).astype(payload.dtype)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        # In units of s, let zero lie t <= 1/2 from the nearest level.  The two extremes are exact.
        # Their squares sum to at least L^2 / 2 + 2 c^2, where c is the distance of their midpoint from
        # zero: c >= 0 if it is midway between levels (k even), c >= t if it is a level (k odd).  Each
        # of the n = d - 2 others, at distance u from a level, has variance u (1 - u) and a square of at
        # least (u - t)^2.  For even k the worst is u = t = 1/2.  For odd k, the largest value of
        # n u (1 - u) - omega (n (u - t)^2 + 2 t^2), over t and then over u, is
        # n / (4 (1 + 2 omega / d)).  This equals omega L^2 / 2 for the omega sought.
        d, n = max(leaf.size, 1), max(leaf.size - 2, 0)
        if levels % 2 == 0:
            return unbiased(leaf, n / (2 * gaps**2))
        return unbiased(leaf, d / 4 * (math.sqrt(1 + 4 * n / (d * gaps**2)) - 1))

    return lift(encode, decode, contract, node=KLevel)


def _exact_products(codes: Array, step: Array) -> Array:
    """``codes * step`` to one rounding, equal in every program, for codes of at most 16 bits.

    A compiler may fuse a product with the sum that takes it and then does not round it; programs differ
    in that.  So the step is cut into three parts of 8 bits, with products that are exact anyway.
    """
    # The last part may be 2^-23 times the step.  It must not be subnormal, which XLA takes for zero.
    up = jnp.where(step < 2.0**-64, 2.0**60, 1.0)
    step = step * up
    bits = jax.lax.bitcast_convert_type(step, jnp.uint32)
    high, middle = (
        jax.lax.bitcast_convert_type(bits & jnp.uint32(mask), jnp.float32)
        for mask in (0xFFFF0000, 0xFFFFFF00)
    )
    return (codes * high + (codes * (middle - high) + codes * (step - middle))) / up


def subtractive_dither(*, bits: int) -> Compressor:
    r"""Add a random number to each coordinate, round to the nearest level, and subtract it again.

    With L = 2^(bits-1) - 1, s = max|x| / L and u_i uniform in [-1/2, 1/2):

    .. math:: C(x)_i = s \, (\mathrm{round}(x_i / s + u_i) - u_i)

    The integer is sent.  The u_i follow from a seed of the sender, which is in the payload.  Apart
    from the scale s, the error does not depend on x, unlike that of :func:`quantize`.  It is
    smaller if x is not near levels.  It is larger for sparse leaves, since a zero is not received
    as zero.

    Guarantees:
        - The errors divided by s are independent and uniform in [-1/2, 1/2] for every x.  So each
          error has variance s^2 / 12 exactly.
        - Unbiased for float32 leaves: E[C(x)] = x.  Narrower leaves are rounded once more in
          decoding.
        - omega = d / (12 L^2), attained by one non-zero coordinate.
        - A zero leaf stays zero.
        - A leaf with a non-finite value, or with s > 2^125, decodes to NaN everywhere.
        - A leaf with s < 2^-126 decodes to zeros.

    Bits:
        d * bits + 32 + 64 per leaf; the seed has 64 bits.

    Args:
        bits: width of a code, 2 to 16.

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
        1962; Schuchman, *Dither Signals and Their Effect on Quantization Noise*, IEEE Transactions
        on Communication Technology 1964.
    """
    bits = _validate.static_integer("bits", bits, at_least=2, at_most=16)
    integer, top = jnp.int8 if bits <= 8 else jnp.int16, 2 ** (bits - 1) - 1

    def encode(key: Key, x: Array) -> SubtractivelyDithered:
        x32 = x.astype(jnp.float32)
        ratio, scale = in_units(x32, largest(x32) / top)
        # |x / s| <= L, so the sum stays within L + 1/2.
        codes = jnp.clip(jnp.round(ratio + _dither(key, x.shape)), -top, top).astype(integer)
        seed, impl = _random.seed_of(key)
        return SubtractivelyDithered(codes, scale, seed, bits, x.dtype.name, impl)

    def decode(payload: SubtractivelyDithered) -> Array:
        key = _random.key_of(payload.seed, payload.impl)
        units = payload.codes.astype(jnp.float32) - _dither(key, payload.codes.shape)
        return (units * payload.scale).astype(payload.dtype)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        return unbiased(leaf, leaf.size / (12 * top**2))  # ||x|| >= max|x| = L s

    return lift(encode, decode, contract, node=SubtractivelyDithered)


def _dither(key: Key, shape: tuple[int, ...]) -> Array:
    """Random numbers, uniform in [-1/2, 1/2)."""
    return jax.lax.optimization_barrier(_random.uniform(key, shape)) - 0.5
