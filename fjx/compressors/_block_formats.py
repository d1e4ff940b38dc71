"""Block formats: tiny floats in blocks of 32 that share a power of two."""

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array, Compressor, Contract, Key
from fjx._kernels.rounding import binade, power_of_two
from fjx.compressors._lift import lift
from fjx.wire import Microscaled
from fjx.wire._floats import MX_FORMATS

_BLOCK = 32


def mx(dtype: jax.typing.DTypeLike) -> Compressor:
    """Microscaling: blocks of 32 coordinates in fp8, fp6 or fp4 that share a power of two.

    Let the largest magnitude of a block lie in [2^p, 2^(p+1)), and let 2^q be the largest power of
    two in the format.  Each coordinate of the block is divided by 2^(p - q), rounded to the nearest
    number of the format (ties to even), and cut to the largest.  Two similar codecs use integers:
    ``blockwise(absmax(bits=8), size=32)`` with a float32 scale for each block, and
    ``blockwise(quantize(bits=8), size=32)``, which is unbiased.

    Guarantees:
        - Deterministic.
        - |error_i| <= v |x_i| + a 2^(p - q).  Here v is 1/8 for e4m3fn and e5m2 and 1/4 for e2m1fn,
          and a is half of the least positive number of the format.
        - A zero leaf stays zero.
        - A magnitude beyond the largest number of the format becomes this number: [448, 512) of
          e4m3fn, [6, 8) of e2m1fn.
        - A non-finite value turns its own block into NaN, and no other block.
        - The exponent of a block is at least -126.  Blocks below 2^(q-126) lose digits, and blocks
          below 2^-126 may become zero.

    Bits:
        d * width + 8 ceil(d / 32) per leaf.  This is 8.25 per coordinate for fp8 and 4.25 for fp4.

    Args:
        dtype: ``jnp.float8_e4m3fn``, ``jnp.float8_e5m2``, ``jnp.float4_e2m1fn``, or the name of one
            of these or of ``float6_e2m3fn``, ``float6_e3m2fn``.

    Returns:
        A :class:`fjx.Compressor` with contract delta = 1 - v^2 - 31 a^2 / 4^q.  This is 63/64,
        63/64 and 209/256 for e4m3fn, e5m2 and e2m1fn.

    Raises:
        TypeError: ``dtype`` is not one of those.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.mx("float4_e2m1fn")
        >>> x = jnp.concatenate([jnp.array([600.0, -70.0, 20.0, 290.0]), jnp.full(60, -0.375)])
        >>> payload, _ = jax.jit(codec.encode)(jax.random.key(0), x, ())
        >>> jax.jit(codec.decode)(payload)[jnp.array([0, 1, 2, 3, 63])].tolist(), wire.bits(payload) / 64
        ([512.0, -64.0, 0.0, 256.0, -0.375], 4.25)

    References:
        Rouhani et al., *Microscaling Data Formats for Deep Learning* (arXiv:2310.10537); Open
        Compute Project, *OCP Microscaling Formats (MX) Specification*, 2023.
    """
    format = jnp.dtype(dtype)
    if format.name not in MX_FORMATS:
        raise TypeError(f"mx needs one of {', '.join(MX_FORMATS)}, got {format.name}")
    info = jnp.finfo(format)
    digits, least, highest = int(info.nmant), int(info.minexp), float(info.max)
    q = int(np.floor(np.log2(highest)))

    def encode(key: Key, x: Array) -> Microscaled:
        rows = _rows(x.astype(jnp.float32))
        top = jnp.max(jnp.abs(rows), axis=1)
        shared = jnp.maximum(binade(top, -126) - q, -126)
        y = rows * power_of_two(-shared)[:, None]
        magnitude = jnp.minimum(jnp.abs(y), highest)
        exponent = binade(magnitude, least)
        # In units of its spacing, a number is at least 2^m, and less in the lowest binade.  The code
        # counts these units on from binade to binade, so a number that is rounded up into the next
        # binade gets the right code.
        units = jnp.round(magnitude * power_of_two(digits - exponent))
        codes = units.astype(jnp.int32) + ((exponent - least) << digits)
        codes = codes | jnp.where(y < 0, 1 << (info.bits - 1), 0)
        finite = jnp.all(jnp.isfinite(rows), axis=1)
        codes = jnp.where(finite[:, None], codes, 0).astype(jnp.uint8)
        exponents = jnp.where(finite, shared + 127, 255).astype(jnp.uint8)
        return Microscaled(_cut(codes, x.shape), exponents, format.name, x.dtype.name)

    def decode(payload: Microscaled) -> Array:
        codes = _rows(payload.codes).astype(jnp.int32)
        magnitude = codes & ((1 << (info.bits - 1)) - 1)
        above = jnp.maximum((magnitude >> digits) - 1, 0)
        units = (magnitude - (above << digits)).astype(jnp.float32)
        y = units * power_of_two(above + (least - digits))
        y = jnp.where(codes >> (info.bits - 1) != 0, -y, y)
        shared = payload.exponents.astype(jnp.int32) - 127
        scale = jnp.where(shared < 128, power_of_two(jnp.minimum(shared, 127)), jnp.nan)
        return _cut(y * scale[:, None], payload.codes.shape).astype(payload.dtype)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        if float(jnp.finfo(leaf.dtype).max) < 2.0**127:
            return Contract()  # a decoded value may be below the least number of this dtype
        # The relative error of a number in a binade is less than that of 1 + u, rounded down to 1.
        roundoff = 2.0 ** -(digits + 1)
        v = max(roundoff / (1 + roundoff), 1 - highest / 2.0 ** (q + 1))
        # The squared error of a coordinate is at most v^2 times its own square, or the square of half
        # the least number.  For the largest coordinate, whose square is at least 4^q, it is the first.
        lost = (_BLOCK - 1) * (2.0 ** (least - digits - 1) / 2.0**q) ** 2
        return Contract(delta=float(1 - v**2 - lost))

    return lift(encode, decode, contract, node=Microscaled)


def _rows(x: Array) -> Array:
    """The blocks of an array as rows; the last is padded with zeros."""
    return jnp.pad(x.reshape(-1), (0, -x.size % _BLOCK)).reshape(-1, _BLOCK)


def _cut(rows: Array, shape: tuple[int, ...]) -> Array:
    return rows.reshape(-1)[: int(np.prod(shape))].reshape(shape)
