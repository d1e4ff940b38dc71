"""Integers of any width as bytes and back, on the host.

Throughout, the least significant bit comes first.
"""

import math

import numpy as np

_BLOCK = 1 << 16  # elements at a time; a multiple of 8, so that every block ends on a whole byte


def pack(values: np.ndarray, width: int) -> bytes:
    """The low ``width`` bits of each element, one after another, padded with zeros to a whole byte.

    Signed integers are written in two's complement, floats as their bit pattern.
    """
    raw = as_unsigned(values).reshape(-1)
    if width == 8 * raw.dtype.itemsize:
        return raw.astype(raw.dtype.newbyteorder("<")).tobytes()
    blocks = (raw[i : i + _BLOCK] for i in range(0, raw.size, _BLOCK))
    return b"".join(_pack_block(block, width) for block in blocks)


def unpack(data: bytes, width: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Inverse of :func:`pack`; the sign of a narrow signed integer is extended.

    Raises:
        ValueError: the padding of the last byte is not zero.
    """
    count, unsigned = math.prod(shape), unsigned_dtype(dtype)
    used = count * width % 8
    if used and data[-1] >> used:
        raise ValueError("a section is padded with bits that are not zero")
    if width == 0:
        return np.zeros(shape, dtype)  # an index into a single coordinate needs no bits
    if width == 8 * unsigned.itemsize:
        raw = np.frombuffer(data, unsigned.newbyteorder("<"), count).astype(unsigned)
    else:
        step = _BLOCK * width // 8
        blocks = (data[i : i + step] for i in range(0, len(data), step))
        raw = np.concatenate(
            [np.zeros(0, np.uint64), *(_unpack_block(block, width) for block in blocks)]
        )[:count]
        if np.issubdtype(dtype, np.signedinteger):
            sign = np.uint64(1) << np.uint64(max(width - 1, 0))
            raw = (raw ^ sign) - sign  # wraps: uint64 arithmetic is two's complement
        raw = raw.astype(unsigned)
    return raw.astype(dtype).reshape(shape) if dtype == np.bool_ else raw.view(dtype).reshape(shape)


def unsigned_dtype(dtype: np.dtype) -> np.dtype:
    """The unsigned integer dtype of the same size, for reading bit patterns."""
    return np.dtype(f"u{np.dtype(dtype).itemsize}")


def as_unsigned(values: np.ndarray) -> np.ndarray:
    """Bit-for-bit view of ``values`` as unsigned integers."""
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    return np.ascontiguousarray(native).view(unsigned_dtype(native.dtype))


def _pack_block(raw: np.ndarray, width: int) -> bytes:
    """Bytes of one block of elements."""
    octets = raw.astype("<u8").view(np.uint8).reshape(-1, 8)
    planes = np.unpackbits(octets, axis=1, bitorder="little")[:, :width]
    return np.packbits(planes.reshape(-1), bitorder="little").tobytes()


def _unpack_block(data: bytes, width: int) -> np.ndarray:
    """Elements of one block of bytes, as ``u64``."""
    flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    planes = flat[: flat.size // width * width].reshape(-1, width)
    octets = np.zeros((len(planes), 64), np.uint8)
    octets[:, :width] = planes
    return np.packbits(octets, axis=1, bitorder="little").view("<u8").reshape(-1)
