"""Frames to read: sound ones, and the tools of a forger."""

import json
import struct
import typing
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire


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


def encoded():
    """A payload with random parts, from a fixed key."""
    codec = compressors.chain(compressors.rand_k(0.5), compressors.quantize(bits=5))
    message = {
        "z": np.arange(40, dtype=np.float32) - 3,
        "a": {"n": np.int32([1, 2]), "m": np.ones((2, 3), np.float32)},
    }
    return jax.jit(codec.encode)(jax.random.key(7), message, codec.init(message))[0]


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
