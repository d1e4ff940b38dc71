"""Narrower floating point formats."""

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
    """Rounds floating leaves to a narrower floating dtype: bfloat16, float16, an fp8 format.

    x becomes round(x / 2^e) 2^e.  Where ``dtype`` has the exponent range of float32 (bfloat16), e = 0
    and nothing else is sent; elsewhere e is the power of two that brings the largest |x_i| just inside
    the range, sent as 16 bits, so that no leaf overflows and a small leaf keeps its digits.

    Guarantees: deterministic, nearest even; |error_i| <= u |x_i| + s max|x| with u the unit roundoff
        and s what the format flushes to zero relative to its maximum; zeros exact, subnormal float32
        counting as zero; a finite value stays finite, a non-finite value stays non-finite and does not
        change e; bits: d * width (+ 16) per leaf.

    Args:
        dtype: a floating dtype.  Leaves no wider than it are sent as they are.

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
    """Rounds floating leaves to a narrower floating dtype at random, so that nothing is lost on average.

    As :func:`cast`, with the same bits, but a coordinate between two numbers of the format becomes the
    upper one with the probability of its place between them, which is computed in float32 whatever the
    format is: where cast gives all of many small updates the same error, here their mean is right.

    Guarantees: of float32 leaves unbiased (a narrower one is rounded once more when it is decoded);
        numbers of the format, such as zero, never move; with m mantissa bits,
        omega = 2^-m / (4 (2^m + 1)) + (d - 1) s^2, s as in :func:`cast` (0 for bfloat16), and
        the first term is attained at 1 + 1 / (2^(m+1) + 1) times a power of two; magnitudes beyond the
        largest bfloat16 become that; subnormal float32 may count as zero; a finite value stays finite,
        a non-finite value stays non-finite and does not change e; bits: d * width (+ 16) per leaf.

    Args:
        dtype: a floating dtype.  Leaves no wider than it are sent as they are.

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
        # Where float32 has the same exponents, what is cut off of the mantissa is the probability of
        # carrying into what is left: see natural.
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
        uniform = jax.lax.optimization_barrier(_random.bits(key, x.shape) >> (9 + digits))
        cut = (bits + uniform) >> (23 - digits) << (23 - digits)
        return jnp.where(jnp.isfinite(x), jax.lax.bitcast_convert_type(cut, jnp.float32), x)

    def in_steps(key: Key, x: Array) -> Array:
        exponent = binade(x, int(info.minexp)) - digits
        return exact_stochastic_round(key, x * power_of_two(-exponent)) * power_of_two(exponent)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        # Of 2^e (1 + t), t in [0, 2^-m), the variance is 4^e t (2^-m - t); over the square this is
        # largest at t = 1 / (2^(m+1) + 1).  Below the least normal number it is at most a quarter of
        # the step's square, which is s^2 of the largest's; and the largest is normal.
        normal = 2.0**-digits / (4 * (2**digits + 1))
        return unbiased(leaf, float(normal + max(leaf.size - 1, 0) * _flushed(info) ** 2))

    return _cast(narrow, in_steps if _is_scaled(info) else carried, contract)


def _narrow(name: str, dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype, if it can hold a leaf."""
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
    """Leaves wider than ``narrow``, scaled where the range needs it, and rounded to it."""
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
            x = _saturate(wide, x, payload.dtype)  # the largest may have been rounded up
        return x.astype(payload.dtype)

    def promised(leaf: jax.ShapeDtypeStruct) -> Contract:
        return EXACT if lossless(leaf.dtype) else contract(leaf)

    return lift(encode, decode, promised, node=Cast)


def _is_scaled(info: jnp.finfo) -> bool:
    """Whether the exponents of a format are fewer than those of float32."""
    return float(info.max) < 2.0**127


def _flushed(info: jnp.finfo) -> float:
    """s: half of the least step, relative to a maximum of at least 2^(q-1)."""
    return float(info.smallest_subnormal) / 2.0 ** _log2_max(info) if _is_scaled(info) else 0.0


def _saturate(x: Array, source: Array, dtype: jax.typing.DTypeLike) -> Array:
    """``x``, but within the range of ``dtype`` where ``source`` is finite."""
    limit = float(jnp.finfo(dtype).max)
    return jnp.where(jnp.isfinite(source), jnp.clip(x, -limit, limit), x)


def _log2_max(info: jnp.finfo) -> int:
    """The largest q such that 2^q is representable."""
    return int(np.floor(np.log2(float(info.max))))
