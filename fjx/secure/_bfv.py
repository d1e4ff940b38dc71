"""Exact sums of ciphertexts under BFV: integers as digits."""

from typing import Any, NamedTuple

import numpy as np

from fjx.secure import _he
from fjx.secure._messages import packed, packed_size, unpacked
from fjx.secure._protocol import Protocol
from fjx.secure._session import Session

SLOTS = 4096
"""Integers in one ciphertext: the degree of its polynomials."""

PLAIN = 1032193
"""The prime modulo which BFV adds, one more than a multiple of twice the degree."""


class Limbs(NamedTuple):
    """Integers of b bits as several digits, each small enough for n of them to be added.

    Attributes:
        bits: width b of an integer.
        width: width of a digit.
    """

    bits: int
    width: int

    @classmethod
    def of(cls, session: Session) -> "Limbs":
        """The widest digits of which n add up to less than half of the plaintext modulus."""
        return cls(session.bits, (PLAIN // 2 // session.clients + 1).bit_length() - 1)

    @property
    def digits(self) -> int:
        """Digits of an integer."""
        return -(-self.bits // self.width)

    def split(self, vector: np.ndarray) -> np.ndarray:
        """The digits of all integers, the lowest of each first."""
        shifts = np.arange(self.digits, dtype=np.uint64) * np.uint64(self.width)
        digits = vector.astype(np.uint64)[:, None] >> shifts
        return (digits & np.uint64((1 << self.width) - 1)).reshape(-1)

    def joined(self, sums: np.ndarray) -> np.ndarray:
        """The integers modulo 2^64, from sums of their digits."""
        shifts = np.arange(self.digits, dtype=np.uint64) * np.uint64(self.width)
        return (sums.astype(np.uint64).reshape(-1, self.digits) << shifts).sum(1, dtype=np.uint64)


def _context() -> Any:
    ts = _he.tenseal()
    return ts.context(ts.SCHEME_TYPE.BFV, poly_modulus_degree=SLOTS, plain_modulus=PLAIN)


def _publish(session: Session, sums: np.ndarray) -> bytes:
    total = Limbs.of(session).joined(sums.astype(np.int64)).astype(session.word)
    return packed(session.reduced(total), session.bits)


def _integers(session: Session, body: bytes, length: int) -> np.ndarray:
    return unpacked(body, length, session.bits, session.word)


SCHEME = _he.Scheme(
    name=f"bfv {SLOTS} {PLAIN}",
    slots=SLOTS,
    context=_context,
    encrypt=lambda context, numbers: _he.tenseal().bfv_vector(context, numbers),
    load=lambda context, data: _he.tenseal().bfv_vector_from(context, data),
    scale=1.0,
    encode=lambda session, vector: Limbs.of(session).split(vector),
    length=lambda session, coordinates: coordinates * Limbs.of(session).digits,
    publish=_publish,
    published=_integers,
    clear_bytes=lambda session, vector: packed(vector, session.bits),
    clear_size=lambda session, coordinates: packed_size(coordinates, session.bits),
    clear=_integers,
)


def _check(session: Session) -> None:
    if Limbs.of(session).width < 1:
        raise ValueError(
            f"{session.clients} clients are too many for one digit; take at most {PLAIN // 2}"
        )


def bfv() -> Protocol:
    """A sum of ciphertexts under BFV, with a second server that holds the key.

    The second server makes a key for this sum.  Clients encrypt for it and send to the first server,
    which adds the ciphertexts and has no secret key.  The second server decrypts the sum and returns it.
    An integer is cut into digits, so that sums of n digits fit under the plaintext modulus 1032193; a
    ciphertext holds 4096 digits in about 90 kB.

    Guarantees:
        - The sum is exact modulo 2^b over the clients whose ciphertexts have come.
        - The first server sees ciphertexts and the sum; the second one sees the sum.
        - Nothing is added or decrypted for fewer than two clients.
        - Bytes that are not a context, or not ciphertexts of it, are refused.
        - If both servers collude, they see every vector.  A first server that lies can have the
          ciphertext of one client decrypted.

    The ciphertexts are random beyond the client's seed: two runs of equal seeds send other bytes.

    Returns:
        A :class:`Protocol`.

    Raises:
        ImportError: the extra ``he`` is not installed (from a run).

    Examples:
        >>> import numpy as np
        >>> from fjx import secure
        >>> vectors = np.array([[1, 2], [3, 4], [5, -6]])
        >>> secure.play(secure.bfv(), vectors, bits=8).signed.tolist()
        [9, 0]

    References:
        Fan, Vercauteren, *Somewhat Practical Fully Homomorphic Encryption*, 2012 (eprint 2012/144).
    """
    return _he.protocol(SCHEME, _check, lambda session, vector: None, reals=False)
