"""Rotations are orthogonal, of whole leaves and of blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire
from fjx._kernels import hadamard as _hadamard

# --------------------------------------------------------------------------------------------------
# The transform
# --------------------------------------------------------------------------------------------------


def test_hadamard_is_sylvester_s_matrix():
    matrix = np.ones((1, 1))
    for size in (1, 2, 4, 8, 16, 32):
        got = jax.jit(jax.vmap(_hadamard.hadamard))(np.eye(size, dtype=np.float32))
        np.testing.assert_array_equal(got, matrix)
        matrix = np.kron([[1, 1], [1, -1]], matrix)


@pytest.mark.few(2)
@pytest.mark.parametrize("size", [1, 2, 128, 4096, 2**17])
def test_hadamard_keeps_norms_and_its_transpose_inverts_it(size):
    """Also where the matrix is transposed on the way: 2^17 is 32 x 4096."""
    x = np.random.default_rng(size).normal(size=size).astype(np.float32)
    y = np.asarray(jax.jit(_hadamard.hadamard)(x), np.float64)
    assert np.linalg.norm(y) == pytest.approx(np.linalg.norm(x) * np.sqrt(size), rel=1e-6)
    again = jax.jit(lambda y: _hadamard.hadamard(y, transpose=True))(y.astype(np.float32))
    np.testing.assert_allclose(np.asarray(again) / size, x, atol=1e-6 * np.abs(x).max())


def test_a_long_transform_is_sylvester_s_with_rows_in_another_order():
    """The rows 3, 40 and 2^16 of it, against the parities of the bits of i & j."""
    size, at = 2**17, np.array([3, 40, 2**16])
    x = np.zeros((3, size), np.float32)
    x[np.arange(3), at] = 1
    parity = at[:, None] & np.arange(size).reshape(32, 4096).T.reshape(1, -1)
    for shift in (16, 8, 4, 2, 1):
        parity = parity ^ parity >> shift
    rows = jax.jit(jax.vmap(_hadamard.hadamard))(x)
    np.testing.assert_array_equal(rows, 1.0 - 2.0 * (parity & 1))


def test_tiles_that_overlap_are_a_loop_over_rows(monkeypatch):
    """Seven rows in tiles of three: the last tile does two rows again."""
    x = np.random.default_rng(0).standard_normal(7 * 64, np.float32)
    whole = jax.jit(lambda x: _hadamard.hadamard(x, 64))(x)
    monkeypatch.setattr(_hadamard, "_TILE", 3 * 64)
    tiled = jax.jit(lambda x: _hadamard.hadamard(x, 64))(x)
    np.testing.assert_array_equal(tiled, whole)
    np.testing.assert_array_equal(whole[64:128], jax.jit(_hadamard.hadamard)(x[64:128]))


@pytest.mark.few(1)
@pytest.mark.parametrize("block", [None, 32])
def test_unrotate_undoes_rotate(block):
    x = np.random.default_rng(1).standard_normal(256, np.float32)

    @jax.jit
    def there_and_back(key, x):
        y = _hadamard.rotate(jax.random.clone(key), x, rounds=3, block=block)
        return y, _hadamard.unrotate(key, y, rounds=3, block=block)

    y, again = there_and_back(jax.random.key(0), x)
    assert np.abs(np.asarray(y) - x).max() > 0.1
    np.testing.assert_allclose(again, x, atol=2e-6)


def test_blocks_have_signs_of_their_own():
    """Equal blocks come out as unequal ones, and each keeps its norm."""
    x = np.tile(np.random.default_rng(1).standard_normal(32, np.float32), 8)
    rotate = jax.jit(functools.partial(_hadamard.rotate, rounds=2, block=32))
    y = np.asarray(rotate(jax.random.key(0), x)).reshape(8, 32)
    assert len(np.unique(np.round(np.abs(y), 4), axis=0)) == 8
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), np.linalg.norm(x[:32]), rtol=1e-6)


def test_signs_are_fair():
    """Of 2^16 signs of each of three diagonals, half, within 6 standard errors; no two alike."""

    @jax.jit
    def flipped(key):
        words = _hadamard._signs(key, 2**16, 3)
        return [_hadamard._flip(jnp.ones(2**16), row) for row in words]

    signs = np.stack(flipped(jax.random.key(5))) < 0
    assert np.abs(signs.mean(1) - 0.5).max() < 6 * 0.5 / 2**8
    agree = [np.mean(signs[i] == signs[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert np.abs(np.array(agree) - 0.5).max() < 6 * 0.5 / 2**8


# --------------------------------------------------------------------------------------------------
# Bits, contracts, bytes
# --------------------------------------------------------------------------------------------------


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("size", "block", "padded"),
    [
        *[(0, None, 0), (1, None, 1), (13, None, 16), (1025, None, 2048)],
        *[(0, 64, 0), (1, 64, 1), (13, 64, 16), (64, 64, 64), (65, 64, 128), (1025, 64, 1088)],
    ],
)
def test_bits(size, block, padded):
    like = jax.ShapeDtypeStruct((size,), jnp.bfloat16)
    key = jax.eval_shape(jax.random.key, 0)
    codec = compressors.rotated(compressors.quantize(bits=5), block=block)
    payload = jax.eval_shape(codec.encode, key, like, codec.init(like))[0]
    assert payload.vector.codes.shape == (padded,)
    assert wire.bits(payload) == -(-padded * 5 // 8) * 8 + 32 + 64


def test_a_contract_is_that_of_the_padded_vector():
    def like(n):
        return jax.ShapeDtypeStruct((n,), jnp.float32)

    quantize = compressors.quantize(bits=4)
    assert compressors.rotated(quantize).contract(like(1000)) == quantize.contract(like(1024))
    top_k = compressors.rotated(compressors.top_k(0.25))
    assert top_k.contract(like(1000)).delta == 0.25
    assert top_k.contract(like(1024)).projection
    assert not top_k.contract(like(1000)).projection
    in_blocks = compressors.rotated(compressors.top_k(0.25), block=8)
    assert in_blocks.contract(like(1000)).projection
    assert not in_blocks.contract(like(1001)).projection


def test_a_vector_of_the_wrong_size_is_refused():
    def received(size):
        seed = jnp.zeros(2, jnp.uint32)
        payload = wire.Rotated(jnp.ones(size), seed, (13,), "float32", 2, "threefry2x32", 8)
        return wire.from_bytes(wire.to_bytes(payload))

    assert received(16).rounds == 2
    with pytest.raises(ValueError, match="whole blocks"):
        received(8)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: compressors.rotated(compressors.identity(), block=12), ValueError),
        (lambda: compressors.rotated(compressors.identity(), block=2.0), TypeError),
        (lambda: compressors.rotated(compressors.identity(), rounds=0), ValueError),
        (lambda: compressors.rotated("eden"), TypeError),
    ],
)
def test_refusals_name_the_argument(make, error):
    with pytest.raises(error, match=r"block|rounds|rotated"):
        make()
