"""Zstandard."""

import numpy as np

from fjx.wire._coders.bits import BitReader, joined, storage
from fjx.wire._coders.elias import read_delta, write_delta
from fjx.wire._coders.method import Method, package


def _encode(numbers: np.ndarray, width: int) -> bytes:
    raw = numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()
    frame = package("zstandard").ZstdCompressor(level=9).compress(raw)
    return joined(1, write_delta(np.array([len(frame)]))) + frame


def _decode(bits: BitReader, count: int, width: int, parameter: int) -> np.ndarray:
    zstandard = package("zstandard")
    (length,) = read_delta(bits, 1)
    frame, dtype = bits.octets(int(length)), storage(width).newbyteorder("<")
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
    return np.frombuffer(raw, dtype).astype(storage(width))


ZSTD = Method(_encode, _decode)
