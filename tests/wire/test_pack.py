"""Integers of any width as bytes: an independent oracle is Python's own arithmetic on big integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjx.wire._pack import _BLOCK, pack, unpack

quiet = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def as_one_integer(values, width):
    """The whole section as one little-endian integer: element i begins at bit i * width."""
    total = sum((int(v) & (2**width - 1)) << (i * width) for i, v in enumerate(values))
    return total.to_bytes(-(-len(values) * width // 8), "little")


@st.composite
def sections(draw):
    width = draw(st.integers(0, 32))
    signed = draw(st.booleans()) and width > 0
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if signed else (0, 2**width - 1)
    values = draw(st.lists(st.integers(low, high), max_size=40))
    storage = draw(st.sampled_from([n for n in (8, 16, 32) if n >= width]))
    return np.array(values, f"{'i' if signed else 'u'}{storage // 8}"), width


@quiet
@given(sections())
def test_bits_lie_where_they_should_and_come_back(section):
    values, width = section
    data = pack(values, width)
    assert data == as_one_integer(values, width)
    received = unpack(data, width, values.shape, values.dtype)
    assert received.dtype == values.dtype
    np.testing.assert_array_equal(received, values)


@pytest.mark.parametrize(
    ("values", "width", "data"),
    [
        # 3 bits: 1 = 001, 2 = 010, 7 = 111, first element lowest: 0b11_010_001 and then 0b1.
        (np.array([1, 2, 7], np.uint8), 3, "d101"),
        # 5 bits of two's complement: -1 = 11111, -16 = 10000, 15 = 01111: 0b011_11 10000 11111 by
        # bytes is 00011111, 00111110 with the last bit of 15, a zero, in the padding.
        (np.array([-1, -16, 15], np.int8), 5, "1f3e"),
        # 12 bits cross bytes: 0xabc, 0x123 are bc, 3a, 12.
        (np.array([0xABC, 0x123], np.uint16), 12, "bc3a12"),
        # Full widths are plain little-endian words.
        (np.array([0x01020304], np.uint32), 32, "04030201"),
        (np.array([-2], np.int16), 16, "feff"),
        (np.array([True, True, False, False, False, False, False, False, True]), 1, "0301"),
    ],
)
def test_bytes_computed_by_hand(values, width, data):
    assert pack(values, width).hex() == data
    np.testing.assert_array_equal(
        unpack(bytes.fromhex(data), width, values.shape, values.dtype), values
    )


@pytest.mark.parametrize("width", [1, 3, 11, 31])
def test_sections_longer_than_a_block(width):
    size = 2 * _BLOCK + 13
    rng = np.random.default_rng(width)
    values = rng.integers(0, 2**width, size, dtype=np.uint32)
    data = pack(values, width)
    assert len(data) == -(-size * width // 8)
    np.testing.assert_array_equal(unpack(data, width, (size,), values.dtype), values)
    # Around the boundary of two blocks, as if there were none.
    start = (_BLOCK - 8) * width // 8
    assert data[start : start + 2 * width] == as_one_integer(values[_BLOCK - 8 : _BLOCK + 8], width)


def test_a_block_ends_on_a_whole_byte():
    assert _BLOCK % 8 == 0


def test_shapes_are_those_of_the_elements_in_order():
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert pack(values, 5) == pack(values.reshape(-1), 5)
    assert pack(values.T, 5) == pack(np.ascontiguousarray(values.T), 5)
    np.testing.assert_array_equal(unpack(pack(values, 5), 5, (2, 3, 4), values.dtype), values)


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_nothing_is_no_bytes(shape):
    for width in (0, 3, 8):
        assert pack(np.zeros(shape, np.uint8), width) == b""
        assert unpack(b"", width, shape, np.dtype(np.uint8)).shape == shape


@pytest.mark.parametrize(("width", "size"), [(1, 3), (3, 5), (7, 1), (12, 3)])
def test_padding_is_zero_and_must_be(width, size):
    values = np.full(size, 2**width - 1, np.uint16)
    data = pack(values, width)
    used = size * width % 8
    assert data[-1] < 1 << used
    for bit in range(used, 8):
        with pytest.raises(ValueError, match="padded with bits that are not zero"):
            unpack(data[:-1] + bytes([data[-1] | 1 << bit]), width, (size,), values.dtype)
