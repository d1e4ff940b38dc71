"""Bytes from a stranger: either the payload that was written, or a refusal."""

import json
import os
import pathlib
import struct
import subprocess
import sys
import tracemalloc
import typing
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjx import Stateful, wire

quiet = settings(max_examples=200, deadline=None, derandomize=True, database=None)


class Pair(typing.NamedTuple):
    """A container of the user's, which bytes cannot name."""

    first: typing.Any
    second: typing.Any


def frame(schema, body=b""):
    """A frame with a true check sum around whatever a forger wants to say."""
    if not isinstance(schema, bytes):
        schema = json.dumps(schema, separators=(",", ":"), sort_keys=True).encode()
    head = struct.pack("<4sII", b"FJX\x01", len(schema), zlib.crc32(schema + body))
    return head + schema + body


def refusal(data, like=None):
    """The text of the refusal; any other exception, and acceptance, fail the test."""
    with pytest.raises(ValueError, match=r"^payload refused: ") as caught:
        wire.from_bytes(data, like)
    return str(caught.value)


def bit_patterns(tree):
    """What a tree holds, bit for bit, and the dtypes and shapes."""
    return [(str(x.dtype), x.shape, x.tobytes()) for x in map(np.asarray, jax.tree.leaves(tree))]


def sparse_of_quantized():
    """Every kind of section: 4-bit codes, a float, 3-bit indices."""
    codes = jnp.array([7, -7, 1], jnp.int8)
    values = wire.Quantized(codes, jnp.float32(0.5), 4, "float32")
    return wire.Sparse(values, jnp.array([5, 2, 0], jnp.uint32), (6,))


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


def test_another_process_writes_the_same_bytes():
    script = "from tests.wire import test_bytes as t; print(t.wire.to_bytes(t.encoded()).hex())"
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


def encoded():
    """A payload with random parts, from a fixed key."""
    from fjx import compressors

    codec = compressors.chain(compressors.rand_k(0.5), compressors.quantize(bits=5))
    message = {
        "z": np.arange(40, dtype=np.float32) - 3,
        "a": {"n": np.int32([1, 2]), "m": np.ones((2, 3), np.float32)},
    }
    return jax.jit(codec.encode)(jax.random.key(7), message, codec.init(message))[0]


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


# ---------------------------------------------------------------------------------------- the form


@pytest.mark.parametrize(
    "other",
    [
        {"w": jnp.zeros(4)},
        {"w": jnp.zeros(3, jnp.int32)},
        {"w": jnp.zeros((3, 1))},
        {"v": jnp.zeros(3)},
        {"w": jnp.zeros(3), "v": None},
        [jnp.zeros(3)],
        Pair(jnp.zeros(3), None),
        wire.Quantized(jnp.zeros(3, jnp.int8), jnp.float32(1), 4, "float32"),
    ],
)
def test_a_payload_of_another_form_is_refused(other):
    like = {"w": jax.ShapeDtypeStruct((3,), jnp.float32)}
    assert "both sides must run the same codec" in refusal(wire.to_bytes(other), like)


@pytest.mark.parametrize("change", [{"bits": 5}, {"dtype": "bfloat16"}])
def test_static_fields_are_part_of_the_form(change):
    fields = {"bits": 4, "dtype": "float32"}
    sent, wanted = (
        wire.Quantized(jnp.zeros(2, jnp.int8), jnp.float32(1), **f)
        for f in (fields, {**fields, **change})
    )
    refusal(wire.to_bytes(sent), like=wanted)


