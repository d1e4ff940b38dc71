"""Casts to narrower floating dtypes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import EXACT, Array, Compressor, Contract, Key
from fjx._kernels import random as _random
from fjx._kernels.rounding import binade, exact_stochastic_round, power_of_two, unbiased
from fjx.compressors._lift import lift
from fjx.wire import Cast


def cast(dtype: jax.typing.DTypeLike) -> Compressor:
    """Round float leaves to a narrower floating dtype: bfloat16, float16, or an fp8 format.

    x becomes round(x / 2^e) 2^e.  If ``dtype`` has the exponent range of float32 (bfloat16), e = 0
    and nothing else is sent.  For other dtypes, 2^e brings the largest |x_i| just inside the range,
    and e is sent as 16 bits.  So no leaf overflows, and a small leaf keeps its digits.

    Guarantees:
        - Deterministic, rounds to the nearest, ties to even.
        - |error_i| <= u |x_i| + s max|x|.  Here u is the unit roundoff, and s is the largest value
          that the format flushes to zero, relative to its maximum.
        - Zeros are exact.  Subnormal float32 values count as zero.
        - Finite values stay finite.  Non-finite values stay non-finite and do not change e.

    Bits:
        d * width (+ 16) per leaf.

    Args:
        dtype: floating dtype of the payload.  Leaves that are no wider are sent unchanged.

    Returns:
        A :class:`fjx.Compressor` with contract delta = 1 - (u + s sqrt(d))^2.

    Raises:
        TypeError: ``dtype`` is not floating, or has no sign or no NaN.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.cast(jnp.float8_e4m3fn)
        >>> payload, _ = codec.encode(jax.random.key(0), jnp.array([1e-3, 1e6, -7.0]), ())
        >>> wire.bits(payload), codec.decode(payload).tolist()
        (40, [0.0, 983040.0, -8.0])

    References:
        Micikevicius et al., *FP8 Formats for Deep Learning* (arXiv:2209.05433), for e4m3 and e5m2.
    """
    narrow = _narrow("cast", dtype)
    info = jnp.finfo(narrow)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        roundoff = 2.0 ** -(info.nmant + 1)
        error = roundoff + _flushed(info) * np.sqrt(leaf.size)
        return Contract(delta=float(1 - error**2)) if error < 1 else Contract()

    return _cast(narrow, lambda key, x: x.astype(narrow), contract)


def stochastic_cast(dtype: jax.typing.DTypeLike) -> Compressor:
    """Round float leaves to a narrower floating dtype at random, without bias.

    This is :func:`cast` with the same bits.  A coordinate between two numbers of the format becomes
    the upper one with a probability equal to its relative position between them, computed in
    float32.  When ``cast`` gives the same error to many small updates, here their mean is right.

    Guarantees:
        - Unbiased for float32 leaves: E[C(x)] = x.  Narrower leaves are rounded once more in
          decoding.
        - Numbers of the format, such as zero, never move.
        - omega = 2^-m / (4 (2^m + 1)) + (d - 1) s^2 with m mantissa bits and s as in :func:`cast`
          (0 for bfloat16).  The first term is attained at 1 + 1 / (2^(m+1) + 1) times a power of
          two.
        - Magnitudes beyond the largest bfloat16 become the largest bfloat16.
        - Finite values stay finite.  Non-finite values stay non-finite and do not change e.
        - Subnormal float32 values may count as zero.

    Bits:
        d * width (+ 16) per leaf.

    Args:
        dtype: floating dtype of the payload.  Leaves that are no wider are sent unchanged.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: ``dtype`` is not floating, or has no sign or no NaN.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.stochastic_cast(jnp.bfloat16)
        >>> x = jnp.full(10_000, 1 + 2.0**-9)
        >>> payload, _ = codec.encode(jax.random.key(0), x, ())
        >>> sorted(set(codec.decode(payload).tolist())), wire.bits(payload)
        ([1.0, 1.0078125], 160000)

    References:
        Gupta, Agrawal, Gopalakrishnan, Narayanan, *Deep Learning with Limited Numerical Precision*,
        ICML 2015 (arXiv:1502.02551).
    """
    narrow = _narrow("stochastic_cast", dtype)
    info = jnp.finfo(narrow)
    digits = int(info.nmant)

    def carried(key: Key, x: Array) -> Array:
        # The format has the exponents of float32, so the digits that are cut off the mantissa are the
        # probability of a carry into the digits that stay, as in natural.
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
        uniform = jax.lax.optimization_barrier(_random.bits(key, x.shape) >> (9 + digits))
        cut = (bits + uniform) >> (23 - digits) << (23 - digits)
        return jnp.where(jnp.isfinite(x), jax.lax.bitcast_convert_type(cut, jnp.float32), x)

    def in_steps(key: Key, x: Array) -> Array:
        exponent = binade(x, int(info.minexp)) - digits
        return exact_stochastic_round(key, x * power_of_two(-exponent)) * power_of_two(exponent)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        # The variance of 2^e (1 + t), t in [0, 2^-m), is 4^e t (2^-m - t).  Relative to the square it
        # is largest at t = 1 / (2^(m+1) + 1).  Below the least normal number it is at most a quarter of
        # the squared step, which is s^2 times the square of the largest; and the largest is normal.
        normal = 2.0**-digits / (4 * (2**digits + 1))
        return unbiased(leaf, float(normal + max(leaf.size - 1, 0) * _flushed(info) ** 2))

    return _cast(narrow, in_steps if _is_scaled(info) else carried, contract)


def _narrow(name: str, dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype, checked to have a sign and a NaN."""
    narrow = jnp.dtype(dtype)
    if not jnp.issubdtype(narrow, jnp.floating):
        raise TypeError(f"{name} needs a floating dtype such as jnp.bfloat16, got {narrow}")
    sample = np.array([-1.0, np.nan], np.float32).astype(narrow).astype(np.float32)
    if not (sample[0] == -1.0 and np.isnan(sample[1])):
        raise TypeError(f"{name} needs a dtype with a sign and a NaN, which {narrow} lacks")
    return narrow


