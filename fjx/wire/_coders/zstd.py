"""Zstandard of the integers as whole bytes, by the package zstandard.

References:
    Collet, Kucherawy, *Zstandard Compression and the application/zstd Media Type*, RFC 8878, 2021.
"""

import numpy as np

from fjx.wire._coders.bits import BitReader, joined, storage
from fjx.wire._coders.elias import read_delta, write_delta
from fjx.wire._coders.method import Method, package


def _encode(numbers: np.ndarray, width: int) -> bytes:
    """Length of the Zstandard frame in Elias delta, then the frame."""
    raw = numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()
    frame = package("zstandard").ZstdCompressor(level=9).compress(raw)
    return joined(1, write_delta(np.array([len(frame)]))) + frame


def _decode(bits: BitReader, count: int, width: int, parameter: int) -> np.ndarray:
    """Numbers that :func:`_encode` wrote; the size that the frame claims is checked first."""
    zstandard = package("zstandard")
    (length,) = read_delta(bits, 1)
    frame, dtype = bits.octets(int(length)), storage(width).newbyteorder("<")
    size = count * dtype.itemsize
    try:
        if zstandard.get_frame_parameters(frame).content_size != size:
            raise ValueError(
                f"{count} coded integers are {size} bytes, the frame claims another size"
            )
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        raw = reader.decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"coded integers are not a Zstandard frame: {error}") from error
    if len(raw) != size:
        raise ValueError(f"{count} coded integers are {size} bytes, the frame has {len(raw)}")
    return np.frombuffer(raw, dtype).astype(storage(width))


ZSTD = Method(_encode, _decode)
