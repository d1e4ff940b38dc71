"""Bytes from a stranger: either the payload that was written, or a refusal."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjx import Stateful, wire
from tests.support.frames import Pair, bit_patterns, encoded, frame, refusal, sparse_of_quantized

quiet = settings(max_examples=200, deadline=None, derandomize=True, database=None)


# ------------------------------------------------------------------------------------- the format


def test_golden_dict():
    # Leaves in the order of sorted keys.  mask: bits 1, 0, 1, least significant first, are 0b101 =
    # 05.  w: two u16, little-endian, are 01 00 and 03 02.
    payload = {"w": jnp.array([1, 0x0203], jnp.uint16), "mask": jnp.array([True, False, True])}
    schema = b'["dict",[["mask",["array","bool",[3]]],["w",["array","uint16",[2]]]]]'
    head = bytes.fromhex("464a5801450000003fb4ed42")
    assert wire.to_bytes(payload) == head + schema + bytes.fromhex("0501000302")


def test_golden_sparse_of_quantized():
    # codes 7, -7, 1 in 4 bits of two's complement are 7, 9, 1: bytes 97 01, the lower half first.
    # scale 0.5 is 3f000000 as a big-endian word.  indices 5, 2, 0 in 3 bits, least significant
    # first, are 101 010 000, with 7 bits of padding: bytes 0b00010101 = 15 and 00.
    schema = (
        b'["payload","Sparse",[["values",["payload","Quantized",[["codes",["array","int8",[3]]],'
        b'["scale",["array","float32",[]]]],[["bits",4],["dtype","float32"]]]],'
        b'["indices",["array","uint32",[3]]]],[["shape",["tuple",[6]]]]]'
    )
    head = bytes.fromhex("464a5801d9000000f2d1356d")
    body = bytes.fromhex("97010000003f1500")
    assert wire.to_bytes(sparse_of_quantized()) == head + schema + body


def test_header_bits_is_96_and_the_schema():
    for payload in ({}, jnp.zeros(3), sparse_of_quantized()):
        data = wire.to_bytes(payload)
        length = int.from_bytes(data[4:8], "little")
        assert wire.header_bits(data) == 96 + 8 * length
        assert 8 * len(data) == wire.header_bits(data) + wire.bits(payload)


@pytest.mark.ci
def test_another_process_writes_the_same_bytes():
    script = """
