"""What codecs cost, as closed forms: computed here from d, k and b alone, never from the payload."""

import math

import jax
import jax.numpy as jnp
import pytest

from fjx import compressors, wire

c = compressors
SIZES = [1, 2, 3, 7, 8, 9, 100, 1000, 4097]


def price(codec, message):
    """Bits of one encode, by shapes alone."""
    key = jax.eval_shape(jax.random.key, 0)
    state = jax.eval_shape(codec.init, message)
    return wire.bits(jax.eval_shape(codec.encode, key, message, state)[0])


def vector(size, dtype=jnp.float32):
    return jax.ShapeDtypeStruct((size,), dtype)


def padded(bits):
    return 8 * math.ceil(bits / 8)


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("b", [2, 3, 4, 8, 11, 16])
def test_quantize_costs_b_bits_a_coordinate_and_a_scale(b, d):
    assert price(c.quantize(bits=b), vector(d)) == padded(d * b) + 32


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("ratio", [0.01, 0.3, 1.0])
def test_top_k_bills_every_index(d, ratio):
    """Each of the k indices costs ceil(log2 d) bits, none of them zero bits unless d = 1."""
    k = max(1, math.ceil(round(ratio * d, 9)))
    width = math.ceil(math.log2(d))
    assert price(c.top_k(ratio), vector(d)) == 32 * k + padded(k * width)


@pytest.mark.parametrize("d", SIZES)
def test_rand_k_bills_the_sender_s_seed(d):
    k = max(1, math.ceil(round(0.3 * d, 9)))
    assert price(c.rand_k(0.3), vector(d)) == 32 * k + 64


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        (jnp.bfloat16, 16 * 9),
        (jnp.float16, 16 * 9 + 16),
        (jnp.float8_e4m3fn, 8 * 9 + 16),
        (jnp.float8_e5m2, 8 * 9 + 16),
        (jnp.float32, 32 * 9),
    ],
)
def test_cast_costs_its_width_and_an_exponent_where_the_range_needs_one(dtype, bits):
    assert price(c.cast(dtype), vector(9)) == bits


@pytest.mark.parametrize("sent", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_cast_to_what_is_not_narrower_costs_what_the_leaf_does(sent, dtype):
    assert price(c.cast(dtype), vector(9, sent)) == 16 * 9


def test_leaves_are_billed_one_by_one():
    message = {"a": vector(5), "b": vector(6), "n": vector(3, jnp.int8)}
    assert price(c.identity(), message) == 32 * 11 + 24
    assert price(c.quantize(bits=3), message) == 16 + 32 + 24 + 32 + 24  # 15 bits are 2 bytes
    assert price(c.flatten(c.quantize(bits=3)), message) == 40 + 32 + 24  # 33 bits are 5 bytes
    assert price(c.per_leaf(c.flatten(c.quantize(bits=3))), message) == 16 + 32 + 24 + 32 + 24
    assert price(c.on("b", c.quantize(bits=3)), message) == 32 * 5 + 24 + 32 + 24


@pytest.mark.parametrize("d", [1, 9, 1000])
def test_chain_quantises_values_and_leaves_indices(d):
    k, width = math.ceil(0.3 * d), math.ceil(math.log2(d))
    codec = c.chain(c.top_k(0.3), c.quantize(bits=5))
    assert price(codec, vector(d)) == padded(5 * k) + 32 + padded(k * width)
    assert price(c.error_feedback(codec), vector(d)) == price(codec, vector(d))
    assert price(c.chain(c.rand_k(0.3), c.quantize(bits=5)), vector(d)) == padded(5 * k) + 32 + 64


def test_twice_quantised_bills_the_scale_once():
    # The scale of the first becomes one code of 8 bits beside a scale of its own.
    codec = c.chain(c.quantize(bits=4), c.quantize(bits=8))
    assert price(codec, vector(100)) == 400 + 8 + 32


@pytest.mark.parametrize("d", [2**24 + 1, 2**31 + 5, 10**10])
def test_counts_beyond_floats_and_int32_are_exact(d):
    """float32 stops counting at 2^24 and int32 at 2^31; a shape is enough, no memory is taken."""
    assert wire.bits(vector(d)) == 32 * d
    assert wire.bits(vector(d, jnp.int4)) == 8 * -(-d * 4 // 8)
    assert price(c.quantize(bits=3), vector(d)) == 8 * -(-3 * d // 8) + 32
    assert price(c.cast(jnp.bfloat16), {"w": vector(d)}) == 16 * d


def test_products_beyond_64_bits_are_exact():
    shape = (2**40, 2**40, 3)
    assert wire.bits(jax.ShapeDtypeStruct(shape, jnp.bool_)) == 3 * 2**80
    assert isinstance(wire.bits(jax.ShapeDtypeStruct(shape, jnp.bool_)), int)


def test_nothing_costs_nothing():
    for nothing in ({}, [], None, jnp.zeros((0, 4)), {"a": (None, [])}):
        assert wire.bits(nothing) == 0


@pytest.mark.parametrize(
    ("dtype", "width"),
    [("bool_", 1), ("int4", 4), ("uint2", 2), ("float8_e5m2", 8), ("bfloat16", 16), ("int32", 32)],
)
def test_a_plain_array_costs_the_width_of_its_dtype(dtype, width):
    for d in SIZES:
        assert wire.bits(vector(d, getattr(jnp, dtype))) == padded(width * d)


def test_a_key_has_no_price_but_its_data_has():
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3))
    with pytest.raises(TypeError, match=r"jax\.random\.key_data"):
        wire.bits({"keys": keys})
    assert wire.bits(jax.eval_shape(jax.random.key_data, keys)) == 3 * 64


def test_of_nested_choices_the_dearest_is_the_most():
    """1 + max(10, 1 + max(20, 3)) bytes by shapes; of concrete ones what was chosen."""
    inner = wire.OneOf(jnp.uint8(1), (jnp.zeros(20, jnp.uint8), jnp.zeros(3, jnp.uint8)))
    outer = wire.OneOf(jnp.uint8(1), (jnp.zeros(10, jnp.uint8), inner))
    assert wire.bits(jax.eval_shape(lambda p: p, outer)) == 8 * 22
    assert wire.bits(outer) == int(jax.jit(wire.measured_bits)(outer)) == 8 * 5
    assert len(wire.to_bytes(outer)) - wire.header_bits(wire.to_bytes(outer)) // 8 == 5


@pytest.mark.ci
def test_a_count_that_numpy_took_out_of_its_array_is_as_known_as_one_in_an_array():
    """Where nobody knew the count, the price would be the most that such shapes may cost."""
    codec = c.threshold(0.5)
    message = jnp.zeros(9).at[0].set(2.0)
    payload = codec.encode(jax.random.key(0), message, codec.init(message))[0]
    bare = jax.tree.map(lambda x: x[()] if x.ndim == 0 else x, jax.device_get(payload))
    most = wire.bits(jax.eval_shape(lambda: payload))
    assert wire.bits(bare) == wire.bits(payload) < most
