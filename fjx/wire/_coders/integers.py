"""Integers in a lossless code: written and read on the host, counted on any device."""

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array
from fjx.wire._coders.bits import WIDEST, BitReader, storage, too_short
from fjx.wire._coders.elias import ELIAS_DELTA, ELIAS_GAMMA, ELIAS_OMEGA
from fjx.wire._coders.golomb import GOLOMB
from fjx.wire._coders.method import Method
from fjx.wire._coders.range_coder import RANGE
from fjx.wire._coders.run_length import RUN_LENGTH
from fjx.wire._coders.zstd import ZSTD
from fjx.wire._pack import pack, unpack

METHODS = {
    "elias_gamma": ELIAS_GAMMA,
    "elias_delta": ELIAS_DELTA,
    "elias_omega": ELIAS_OMEGA,
    "golomb": GOLOMB,
    "run_length": RUN_LENGTH,
    "range": RANGE,
    "zstd": ZSTD,
}


def encode_integers(values: np.ndarray, coder: str, *, width: int) -> bytes:
    """Integers in a variable-length code, or in ``width`` bits each if that is shorter.

    The first byte is 0 if a fixed width follows.  Otherwise it is 1; ``"golomb"`` adds its parameter b
    to it.  No integers give no bytes.  lg is the logarithm of base 2.

    ===================  ==========================================================================
    ``"elias_gamma"``    n + 1 in 2 floor(lg(n + 1)) + 1 bits
    ``"elias_delta"``    n + 1 with its length in gamma: L + 2 floor(lg(L + 1)) + 1 bits,
                         L = floor(lg(n + 1))
    ``"elias_omega"``    n + 1 with its length, the length of its length, and so on: 1, 3, 6, 7, 11
                         bits for n + 1 = 1, 2, 4, 8, 16
    ``"golomb"``         floor(n / 2^b) + 1 + b bits (Golomb-Rice), with the best b for the integers
    ``"run_length"``     for many zeros: the number of non-zero integers in gamma; then for each of
                         them, in gamma, the zeros before it and half of it, rounded up, and its
                         lowest bit (for a zig-zag code: magnitude and sign)
    ``"range"``          range coding with the frequencies of the integers, which travel as well;
                         needs the package constriction
    ``"zstd"``           Zstandard of whole bytes; needs the package zstandard
    ===================  ==========================================================================

    Guarantees:
        - :func:`decode_integers` returns the integers.
        - The result has at most ``1 + ceil(d * width / 8)`` bytes.
        - Equal integers give equal bytes; for ``"range"`` and ``"zstd"`` this holds within one version
          of their packages.

    Args:
        values: non-negative integers below ``2**width``, or bools, of any shape.
        coder: one of the names above.
        width: bits of one integer in the fixed-width code, 1 to 31.

    Returns:
        The bytes.

    Raises:
        ImportError: the coder's package is not installed.
        TypeError: ``values`` are neither integers nor bools.
        ValueError: an integer or ``width`` is out of range, or ``coder`` is unknown.

    Examples:
        >>> import numpy as np
        >>> from fjx import wire
        >>> gaps = np.array([0, 3, 1, 0, 0, 2, 0, 1, 0, 0, 1, 0])
        >>> data = wire.encode_integers(gaps, "golomb", width=8)
        >>> len(data), wire.decode_integers(data, 12, "golomb", width=8).tolist() == gaps.tolist()
        (4, True)

    References:
        Elias, *Universal Codeword Sets and Representations of the Integers*, IEEE Trans. Inf. Theory
        1975; Rice, Plaunt, *Adaptive Variable-Length Coding*, IEEE Trans. Commun. 1971; Martin, *Range
        Encoding*, 1979; Collet, Kucherawy, *Zstandard Compression*, RFC 8878.
    """
    method, width = _method(coder), _width(width)
    numbers = _numbers(values, width)
    if not numbers.size:
        return b""
    fixed = b"\0" + pack(numbers, width)
    coded = method.encode(numbers, width)
    return coded if len(coded) < len(fixed) else fixed


def decode_integers(data: bytes, count: int, coder: str, *, width: int) -> np.ndarray:
    r"""Integers that :func:`encode_integers` wrote.

    Guarantees:
        - Bad bytes raise ValueError and nothing else.
        - No memory is allocated for integers that the bytes cannot hold.
        - The result, written again, gives the same bytes.  The exception is ``"zstd"``, because not all
          versions of its package write alike.

    Args:
        data: the result of :func:`encode_integers`, and nothing else.
        count: number of integers.
        coder: coder with which they were written.
        width: width with which they were written.

    Returns:
        ``u8[count]``, ``u16[count]`` or ``u32[count]``, the narrowest that holds ``width`` bits.

    Raises:
        ImportError: the coder's package is not installed.
        ValueError: the bytes are truncated, too long, or not as :func:`encode_integers` writes them.

    Examples:
        >>> from fjx import wire
        >>> wire.decode_integers(b"\x01\x0d", 3, "elias_gamma", width=4).tolist()
        [0, 1, 0]
        >>> wire.decode_integers(b"\x01", 3, "elias_gamma", width=4)
        Traceback (most recent call last):
            ...
        ValueError: coded integers end too early
    """
    count = _validate.static_integer("count", count, at_least=0)
    numbers, used = read_integers(data, count, coder, width)
    if used < len(data):
        raise ValueError(f"coded integers are followed by {len(data) - used} bytes")
    return numbers


