"""Sums of ciphertexts under BFV: the first server adds, and the second one holds the key."""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fjx.secure._crypto import derive
from fjx.secure._errors import Malformed, TooFew, Unexpected
from fjx.secure._messages import Kind, fixed, packed, packed_size, table_bytes, tables, unpacked
from fjx.secure._protocol import (
    Channel,
    Desk,
    Messages,
    Protocol,
    read_other_server,
    write_other_server,
)
from fjx.secure._session import HELPER, SERVER, Session, require_least

SLOTS = 4096
"""Integers in one ciphertext: the degree of its polynomials."""

PLAIN = 1032193
"""The prime modulo which BFV adds, one more than a multiple of twice the degree."""


def _tenseal() -> Any:
    try:
        import tenseal
    except ImportError as error:
        raise ImportError(
            'homomorphic encryption needs the package tenseal: pip install "fjx[he]"'
        ) from error
    return tenseal


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


def chunks_bytes(parts: Sequence[bytes]) -> bytes:
    """Parts of any length: their number, then each with its length."""
    head = struct.pack("<I", len(parts))
    return head + b"".join(struct.pack("<I", len(part)) + part for part in parts)


def chunks(body: bytes, count: int) -> list[bytes]:
    """The parts of a body, of which there must be ``count``.

    Raises:
        Malformed: there is another number of them, one is empty, or the lengths do not add up.
    """
    if len(body) < 4 or struct.unpack_from("<I", body)[0] != count:
        raise Malformed(f"a body is expected to have {count} parts")
    found, place = [], 4
    for _ in range(count):
        size = struct.unpack_from("<I", body, place)[0] if len(body) >= place + 4 else 0
        part = body[place + 4 : place + 4 + size]
        if not size or len(part) != size:
            raise Malformed("a part is empty or ends before its length")
        found.append(part)
        place += 4 + size
    if place != len(body):
        raise Malformed(f"{len(body) - place} bytes after the last part")
    return found


def read_context(data: bytes) -> Any:
    """The public context.

    Raises:
        Malformed: these are not the bytes of a context that can encrypt and cannot decrypt.
    """
    try:
        context = _tenseal().context_from(data)
        sound = context.has_public_key() and not context.is_private()
    except (ValueError, RuntimeError) as error:
        raise Malformed("these bytes are not an encryption context") from error
    if not sound:
        raise Malformed("an encryption context for others has a public key and no secret key")
    return context


def read_ciphertexts(context: Any, body: bytes, slots: int) -> list[Any]:
    """The ciphertexts of so many slots.

    Raises:
        Malformed: these are not the bytes of such ciphertexts.
    """
    sizes = _sizes(slots)
    found = []
    for part, size in zip(chunks(body, len(sizes)), sizes, strict=True):
        try:
            vector = _tenseal().bfv_vector_from(context, part)
            right = vector.size() == size
        except (ValueError, RuntimeError) as error:
            raise Malformed("these bytes are not a ciphertext of this context") from error
        if not right:
            raise Malformed(f"a ciphertext of {size} integers is expected")
        found.append(vector)
    return found


def _sizes(slots: int) -> list[int]:
    return [min(SLOTS, slots - start) for start in range(0, slots, SLOTS)]


def _ciphertexts_bytes(vectors: Sequence[Any]) -> bytes:
    return chunks_bytes([vector.serialize() for vector in vectors])


class Client(NamedTuple):
    """A client between two steps."""

    session: Session
    id: int
    vector: np.ndarray
    seed: bytes
    done: int = 0

    def channel(self, server: int) -> Channel:
        private = derive(self.seed, self.session.name, "channel", self.id)
        return Channel(self.session, self.id, private, server)


def _client(
    session: Session, id: int, vector: np.ndarray, seed: bytes, signing: bytes | None = None
) -> Client:
    return Client(session, id, vector, seed)


def _send(state: Client, messages: Sequence[bytes]) -> tuple[Client, Messages]:
    if state.done == 0 and not messages:
        hello = state.channel(HELPER).first(Kind.ADVERTISE, b"")
        return state._replace(done=1), {HELPER: hello}
    if state.done != 1:
        raise Unexpected(f"client {state.id} waits for no message")
    context = read_context(state.channel(HELPER).read(Kind.ROSTER, messages))
    digits = Limbs.of(state.session).split(state.vector).tolist()
    vectors = [
        _tenseal().bfv_vector(context, digits[start : start + SLOTS])
        for start in range(0, len(digits), SLOTS)
    ]
    message = state.channel(SERVER).first(Kind.INPUT, _ciphertexts_bytes(vectors))
    return state._replace(done=2, vector=state.vector[:0]), {SERVER: message}


