"""Quantisers whose levels are powers of two."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Compressor, Contract, Key
from fjx._kernels import random as _random
from fjx._kernels.rounding import in_units, norm, stochastic_round, unbiased
from fjx.compressors._lift import lift
from fjx.wire import Dithered, Natural


def natural() -> Compressor:
    """Natural compression: unbiased stochastic rounding of each coordinate to a power of two.

    If 2^e <= |x_i| < 2^(e+1), x_i is sent as sgn(x_i) 2^(e+1) with probability |x_i| / 2^e - 1, and
    as sgn(x_i) 2^e otherwise.  The payload holds the sign and exponent of a float32.  The
    probability is its mantissa, which is not sent.

    Guarantees:
        - Unbiased exactly: E[C(x)] = x.
        - omega = 1/8, attained at |x_i| = 4/3 2^k; 0.082 for a Gaussian leaf.
        - Zeros and powers of two never move.
        - A float32 below 2^-126 is sent as 0 or 2^-126; devices without subnormals take it for 0.
        - A leaf with a non-finite value, or with max|x| above the largest power of two of its
          dtype, decodes to NaN everywhere.

    Bits:
        9 d per leaf; there is no scale.

    Returns:
        A :class:`fjx.Compressor` with contract omega = 1/8, delta = 7/8.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.natural()
        >>> x = jnp.array([0.0, -4.0, 0.125, 5.0])
        >>> payload, _ = jax.jit(codec.encode)(jax.random.key(0), x, ())
        >>> jax.jit(codec.decode)(payload).tolist()[:3], wire.bits(payload)
        ([0.0, -4.0, 0.125], 40)

    References:
        Horvath, Ho, Horvath, Sahu, Canini, Richtarik, *Natural Compression for Distributed Deep
        Learning*, MSML 2022 (arXiv:1905.10988).
    """

    def encode(key: Key, x: Array) -> Natural:
        x32 = x.astype(jnp.float32)
        bits = jax.lax.bitcast_convert_type(x32, jnp.uint32)
        # Among 2^23 random numbers, as many as the mantissa says carry into the exponent.  The barrier
        # keeps the draw apart from its consumer, as in exact_stochastic_round.
        uniform = jax.lax.optimization_barrier(_random.bits(key, x.shape) >> 9)
        codes = (bits + uniform) >> 23
        top = min(math.frexp(float(jnp.finfo(x.dtype).max))[1] - 1, 127)
        usable = jnp.all(jnp.abs(x32) <= 2.0**top)
        return Natural(jnp.where(usable, codes, 255).astype(jnp.uint16), x.dtype.name)

    def decode(payload: Natural) -> Array:
        bits = payload.codes.astype(jnp.uint32) << 23
        x = jax.lax.bitcast_convert_type(bits, jnp.float32)
        return jnp.where(jnp.isfinite(x), x, jnp.nan).astype(payload.dtype)

    exact = Contract(unbiased=True, omega=1 / 8, delta=7 / 8)  # every float dtype has powers of two
    return lift(encode, decode, lambda leaf: exact, node=Natural)


def natural_dithering(*, levels: int) -> Compressor:
    """Unbiased stochastic rounding of each leaf to powers of two, relative to its L2 norm.

    The s levels are ||x|| times 1, 1/2, ..., 2^(1-s), and zero.  If |x_i| lies between two levels
    l < u, it is sent as u with probability (|x_i| - l) / (u - l), and as l otherwise.  With few
    bits, the levels span a wider range than the evenly spaced levels of :func:`qsgd`.

    Guarantees:
        - Unbiased for float32 leaves: E[C(x)] = x.  Narrower leaves are rounded once more in
          decoding, and in float16 ||x|| may overflow.
        - omega = r - 1 if r >= 9/4, attained if all |x_i| are equal; otherwise omega = 1/8 + 2
          r^2 / 9.  Here r = 2^(1-s) sqrt(d).
        - A zero never moves.
        - A leaf with a non-finite value, or with 2^(1-s) ||x|| > 2^125, decodes to NaN everywhere.
        - A leaf with 2^(1-s) ||x|| < 2^-126 decodes to zeros.

    Bits:
        d * (1 + ceil(log2(s + 1))) + 32 per leaf.

    Args:
        levels: number of positive levels s, 1 to 31; 1, 3, 7, 15, 31 use all codes of 2, 3, 4, 5, 6
            bits.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: ``levels`` is not an integer.
        ValueError: ``levels`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.natural_dithering(levels=3)
        >>> x = jnp.array([2.0, -1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0])
        >>> payload, _ = jax.jit(codec.encode)(jax.random.key(0), x, ())
        >>> jax.jit(codec.decode)(payload).tolist() == x.tolist(), wire.bits(payload)
        (True, 72)

    References:
        Horvath, Ho, Horvath, Sahu, Canini, Richtarik, *Natural Compression for Distributed Deep
        Learning*, MSML 2022 (arXiv:1905.10988), where omega is bounded by 1/8 + min(r, r^2).
    """
    levels = _validate.static_integer("levels", levels, at_least=1, at_most=31)

    def encode(key: Key, x: Array) -> Dithered:
        x32 = x.astype(jnp.float32)
        ratio, scale = in_units(x32, norm(x32) / 2 ** (levels - 1))
        magnitude = jnp.abs(ratio)
        # Codes 0, 1, 2, 3, ... stand for 0, 1, 2, 4, ...; between two of them the code is linear.
        mantissa, exponent = jnp.frexp(magnitude)
        octave = (exponent - 1).astype(jnp.float32)
        code = jnp.where(magnitude < 1, magnitude, octave + 2 * mantissa)
        codes = stochastic_round(key, jnp.sign(ratio) * code)
        codes = jnp.clip(codes, -levels, levels).astype(jnp.int8)
        return Dithered(codes, scale, levels, x.dtype.name)

    def decode(payload: Dithered) -> Array:
        magnitudes = np.array([0, *(2.0**i for i in range(payload.levels))], np.float32)
        units = jnp.asarray(magnitudes)[jnp.abs(payload.codes)] * payload.scale
        return jnp.where(payload.codes < 0, -units, units).astype(payload.dtype)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        # With t = 2^(1-s) and y = |x| / ||x||, the error is sum g(y_i^2), where g(z) <= t sqrt(z) - z up
        # to z = t^2, and g(z) <= z / 8 beyond.  The least concave function above both is the first up
        # to z = (4 t / 9)^2, and then its tangent, 2 t^2 / 9 + z / 8.  Jensen's inequality does the
        # rest, as in qsgd.
        r = 2.0 ** (1 - levels) * np.sqrt(leaf.size)
        return unbiased(leaf, float(r - 1 if r >= 9 / 4 else 1 / 8 + 2 * r**2 / 9))

    return lift(encode, decode, contract, node=Dithered)
