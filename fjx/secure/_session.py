"""The facts that all parties of one secure sum agree on before it begins."""

import functools
from typing import NamedTuple

import numpy as np

from fjx import _validate
from fjx.secure._crypto import digest
from fjx.secure._errors import TooFew

SERVER, HELPER = 2**32 - 1, 2**32 - 2
"""Addresses of the servers; a client's address is its number, from 0 to n - 1."""


class Session(NamedTuple):
    """The facts that all parties of one secure sum agree on.

    Every key of the sum is derived from its :attr:`name`.  Parties that differ in one of these facts
    have no key in common, so that they cannot take part in the same sum.

    Attributes:
        protocol: name of the protocol with its parameters.
        id: 16 random bytes, new for every run.
        round: number of the round.
        clients: number n of clients.
        length: number of coordinates.
        bits: width b of a coordinate; sums are modulo 2^b.
        servers: public key of each server.
        identities: public key by which each client signs; empty unless the protocol needs them.
        least: fewest clients of which a sum may be known, where the protocol allows fewer.
    """

    protocol: str
    id: bytes
    round: int
    clients: int
    length: int
    bits: int
    servers: tuple[bytes, ...]
    identities: tuple[bytes, ...] = ()
    least: int = 1

    @property
    def name(self) -> bytes:
        """A digest of all of these facts."""
        return _name(self)

    @property
    def word(self) -> np.dtype:
        """The unsigned words that hold a coordinate."""
        return np.dtype(np.uint32 if self.bits <= 32 else np.uint64)

    def reduced(self, vector: np.ndarray) -> np.ndarray:
        """A vector modulo 2^b; the same array if its words have b bits."""
        if self.bits == 8 * self.word.itemsize:
            return vector
        return vector & self.word.type((1 << self.bits) - 1)


@functools.lru_cache(maxsize=64)
def _name(session: Session) -> bytes:
    sizes = session.clients, session.length, session.bits, session.least, len(session.servers)
    facts = session.protocol, session.id, session.round, *sizes
    return digest("fjx.secure", 1, *facts, *session.servers, *session.identities)


def residues(name: str, vector: np.ndarray, session: Session) -> np.ndarray:
    """A vector of integers as residues modulo 2^b.

    Raises:
        TypeError: the vector is not of integers.
        ValueError: the vector has another shape, or an integer does not fit into b bits.
    """
    vector = np.asarray(vector)
    if vector.dtype.kind not in "ui":
        raise TypeError(f"{name} must be of integers, got {vector.dtype}; round it first")
    if vector.shape != (session.length,):
        raise ValueError(f"{name} must have the shape ({session.length},), got {vector.shape}")
    low, high = -(1 << session.bits - 1), (1 << session.bits) - 1
    if vector.size and not (low <= int(vector.min()) and int(vector.max()) <= high):
        raise ValueError(
            f"{name} has integers from {vector.min()} to {vector.max()}, which do not fit into "
            f"bits={session.bits}; take more bits"
        )
    return session.reduced(vector.astype(session.word))


def reals(name: str, vector: np.ndarray, session: Session) -> np.ndarray:
    """A vector of numbers as float64.

    Raises:
        TypeError: the vector is not of real numbers.
        ValueError: the vector has another shape, or a number is not finite.
    """
    vector = np.asarray(vector)
    if vector.dtype.kind not in "uif":
        raise TypeError(f"{name} must be of real numbers, got {vector.dtype}")
    if vector.shape != (session.length,):
        raise ValueError(f"{name} must have the shape ({session.length},), got {vector.shape}")
    if not np.isfinite(vector).all():
        raise ValueError(f"{name} has numbers that are not finite; leave this client out")
    return vector.astype(np.float64)


def require_least(session: Session, came: int) -> None:
    """Checks that a sum of so many clients may be known.

    Raises:
        TooFew: they are fewer than the session allows.
    """
    if came < session.least:
        raise TooFew(f"a sum of {came} clients, and the session asks for {session.least}")


def require_width(bits: int, most: int = 64) -> int:
    """The number of bits of a coordinate."""
    return _validate.static_integer("bits", bits, at_least=1, at_most=most)