def read_integers(
    data: bytes | memoryview, count: int, coder: str, width: int
) -> tuple[np.ndarray, int]:
    """Integers at the beginning of ``data``, and the number of bytes that they take."""
    method, width = _method(coder), _width(width)
    if count == 0:
        return np.zeros(0, storage(width)), 0
    room = -(-count * width // 8)
    # A code is used only if it is shorter than the fixed width, so it ends within these bytes.
    data = bytes(data[: 1 + room])
    if not data:
        raise too_short()
    if data[0] == 0:
        if len(data) <= room:
            raise too_short()
        numbers, used = unpack(data[1:], width, (count,), storage(width)), 1 + room
    else:
        bits = BitReader(data, 8)
        numbers = method.decode(bits, count, width, data[0] - 1)
        used = bits.end()
    if numbers.size and int(numbers.max()) >> width:
        raise ValueError(f"coded integers must be below 2^{width}, got {numbers.max()}")
    if coder != "zstd" and encode_integers(numbers, coder, width=width) != data[:used]:
        raise ValueError("integers are not coded as fjx codes them")
    return numbers, used


def coded_bits(values: Array, coder: str, *, width: int, count: Array | None = None) -> Array:
    """Length of the result of :func:`encode_integers` in bits, inside a compiled program.

    Args:
        values: non-negative integers below ``2**width``, of any shape; fewer than 2^32 bits in total.
        coder: ``"elias_gamma"``, ``"elias_delta"``, ``"elias_omega"``, ``"golomb"`` or
            ``"run_length"``.  The other coders have no formula.
        width: bits of one integer in the fixed-width code, 1 to 31.
        count: ``i32[]``, number of entries of the first axis that are coded; None for all.

    Returns:
        ``u32[]``, a multiple of 8.

    Raises:
        ValueError: ``coder`` has no formula, or ``width`` is out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import wire
        >>> int(wire.coded_bits(jnp.array([0, 1, 0]), "elias_gamma", width=4))
        16
    """
    method, width = _method(coder), _width(width)
    if method.bits is None:
        raise ValueError(
            f"the coder {coder!r} has no formula for the length of its code; "
            "use a coder with a formula, or count bytes with encode_integers"
        )
    values = jnp.asarray(values)
    counts = jnp.ones(values.shape, bool)
    if count is not None:
        entries = jax.lax.broadcasted_iota(jnp.int32, values.shape, 0)
        counts = entries < jnp.asarray(count).astype(jnp.int32)
    coded = method.bits(values.reshape(-1).astype(jnp.uint32), counts.reshape(-1), width)
    fixed = jnp.sum(counts, dtype=jnp.uint32) * jnp.uint32(width)
    octets = jnp.minimum(_octets(coded), _octets(fixed))
    return jnp.where(fixed > 0, 8 + 8 * octets, 0)


def _octets(bits: Array) -> Array:
    """Number of bytes that hold so many bits."""
    return (bits >> 3) + (bits & 7 > 0).astype(jnp.uint32)


def has_formula(coder: str) -> bool:
    """True if :func:`coded_bits` can count the bits of a coder."""
    return _method(coder).bits is not None


def require_coder(coder: str) -> None:
    """Raise ValueError unless ``coder`` is the name of a coder."""
    _method(coder)


def _method(coder: str) -> Method:
    if coder not in METHODS:
        raise ValueError(f"coder must be one of {', '.join(METHODS)}, got {coder!r}")
    return METHODS[coder]


def _width(width: int) -> int:
    return _validate.static_integer("width", width, at_least=1, at_most=WIDEST)


def _numbers(values: np.ndarray, width: int) -> np.ndarray:
    """Integers as a flat array in the narrowest dtype, after a check of their range."""
    raw = np.asarray(values).reshape(-1)
    if raw.dtype.kind not in "iub" and raw.size:
        raise TypeError(f"coders take integers, got {raw.dtype}")
    if raw.size and not (raw.min() >= 0 and int(raw.max()) >> width == 0):
        raise ValueError(
            f"integers of {width} bits must lie in [0, {2**width}), got {raw.min()} to {raw.max()}"
        )
    return raw.astype(storage(width))
