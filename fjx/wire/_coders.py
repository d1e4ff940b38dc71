"""Lossless codes of non-negative integers, on the host, and what they cost, on any device.

The textbook writes a code word after another: a length in unary, then the digits that it announces.
Here the words of up to 2^16 integers are taken apart and their like parts lie together, all lengths
and then all digits.  That is as many bits, and NumPy reads and writes them without a loop over words.
Bits fill bytes from the lowest; of a number with announced length the highest digit comes first.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array
from fjx.wire._pack import pack, unpack

WIDEST = 31
"""Bits of the largest integers that are coded: they fit an ``i32``, and one more does not overflow."""

_BLOCK = 1 << 16  # words whose parts lie together


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
        return np.zeros(0, _storage(width)), 0
    room = -(-count * width // 8)
    # A code is used where it is shorter, so that no more than this can belong to it.
    data = bytes(data[: 1 + room])
    if not data:
        raise _short()
    if data[0] == 0:
        if len(data) <= room:
            raise _short()
        numbers, used = unpack(data[1:], width, (count,), _storage(width)), 1 + room
    else:
        bits = _Bits(data, 8)
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


def as_numbers(values: Any, width: int, ascending: bool) -> Any:
    """Integers of a section as what coders take, small where these are small: ``u32``.

    Of signed integers 0, -1, 1, -2, 2, ... become 0, 1, 2, 3, 4, ...; of ascending ones the gaps are
    taken, along the last axis, modulo 2^width.

    Args:
        values: of NumPy or JAX, of ``width`` bits each.
        width: at most 31.
        ascending: whether they ascend, as a rule.
    """
    xp: Any = np if isinstance(values, np.ndarray) else jnp
    signed = values.dtype.kind == "i" or jnp.issubdtype(values.dtype, jnp.signedinteger)
    numbers = values.astype(xp.int32)
    if signed:
        numbers = (numbers << 1) ^ (numbers >> 31)
    if ascending and numbers.ndim:
        before = xp.concatenate([xp.full_like(numbers[..., :1], -1), numbers[..., :-1]], axis=-1)
        numbers = (numbers - before - 1) & ((1 << width) - 1)
    return numbers.astype(xp.uint32)


def from_numbers(
    numbers: np.ndarray, width: int, ascending: bool, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """The inverse of :func:`as_numbers`, on the host."""
    values = numbers.reshape(shape).astype(np.int64)
    if ascending and values.ndim:
        values = (np.cumsum(values + 1, axis=-1) - 1) & ((1 << width) - 1)
    if jnp.issubdtype(dtype, jnp.signedinteger):
        values = (values >> 1) ^ -(values & 1)
    return values.astype(dtype)


def has_formula(coder: str) -> bool:
    """Whether :func:`coded_bits` knows how long a code is."""
    return _method(coder).bits is not None


def require_coder(coder: str) -> None:
    """Raises ValueError unless ``coder`` is a name of one."""
    _method(coder)


class _Method(NamedTuple):
    """A code: how it is written (all of it, the first byte too), read, and counted."""

    encode: Callable[[np.ndarray, int], bytes]
    decode: Callable[["_Bits", int, int, int], np.ndarray]
    bits: Callable[[Array, Array, int], Array] | None = None


def _method(coder: str) -> _Method:
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
    return raw.astype(_storage(width))


def _storage(width: int) -> np.dtype:
    return np.dtype(np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32)


def _short() -> ValueError:
    return ValueError("coded integers end too early")


# --------------------------------------------------------------------------------------------------
# Bits
# --------------------------------------------------------------------------------------------------


def _unary(lengths: np.ndarray) -> np.ndarray:
    """As many zeros as each says, and a one."""
    ends = np.cumsum(lengths + 1)
    bits = np.zeros(int(ends[-1]) if ends.size else 0, np.uint8)
    bits[ends - 1] = 1
    return bits


def _digits(numbers: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The lowest digits of each number, as many as its length says, the highest of them first."""
    ends = np.cumsum(lengths)
    bits = np.zeros(int(ends[-1]) if ends.size else 0, np.uint8)
    for place in range(int(lengths.max(initial=0))):  # counted from the lowest
        some = lengths > place
        bits[ends[some] - 1 - place] = numbers[some] >> place & 1
    return bits