def test_what_the_receiver_knows_to_travel_costs_nothing_else():
    """Of parts chosen by a coin that both ends tossed: no byte says which, and the form must know it."""

    def chosen(number):
        contents = [jnp.arange(3.0), jnp.arange(9, dtype=jnp.uint8)]
        parts = [x if number == i else jnp.zeros_like(x) for i, x in enumerate(contents, start=1)]
        return wire.OneOf(wire.SideInformation(jnp.uint8(number)), ((), *parts))

    sizes = [0, 12, 9]
    for number, size in enumerate(sizes):
        payload = chosen(number)
        data = wire.to_bytes(payload)
        assert wire.bits(payload) == 8 * size == 8 * len(data) - wire.header_bits(data)
        assert int(jax.jit(wire.measured_bits)(payload)) == 8 * size
        received = wire.from_bytes(data, like=payload)
        assert received.which == wire.SideInformation(None)
        for one, other in zip(received.parts[1:], payload.parts[1:], strict=True):
            np.testing.assert_array_equal(one, other)
    assert wire.bits(jax.eval_shape(lambda: chosen(0))) == 8 * max(sizes)
    assert "for the receiver to know" in refusal(wire.to_bytes(chosen(1)))
    assert "bytes" in refusal(wire.to_bytes(chosen(1)), like=chosen(2))
    with pytest.raises(ValueError, match="OneOf has 3 parts"):
        wire.OneOf(wire.SideInformation(jnp.uint8(7)), ((), (), ())).check()


def test_a_bad_template_is_the_caller_s_mistake():
    with pytest.raises(TypeError, match="has no wire format"):
        wire.from_bytes(wire.to_bytes(jnp.zeros(2)), like=1.0)


# ---------------------------------------------------------------------------------------- forgeries


def array(dtype, *shape):
    return ["array", dtype, list(shape)]


def sparse(indices, *, shape=(16,)):
    n = len(indices)
    schema = [
        "payload",
        "Sparse",
        [["values", array("uint8", n)], ["indices", array("uint32", n)]],
        [["shape", ["tuple", list(shape)]]],
    ]
    nibbles = [*indices, 0][: len(indices) + len(indices) % 2]
    packed = bytes(a | b << 4 for a, b in zip(nibbles[::2], nibbles[1::2], strict=True))
    return frame(schema, bytes(n) + packed)


def quantized(body=b"\x21\x00\x00\x80\x3f", **changes):
    fields = {"bits": 4, "dtype": "float32", **changes}
    statics = [[k, v] for k, v in fields.items()]
    contents = [["codes", array("int8", 2)], ["scale", array("float32")]]
    return frame(["payload", "Quantized", contents, statics], body)


def test_the_forger_s_tools_write_sound_frames_too():
    assert wire.from_bytes(sparse([3, 15])).indices.tolist() == [3, 15]
    assert wire.from_bytes(quantized()).codes.tolist() == [1, 2]


def test_an_index_out_of_range():
    assert "must lie in [0, 11)" in refusal(sparse([3, 11], shape=(11,)))


def test_a_repeated_index():
    assert "repeated index" in refusal(sparse([5, 5]))


def test_a_code_outside_the_grid():
    # -8 is 0b1000 in 4 bits, the one value that symmetric codes do not use.
    assert "[-7, 7]" in refusal(quantized(b"\x81\x00\x00\x80\x3f"))


def test_a_bit_in_the_padding():
    assert "not zero" in refusal(frame(array("bool", 3), b"\x0d"))


def test_values_without_indices():
    schema = [
        "payload",
        "Sparse",
        [["values", array("uint8", 1)], ["indices", array("uint32", 2)]],
        [["shape", ["tuple", [16]]]],
    ]
    assert "1 values and 2 indices" in refusal(frame(schema, b"\x07\x21"))


