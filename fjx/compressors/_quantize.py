"""Uniform quantisers."""

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Compressor, Contract, Key
from fjx._lift import lift
from fjx.wire import Quantized


def quantize(*, bits: int) -> Compressor:
    """Unbiased stochastic rounding of each leaf to a uniform grid scaled by its largest magnitude.

    With L = 2^(bits-1) - 1 and scale s = max|x| / L, coordinate x_i lies between two multiples of s;
    it is sent as the upper one with probability frac(x_i / s), else as the lower one.  This is QSGD
    in the max norm with one bucket per leaf; with two bits it is TernGrad without clipping.

    Guarantees: unbiased; |error_i| < s; omega = (sqrt(1 + (d - 1) / L^2) - 1) / 2, attained at
        x = (1, a, ..., a) with a = (sqrt(1 + (d - 1) / L^2) - 1) L / (d - 1); a coordinate on the grid,
        such as zero and the largest, never moves; a leaf with a non-finite value, or with s > 2^125,
        decodes to NaN throughout, and one with s < 2^-126 to zero; bits: d * bits + 32 per leaf.

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
        >>> codec = compressors.quantize(bits=2)
        >>> payload, _ = codec.encode(jax.random.key(0), jnp.array([0.0, -4.0, 4.0, 1.0]), ())
        >>> payload.codes.tolist()[:3], float(payload.scale), wire.bits(payload)
        ([0, -1, 1], 4.0, 40)

    References:
        Alistarh, Grubic, Li, Tomioka, Vojnovic, *QSGD*, NeurIPS 2017 (arXiv:1610.02132); Wen et al.,
        *TernGrad*, NeurIPS 2017 (arXiv:1705.07878).
    """
    _validate.static_integer("bits", bits, at_least=2, at_most=16)
    bits = int(bits)
    levels = 2 ** (bits - 1) - 1
    integer = jnp.int8 if bits <= 8 else jnp.int16

    def encode(key: Key, x: Array) -> Quantized:
        x32 = x.astype(jnp.float32)
        # A maximum alone may lose a NaN.
        top = jnp.where(jnp.all(jnp.isfinite(x32)), jnp.max(jnp.abs(x32), initial=0.0), jnp.nan)
        scale = top / levels
        # XLA may multiply by the reciprocal of the scale, which must not be subnormal either.
        usable = (scale >= 2.0**-126) & (scale <= 2.0**125)
        ratio = jnp.where(usable, x32 / jnp.where(usable, scale, 1.0), 0.0)
        # A coordinate on the grid is there but for rounding (two divisions, 2 ulp each on a GPU), and
        # must not move by a whole step.
        nearest = jnp.round(ratio)
        ratio = jnp.where(jnp.abs(ratio - nearest) <= 2.0**-21 * jnp.abs(ratio), nearest, ratio)
        # A barrier keeps the draw apart from its consumer, which some compilers for phones need.
        uniform = jax.lax.optimization_barrier(jax.random.uniform(key, x.shape))
        lower = jnp.floor(ratio)
        codes = jnp.where(uniform < ratio - lower, lower + 1, lower)  # u < p: p = 0 stays
        codes = jnp.clip(codes, -levels, levels).astype(integer)
        # A broken message must not decode to a sound one; zero in, zero out.
        scale = jnp.where(usable, scale, jnp.where(scale < 1.0, 0.0, jnp.nan))
        return Quantized(codes, scale, bits, x.dtype.name)

    def decode(payload: Quantized) -> Array:
        return (payload.codes.astype(jnp.float32) * payload.scale).astype(payload.dtype)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        spread = np.sqrt(1 + max(leaf.size - 1, 0) / levels**2)
        omega = float(spread - 1) / 2
        return Contract(unbiased=True, omega=omega, delta=1 - omega if omega < 1 else None)

    return lift(encode, decode, contract, node=Quantized)
