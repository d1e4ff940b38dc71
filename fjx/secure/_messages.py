"""Messages as bytes: a header, and a sealed body of fixed fields and tables."""

import enum
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fjx.secure import _crypto
from fjx.secure._errors import Malformed, Unexpected
from fjx.secure._session import Session

VERSION = 1
_HEADER = struct.Struct("<BB16sIIII")
HEADER = _HEADER.size
"""Bytes ahead of a message: version, kind, session, round, sender, receiver, length of the body."""


class Kind(enum.IntEnum):
    """The messages of all protocols, in the order in which one sends them."""

    ADVERTISE = 1
    ROSTER = 2
    SHARES = 3
    DELIVERED = 4
    INPUT = 5
    SURVIVORS = 6
    SIGNATURE = 7
    SIGNATURES = 8
    UNMASK = 9
    HELD = 10
    PARTIAL = 11


class Header(NamedTuple):
    """The facts about a message that travel in the clear.

    Attributes:
        kind: kind of the message.
        session: the session's id.
        round: number of the round.
        sender: address of the sender.
        receiver: address of the receiver.
        size: bytes of the body.
    """

    kind: Kind
    session: bytes
    round: int
    sender: int
    receiver: int
    size: int

    @property
    def bytes(self) -> bytes:
        return _HEADER.pack(VERSION, *self)


def header_of(data: bytes) -> Header:
    """The header of a message.

    Raises:
        Malformed: the bytes are too short, of another version or kind, or not as long as they say.
    """
    if len(data) < HEADER:
        raise Malformed(f"a message has at least {HEADER} bytes, got {len(data)}")
    version, kind, *others = _HEADER.unpack_from(data)
    if version != VERSION:
        raise Malformed(f"version {version} of a message, and this party speaks {VERSION}")
    if kind not in set(Kind):
        raise Malformed(f"no message is of kind {kind}")
    header = Header(Kind(kind), *others)
    if len(data) != HEADER + header.size:
        raise Malformed(f"a message announces {header.size} bytes and has {len(data) - HEADER}")
    return header


def write(
    session: Session,
    kind: Kind,
    sender: int,
    receiver: int,
    key: bytes,
    body: bytes,
    open: bytes = b"",
) -> bytes:
    """A message: header, bytes in the clear, sealed body.  All of it is authenticated by the key."""
    size = len(open) + len(body) + _crypto.TAG
    header = Header(kind, session.id, session.round, sender, receiver, size).bytes + open
    return header + _crypto.seal(key, kind, header, body)


def read(
    session: Session,
    kind: Kind,
    receiver: int,
    key: Callable[[int, bytes], bytes],
    data: bytes,
    open: int = 0,
) -> tuple[int, bytes, bytes]:
    """The sender, the bytes in the clear and the body of a message.

    Args:
        session: session of the receiver.
        kind: kind that the receiver waits for.
        receiver: address of the receiver.
        key: ``(sender, bytes in the clear) -> key``.
        data: the message.
        open: number of bytes in the clear.

    Raises:
        Malformed: these are not the bytes of a message.
        Unexpected: the message is for another session, round, receiver or step.
        Tampered: the message fails authentication.
    """
    header = header_of(data)
    if (header.session, header.round) != (session.id, session.round):
        raise Unexpected("a message of another session or round")
    if header.receiver != receiver:
        raise Unexpected(f"a message for {header.receiver} came to {receiver}")
    if header.kind != kind:
        raise Unexpected(f"a message {header.kind.name} came, and this step waits for {kind.name}")
    if header.size < open + _crypto.TAG:
        raise Malformed(f"a message {kind.name} of {header.size} bytes is too short")
    start = HEADER + open
    clear = data[HEADER:start]
    body = _crypto.unseal(key(header.sender, clear), kind, data[:start], data[start:])
    return header.sender, clear, body


# --------------------------------------------------------------------------------------------------
# Bodies
# --------------------------------------------------------------------------------------------------

Table = Mapping[int, bytes]
"""Records of one size by the number of a client."""


