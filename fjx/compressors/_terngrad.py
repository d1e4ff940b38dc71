"""TernGrad: ternary codes, five to a byte."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Compressor, Contract, Key
from fjx._kernels.rounding import in_units, largest, norm, stochastic_round, unbiased
from fjx.compressors._lift import lift
from fjx.wire import Ternary


def terngrad(*, clip: float | None = None) -> Compressor:
    """TernGrad: unbiased stochastic rounding of each leaf to -s, 0 and s, five coordinates per byte.

    With s = max|x|, coordinate x_i is sent as sgn(x_i) s with probability |x_i| / s, and as zero
    otherwise.  This is ``quantize(bits=2)`` with a fifth fewer bits.

    With ``clip`` c, coordinates beyond c rms(x) are first brought back to c rms(x).  This makes
    them biased, and prevents a few large coordinates from turning the others into noise.
    rms(x) = ||x|| / sqrt(d) is the standard deviation about zero, not about the mean, so a constant
    leaf is not clipped for c >= 1.

    Guarantees:
        - Without ``clip``, unbiased for float32 leaves: E[C(x)] = x.  Narrower leaves are rounded
          once more in decoding.
        - Without ``clip``, E||C(x)||^2 = max|x| ||x||_1 exactly, and omega = (sqrt(d) - 1) / 2,
          attained at x = (1, a, ..., a) with a = 1 / (sqrt(d) + 1).
        - With ``clip``, biased as soon as d > c^2, with omega = 1 + c^2 / 8 for c <= 4 and
          omega = c - 1 for larger c, for every d and approached as d grows.  The energy in a few
          large coordinates is lost.
        - A zero never moves.
        - A leaf with a non-finite value, or with s > 2^125, decodes to NaN everywhere.
        - A leaf with s < 2^-126 decodes to zeros.

    Bits:
        8 ceil(d / 5) + 32 per leaf.

    Args:
        clip: clipping level c in standard deviations, greater than 0; the paper takes 2.5.  None
            does not clip.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: ``clip`` is not a number.
        ValueError: ``clip`` is not positive and finite.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.terngrad()
        >>> x = jnp.array([0.0, -4.0, 4.0, 4.0, 0.0, 0.0, -4.0])
        >>> payload, _ = codec.encode(jax.random.key(0), x, ())
        >>> codec.decode(payload).tolist() == x.tolist(), wire.bits(payload)
        (True, 48)

    References:
        Wen, Xu, Yan, Wu, Wang, Chen, Li, *TernGrad: Ternary Gradients to Reduce Communication in
        Distributed Deep Learning*, NeurIPS 2017 (arXiv:1705.07878).
    """
    if clip is not None:
        clip = _validate.static_number("clip", clip, above=0)

    def encode(key: Key, x: Array) -> Ternary:
        x32 = x.astype(jnp.float32)
        span = largest(x32)
        if clip is not None:
            span = jnp.minimum(span, norm(x32) * (clip / math.sqrt(max(x.size, 1))))
        ratio, scale = in_units(x32, span)
        codes = stochastic_round(key, jnp.clip(ratio, -1, 1)).astype(jnp.int8)
        return Ternary(_five_to_a_byte(codes.reshape(-1)), scale, x.shape, x.dtype.name)

    def decode(payload: Ternary) -> Array:
        codes = _from_bytes(payload.packed)[: math.prod(payload.shape)]
        x = codes.astype(jnp.float32) * payload.scale
        return x.reshape(payload.shape).astype(payload.dtype)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        if clip is None or leaf.size <= clip**2:  # max|x| <= sqrt(d) rms(x)
            return unbiased(leaf, (math.sqrt(max(leaf.size, 1)) - 1) / 2)
        if jnp.finfo(leaf.dtype).bits < 32:
            return Contract()
        # In units of rms(x), with y = |x_i| and s <= c, the error is s y - y^2 for y <= s and (y - s)^2
        # beyond.  As lines in y^2 of slope 1, both are at most c^2 / 8 + y^2: the first by completing
        # the square, the second because s^2 <= 2 s y.  The squares average to 1.  From c = 4 on, the
        # tangent at y = 1, of slope c / 2 - 1 >= 1, is above both, and is c - 1 there.
        return Contract(omega=1 + clip**2 / 8 if clip <= 4 else clip - 1)

    return lift(encode, decode, contract, node=Ternary)


_PLACES = 3 ** np.arange(5)


def _five_to_a_byte(codes: Array) -> Array:
    """Codes -1, 0, 1 packed as digits in base 3: byte j holds coordinates j, j + n, ..., j + 4 n."""
    digits = (codes + 1).astype(jnp.uint8)
    rows = jnp.pad(digits, (0, -codes.size % 5), constant_values=1).reshape(5, -1)
    return jnp.sum(rows * jnp.asarray(_PLACES, jnp.uint8)[:, None], axis=0, dtype=jnp.uint8)


def _from_bytes(packed: Array) -> Array:
    """The inverse of :func:`_five_to_a_byte`; the padding is still there."""
    digits = packed.astype(jnp.int32)[None] // jnp.asarray(_PLACES, jnp.int32)[:, None] % 3
    return digits.reshape(-1) - 1
