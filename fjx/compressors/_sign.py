"""Quantisers with one bit per coordinate."""

import jax
import jax.numpy as jnp

from fjx._base import Array, Compressor, Contract, Key
from fjx._kernels.rounding import after_rounding
from fjx.compressors._lift import lift
from fjx.wire import Signs, TwoMeans


def scaled_sign() -> Compressor:
    r"""Send the signs of each leaf and the mean of its magnitudes.

    With sgn(0) = +1:

    .. math:: C(x) = (\|x\|_1 / d) \, \mathrm{sgn}(x)

    Among all scales, this one has the least error.  Use it inside ``error_feedback``.

    Guarantees:
        - Deterministic.
        - ||C(x) - x||^2 = (1 - ||x||_1^2 / (d ||x||^2)) ||x||^2 exactly.
        - delta = 1/d, attained by one non-zero coordinate.  A Gaussian leaf has 2/pi, and a leaf of
          equal magnitudes loses nothing.
        - Narrower leaves than float32 are rounded once more in decoding; their contract says so.
        - A zero leaf stays zero.  A zero beside other coordinates does not.
        - A leaf with a non-finite value, or whose ||x||_1 overflows, decodes to NaN everywhere.

    Bits:
        d + 32 per leaf.

    Returns:
        A :class:`fjx.Compressor` with contract delta = 1/d, a projection.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.scaled_sign()
        >>> payload, _ = codec.encode(jax.random.key(0), jnp.array([1.0, -5.0, 2.0, 0.0]), ())
        >>> codec.decode(payload).tolist(), wire.bits(payload)
        ([2.0, -2.0, 2.0, 2.0], 40)

    References:
        Karimireddy, Rebjock, Stich, Jaggi, *Error Feedback Fixes SignSGD and other Gradient
        Compression Schemes*, ICML 2019 (arXiv:1901.09847).
    """

    def encode(key: Key, x: Array) -> Signs:
        x32 = x.astype(jnp.float32)
        scale = _mean(jnp.abs(x32), jnp.asarray(x.size))
        return Signs(x32 < 0, _unless_broken(x32, scale), x.dtype.name)

    def decode(payload: Signs) -> Array:
        return jnp.where(payload.negative, -payload.scale, payload.scale).astype(payload.dtype)

    return lift(encode, decode, _contract, node=Signs)


def one_bit_sgd() -> Compressor:
    """Send which coordinates of a leaf are negative, the mean of these, and the mean of the others.

    Use it inside ``error_feedback``.

    Guarantees:
        - Deterministic.
        - The errors of the negative coordinates sum to zero, and so do those of the others.
        - ||C(x) - x||^2 is the variance within the two groups, and never more than the error of
          :func:`scaled_sign`.
        - delta = 1/d, attained by one positive coordinate.
        - Narrower leaves than float32 are rounded once more in decoding; their contract says so.
        - A zero leaf stays zero.
        - A leaf with a non-finite value, or whose ||x||_1 overflows, decodes to NaN everywhere.

    Bits:
        d + 64 per leaf.

    Returns:
        A :class:`fjx.Compressor` with contract delta = 1/d, a projection.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.one_bit_sgd()
        >>> payload, _ = codec.encode(jax.random.key(0), jnp.array([1.0, -5.0, 2.0, 0.0]), ())
        >>> codec.decode(payload).tolist(), wire.bits(payload)
        ([1.0, -5.0, 1.0, 1.0], 72)

    References:
        Seide, Fu, Droppo, Li, Yu, *1-Bit Stochastic Gradient Descent and its Application to
        Data-Parallel Distributed Training of Speech DNNs*, Interspeech 2014.
    """

    def encode(key: Key, x: Array) -> TwoMeans:
        x32 = x.astype(jnp.float32)
        negative = x32 < 0
        below, above = (
            _unless_broken(x32, _mean(jnp.where(group, x32, 0.0), jnp.sum(group)))
            for group in (negative, ~negative)
        )
        return TwoMeans(negative, below, above, x.dtype.name)

    def decode(payload: TwoMeans) -> Array:
        return jnp.where(payload.negative, payload.below, payload.above).astype(payload.dtype)

    return lift(encode, decode, _contract, node=TwoMeans)


def _contract(leaf: jax.ShapeDtypeStruct) -> Contract:
    # ||C(x)||^2 is ||x||_1^2 / d.  With two groups of n and m coordinates and L1 norms a and b, it is
    # a^2 / n + b^2 / m >= (a + b)^2 / d.  And ||x||_1 >= ||x||.
    return after_rounding(leaf, Contract(delta=1 / max(leaf.size, 1), projection=True))


def _mean(x: Array, count: Array) -> Array:
    """The sum divided by a count; zero for a count of zero."""
    return jnp.sum(x) / jnp.maximum(count, 1).astype(jnp.float32)


def _unless_broken(x: Array, mean: Array) -> Array:
    """``mean``, or NaN if x is not finite; a sum never loses a NaN, but a maximum may."""
    return jnp.where(jnp.isfinite(jnp.sum(jnp.abs(x))), mean, jnp.nan)