class Server(NamedTuple):
    """A server between two steps.

    Attributes:
        desk: its channels to the clients.
        done: number of steps that it has answered.
        context: bytes of the encryption context; the first server's has no secret key.
        alive: clients in the sum.
        total: the sum, at the end.
    """

    desk: Desk
    done: int = 0
    context: bytes = b""
    alive: tuple[int, ...] = ()
    total: np.ndarray | None = None

    @property
    def session(self) -> Session:
        return self.desk.session


def _server(session: Session, address: int, private: bytes) -> Server:
    return Server(Desk(session, address, private))


def _answer(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    steps = _ADDS if state.desk.address == SERVER else _HOLDS_KEY
    if state.done >= len(steps):
        raise Unexpected("the sum has ended, and the server answers nothing more")
    state, answers = steps[state.done](state, messages)
    return state._replace(done=state.done + 1), answers


def _wait(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    if messages:
        raise Unexpected("a message came to a server that waits for the other one")
    return state, {}


def _make_keys(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    desk, bodies = state.desk.open(Kind.ADVERTISE, messages)
    for body in bodies.values():
        fixed(body, 0)
    if len(bodies) < 2:
        raise TooFew(f"{len(bodies)} clients have begun, and two are needed")
    ts = _tenseal()
    context = ts.context(ts.SCHEME_TYPE.BFV, poly_modulus_degree=SLOTS, plain_modulus=PLAIN)
    sparse = {"save_public_key": True, "save_galois_keys": False, "save_relin_keys": False}
    own = context.serialize(save_secret_key=True, **sparse)
    public = context.serialize(save_secret_key=False, **sparse)
    state = state._replace(desk=desk, context=own)
    answers = {i: desk.write(Kind.ROSTER, i, public) for i in bodies}
    return state, answers | write_other_server(desk, Kind.HELD, public)


def _take_context(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    data = read_other_server(state.desk, Kind.HELD, messages)
    read_context(data)
    return state._replace(context=data), {}


def _add(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    session = state.session
    desk, bodies = state.desk.open(Kind.INPUT, messages)
    if len(bodies) < 2:
        raise TooFew(f"{len(bodies)} clients have sent their vectors, and two are needed")
    require_least(session, len(bodies))
    context, slots = read_context(state.context), session.length * Limbs.of(session).digits
    totals: list[Any] = []
    for body in bodies.values():
        vectors = read_ciphertexts(context, body, slots)
        totals = [a + b for a, b in zip(totals, vectors, strict=True)] if totals else vectors
    alive = tuple(sorted(bodies))
    body = table_bytes(dict.fromkeys(alive, b""), 0) + _ciphertexts_bytes(totals)
    state = state._replace(desk=desk, alive=alive)
    return state, write_other_server(desk, Kind.SHARES, body)


def _decrypt(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    session, limbs = state.session, Limbs.of(state.session)
    body = read_other_server(state.desk, Kind.SHARES, messages)
    count = struct.unpack_from("<I", body)[0] if len(body) >= 4 else 0
    (named,) = tables(body[: 4 + 4 * count], [0], session.clients)
    if len(named) < 2:
        raise TooFew(f"a sum of {len(named)} clients, and two are needed")
    require_least(session, len(named))
    context = _tenseal().context_from(state.context)
    slots = session.length * limbs.digits
    sums: list[int] = []
    for vector in read_ciphertexts(context, body[4 + 4 * count :], slots):
        sums += vector.decrypt()
    total = limbs.joined(np.array(sums, np.int64)).astype(session.word)
    answer = packed(session.reduced(total), session.bits)
    return state._replace(context=b""), write_other_server(state.desk, Kind.PARTIAL, answer)


def _finish(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    session = state.session
    body = read_other_server(state.desk, Kind.PARTIAL, messages)
    fixed(body, packed_size(session.length, session.bits))
    total = unpacked(body, session.length, session.bits, session.word)
    return state._replace(total=total, context=b""), {}


_ADDS = (_wait, _take_context, _add, _finish)
_HOLDS_KEY = (_make_keys, _wait, _decrypt)


def _outcome(state: Server) -> tuple[np.ndarray, tuple[int, ...]] | None:
    return None if state.total is None else (state.total, state.alive)


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

    def check(session: Session) -> None:
        if session.clients < 2:
            raise TooFew("a secure sum of one client is its vector; take at least two clients")
        if Limbs.of(session).width < 1:
            raise ValueError(
                f"{session.clients} clients are too many for one digit; take at most {PLAIN // 2}"
            )

    return Protocol(
        "bfv 4096 1032193",
        ("advertise", "input"),
        2,
        check,
        _client,
        _send,
        _server,
        _answer,
        _outcome,
        lambda clients: 2,
    )