class _Bits:
    """Bits to be read in order."""

    def __init__(self, data: bytes, at: int) -> None:
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        self.at = at

    def take(self, count: int) -> np.ndarray:
        """The next bits."""
        self.require(count)
        self.at += count
        return self.bits[self.at - count : self.at]

    def require(self, count: int) -> None:
        """Raises ValueError unless so many bits are left."""
        if count > self.bits.size - self.at:
            raise _short()

    def unary(self, count: int) -> np.ndarray:
        """The zeros before each of the next ones."""
        self.require(count)
        found, missing, start, step = [], count, self.at, 8 * count + 64
        while missing:
            if start >= self.bits.size:
                raise _short()
            ones = start + np.flatnonzero(self.bits[start : start + step])[:missing]
            found.append(ones)
            missing -= ones.size
            start += step
        ends = np.concatenate([[self.at - 1], *found])
        self.at = int(ends[-1]) + 1
        return np.diff(ends) - 1

    def digits(self, lengths: np.ndarray) -> np.ndarray:
        """Numbers of as many digits as their lengths say."""
        if lengths.max(initial=0) > WIDEST:
            raise ValueError("coded integers must be below 2^31")
        bits, starts = self.take(int(lengths.sum())), np.cumsum(lengths) - lengths
        numbers = np.zeros(lengths.size, np.int64)
        for place in range(int(lengths.max(initial=0))):
            some = lengths > place
            numbers[some] = numbers[some] << 1 | bits[starts[some] + place]
        return numbers

    def octets(self, count: int) -> bytes:
        """The next whole bytes, after what pads the last one."""
        self.end()
        return np.packbits(self.take(8 * count), bitorder="little").tobytes()

    def end(self) -> int:
        """How many bytes have been read, what pads the last one included."""
        if self.take(-self.at % 8).any():
            raise ValueError("coded integers are padded with bits that are not zero")
        return self.at // 8


def _joined(first: int, parts: Iterator[np.ndarray]) -> bytes:
    bits = np.concatenate([np.zeros(0, np.uint8), *parts])
    return bytes([first]) + np.packbits(bits, bitorder="little").tobytes()


def _log2(numbers: np.ndarray) -> np.ndarray:
    """floor(lg n), of n >= 1; 0 of 0."""
    return np.maximum(np.frexp(numbers.astype(np.float64))[1].astype(np.int64) - 1, 0)


def _device_log2(numbers: Array) -> Array:
    return jnp.uint32(31) - jnp.minimum(jax.lax.clz(numbers), jnp.uint32(31))


def _total(lengths: Array, counts: Array) -> Array:
    """The sums over the last axis of the lengths that count, or 2^32 - 1 where it is more."""

    def add(a: Array, b: Array) -> Array:
        return jnp.where(a + b < a, jnp.uint32(2**32 - 1), a + b)

    lengths = jnp.where(counts, lengths, 0)
    return jax.lax.reduce(lengths, np.uint32(0), add, (lengths.ndim - 1,))


# --------------------------------------------------------------------------------------------------
# Elias
# --------------------------------------------------------------------------------------------------


def _write_gamma(numbers: np.ndarray) -> Iterator[np.ndarray]:
    lengths = _log2(numbers + 1)
    yield _unary(lengths)
    yield _digits(numbers + 1, lengths)


def _read_gamma(bits: _Bits, count: int) -> np.ndarray:
    lengths = bits.unary(count)
    return (1 << np.minimum(lengths, 32)) + bits.digits(lengths) - 1


def _gamma_length(numbers: Array) -> Array:
    return 2 * _device_log2(numbers + 1) + 1


def _write_delta(numbers: np.ndarray) -> Iterator[np.ndarray]:
    lengths = _log2(numbers + 1)
    yield from _write_gamma(lengths)
    yield _digits(numbers + 1, lengths)


def _read_delta(bits: _Bits, count: int) -> np.ndarray:
    lengths = _read_gamma(bits, count)
    return (1 << np.minimum(lengths, 32)) + bits.digits(lengths) - 1


def _delta_length(numbers: Array) -> Array:
    length = _device_log2(numbers + 1)
    return length + _gamma_length(length)


def _write_omega(numbers: np.ndarray) -> Iterator[np.ndarray]:
    # A number, the length of it, the length of that, ..., 1: written from the last, which is not.
    chain = [numbers + 1]
    while (chain[-1] > 1).any():
        chain.append(_log2(chain[-1]))
    groups = np.sum([part > 1 for part in chain], axis=0)
    table = np.array(chain)
    for level in range(int(groups.max(initial=0)) + 1):
        some = np.flatnonzero(groups > level)
        yield (groups > level)[groups >= level].astype(np.uint8)
        yield (
            _digits(
                table[groups[some] - 1 - level, some],
                table[np.maximum(groups[some] - level, 0), some],
            )
            if some.size
            else np.zeros(0, np.uint8)
        )


