"""Words on a device against the bytes of the wire."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import wire
from fjx.wire._pack import pack

WIDTHS = [
    *(1, 3, 8, 12, 17, 32),
    *(pytest.param(width, marks=pytest.mark.slow) for width in (2, 4, 5, 7, 9, 16, 31)),
]


@pytest.mark.few(3)
@pytest.mark.parametrize("width", WIDTHS)
def test_words_are_the_bytes_of_the_wire_and_come_back(width):
    rng = np.random.default_rng(width)
    sizes = (0, 1, 31, 32, 33, 100)
    sections = [
        rng.integers(0, 2**width, size, dtype=np.uint64).astype(np.uint32) for size in sizes
    ]

    @jax.jit
    def there_and_back(sections):
        words = [wire.pack_words(codes, width) for codes in sections]
        return words, [
            wire.unpack_words(w, width, size) for w, size in zip(words, sizes, strict=True)
        ]

    for codes, words, back in zip(sections, *there_and_back(sections), strict=True):
        assert words.shape == (-(-codes.size * width // 32),)
        expected = pack(codes, width)
        assert np.asarray(words).astype("<u4").tobytes() == expected.ljust(4 * words.size, b"\0")
        np.testing.assert_array_equal(back, codes)


def test_of_signed_codes_two_s_complement_is_kept_and_bools_are_bits():
    codes = jnp.array([-1, 7, -8], jnp.int8)
    words = jax.jit(lambda x: wire.pack_words(x, 4))(codes)
    assert hex(int(words[0])) == "0x87f"
    assert wire.pack_words(jnp.array([[True, False], [True, True]]), 1).tolist() == [0b1101]


def test_vmap_packs_each():
    codes = np.arange(40, dtype=np.uint8).reshape(2, 20)
    one = jax.jit(lambda x: wire.pack_words(x, 6))
    both = np.asarray(jax.jit(jax.vmap(one))(codes))
    for row, words in zip(codes, both, strict=True):
        np.testing.assert_array_equal(words, one(row))


def test_arguments():
    with pytest.raises(ValueError, match="width must be"):
        wire.pack_words(jnp.zeros(3, jnp.uint8), 33)
    with pytest.raises(TypeError, match="codes must be integers"):
        wire.pack_words(jnp.zeros(3), 8)
    with pytest.raises(ValueError, match="are 1 words, got"):
        wire.unpack_words(jnp.zeros(3, jnp.uint32), 8, 3)
