"""Range coder with the frequencies of the integers, which travel before the code.

The package constriction does the coding.

References:
    Martin, *Range Encoding: An Algorithm for Removing Redundancy from a Digitised Message*, 1979.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fjx.wire._coders.bits import BLOCK, BitReader, joined, storage
from fjx.wire._coders.elias import read_delta, write_delta
from fjx.wire._coders.method import Method, package


def _encode(numbers: np.ndarray, width: int) -> bytes:
    """Distinct integers and their frequencies in Elias delta, then the words of the range coder."""
    stream = package("constriction").stream
    symbols, ranks, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    words = np.zeros(0, np.uint32)
    if symbols.size > BLOCK:
        # Too many distinct integers to list; the fixed width is used and these bytes are never sent.
        return bytes(2 + numbers.size * width // 8)
    if symbols.size > 1:
        encoder = stream.queue.RangeEncoder()
        encoder.encode(ranks.reshape(-1).astype(np.int32), _frequencies(stream, counts))
        words = encoder.get_compressed()

    def parts() -> Iterator[np.ndarray]:
        yield from write_delta(np.array([symbols.size - 1, words.size]))
        yield from write_delta(np.diff(symbols.astype(np.int64), prepend=-1) - 1)
        yield from write_delta(counts[:-1] - 1)

    return joined(1, parts()) + words.astype("<u4").tobytes()


def _decode(bits: BitReader, count: int, width: int, parameter: int) -> np.ndarray:
    """Numbers that :func:`_encode` wrote."""
    stream = package("constriction").stream
    others, size = (int(number) for number in read_delta(bits, 2))
    bits.require(others + 32 * size)
    if others >= min(count, BLOCK):
        raise ValueError(f"{count} coded integers cannot have {others + 1} distinct values")
    symbols = np.cumsum(read_delta(bits, others + 1) + 1) - 1
    counts = read_delta(bits, others) + 1
    last = count - int(counts.sum())
    if last < 1 or int(symbols[-1]) >> width:
        raise ValueError("the values of coded integers or their frequencies are out of range")
    words = np.frombuffer(bits.octets(4 * size), "<u4").astype(np.uint32)
    symbols = symbols.astype(storage(width))
    if others == 0:
        return np.full(count, symbols[0])
    decoder = stream.queue.RangeDecoder(words)
    return symbols[decoder.decode(_frequencies(stream, np.append(counts, last)), count)]


def _frequencies(stream: Any, counts: np.ndarray) -> Any:
    """Model of constriction with these frequencies."""
    return stream.model.Categorical(counts / counts.sum(), perfect=False)


RANGE = Method(_encode, _decode)