def _read_omega(bits: _Bits, count: int) -> np.ndarray:
    numbers, some = np.ones(count, np.int64), np.arange(count)
    while (some := some[bits.take(some.size) > 0]).size:
        lengths = numbers[some]
        numbers[some] = (1 << np.minimum(lengths, 32)) + bits.digits(lengths)
    return numbers - 1


def _omega_length(numbers: Array) -> Array:
    length, part = jnp.ones_like(numbers), numbers + 1
    for _ in range(4):  # 2^31, 31, 4, 2
        more = part > 1
        part = _device_log2(part)
        length = jnp.where(more, length + part + 1, length)
    return length


def _elias(
    write: Callable[[np.ndarray], Iterator[np.ndarray]],
    read: Callable[[_Bits, int], np.ndarray],
    length: Callable[[Array], Array],
) -> _Method:
    def encode(numbers: np.ndarray, width: int) -> bytes:
        return _joined(1, (part for block in _blocks(numbers) for part in write(block)))

    def decode(bits: _Bits, count: int, width: int, parameter: int) -> np.ndarray:
        return _in_blocks(lambda size: read(bits, size), bits, count, width)

    def measure(numbers: Array, counts: Array, width: int) -> Array:
        return _total(length(numbers), counts)

    return _Method(encode, decode, measure)


def _blocks(numbers: np.ndarray) -> Iterator[np.ndarray]:
    return (numbers[i : i + _BLOCK].astype(np.int64) for i in range(0, numbers.size, _BLOCK))


def _in_blocks(
    read: Callable[[int], np.ndarray], bits: _Bits, count: int, width: int
) -> np.ndarray:
    """``count`` numbers, of which each takes at least a bit."""
    bits.require(count)
    numbers = np.zeros(count, _storage(width))
    for start in range(0, count, _BLOCK):
        block = read(min(_BLOCK, count - start))
        if int(block.max()) >> width:
            raise ValueError(f"coded integers must be below 2^{width}, got {block.max()}")
        numbers[start : start + block.size] = block
    return numbers


# --------------------------------------------------------------------------------------------------
# Golomb-Rice
# --------------------------------------------------------------------------------------------------


def _golomb_encode(numbers: np.ndarray, width: int) -> bytes:
    def cost(low: int) -> int:
        return numbers.size * (1 + low) + int(np.sum(numbers >> low, dtype=np.int64))

    low = min(range(width), key=cost)
    if cost(low) >= numbers.size * width:
        return bytes(2 + numbers.size * width // 8)  # too long to be written

    def parts() -> Iterator[np.ndarray]:
        for block in _blocks(numbers):
            yield _unary(block >> low)
            yield _digits(block, np.full(block.size, low))

    return _joined(1 + low, parts())


def _golomb_decode(bits: _Bits, count: int, width: int, low: int) -> np.ndarray:
    if low >= width:
        raise ValueError(f"a Golomb code of {width} bits has no parameter 2^{low}")

    def read(size: int) -> np.ndarray:
        return bits.unary(size) << low | bits.digits(np.full(size, low))

    return _in_blocks(read, bits, count, width)


def _golomb_bits(numbers: Array, counts: Array, width: int) -> Array:
    low = jnp.arange(width, dtype=jnp.uint32)[:, None]
    return jnp.min(_total((numbers[None] >> low) + 1 + low, counts[None]))


# --------------------------------------------------------------------------------------------------
# Runs of zeros
# --------------------------------------------------------------------------------------------------


def _runs_encode(numbers: np.ndarray, width: int) -> bytes:
    places = np.flatnonzero(numbers)
    runs = np.diff(places, prepend=-1) - 1

    def parts() -> Iterator[np.ndarray]:
        yield from _write_gamma(np.array([places.size]))
        for at, run in zip(_blocks(places), _blocks(runs), strict=True):
            some = numbers[at].astype(np.int64)
            yield from _write_gamma(run)
            yield from _write_gamma((some + 1 >> 1) - 1)
            yield (some & 1).astype(np.uint8)

    return _joined(1, parts())


def _runs_decode(bits: _Bits, count: int, width: int, parameter: int) -> np.ndarray:
    missing = int(_read_gamma(bits, 1)[0])
    if missing > count:
        raise ValueError(f"of {count} coded integers {missing} cannot differ from zero")
    bits.require(3 * missing)
    numbers, start = np.zeros(count, _storage(width)), -1
    while missing:
        size = min(_BLOCK, missing)
        places = start + np.cumsum(_read_gamma(bits, size) + 1)
        some = 2 * (_read_gamma(bits, size) + 1) - bits.take(size)
        if places[-1] >= count:
            raise ValueError(f"a run of zeros goes beyond {count} coded integers")
        if int(some.max()) >> width:
            raise ValueError(f"coded integers must be below 2^{width}, got {some.max()}")
        numbers[places] = some
        start, missing = int(places[-1]), missing - size
    return numbers


def _runs_bits(numbers: Array, counts: Array, width: int) -> Array:
    some = counts & (numbers > 0)
    after = jax.lax.iota(jnp.uint32, numbers.size) + 1
    last = jax.lax.cummax(jnp.where(some, after, 0))
    before = jnp.concatenate([jnp.zeros(1, jnp.uint32), last])[:-1]
    lengths = _gamma_length(after - 1 - before) + _gamma_length((numbers + 1 >> 1) - 1) + 1
    head = _gamma_length(jnp.sum(some, dtype=jnp.uint32))
    both = jnp.concatenate([head[None], lengths])
    return _total(both, jnp.concatenate([jnp.ones(1, bool), some]))


# --------------------------------------------------------------------------------------------------
# By packages of others
# --------------------------------------------------------------------------------------------------


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'this coder needs the package {name}: pip install "fjx[coders]"'
        ) from error


