"""Lossless codes of non-negative integers, on the host, and what they cost, on any device.

The textbook writes a code word after another: a length in unary, then the digits that it announces.
Here the words of up to 2^16 integers are taken apart and their like parts lie together, all lengths
and then all digits.  That is as many bits, and NumPy reads and writes them without a loop over words.
Bits fill bytes from the lowest; of a number with announced length the highest digit comes first.
"""

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
    r"""Integers in a variable-length code, or in ``width`` bits each if that is shorter.

    The first byte is 0 where a fixed width follows; else it is 1, to which ``"golomb"`` adds its
    parameter.  No integers are no bytes.

    ===================  ==========================================================================
    ``"elias_gamma"``    n + 1 in 2 floor(lg(n + 1)) + 1 bits
    ``"elias_delta"``    its length in gamma: L + 2 floor(lg(L + 1)) + 1 bits, L = floor(lg(n + 1))
    ``"elias_omega"``    the length of its length, and so on: 1, 3, 6, 7, 11 bits for n + 1 = 1, 2, 4,
                         8, 16
    ``"golomb"``         floor(n / 2^b) + 1 + b bits (Golomb-Rice), with the b that is best for these
                         integers
    ``"run_length"``     for many zeros: how many numbers are not zero, then for each in gamma the
                         zeros before it and its half, rounded up, and its lowest bit (of a zig-zag
                         code: its magnitude and its sign)
    ``"range"``          range coding with the frequencies of these integers, which travel; needs the
                         package constriction
    ``"zstd"``           Zstandard of whole bytes; needs the package zstandard
    ===================  ==========================================================================

    Guarantees: never longer than ``1 + ceil(d * width / 8)`` bytes; :func:`decode_integers` returns the
        integers; equal integers give equal bytes, of ``"range"`` and ``"zstd"`` for one version of
        their packages.

    Args:
        values: non-negative integers below ``2**width``, of any shape.
        coder: one of the names above.
        width: bits of one integer in a fixed-width code, 1 to 31.

    Returns:
        The bytes.

    Raises:
        ImportError: the coder's package is not installed.
        TypeError: ``values`` are not integers.
        ValueError: an integer is out of range, ``coder`` or ``width`` unknown.

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
    r"""The inverse of :func:`encode_integers`.

    Guarantees: bad bytes raise ValueError and nothing else, before memory is taken for what they claim
        to hold; what is read is written as the same bytes, but for ``"zstd"``, whose packages do not
        all write alike.

    Args:
        data: what :func:`encode_integers` wrote, and nothing else.
        count: how many integers there are.
        coder: as they were written.
        width: as they were written.

    Returns:
        ``u8[count]``, ``u16[count]`` or ``u32[count]``, the narrowest that holds ``width`` bits.

    Raises:
        ImportError: the coder's package is not installed.
        ValueError: truncated, longer than it says, or not as :func:`encode_integers` writes it.

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
    """The integers with which ``data`` begins, and the number of bytes that they take."""
    method, width = _method(coder), _width(width)
    if count == 0:
        return np.zeros(0, storage(width)), 0
    room = -(-count * width // 8)
    # A code is used where it is shorter, so that no more than this can belong to it.
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
    """The length of what :func:`encode_integers` writes, in a compiled program.

    Args:
        values: non-negative integers below ``2**width``, of any shape, in all of less than 2^32 bits.
        coder: ``"elias_gamma"``, ``"elias_delta"``, ``"elias_omega"``, ``"golomb"`` or
            ``"run_length"``; of the others there is no formula.
        width: bits of one integer in a fixed-width code, 1 to 31.
        count: ``i32[]``, how many entries of the first axis are coded; None if all are.

    Returns:
        ``u32[]``, whole bytes, in bits.

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
        raise ValueError(f"of the coder {coder!r} no formula says how long its code is")
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
    return (bits >> 3) + (bits & 7 > 0).astype(jnp.uint32)


def has_formula(coder: str) -> bool:
    """Whether :func:`coded_bits` knows how long a code is."""
    return _method(coder).bits is not None


def require_coder(coder: str) -> None:
    """Raises ValueError unless ``coder`` is a name of one."""
    _method(coder)


def _method(coder: str) -> Method:
    if coder not in METHODS:
        raise ValueError(f"coder must be one of {', '.join(METHODS)}, got {coder!r}")
    return METHODS[coder]


def _width(width: int) -> int:
    return _validate.static_integer("width", width, at_least=1, at_most=WIDEST)


def _numbers(values: np.ndarray, width: int) -> np.ndarray:
    raw = np.asarray(values).reshape(-1)
    if raw.dtype.kind not in "iu" and raw.size:
        raise TypeError(f"coders take integers, got {raw.dtype}")
    if raw.size and not (raw.min() >= 0 and int(raw.max()) >> width == 0):
        raise ValueError(
            f"integers of {width} bits must lie in [0, {2**width}), got {raw.min()} to {raw.max()}"
        )
    return raw.astype(storage(width))
