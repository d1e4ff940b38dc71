"""The parser takes the forms that codecs write, and no form next to them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors as c
from fjx import wire
from fjx.wire._schema import schema_of

CODECS = {
    "Quantized": c.quantize(bits=8),
    "Quantized of 16 bits": c.absmax(bits=12),
    "Quantized in blocks": c.blockwise(c.quantize(bits=4), size=8),
    "SubtractivelyDithered": c.subtractive_dither(bits=4),
    "FixedStep": c.fixed_step(0.25),
    "KLevel": c.k_level(levels=5),
    "Cast": c.cast(jnp.float16),
    "Cast without an exponent": c.cast(jnp.bfloat16),
    "Cast of Cast": c.chain(c.cast(jnp.bfloat16), c.cast(jnp.float8_e5m2)),
    "Cast of Quantized": c.chain(c.cast(jnp.bfloat16), c.absmax(bits=4)),
    "Microscaled": c.mx("float8_e5m2"),
    "Natural": c.natural(),
    "Dithered": c.natural_dithering(levels=3),
    "Signs": c.scaled_sign(),
    "TwoMeans": c.one_bit_sgd(),
    "Ternary": c.terngrad(),
    "LloydMax": c.lloyd_max(bits=2),
    "LloydMax in rows": c.eden(bits=2, block=16),
    "MixedLloydMax in rows": c.eden(bits=1.5, block=16),
    "Codebook": c.product_quantize(codebook=4, block=2),
    "LowRank": c.power_sgd(1),
    "Sparse": c.top_k(0.25),
    "Sparse in blocks": c.blockwise(c.top_k(0.25), size=8),
    "Kept": c.threshold(0.5),
    "Masked": c.rand_k(0.25),
    "BernoulliMasked": c.rand_p(0.5),
    "MaybeSent": c.bernoulli(0.5),
    "Sketched": c.count_sketch(rows=2, columns=8),
    "Projected": c.random_projection(0.25),
    "Quic": c.quic_fl(bits=2),
    "Flat": c.flatten(c.quantize(bits=4)),
    "Coded": c.entropy(c.chain(c.top_k(0.25), c.qsgd(levels=3)), "golomb"),
}
FREE = {"Masked", "Sketched", "Projected"}
"""Types in which the first array may have any length: another codec of their kind writes it."""

X = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
KEY = jax.eval_shape(jax.random.key, 0)


@functools.cache
def sound(name):
    """A payload of a codec, from another program for each codec."""
    codec = CODECS[name]
    encode = jax.jit(lambda key: codec.encode(key, X, codec.init(X))[0])
    return jax.tree.map(np.asarray, encode(jax.random.key(3)))


OTHER = {
    "int8": np.int16, "int16": np.int8, "uint8": np.uint16, "uint16": np.uint32, "uint32": np.uint16,
    "float32": np.float16, "int32": np.int16, "bool": np.uint8, "float16": np.float32,
    "bfloat16": np.float32, "float8_e5m2": np.float32,
}  # fmt: skip


def neighbours(array):
    """Arrays of another dtype, with an axis more, an entry more, an entry less, and one axis less."""
    yield array.astype(OTHER[array.dtype.name])
    yield array[None]
    yield array[..., None]
    if array.ndim:
        yield np.concatenate([array, np.zeros_like(array[:1])])
        yield array[:-1]
        yield array[0]


def is_written(codec, payload):
    """Whether the codec writes this form for the message that the payload decodes to."""
    try:
        like = jax.eval_shape(codec.decode, payload)
        form = jax.eval_shape(codec.encode, KEY, like, jax.eval_shape(codec.init, like))[0]
    except Exception:  # a decoder of a form that is no codec's may fail in any way
        return False
    return schema_of(form) == schema_of(payload)


@pytest.mark.few(10)
@pytest.mark.parametrize("name", CODECS)
def test_the_form_of_a_codec_is_taken_and_the_forms_next_to_it_are_refused(name):
    payload, codec = sound(name), CODECS[name]
    assert wire.bits(wire.from_bytes(wire.to_bytes(payload))) == wire.bits(payload)
    leaves, treedef = jax.tree.flatten(payload)
    for i, leaf in enumerate(leaves):
        for other in neighbours(leaf):
            forged = treedef.unflatten([*leaves[:i], other, *leaves[i + 1 :]])
            try:
                received = wire.from_bytes(wire.to_bytes(forged))
            except ValueError:
                continue
            longer = i == 0 and (other.dtype, other.ndim) == (leaf.dtype, leaf.ndim)
            told = f"leaf {i}: {other.dtype} of shape {other.shape}"
            assert (longer and name in FREE) or is_written(codec, received), told
