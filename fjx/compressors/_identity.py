"""Codecs without loss, and narrower floating point."""

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import EXACT, Array, Compressor, Contract, Key
from fjx._lift import lift
from fjx.wire import Cast


def identity() -> Compressor:
    """Sends the message as it is.

    Guarantees: exact; ``bits`` is that of the arrays.

    Returns:
        A :class:`fjx.Compressor` with contract omega = 0, delta = 1, linear.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors
        >>> codec = compressors.identity()
        >>> payload, _ = codec.encode(jax.random.key(0), {"w": jnp.arange(3.0)}, ())
        >>> codec.decode(payload)["w"].tolist()
        [0.0, 1.0, 2.0]
    """
    return Compressor(
        init=lambda message_like: (),
        encode=lambda key, message, state: (message, state),
        decode=lambda payload: payload,
        contract=lambda message_like: EXACT,
    )


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
    narrow = jnp.dtype(dtype)
    if not jnp.issubdtype(narrow, jnp.floating):
        raise TypeError(f"cast needs a floating dtype such as jnp.bfloat16, got {narrow}")
    sample = np.array([-1.0, np.nan], np.float32).astype(narrow).astype(np.float32)
    if not (sample[0] == -1.0 and np.isnan(sample[1])):
        raise TypeError(f"cast needs a dtype with a sign and a NaN, which {narrow} lacks")
    info = jnp.finfo(narrow)
    scaled = float(info.max) < 2.0**127

    def lossless(wide: jnp.dtype) -> bool:
        return jnp.finfo(wide).bits <= info.bits

    def encode(key: Key, x: Array) -> Cast | Array:
        if lossless(x.dtype):
            return x
        if not scaled:
            return Cast(_saturate(x, x, narrow).astype(narrow), None, x.dtype.name)
        x32 = x.astype(jnp.float32)
        finite = jnp.isfinite(x32)
        top = jnp.max(jnp.abs(jnp.where(finite, x32, 0.0)), initial=0.0)
        # frexp: top = m 2^p with m in [1/2, 1), so top / 2^(p - q) < 2^q <= the largest value.
        exponent = jnp.where(top > 0, jnp.frexp(top)[1] - _log2_max(info), 0)
        small = jnp.where(finite, jnp.ldexp(x32, -exponent), jnp.nan)
        return Cast(small.astype(narrow), exponent.astype(jnp.int16), x.dtype.name)

    def decode(payload: Cast) -> Array:
        x = payload.values.astype(jnp.float32)
        if payload.exponent is not None:
            wide = jnp.ldexp(x, payload.exponent.astype(jnp.int32))
            x = _saturate(wide, x, payload.dtype)  # the largest may have been rounded up
        return x.astype(payload.dtype)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        if lossless(leaf.dtype):
            return EXACT
        roundoff = 2.0 ** -(info.nmant + 1)
        # Below the smallest subnormal half a step is lost, relative to a maximum of at least 2^(q-1).
        flushed = float(info.smallest_subnormal) / 2.0 ** _log2_max(info) if scaled else 0.0
        error = roundoff + flushed * np.sqrt(leaf.size)
        return Contract(delta=float(1 - error**2)) if error < 1 else Contract()

    return lift(encode, decode, contract, node=Cast)


def _saturate(x: Array, source: Array, dtype: jax.typing.DTypeLike) -> Array:
    """``x``, but within the range of ``dtype`` where ``source`` is finite."""
    limit = float(jnp.finfo(dtype).max)
    return jnp.where(jnp.isfinite(source), jnp.clip(x, -limit, limit), x)


def _log2_max(info: jnp.finfo) -> int:
    """The largest q such that 2^q is representable."""
    return int(np.floor(np.log2(float(info.max))))
