"""Every public function of the wire raises what its docstring says, and says what it raises."""

import dataclasses
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import wire

FUNCTIONS = {n: getattr(wire, n) for n in wire.__all__ if inspect.isfunction(getattr(wire, n))}
LIKE = wire.Sparse(jnp.ones(2), jnp.array([1, 4], jnp.uint32), (5,))
DATA = wire.to_bytes(LIKE)
CODES = jnp.array([3, 1, 2], jnp.uint8)
KEPT = wire.Kept(jnp.int32(1), jnp.ones(2), jnp.array([1, 0], jnp.uint32), (5,))
RAGGED = jax.tree.map(lambda x: jnp.stack([x, x]), KEPT)  # of two clients
ENTRYLESS = wire.Kept(jnp.int32(1), jnp.float32(1), jnp.uint32(0), (5,))
ONE_OF = wire.OneOf(wire.SideInformation(jnp.uint8(1)), ((), jnp.ones(2)))


class Strange:
    """No array and no payload."""


def altered(data):
    return data[:-1] + bytes([data[-1] ^ 255])


RAISES = {
    ("bits", TypeError): [
        lambda: wire.bits({"key": jax.random.key(0)}),
        lambda: wire.bits([Strange()]),
        lambda: wire.bits("text"),
    ],
    ("bits", ValueError): [lambda: wire.bits(RAGGED)],
    ("measured_bits", TypeError): [
        lambda: wire.measured_bits({"key": jax.random.key(0)}),
        lambda: wire.measured_bits([Strange()]),
    ],
    ("measured_bits", ValueError): [
        lambda: wire.measured_bits(jax.ShapeDtypeStruct((2**27 + 1,), jnp.float32)),
        lambda: wire.measured_bits(wire.Coded(wire.Codes(jnp.ones(3, jnp.int8), 4), "zstd")),
    ],
    ("to_bytes", TypeError): [
        lambda: wire.to_bytes({"key": jax.random.key(0)}),
        lambda: wire.to_bytes([Strange()]),
        lambda: wire.to_bytes({"a": jnp.ones(2), "b": "text"}),
        lambda: wire.to_bytes({(1, 2): jnp.ones(2)}),
    ],
    ("to_bytes", ValueError): [
        lambda: wire.to_bytes(RAGGED),
        lambda: wire.to_bytes(ENTRYLESS),
    ],
    ("from_bytes", ValueError): [
        lambda: wire.from_bytes(b""),
        lambda: wire.from_bytes(DATA[:3]),
        lambda: wire.from_bytes(DATA[:-1]),
        lambda: wire.from_bytes(DATA + b"\0"),
        lambda: wire.from_bytes(b"\xff" * len(DATA)),
        lambda: wire.from_bytes(altered(DATA)),
        lambda: wire.from_bytes(DATA, jnp.ones(3)),
        lambda: wire.from_bytes(DATA, dataclasses.replace(LIKE, shape=(6,))),
        lambda: wire.from_bytes(wire.to_bytes(ONE_OF)),
        lambda: wire.from_bytes(
            wire.to_bytes(dataclasses.replace(LIKE, indices=jnp.array([4, 4], jnp.uint32)))
        ),
    ],
    ("from_bytes", TypeError): [lambda: wire.from_bytes(DATA, {"a": Strange()})],
    ("header_bits", ValueError): [
        lambda: wire.header_bits(b""),
        lambda: wire.header_bits(DATA[:3]),
        lambda: wire.header_bits(b"\xff" * 40),
    ],
    ("encode_integers", ValueError): [
        lambda: wire.encode_integers(np.array([9], np.uint8), "golomb", width=3),
        lambda: wire.encode_integers(np.array([-1], np.int8), "golomb", width=0),
        lambda: wire.encode_integers(np.array([1], np.uint8), "golomb", width=65),
        lambda: wire.encode_integers(np.array([1], np.uint8), "morse", width=3),
    ],
    ("encode_integers", TypeError): [
        lambda: wire.encode_integers(np.array([1.0]), "golomb", width=3)
    ],
    ("decode_integers", ValueError): [
        lambda: wire.decode_integers(b"", 3, "golomb", width=3),
        lambda: wire.decode_integers(b"\xff" * 9, 1, "elias_gamma", width=3),
        lambda: wire.decode_integers(b"\0", 1, "morse", width=3),
        lambda: wire.decode_integers(b"\0", 1, "golomb", width=99),
        lambda: wire.decode_integers(b"\0", -1, "golomb", width=3),
    ],
    ("coded_bits", ValueError): [
        lambda: wire.coded_bits(CODES, "zstd", width=2),
        lambda: wire.coded_bits(CODES, "golomb", width=99),
        lambda: wire.coded_bits(CODES, "golomb", width=0),
    ],
    ("pack_words", TypeError): [
        lambda: wire.pack_words(CODES, 2.5),
        lambda: wire.pack_words(jnp.ones(3), 2),
    ],
    ("pack_words", ValueError): [
        lambda: wire.pack_words(CODES, 0),
        lambda: wire.pack_words(CODES, 33),
    ],
    ("unpack_words", TypeError): [
        lambda: wire.unpack_words(jnp.zeros(1, jnp.uint32), 2.5, 3),
        lambda: wire.unpack_words(jnp.zeros(1, jnp.uint32), 2, 3.5),
    ],
    ("unpack_words", ValueError): [
        lambda: wire.unpack_words(jnp.zeros(1, jnp.uint32), 0, 3),
        lambda: wire.unpack_words(jnp.zeros(1, jnp.uint32), 2, -1),
        lambda: wire.unpack_words(jnp.zeros(1, jnp.uint32), 2, 100),
    ],
}
"""Bad inputs, by the function that is given them and the error that its docstring promises."""

NEED_A_PACKAGE = {"encode_integers", "decode_integers"}
"""Their ImportError is tested beside the coders, without the package."""


def promised(name):
    """The errors that a docstring lists."""
    found = re.search(r"Raises:\n(.*?)(?:\n\n|\Z)", inspect.getdoc(FUNCTIONS[name]) + "\n", re.S)
    return set(re.findall(r"^    (\w+):", found[1], re.M)) if found else set()


def test_the_table_is_what_the_docstrings_say():
    said = {(n, error) for n in FUNCTIONS for error in promised(n) - {"ImportError"}}
    assert said == {(name, error.__name__) for name, error in RAISES}
    assert {n for n in FUNCTIONS if "ImportError" in promised(n)} == NEED_A_PACKAGE


@pytest.mark.parametrize(
    ("name", "error", "call"),
    [(name, error, call) for (name, error), calls in RAISES.items() for call in calls],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_raises(name, error, call):
    with pytest.raises(error) as raised:
        call()
    assert type(raised.value) is error  # no subclass, such as a UnicodeDecodeError
    assert len(str(raised.value)) > 20  # a sentence
