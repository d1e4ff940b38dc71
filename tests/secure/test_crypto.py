"""The primitives against the vectors of their RFCs, and masks against what a mask must be."""

import jax
import numpy as np
import pytest

from fjx import secure
from fjx._kernels import chacha
from fjx.secure import _crypto, _prime


def test_public_keys_and_secrets_are_those_of_rfc_7748():
    """Section 6.1."""
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert _crypto.public_key(alice).hex() == (
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    )
    assert _crypto.public_key(bob).hex() == (
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    )
    secret = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    both = sorted(map(_crypto.public_key, (alice, bob)))
    expected = _crypto.derive(secret, b"salt", *both, "purpose")
    assert _crypto.agree(alice, _crypto.public_key(bob), b"salt", "purpose") == expected


def test_streams_are_those_of_rfc_8439():
    """Appendix A.1, the first two test vectors."""
    blocks = _crypto.Stream(bytes(32)).take(128).hex()
    assert blocks == (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )


def test_derivation_is_that_of_rfc_5869(monkeypatch):
    """Appendix A.1."""
    monkeypatch.setattr(_crypto, "_joined", b"".join)  # the vector's info has no lengths
    info = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")
    found = _crypto.derive(b"\x0b" * 22, bytes(range(13)), info, length=42).hex()
    assert found == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


def test_a_key_is_bound_to_all_that_it_is_for():
    a, b, salt = bytes(range(32)), bytes(range(1, 33)), bytes(32)
    ends = {
        _crypto.agree(a, _crypto.public_key(b), salt, "p", 1),
        _crypto.agree(b, _crypto.public_key(a), salt, "p", 1),
    }
    others = [
        (salt, "q", 1),
        (salt, "p", 2),
        (b"\1" + bytes(31), "p", 1),
        (salt, "p1"),
        (salt, "p"),
    ]
    keys = {_crypto.agree(a, _crypto.public_key(b), *other) for other in others}
    assert (len(ends), len(keys), len(ends | keys)) == (1, 5, 6)


@pytest.mark.parametrize("field", ["id", "round", "clients", "length", "bits", "protocol", "least"])
def test_sessions_that_differ_have_no_key_in_common(field):
    session = secure.Session("p", bytes(16), 0, 3, 5, 32, (bytes(32),))
    other = {"id": b"\1" * 16, "protocol": "q"}.get(field, 7)
    assert session._replace(**{field: other}).name != session.name


def test_a_public_key_of_low_order_is_refused():
    with pytest.raises(secure.Malformed, match="low order"):
        _crypto.agree(bytes(range(32)), bytes(32), b"salt")


def test_a_mask_is_the_stream_and_cancels():
    size = (1 << 16) + 3  # more than a chunk
    vector = np.arange(size, dtype=np.uint32)
    _crypto.add_mask(vector, b"k" * 32)
    stream = np.frombuffer(_crypto.Stream(b"k" * 32).take(4 * size), "<u4")
    assert np.array_equal(vector, np.arange(size, dtype=np.uint32) + stream)
    _crypto.add_mask(vector, b"k" * 32, -1)
    assert np.array_equal(vector, np.arange(size))


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint32, 3), (np.uint32, 32), (np.uint64, 40)])
def test_masks_are_uniform(dtype, bits):
    """Chi-square of the low and the high three bits of 80,000 draws over 8 bins, 7 degrees of freedom.

    The bound is six standard errors: 7 + 6 sqrt(14).
    """
    vector = np.zeros(80_000, dtype)
    _crypto.add_mask(vector, bytes(range(32)))
    words = vector & dtype((1 << bits) - 1)
    for bins in (words & dtype(7), words >> dtype(bits - 3)):
        counts = np.bincount(bins.astype(int), minlength=8)
        assert ((counts - 10_000) ** 2 / 10_000).sum() < 7 + 6 * 14**0.5


def test_integers_below_a_bound_are_uniform():
    """6,000 integers below 5: chi-square with 4 degrees of freedom, bound 4 + 6 sqrt(8)."""
    stream = _crypto.Stream(bytes(32))
    counts = np.bincount([stream.below(5) for _ in range(6000)], minlength=5)
    assert len(counts) == 5
    assert ((counts - 1200) ** 2 / 1200).sum() < 4 + 6 * 8**0.5


def test_traced_streams_are_those_of_the_host():
    """Which are those of RFC 8439: one block, more than one, and a part of one."""
    key = bytes(range(32))
    words = np.frombuffer(_crypto.Stream(key).take(4 * 37), "<u4")
    found = jax.jit(chacha.words, static_argnums=1)(np.frombuffer(key, "<u4"), 37)
    assert np.array_equal(found, words)


@pytest.mark.parametrize("width", [31, 61])
def test_field_arithmetic_is_that_of_integers(width):
    prime = (1 << width) - 1
    edges = [0, 1, 2, prime - 1, prime - 2, prime // 2, 2**30, 2**31 - 2, 2**30 - 1]
    edges += [int(x) for x in _prime.uniform(bytes(32), (40,), width)]
    x = np.array(edges, np.uint64)
    for factor in edges:
        y = np.full_like(x, factor)
        assert _prime.times(x, factor, width).tolist() == [a * factor % prime for a in edges]
        assert _prime.add(x, y, width).tolist() == [(a + factor) % prime for a in edges]
        assert _prime.subtract(x, y, width).tolist() == [(a - factor) % prime for a in edges]


def test_the_prime_itself_is_drawn_again(monkeypatch):
    """A stream of ones gives 2^31 - 1 = 0, which would make zero twice as likely."""

    class Ones:
        def __init__(self, key):
            self.calls = 0

        def take(self, size):
            self.calls += 1
            return (b"\xff" if self.calls == 1 else b"\x05") * size

    monkeypatch.setattr(_prime, "Stream", Ones)
    assert _prime.uniform(bytes(32), (3,), 31).tolist() == [0x05050505] * 3