def _cast(
    narrow: jnp.dtype,
    rounding: Callable[[Key, Array], Array],
    contract: Callable[[jax.ShapeDtypeStruct], Contract],
) -> Compressor:
    """A codec that rounds leaves wider than ``narrow`` to it, scaled if its range is smaller."""
    info = jnp.finfo(narrow)
    scaled = _is_scaled(info)

    def lossless(wide: jnp.dtype) -> bool:
        return jnp.finfo(wide).bits <= info.bits

    def encode(key: Key, x: Array) -> Cast | Array:
        if lossless(x.dtype):
            return x
        if not scaled:
            rounded = rounding(key, _saturate(x, x, narrow))
            return Cast(rounded.astype(narrow), None, x.dtype.name)
        x32 = x.astype(jnp.float32)
        finite = jnp.isfinite(x32)
        top = jnp.max(jnp.abs(jnp.where(finite, x32, 0.0)), initial=0.0)
        # frexp: top = m 2^p with m in [1/2, 1), so top / 2^(p - q) < 2^q <= the largest value.
        exponent = jnp.where(top > 0, jnp.frexp(top)[1] - _log2_max(info), 0)
        small = jnp.where(finite, jnp.ldexp(x32, -exponent), jnp.nan)
        return Cast(rounding(key, small).astype(narrow), exponent.astype(jnp.int16), x.dtype.name)

    def decode(payload: Cast) -> Array:
        x = payload.values.astype(jnp.float32)
        if payload.exponent is not None:
            wide = jnp.ldexp(x, payload.exponent.astype(jnp.int32))
            x = _saturate(wide, x, payload.dtype)  # rounding may have moved the largest up
        return x.astype(payload.dtype)

    def promised(leaf: jax.ShapeDtypeStruct) -> Contract:
        return EXACT if lossless(leaf.dtype) else contract(leaf)

    return lift(encode, decode, promised, node=Cast)


def _is_scaled(info: jnp.finfo) -> bool:
    """True if the format has fewer exponents than float32."""
    return float(info.max) < 2.0**127


def _flushed(info: jnp.finfo) -> float:
    """s: half of the least step, relative to a maximum of at least 2^(q-1)."""
    return float(info.smallest_subnormal) / 2.0 ** _log2_max(info) if _is_scaled(info) else 0.0


def _saturate(x: Array, source: Array, dtype: jax.typing.DTypeLike) -> Array:
    """``x``, cut to the range of ``dtype`` wherever ``source`` is finite."""
    limit = float(jnp.finfo(dtype).max)
    return jnp.where(jnp.isfinite(source), jnp.clip(x, -limit, limit), x)


def _log2_max(info: jnp.finfo) -> int:
    """The largest q such that 2^q is representable."""
    return int(np.floor(np.log2(float(info.max))))
