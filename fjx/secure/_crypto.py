"""Keys, sealed bytes and masks.  Every primitive is the package ``cryptography``'s."""

import contextlib
import hashlib
from collections.abc import Iterator

import numpy as np

from fjx.secure._errors import Malformed, Tampered

TAG = 16
"""Bytes that sealing adds."""

KEY = 32
"""Bytes of a key, of a seed and of a secret."""

_CHUNK = 1 << 16
"""Words of a mask at a time: they stay in the processor's cache."""


@contextlib.contextmanager
def _needs_cryptography() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(
            'fjx.secure needs the package cryptography: pip install "fjx[secure]"'
        ) from error


def digest(*parts: bytes | str | int) -> bytes:
    """SHA-256 of some parts, each with its length, so that no two lists of parts look alike."""
    return hashlib.sha256(_joined(parts)).digest()


def derive(secret: bytes, salt: bytes, *info: bytes | str | int, length: int = KEY) -> bytes:
    """A key for one purpose, by HKDF-SHA256.

    Args:
        secret: input key material.
        salt: name of the session, its round and all that its parties have agreed on.
        *info: purpose of the key.
        length: bytes of the key.
    """
    with _needs_cryptography():
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    return HKDF(SHA256(), length, salt, _joined(info)).derive(secret)


def _joined(parts: tuple[bytes | str | int, ...]) -> bytes:
    joined = b""
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        raw = raw.to_bytes(8, "little") if isinstance(raw, int) else raw
        joined += len(raw).to_bytes(4, "little") + raw
    return joined


def public_key(private: bytes) -> bytes:
    """The public key of a private one, by X25519."""
    with _needs_cryptography():
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes, salt: bytes, *info: bytes | str | int) -> bytes:
    """The key that two parties share for one purpose, by X25519 and HKDF.

    Raises:
        Malformed: the public key is one of the few with which every private key agrees on zero.
    """
    with _needs_cryptography():
        from cryptography.hazmat.primitives.asymmetric import x25519
    own = x25519.X25519PrivateKey.from_private_bytes(private)
    try:
        secret = own.exchange(x25519.X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise Malformed("a public key of low order, which no honest party has") from error
    both = sorted([own.public_key().public_bytes_raw(), public])
    return derive(secret, salt, *both, *info)


def seal(key: bytes, number: int, header: bytes, body: bytes) -> bytes:
    """The body encrypted, and authenticated together with the header, by ChaCha20-Poly1305.

    The caller gives each pair of key and number to one body only.
    """
    with _needs_cryptography():
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    return ChaCha20Poly1305(key).encrypt(number.to_bytes(12, "little"), body, header)


def unseal(key: bytes, number: int, header: bytes, sealed: bytes) -> bytes:
    """The body of :func:`seal`.

    Raises:
        Tampered: the key, number, header or body is another.
    """
    with _needs_cryptography():
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    try:
        return ChaCha20Poly1305(key).decrypt(number.to_bytes(12, "little"), sealed, header)
    except InvalidTag as error:
        raise Tampered(
            "a message fails authentication: its bytes were changed, or the two parties disagree about "
            "keys, session, round or protocol"
        ) from error


def signing_key(private: bytes) -> bytes:
    """The public key that verifies signatures of a private one, by Ed25519."""
    with _needs_cryptography():
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def sign(private: bytes, content: bytes) -> bytes:
    """A signature of 64 bytes, by Ed25519."""
    with _needs_cryptography():
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    return Ed25519PrivateKey.from_private_bytes(private).sign(content)


def verify(public: bytes, signature: bytes, content: bytes) -> None:
    """Checks a signature.

    Raises:
        Tampered: the signature is not that of this content by this key.
    """
    with _needs_cryptography():
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    except (InvalidSignature, ValueError) as error:
        raise Tampered("a signature is not that of the client that it names") from error


class Stream:
    """The bytes of ChaCha20 from one key, in order.  One key makes one stream."""

    def __init__(self, key: bytes):
        with _needs_cryptography():
            from cryptography.hazmat.primitives.ciphers import Cipher
            from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
        # The nonce is zero, because no key is used for two streams.
        self._encryptor = Cipher(ChaCha20(key, bytes(16)), None).encryptor()

    def take(self, size: int) -> bytes:
        """The next bytes."""
        return self._encryptor.update(bytes(size))

    def into(self, buffer: np.ndarray, zeros: bytes) -> None:
        """The next bytes, written to a buffer; ``zeros`` is as long as the buffer."""
        self._encryptor.update_into(zeros, buffer.view(np.uint8).data)

    def below(self, bound: int) -> int:
        """A uniform integer from 0 to bound - 1, by rejection."""
        bits = (bound - 1).bit_length()
        while True:
            value = int.from_bytes(self.take((bits + 7) // 8), "little") & ((1 << bits) - 1)
            if value < bound:
                return value


def add_mask(vector: np.ndarray, key: bytes, sign: int = 1) -> None:
    """Adds the mask of a key to a vector, in place, or subtracts it.

    The mask is uniform over the words of the vector, and the sum wraps.  A sum modulo a smaller power
    of two is that of the low bits.

    Args:
        vector: vector of unsigned words, which changes.
        key: key of the mask, used for this vector only.
        sign: 1 to add the mask, -1 to subtract it.
    """
    stream, operate = Stream(key), np.add if sign > 0 else np.subtract
    buffer = np.empty(min(_CHUNK, vector.size), vector.dtype)
    zeros = bytes(buffer.nbytes)
    little = vector.dtype.newbyteorder("<")
    for start in range(0, vector.size, _CHUNK):
        part = vector[start : start + _CHUNK]
        mask = buffer[: part.size]
        stream.into(mask, zeros[: mask.nbytes] if mask.nbytes < len(zeros) else zeros)
        operate(part, mask.view(little), out=part)
