"""blockwise: a block is a leaf of its own, and what follows it cannot be promised much."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import Contract, compressors, wire

c = compressors
EVERY = {
    "absmax": c.absmax(bits=4),
    "chain": c.chain(c.top_k(0.5), c.quantize(bits=4)),
    "masked": c.rand_k(0.5),
    "rotated": c.rotated(c.quantize(bits=4)),
    "float16": c.cast(jnp.float16),
    "identity": c.identity(),
    "one_bit_sgd": c.one_bit_sgd(),
}


BYTES = c.blockwise(c.absmax(bits=8), size=64)


@functools.partial(jax.jit, static_argnums=0)
def once(codec, x, key=None):
    payload, _ = codec.encode(jax.random.key(0) if key is None else key, x, codec.init(x))
    return payload, codec.decode(payload)


@pytest.mark.few(1)
@pytest.mark.parametrize("name", EVERY)
def test_is_the_codec_on_each_block(name):
    """52 coordinates in blocks of 16, written and read, against a loop with the same keys."""
    inner = EVERY[name]
    x = np.random.default_rng(1).standard_normal((4, 13)) * np.logspace(-1, 1, 52).reshape(4, 13)
    x = x.astype(np.float32)
    codec = c.blockwise(inner, size=16)
    payload, decoded = once(codec, x)
    chex.assert_trees_all_equal(wire.from_bytes(wire.to_bytes(payload)), payload)
    rows = np.pad(x.reshape(-1), (0, 12)).reshape(4, 16)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 4)
    loop = [once(inner, row, key) for row, key in zip(rows, keys, strict=True)]
    expected = np.concatenate([y for _, y in loop])[:52].reshape(4, 13)
    np.testing.assert_allclose(decoded, expected, rtol=1e-6, atol=1e-6)
    assert wire.bits(payload) == 4 * wire.bits(loop[0][0])
    promised = inner.contract(jax.ShapeDtypeStruct((16,), jnp.float32))
    assert codec.contract(x) == promised._replace(projection=False)
    assert codec.contract(jnp.zeros((4, 8))) == promised


@pytest.mark.few(2)
@pytest.mark.parametrize("d", [0, 1, 63, 64, 65, 1000])
def test_padding_is_billed_and_nothing_costs_nothing(d):
    payload, decoded = once(BYTES, np.ones(d, np.float32))
    assert wire.bits(payload) == -(-d // 64) * (64 * 8 + 32)
    assert decoded.tolist() == [1.0] * d


def test_an_index_is_that_in_its_block():
    payload, _ = once(c.blockwise(c.top_k(0.25), size=16), jnp.arange(64.0))
    assert wire.bits(payload) == 4 * 4 * (32 + 4)


def test_a_broken_coordinate_spoils_its_block_alone():
    x = np.where(np.arange(24) == 9, np.nan, 1).astype(np.float32)
    decoded = np.asarray(once(c.blockwise(c.quantize(bits=8), size=8), x)[1])
    np.testing.assert_array_equal(np.isnan(decoded), np.arange(24) // 8 == 1)


def test_blocks_draw_independently():
    """Equal coordinates of two blocks: uncorrelated over 4000 draws, within 6 standard errors."""
    codec = c.blockwise(c.quantize(bits=2), size=2)
    x = jnp.array([1.0, 0.5, 1.0, 0.5])
    keys = jax.random.split(jax.random.key(2), 4000)
    decoded = np.asarray(jax.jit(jax.vmap(lambda key: once(codec, x, key)[1]))(keys))
    assert abs(np.corrcoef(decoded[:, 1], decoded[:, 3])[0, 1]) < 6 / np.sqrt(4000)


def test_a_scale_for_each_block_follows_the_magnitudes():
    x = np.random.default_rng(3).standard_normal(512) * np.logspace(-4, 0, 512)
    x = x.astype(np.float32)

    def relative(codec):
        return np.median(np.abs(np.asarray(once(codec, x)[1]) - x) / np.abs(x))

    assert relative(c.blockwise(c.absmax(bits=8), size=16)) < relative(c.absmax(bits=8)) / 20


@pytest.mark.slow
def test_a_quantiser_of_many_scales_is_promised_nothing():
    """One scale is as wrong as the largest allows, and counts for a block of its own norm.

    A spike beside 15 flat blocks: by the rule for chains omega would be (1 + 3/2)^2 - 1 = 21/4.
    """
    first = c.blockwise(c.quantize(bits=2), size=16)
    codec = c.chain(first, c.quantize(bits=2))
    x = np.full((16, 16), 0.06, np.float32)
    x[0] = np.eye(16)[0]
    keys = jax.random.split(jax.random.key(4), 500)
    decoded = np.asarray(jax.jit(jax.vmap(lambda key: once(codec, x, key)[1]))(keys))
    error = np.square(decoded - x).sum((1, 2)).mean() / np.square(x).sum()
    assert first.contract(x).omega == 1.5
    assert error > 21 / 4
    assert codec.contract(x) == Contract()
    assert c.chain(first, c.flatten(c.quantize(bits=2))).contract(x) == Contract()


def test_what_weighs_alike_in_blocks_keeps_its_promise():
    codec = c.chain(c.blockwise(c.rand_k(0.5), size=4), c.quantize(bits=8))
    inner = c.quantize(bits=8).contract(jax.ShapeDtypeStruct((4, 2), jnp.float32))
    assert codec.contract(jnp.zeros(16)).omega == pytest.approx(2 * (1 + inner.omega) - 1)
    flat = c.chain(c.blockwise(c.top_k(0.5), size=4), c.flatten(c.quantize(bits=8)))
    assert flat.contract(jnp.zeros(16)).delta == pytest.approx(0.5 * (1 - inner.omega))


def test_codecs_in_a_row_come_apart_again():
    codec = c.chain(c.blockwise(c.quantize(bits=4), size=4), c.blockwise(c.absmax(bits=8), size=2))
    x = np.float32([7.0, -1.0, 2.0, 0.0, 14.0, 2.0, 0.0, 4.0])
    payload, decoded = once(codec, x)
    chex.assert_trees_all_equal(wire.from_bytes(wire.to_bytes(payload)), payload)
    np.testing.assert_allclose(decoded, x, rtol=1e-2)
    assert wire.bits(payload) == 8 * 4 + 2 * 8 + 32


def test_a_forged_number_of_blocks_is_refused():
    for payload in (
        wire.Blocks(jnp.zeros((3, 4)), (16,), 4),
        wire.Blocks(wire.Quantized(jnp.zeros((4, 4), "int8"), jnp.ones(3), 8, "float32"), (16,), 4),
        wire.Blocks(jnp.zeros((4, 4)), (16,), 0),
    ):
        with pytest.raises(ValueError, match="payload refused"):
            wire.from_bytes(wire.to_bytes(payload))


def test_a_repeated_index_in_a_block_is_refused():
    indices = jnp.array([[0, 1], [1, 1]], jnp.uint32)
    forged = wire.Blocks(wire.Sparse(jnp.ones((2, 2)), indices, (4,)), (8,), 4)
    with pytest.raises(ValueError, match="repeated index"):
        wire.from_bytes(wire.to_bytes(forged))


def test_arguments():
    with pytest.raises(TypeError, match=r"blockwise needs a fjx\.Compressor"):
        c.blockwise(64, size=8)
    with pytest.raises(TypeError, match="size must be an integer"):
        c.blockwise(c.absmax(bits=8), size=64.0)
    with pytest.raises(ValueError, match="size must be at least 1"):
        c.blockwise(c.absmax(bits=8), size=0)
    with pytest.raises(ValueError, match="put error_feedback around blockwise"):
        c.blockwise(c.error_feedback(c.top_k(0.5)), size=8)
    for codec in (c.flatten(c.natural()), c.blockwise(c.natural(), size=2)):
        with pytest.raises(ValueError, match="a codec of arrays"):
            c.blockwise(codec, size=8)


def test_block_top_k_is_a_sort_of_each_block_with_short_indices():
    """Of 16 blocks of 16 the 2 largest, at 4 bits an index, not 8; delta = 2/16, attained by equals."""
    x = np.random.default_rng(3).standard_normal(256, np.float32)
    codec = c.blockwise(c.top_k(2 / 16), size=16)
    payload, decoded = once(codec, x)
    rows = x.reshape(16, 16)
    kept = np.argsort(-np.abs(rows), axis=1)[:, :2]
    expected = np.zeros_like(rows)
    np.put_along_axis(expected, kept, np.take_along_axis(rows, kept, 1), 1)
    np.testing.assert_array_equal(decoded, expected.reshape(-1))
    assert wire.bits(payload) == 32 * (32 + 4)
    whole = jax.eval_shape(lambda x: once(c.top_k(2 / 16), x), x)[0]
    assert wire.bits(whole) == 32 * (32 + 8)
    contract = codec.contract(jax.ShapeDtypeStruct((256,), jnp.float32))
    assert contract.delta == 2 / 16
    _, flat = once(codec, np.ones(256, np.float32))
    assert np.square(1 - np.asarray(flat)).sum() == (1 - contract.delta) * 256