from tests.support.frames import encoded, wire
print(wire.to_bytes(encoded()).hex())
"""
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert bytes.fromhex(done.stdout) == wire.to_bytes(encoded())


# -------------------------------------------------------------------------------------- round trip

DTYPES = [
    *[
        "bool",
        "int2",
        "int4",
        "int8",
        "int16",
        "int32",
        "uint2",
        "uint4",
        "uint8",
        "uint16",
        "uint32",
    ],
    *["float16", "bfloat16", "float32", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"],
    *["float8_e3m4", "float8_e8m0fnu", "float4_e2m1fn"],
]


@st.composite
def arrays(draw):
    """Any bit pattern, NaN and -0.0 among them, in any dtype and small shape."""
    dtype = np.dtype(getattr(jnp, draw(st.sampled_from(DTYPES)).replace("bool", "bool_")))
    shape = draw(st.sampled_from([(), (0,), (1,), (3,), (8,), (2, 3), (0, 4)]))
    width = wire.bits(jax.ShapeDtypeStruct((8,), dtype)) // 8
    size = int(np.prod(shape))
    numbers = draw(st.lists(st.integers(0, 2**width - 1), min_size=size, max_size=size))
    raw = np.array(numbers, f"u{dtype.itemsize}").reshape(shape)
    return raw.astype(bool) if dtype.kind == "b" else raw.view(dtype)


trees = st.recursive(
    arrays() | st.none(),
    lambda parts: (
        st.dictionaries(st.text(max_size=3), parts, max_size=3)
        | st.dictionaries(st.integers(-5, 5), parts, max_size=2)
        | st.lists(parts, max_size=3)
        | st.tuples(parts, parts)
        | st.builds(Stateful, parts, parts)
        | st.builds(Pair, parts, parts)
        | st.builds(wire.Selected, parts, parts)
    ),
    max_leaves=6,
)


@pytest.mark.ci
@quiet
@given(trees)
def test_round_trip_is_bit_for_bit(payload):
    data = wire.to_bytes(payload)
    received = wire.from_bytes(data, like=payload)
    assert jax.tree.structure(received) == jax.tree.structure(payload)
    assert bit_patterns(received) == bit_patterns(payload)
    assert 8 * len(data) == wire.header_bits(data) + wire.bits(payload)
    if "Pair" in str(jax.tree.structure(payload)):
        assert "give from_bytes a payload" in refusal(data)
    else:
        assert bit_patterns(wire.from_bytes(data)) == bit_patterns(payload)


@pytest.mark.parametrize("pattern", [0x7FC00001, 0xFF800001, 0x7F800000, 0x80000000, 0x00000001])
def test_a_word_survives_whatever_it_means_as_a_float(pattern):
    # A quiet NaN with a payload, a signalling one, inf, -0.0 and the least subnormal.
    x = jnp.asarray(np.array([pattern], np.uint32).view(np.float32))
    received = wire.from_bytes(wire.to_bytes(x))
    assert np.asarray(received).view(np.uint32).tolist() == [pattern]


def test_byte_order_of_the_sender_does_not_matter():
    values = np.array([1.0, -2.5, 3e7])
    big, little = values.astype(">f4"), values.astype("<f4")
    assert wire.to_bytes(big) == wire.to_bytes(little)
    assert wire.from_bytes(wire.to_bytes(big)).tolist() == values.tolist()


@pytest.mark.parametrize(
    "value", [np.array([1e300]), np.array([2**40]), np.array([2**63], np.uint64)]
)
def test_what_jax_would_narrow_is_refused(value):
    assert "jax_enable_x64" in refusal(wire.to_bytes({"x": value}))


@pytest.mark.parametrize(
    "leaf", [1.0, "text", object(), np.array(["a"]), np.array([1j]), np.array([None])]
)
def test_leaves_without_a_format_raise_type_errors(leaf):
    with pytest.raises(TypeError, match="has no wire format"):
        wire.to_bytes({"x": leaf})
    with pytest.raises(TypeError, match="has no wire format"):
        wire.bits({"x": leaf})


def test_a_typed_key_is_sent_as_its_data():
    key = jax.random.key(0)
    for function in (wire.to_bytes, wire.bits):
        with pytest.raises(TypeError, match=r"jax\.random\.key_data"):
            function({"key": key})
    assert wire.bits(jax.random.key_data(key)) == 64


# --------------------------------------------------------------------------------------- accidents


def test_cut_at_every_byte():
    data = wire.to_bytes(sparse_of_quantized())
    for end in range(len(data)):
        refusal(data[:end])


def test_every_alteration_of_every_byte():
    data = wire.to_bytes({"w": jnp.array([1, 2], jnp.uint8)})
    for position in range(len(data)):
        for flip in range(1, 256):
            altered = bytearray(data)
            altered[position] ^= flip
            with pytest.raises(ValueError, match=r"^payload refused"):
                wire.from_bytes(bytes(altered))


@pytest.mark.parametrize("tail", [b"\x00", b"\x00\x00\x00\x00", b"FJX\x01"])
def test_appended_bytes(tail):
    data = wire.to_bytes(sparse_of_quantized())
    refusal(data + tail)
    length = int.from_bytes(data[4:8], "little")
    assert "its body has" in refusal(frame(data[12 : 12 + length], data[12 + length :] + tail))


@pytest.mark.parametrize(
    "data", [b"", b"F", b"\x89PNG\r\n\x1a\n" + b"\x00" * 20, b"PK\x03\x04" * 9]
)
def test_foreign_files(data):
    refusal(data)
    with pytest.raises(ValueError, match=r"^payload refused"):
        wire.header_bits(data)


def test_another_version():
    data = wire.to_bytes(jnp.zeros(2))
    assert "version 1" in refusal(b"FJX\x02" + data[4:])


def test_swapped_sections():
    """Found where contents give them away; a true check sum is not a signature."""
    data = wire.to_bytes(
        wire.Sparse(jnp.array([1.0, 2.0]), jnp.array([3, 70000], jnp.uint32), (2**30 + 1,))
    )
    schema, body = data[12:-16], data[-16:]
    assert frame(schema, body) == data
    # Two indices of 31 bits take 8 bytes too.  1.0 and 2.0 are 0x3f800000 and 0x40000000; read as
    # indices they lie in range, and only the one bit of 2.0, the 62nd, falls into the padding.
    assert "padded with bits" in refusal(frame(schema, body[8:] + body[:8]))
    twins = wire.to_bytes((jnp.array([1, 2], jnp.uint8), jnp.array([3, 4], jnp.uint8)))
    swapped = wire.from_bytes(frame(twins[12:-4], twins[-2:] + twins[-4:-2]))
    assert [x.tolist() for x in swapped] == [[3, 4], [1, 2]]