FLOAT, ONE = "float32", jnp.float32(1)
STRUCTURE = wire.Structure(jax.tree.structure([0]), (((2,), FLOAT),))
SEED = jax.random.key_data(jax.random.key(0))
IMPOSSIBLE = {
    "levels of 14 bits": wire.LloydMax(jnp.zeros(3, jnp.uint16), ONE, 14, FLOAT),
    "a dtype of nobody": wire.LloydMax(jnp.zeros(3, jnp.uint8), ONE, 1, "no such"),
    "an integer dtype": wire.Signs(jnp.zeros(3, bool), ONE, "int32"),
    "17 bits": wire.Quantized(jnp.zeros(3, jnp.int32), ONE, 17, FLOAT),
    "unsigned codes": wire.Quantized(jnp.zeros(3, jnp.uint8), ONE, 4, FLOAT),
    "many scales": wire.Quantized(jnp.zeros((3, 2), jnp.int8), jnp.ones(7), 4, FLOAT),
    "100 levels": wire.Dithered(jnp.zeros(3, jnp.int8), ONE, 100, FLOAT),
    "floating indices": wire.Sparse(jnp.ones(2), jnp.arange(2.0), (4,)),
    "a generator of nobody": wire.Masked(jnp.ones(2), SEED, (4,), "nope"),
    "half a seed": wire.Masked(jnp.ones(2), SEED[:1], (4,), "threefry2x32"),
    "rounds below one": wire.Rotated(jnp.ones(4), SEED, (4,), FLOAT, -1, "threefry2x32", 4),
    "a longer vector": wire.Flat(jnp.ones(9), [None], STRUCTURE),
    "two payloads for a leaf": wire.Leaves((jnp.ones(2), jnp.ones(2)), [None], STRUCTURE),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_no_codec_writes(name):
    refusal(wire.to_bytes(IMPOSSIBLE[name]))


def test_more_values_than_coordinates():
    schema = [
        "payload",
        "Masked",
        [["values", array("uint8", 3)], ["seed", array("uint32", 2)]],
        [["shape", ["tuple", [2]]], ["impl", "fry"]],
    ]
    assert "3 values for 2 coordinates" in refusal(frame(schema, bytes(11)))


@pytest.mark.parametrize("bits", [0, -3, 9, 100, 4.0, "4", True, None, [4]])
def test_widths_that_no_codec_has(bits):
    for body in (b"", bytes(4), bytes(5), bytes(6), bytes(29)):
        refusal(quantized(body, bits=bits))


HUGE = {
    "elements": array("float32", 2**40),
    "product that wraps to zero": array("float32", 2**40, 2**40),
    "product beyond 64 bits": array("uint8", 2**62, 2**62),
    "empty, but not to NumPy": array("float32", 0, 2**70),
    "one dimension beyond 64 bits": array("bool", 10**30),
}


@pytest.mark.parametrize("name", HUGE)
def test_no_memory_is_taken_for_a_claim(name):
    tracemalloc.start()
    try:
        for body in (b"", bytes(64)):
            refusal(frame(HUGE[name], body))
            refusal(frame(["dict", [["a", HUGE[name]], ["b", array("uint8", 64)]]], body))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_elements_that_cost_no_bits_are_not_free():
    """The index of a single coordinate has width 0: 10^12 of them would fit in no bytes at all."""
    tracemalloc.start()
    try:
        contents = [["values", None], ["indices", array("uint32", 10**12)]]
        static = [["shape", ["tuple", [1]]]]
        assert "no bits" in refusal(frame(["payload", "Sparse", contents, static]))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


FORGED = {
    "negative shape": array("float32", -1),
    "a bool as a shape": array("uint8", True),
    "a float as a shape": array("uint8", 1.0),
    "a shape that is text": ["array", "uint8", "12"],
    "negative static shape": sparse([], shape=(-4,)),
    "negative shape, positive size": sparse([], shape=(-2, -3)),
    "static shape of text": sparse([], shape=("a",)),
    "unknown payload type": ["payload", "Nope", [], []],
    "unknown dtype": array("float31", 0),
    "dtype of objects": array("object", 0),
    "dtype of text": array("<U3", 0),
    "dtype of time": array("datetime64[s]", 0),
    "dtype that is a number": ["array", 5, [1]],
    "unknown static field": quantized(colour="red"),
    "static object": quantized(dtype={"a": 1}),
    "static null": quantized(dtype=None),
    "missing fields": ["payload", "Quantized", [], []],
    "missing static": ["payload", "Sparse", [["values", None], ["indices", None]], []],
    "field twice": ["payload", "Leaves", [["leaves", ["tuple", []]]] * 2, [["structure", 1]]],
    "fields as text": ["payload", "Sparse", "values", "shape"],
    "static where contents belong": [
        "payload",
        "Sparse",
        [["values", None], ["indices", None], ["shape", array("uint8", 1)]],
        [],
    ],
    "key twice": ["dict", [["a", None], ["a", None]]],
    "keys out of order": ["dict", [["b", None], ["a", None]]],
    "keys of two types": ["dict", [[1, None], ["a", None]]],
    "key null": ["dict", [[None, None]]],
    "key true": ["dict", [[True, None]]],
    "key that is a list": ["dict", [[[1], None]]],
    "entry of three": ["dict", [["a", None, None]]],
    "unknown container": ["set", []],
    "other container": ["other", "builtins.set", []],
    "stateful of one": ["stateful", [None]],
    "number": 5,
    "text": "x",
    "object": {"a": 1},
    "nothing": [],
    "empty": b"",
    "not JSON": b"[1,",
    "invalid UTF-8": b'["dict",[["\xff\xfe",null]]]',
    "UTF-16": "null".encode("utf-16"),
    "white space": b"null ",
    "escapes that are not needed": b'["dict",[["\\u0061",null]]]',
    "a surrogate": b'["dict",[["\\ud800",1]]]',
    "not a number": b"NaN",
    "a very long number": b"1" * 10_000,
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep and unfinished": b"[" * 100_000,
    "deep and canonical": b'["list",[' * 3_000 + b"]]" * 3_000,
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_schemas_are_refused(name):
    forged = FORGED[name]
    data = forged if isinstance(forged, bytes) and forged[:3] == b"FJX" else frame(forged)
    refusal(data)
    refusal(data, like=jnp.zeros(3))


@pytest.mark.parametrize("depth", [10, 100, 300, 1000, 10_000])
def test_depth_is_read_or_refused(depth):
    for opening, closing in ((b'["list",[', b"]]"), (b'["stateful",[null,', b"]]")):
        read_or_refuse(frame(opening * depth + b"null" + closing * depth))
    contents = b'["payload","Quantized",[["codes",["array","int8",[0]]],["scale",null]],'
    static = b'["tuple",[' * depth + b"1" + b"]]" * depth
    read_or_refuse(frame(contents + b'[["bits",4],["dtype",' + static + b"]]]"))


def read_or_refuse(data):
    """What is not refused is written as the same bytes: no two frames are one payload."""
    try:
        received = wire.from_bytes(data)
    except ValueError:
        refusal(data)
    else:
        assert wire.to_bytes(received) == data


@quiet
@given(st.binary(max_size=60), st.binary(max_size=20))
def test_random_schemas_with_a_true_check_sum(schema, body):
    read_or_refuse(frame(schema, body))


WORDS = st.sampled_from(
    [
        *["array", "dict", "list", "tuple", "stateful", "payload", "other", "structure", "a", ""],
        *["Sparse", "Masked", "Quantized", "Cast", "Flat", "Leaves", "Selected"],
        *["values", "indices", "codes", "scale", "shape", "bits", "dtype", "seed", "exponent"],
        *["float32", "int8", "uint32", "bool", "bfloat16"],
    ]
)
documents = st.recursive(
    WORDS | st.none() | st.booleans() | st.integers(-2, 9) | st.floats(),
    lambda parts: st.lists(parts, max_size=4) | st.tuples(WORDS, st.lists(parts, max_size=3)),
    max_leaves=12,
)


@quiet
@given(documents, st.binary(max_size=16))
def test_random_documents_of_the_schema_s_words(document, body):
    read_or_refuse(frame(document, body))


@settings(quiet, max_examples=500)
@given(st.data())
def test_mutated_frames_with_a_true_check_sum(data):
    payload = data.draw(st.sampled_from(MUTATED))
    written = wire.to_bytes(payload)
    length = int.from_bytes(written[4:8], "little")
    schema, body = bytearray(written[12 : 12 + length]), bytearray(written[12 + length :])
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from([schema, schema, body]))
        at = data.draw(st.integers(0, len(part)))
        gone = data.draw(st.integers(0, 3))
        new = data.draw(st.text('0123456789-,.[]"ntu', max_size=3)).encode()
        part[at : at + gone] = new if part is schema else data.draw(st.binary(max_size=3))
    read_or_refuse(frame(bytes(schema), bytes(body)))


MUTATED = [
    sparse_of_quantized(),
    encoded(),
    wire.Cast(jnp.ones(3, jnp.float8_e5m2), jnp.int16(2), "float32"),
    {"a": jnp.ones(2), "b": [jnp.array([True]), None, (jnp.arange(3),)]},
    Stateful(jnp.ones(2, jnp.bfloat16), jnp.zeros((2, 0))),
]