def table_bytes(table: Table, size: int) -> bytes:
    """A table: the number of its records, then each number with its record, in order."""
    assert all(len(record) == size for record in table.values())
    rows = [struct.pack("<I", number) + table[number] for number in sorted(table)]
    return struct.pack("<I", len(rows)) + b"".join(rows)


def tables(body: bytes, sizes: Sequence[int], clients: int) -> list[dict[int, bytes]]:
    """The tables of a body, of which there is one for each size of a record.

    Raises:
        Malformed: the length is another, or numbers are not increasing or not those of clients.
    """
    found, place = [], 0
    for size in sizes:
        if len(body) < place + 4:
            raise Malformed("a table ends before its length")
        (count,) = struct.unpack_from("<I", body, place)
        place += 4
        end = place + count * (4 + size)
        if count > clients or end > len(body):
            raise Malformed(f"a table of {count} records in {len(body)} bytes")
        table, last = {}, -1
        for start in range(place, end, 4 + size):
            (number,) = struct.unpack_from("<I", body, start)
            if not last < number < clients:
                raise Malformed(f"client {number} after {last} in a table of {clients} clients")
            table[number] = body[start + 4 : start + 4 + size]
            last = number
        found.append(table)
        place = end
    if place != len(body):
        raise Malformed(f"{len(body) - place} bytes after the last table")
    return found


def fixed(body: bytes, size: int) -> bytes:
    """A body of a known size.

    Raises:
        Malformed: its size is another.
    """
    if len(body) != size:
        raise Malformed(f"a body of {len(body)} bytes where {size} are expected")
    return body


def packed(vector: np.ndarray, bits: int) -> bytes:
    """Integers below 2^b in b bits each, without gaps, from the low bit of the first byte on."""
    width = vector.dtype.itemsize * 8
    if bits == width:
        return vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes()
    rows = np.zeros((-(-vector.size // 8), 8), np.uint64)
    rows.reshape(-1)[: vector.size] = vector
    columns = np.ascontiguousarray(rows.T)
    out = np.zeros((rows.shape[0], bits), np.uint8)  # eight integers are b bytes
    for byte in range(bits):
        value = np.zeros(rows.shape[0], np.uint64)
        for i in range(8 * byte // bits, min(7, (8 * byte + 7) // bits) + 1):
            shift = i * bits - 8 * byte
            value |= (
                columns[i] << np.uint64(shift) if shift >= 0 else columns[i] >> np.uint64(-shift)
            )
        out[:, byte] = value.astype(np.uint8)
    return out.tobytes()[: packed_size(vector.size, bits)]


def packed_size(length: int, bits: int) -> int:
    """The bytes of :func:`packed`."""
    return -(-length * bits // 8)


def unpacked(body: bytes, length: int, bits: int, word: np.dtype) -> np.ndarray:
    """The integers of :func:`packed`.

    Raises:
        Malformed: the number of bytes is another, or a bit after the last integer is set.
    """
    fixed(body, packed_size(length, bits))
    if bits == word.itemsize * 8:
        return np.frombuffer(body, word.newbyteorder("<")).astype(word)
    count = -(-length // 8)
    raw = np.zeros(count * bits, np.uint8)
    raw[: len(body)] = np.frombuffer(body, np.uint8)
    columns = np.ascontiguousarray(raw.reshape(count, bits).T).astype(np.uint64)
    out = np.zeros((8, count), np.uint64)
    for i in range(8):
        for byte in range(i * bits // 8, (i * bits + bits - 1) // 8 + 1):
            shift = 8 * byte - i * bits
            part = columns[byte]
            out[i] |= part << np.uint64(shift) if shift >= 0 else part >> np.uint64(-shift)
        out[i] &= np.uint64((1 << bits) - 1)
    flat = out.T.reshape(-1)
    if raw.size and (flat[length:].any() or _spare(body, length, bits)):
        raise Malformed("bits are set after the last integer")
    return flat[:length].astype(word)


def _spare(body: bytes, length: int, bits: int) -> bool:
    """True if a bit of the last byte is set that belongs to no integer."""
    used = length * bits % 8
    return bool(used and body[-1] >> used)
