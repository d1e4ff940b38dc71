"""Frames with a true check sum that no codec wrote: refused, and at no cost in memory."""

import tracemalloc

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjx import Stateful, wire
from tests.support.frames import (
    array,
    encoded,
    frame,
    quantized,
    refusal,
    sparse,
    sparse_of_quantized,
)

quiet = settings(max_examples=200, deadline=None, derandomize=True, database=None)


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


@pytest.mark.ci
@quiet
@given(documents, st.binary(max_size=16))
def test_random_documents_of_the_schema_s_words(document, body):
    read_or_refuse(frame(document, body))


@pytest.mark.slow
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