def _range_encode(numbers: np.ndarray, width: int) -> bytes:
    stream = _package("constriction").stream
    symbols, ranks, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    words = np.zeros(0, np.uint32)
    if symbols.size > _BLOCK:
        return bytes(2 + numbers.size * width // 8)  # too many to be listed
    if symbols.size > 1:
        encoder = stream.queue.RangeEncoder()
        encoder.encode(ranks.reshape(-1).astype(np.int32), _frequencies(stream, counts))
        words = encoder.get_compressed()

    def parts() -> Iterator[np.ndarray]:
        yield from _write_delta(np.array([symbols.size - 1, words.size]))
        yield from _write_delta(np.diff(symbols.astype(np.int64), prepend=-1) - 1)
        yield from _write_delta(counts[:-1] - 1)

    return _joined(1, parts()) + words.astype("<u4").tobytes()


def _range_decode(bits: _Bits, count: int, width: int, parameter: int) -> np.ndarray:
    stream = _package("constriction").stream
    others, size = (int(number) for number in _read_delta(bits, 2))
    bits.require(others + 32 * size)
    if others >= min(count, _BLOCK):
        raise ValueError(f"{count} coded integers cannot have {others + 1} values")
    symbols = np.cumsum(_read_delta(bits, others + 1) + 1) - 1
    counts = _read_delta(bits, others) + 1
    last = count - int(counts.sum())
    if last < 1 or int(symbols[-1]) >> width:
        raise ValueError("the values of coded integers or their frequencies are out of range")
    words = np.frombuffer(bits.octets(4 * size), "<u4").astype(np.uint32)
    symbols = symbols.astype(_storage(width))
    if others == 0:
        return np.full(count, symbols[0])
    decoder = stream.queue.RangeDecoder(words)
    return symbols[decoder.decode(_frequencies(stream, np.append(counts, last)), count)]


def _frequencies(stream: Any, counts: np.ndarray) -> Any:
    return stream.model.Categorical(counts / counts.sum(), perfect=False)


def _zstd_encode(numbers: np.ndarray, width: int) -> bytes:
    raw = numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()
    frame = _package("zstandard").ZstdCompressor(level=9).compress(raw)
    return _joined(1, _write_delta(np.array([len(frame)]))) + frame


def _zstd_decode(bits: _Bits, count: int, width: int, parameter: int) -> np.ndarray:
    zstandard = _package("zstandard")
    (length,) = _read_delta(bits, 1)
    frame, dtype = bits.octets(int(length)), _storage(width).newbyteorder("<")
    size = count * dtype.itemsize
    try:
        if zstandard.get_frame_parameters(frame).content_size != size:
            raise ValueError(f"{count} coded integers are {size} bytes, the frame says otherwise")
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        raw = reader.decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"coded integers are no Zstandard frame: {error}") from error
    if len(raw) != size:
        raise ValueError(f"{count} coded integers are {size} bytes, the frame has {len(raw)}")
    return np.frombuffer(raw, dtype).astype(_storage(width))


METHODS = {
    "elias_gamma": _elias(_write_gamma, _read_gamma, _gamma_length),
    "elias_delta": _elias(_write_delta, _read_delta, _delta_length),
    "elias_omega": _elias(_write_omega, _read_omega, _omega_length),
    "golomb": _Method(_golomb_encode, _golomb_decode, _golomb_bits),
    "run_length": _Method(_runs_encode, _runs_decode, _runs_bits),
    "range": _Method(_range_encode, _range_decode),
    "zstd": _Method(_zstd_encode, _zstd_decode),
}
