"""Uniform quantisers with a symmetric grid, scaled by the leaf: quantize, qsgd and absmax."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Compressor, Contract, Key
from fjx._kernels.rounding import (
    after_rounding,
    in_units,
    largest,
    norm,
    stochastic_round,
    unbiased,
)
from fjx.compressors._lift import lift
from fjx.wire import Quantized


def _uniform(
    levels: int,
    span: Callable[[Array], Array],
    rounding: Callable[[Key, Array], Array],
    contract: Callable[[jax.ShapeDtypeStruct], Contract],
) -> Compressor:
    """A codec that rounds each leaf to the 2 levels + 1 multiples of span(x) / levels."""
    bits = levels.bit_length() + 1
    integer = jnp.int8 if bits <= 8 else jnp.int16

    def encode(key: Key, x: Array) -> Quantized:
        x32 = x.astype(jnp.float32)
        ratio, scale = in_units(x32, span(x32) / levels)
        codes = jnp.clip(rounding(key, ratio), -levels, levels).astype(integer)
        return Quantized(codes, scale, bits, x.dtype.name)

    def decode(payload: Quantized) -> Array:
        return (payload.codes.astype(jnp.float32) * payload.scale).astype(payload.dtype)

    return lift(encode, decode, contract, node=Quantized)


def quantize(*, bits: int) -> Compressor:
    r"""Unbiased stochastic rounding of each leaf to a uniform grid scaled by its largest magnitude.

    With L = 2^(bits-1) - 1, the grid consists of the multiples of s = max|x| / L.  Each coordinate
    x_i lies between two of them and is rounded up with the probability that makes it unbiased:

    .. math:: C(x)_i = s \lfloor x_i / s + u_i \rfloor, \quad u_i \sim \mathrm{U}[0, 1)

    This is QSGD in the max norm with one bucket per leaf.  With two bits it is TernGrad without
    clipping.

    Guarantees:
        - Unbiased for float32 leaves: E[C(x)] = x.  Narrower leaves are rounded once more in
          decoding.
        - |error_i| < s.
        - omega = (sqrt(1 + (d - 1) / L^2) - 1) / 2, attained at x = (1, a, ..., a) with
          a = (sqrt(1 + (d - 1) / L^2) - 1) L / (d - 1).
        - A coordinate on the grid never moves.  Zero and the largest are on the grid.
        - A leaf with a non-finite value, or with s > 2^125, decodes to NaN everywhere.
        - A leaf with s < 2^-126 decodes to zeros.

    Bits:
        d * bits + 32 per leaf.

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
        >>> codec = compressors.quantize(bits=2)
        >>> payload, _ = codec.encode(jax.random.key(0), jnp.array([0.0, -4.0, 4.0, 1.0]), ())
        >>> payload.codes.tolist()[:3], float(payload.scale), wire.bits(payload)
        ([0, -1, 1], 4.0, 40)

    References:
        Alistarh, Grubic, Li, Tomioka, Vojnovic, *QSGD*, NeurIPS 2017 (arXiv:1610.02132); Wen et
        al., *TernGrad*, NeurIPS 2017 (arXiv:1705.07878).
    """
    levels = _levels(bits)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        spread = np.sqrt(1 + max(leaf.size - 1, 0) / levels**2)
        return unbiased(leaf, float(spread - 1) / 2)

    return _uniform(levels, largest, stochastic_round, contract)


def qsgd(*, levels: int) -> Compressor:
    r"""QSGD: unbiased stochastic rounding of each leaf to a uniform grid scaled by its L2 norm.

    With s levels, each coordinate x_i lies between two multiples of ||x|| / s and is rounded up
    with the probability that makes it unbiased:

    .. math:: C(x)_i = (\|x\| / s) \lfloor s x_i / \|x\| + u_i \rfloor, \quad u_i \sim \mathrm{U}[0, 1)

    The grid is coarser than that of :func:`quantize`, and most codes of a long leaf are zero.  The
    buckets of the paper are ``blockwise(qsgd(levels=s), size=d)``.

    Guarantees:
        - Unbiased for float32 leaves: E[C(x)] = x.  Narrower leaves are rounded once more in
          decoding, and in float16 ||x|| may overflow.
        - |error_i| < ||x|| / s.
        - With r = sqrt(d) / s, omega = r - 1 if r >= 2, attained if all |x_i| are equal.
        - Otherwise omega = r^2 / 4, attained if all s |x_i| / ||x|| are halves of odd numbers.
        - At most s (s + sqrt(d)) codes are non-zero in expectation.
        - A zero never moves.
        - A leaf with a non-finite value, or with ||x|| / s > 2^125, decodes to NaN everywhere.
        - A leaf with ||x|| / s < 2^-126 decodes to zeros.

    Bits:
        d * ceil(log2(2 s + 1)) + 32 per leaf.

    Args:
        levels: number of positive levels s, 1 to 32767; 1, 3, 7, ..., 2^(b-1) - 1 use all codes of
            b bits.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: ``levels`` is not an integer.
        ValueError: ``levels`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.qsgd(levels=5)
        >>> payload, _ = codec.encode(jax.random.key(0), jnp.array([0.0, -3.0, 4.0]), ())
        >>> payload.codes.tolist(), float(payload.scale), wire.bits(payload)
        ([0, -3, 4], 1.0, 48)

    References:
        Alistarh, Grubic, Li, Tomioka, Vojnovic, *QSGD*, NeurIPS 2017 (arXiv:1610.02132), where
        omega is bounded by min(r^2, r).
    """
    levels = _validate.static_integer("levels", levels, at_least=1, at_most=2**15 - 1)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        # With y = s |x| / ||x||, the error is sum g(y_i^2) / s^2, where g(z) = f (1 - f) and
        # f = frac(sqrt(z)).  The least concave g* above g is g itself up to z = 1/4, and 1/4 beyond.
        # Since sum y_i^2 = s^2, Jensen's inequality bounds sum g(y_i^2) by d g*(s^2 / d).
        r = np.sqrt(leaf.size) / levels
        return unbiased(leaf, float(r - 1 if r >= 2 else r**2 / 4))

    return _uniform(levels, norm, stochastic_round, contract)


def absmax(*, bits: int) -> Compressor:
    """Round each leaf to the nearest point of a uniform grid scaled by its largest magnitude.

    The grid is that of :func:`quantize`: multiples of s = max|x| / L with L = 2^(bits-1) - 1.
    Rounding to the nearest is biased, and has a smaller error in one message.
    ``blockwise(absmax(bits=8), size=64)`` is the int8 format of many libraries.

    Guarantees:
        - Deterministic, ties to even.
        - |error_i| <= s / 2 and |error_i| <= |x_i|.
        - ||C(x) - x||^2 <= (d - 1) / (4 L^2 + d - 1) ||x||^2, attained at x = (L, 1/2, ..., 1/2).
        - The largest coordinate never moves.
        - Narrower leaves than float32 are rounded once more in decoding; their contract says so.
        - A leaf with a non-finite value, or with s > 2^125, decodes to NaN everywhere.
        - A leaf with s < 2^-126 decodes to zeros.

    Bits:
        d * bits + 32 per leaf.

    Args:
        bits: width of a code, 2 to 16.

    Returns:
        A :class:`fjx.Compressor` with contract delta = 4 L^2 / (4 L^2 + d - 1).

    Raises:
        TypeError: ``bits`` is not an integer.
        ValueError: ``bits`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.absmax(bits=4)
        >>> payload, _ = codec.encode(jax.random.key(0), jnp.array([0.4, -7.0, 2.6]), ())
        >>> codec.decode(payload).tolist(), wire.bits(payload)
        ([0.0, -7.0, 3.0], 48)

    References:
        Dettmers, Lewis, Shleifer, Zettlemoyer, *8-bit Optimizers via Block-wise Quantization*, ICLR
        2022 (arXiv:2110.02861), for the blocks.
    """
    levels = _levels(bits)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        # In units of s, error_i^2 <= min(x_i^2, 1/4).  The ratio sum error^2 / (L^2 + sum x^2), with
        # sums over all but the largest, grows with each |x_i| up to 1/2 and falls from there.
        bound = 4 * levels**2 / (4 * levels**2 + max(leaf.size - 1, 0))
        return after_rounding(leaf, Contract(delta=bound))

    return _uniform(levels, largest, lambda key, ratio: jnp.round(ratio), contract)


def _levels(bits: int) -> int:
    """L: the largest code of ``bits`` bits in a symmetric grid."""
    bits = _validate.static_integer("bits", bits, at_least=2, at_most=16)
    return 2 ** (bits - 1) - 1
