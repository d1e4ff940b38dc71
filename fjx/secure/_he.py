"""Sums of ciphertexts: the first server adds, and the second one holds the key."""

import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fjx.secure._crypto import derive
from fjx.secure._errors import Inconsistent, Malformed, TooFew, Unexpected
from fjx.secure._messages import Kind, fixed, table_bytes, tables
from fjx.secure._protocol import (
    Channel,
    Desk,
    Messages,
    Protocol,
    read_other_server,
    write_other_server,
)
from fjx.secure._session import HELPER, SERVER, Session, require_least


def tenseal() -> Any:
    """The package tenseal."""
    try:
        import tenseal
    except ImportError as error:
        raise ImportError(
            'homomorphic encryption needs the package tenseal: pip install "fjx[he]"'
        ) from error
    return tenseal


class Scheme(NamedTuple):
    """A way to encrypt and to add.

    Attributes:
        name: name with all parameters.
        slots: numbers in one ciphertext.
        context: ``() -> context`` with new keys.
        encrypt: ``(context, numbers) -> ciphertext`` of at most ``slots`` numbers.
        load: ``(context, bytes) -> ciphertext``.
        scale: scale of a ciphertext, which is 1 unless its numbers are approximate.
        encode: ``(session, vector) -> numbers`` to encrypt.
        length: ``(session, coordinates) -> int``, how many they are.
        publish: ``(session, sums) -> bytes`` from decrypted sums of numbers.
        published: ``(session, bytes, coordinates) -> total``.
        clear_bytes: ``(session, vector) -> bytes`` of coordinates that are not encrypted.
        clear_size: ``(session, coordinates) -> int``, how many bytes these are.
        clear: ``(session, bytes, coordinates) -> vector``.
    """

    name: str
    slots: int
    context: Callable[[], Any]
    encrypt: Callable[[Any, list[Any]], Any]
    load: Callable[[Any, bytes], Any]
    scale: float
    encode: Callable[[Session, np.ndarray], np.ndarray]
    length: Callable[[Session, int], int]
    publish: Callable[[Session, np.ndarray], bytes]
    published: Callable[[Session, bytes, int], np.ndarray]
    clear_bytes: Callable[[Session, np.ndarray], bytes]
    clear_size: Callable[[Session, int], int]
    clear: Callable[[Session, bytes, int], np.ndarray]


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


@functools.lru_cache(maxsize=8)
def _parameters(scheme: Scheme) -> tuple[Any, ...]:
    """A digest of the parameters of a scheme."""
    return _identity(scheme.context())


def _identity(context: Any) -> tuple[Any, ...]:
    return tuple(context.seal_context().data.key_parms_id())


def read_context(scheme: Scheme, data: bytes) -> Any:
    """The public context.

    Raises:
        Malformed: these are not the bytes of a context of this scheme that can encrypt and cannot
            decrypt.
    """
    try:
        context = tenseal().context_from(data)
        sound = context.has_public_key() and not context.is_private()
        same = _identity(context) == _parameters(scheme)
    except (ValueError, RuntimeError) as error:
        raise Malformed("these bytes are not an encryption context") from error
    if not sound:
        raise Malformed("an encryption context for others has a public key and no secret key")
    if not same:
        raise Malformed(f"an encryption context of other parameters than {scheme.name}")
    return context


def read_ciphertexts(scheme: Scheme, context: Any, body: bytes, length: int) -> list[Any]:
    """The ciphertexts of so many numbers.

    Raises:
        Malformed: these are not the bytes of such ciphertexts.
    """
    starts = range(0, length, scheme.slots)
    level = tuple(context.seal_context().data.first_parms_id())
    found = []
    for part, start in zip(chunks(body, len(starts)), starts, strict=True):
        size = min(scheme.slots, length - start)
        try:
            vector = scheme.load(context, part)
            right = vector.size() == size
            inner = vector.ciphertext()
        except (ValueError, RuntimeError) as error:
            raise Malformed("these bytes are not a ciphertext of this context") from error
        if not right:
            raise Malformed(f"a ciphertext of {size} numbers is expected")
        if len(inner) != 1 or (inner[0].size(), inner[0].scale) != (2, scheme.scale):
            raise Malformed("a ciphertext of another shape or scale than new ones have")
        if tuple(inner[0].parms_id()) != level:
            raise Malformed("a ciphertext of another level than new ones have")
        found.append(vector)
    return found


def ciphertexts_bytes(scheme: Scheme, context: Any, numbers: np.ndarray) -> bytes:
    """Numbers, encrypted."""
    starts = range(0, len(numbers), scheme.slots)
    vectors = [scheme.encrypt(context, numbers[i : i + scheme.slots].tolist()) for i in starts]
    return chunks_bytes([vector.serialize() for vector in vectors])


class Parts(NamedTuple):
    """The coordinates that are encrypted, and those that are not.

    Attributes:
        scheme: way to encrypt.
        hidden: for each coordinate, True if it is encrypted; None for all of them.
    """

    scheme: Scheme
    hidden: tuple[bool, ...] | None = None

    def _hidden(self, session: Session) -> np.ndarray:
        return np.array(self.hidden or (True,) * session.length, bool)

    def coordinates(self, session: Session) -> tuple[int, int]:
        """The numbers of coordinates that are encrypted, and that are not."""
        hidden = int(self._hidden(session).sum())
        return hidden, session.length - hidden

    def length(self, session: Session) -> int:
        """The numbers to encrypt."""
        return self.scheme.length(session, self.coordinates(session)[0])

    def split(self, session: Session, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hidden = self._hidden(session)
        return vector[hidden], vector[~hidden]

    def joined(self, session: Session, secret: np.ndarray, clear: np.ndarray) -> np.ndarray:
        hidden = self._hidden(session)
        vector = np.zeros(session.length, secret.dtype)
        vector[hidden], vector[~hidden] = secret, clear
        return vector


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


def _send(parts: Parts, state: Client, messages: Sequence[bytes]) -> tuple[Client, Messages]:
    if state.done == 0 and not messages:
        hello = state.channel(HELPER).first(Kind.ADVERTISE, b"")
        return state._replace(done=1), {HELPER: hello}
    if state.done != 1:
        raise Unexpected(f"client {state.id} waits for no message")
    session, scheme = state.session, parts.scheme
    context = read_context(scheme, state.channel(HELPER).read(Kind.ROSTER, messages))
    secret, clear = parts.split(session, state.vector)
    body = scheme.clear_bytes(session, clear)
    body += ciphertexts_bytes(scheme, context, scheme.encode(session, secret))
    message = state.channel(SERVER).first(Kind.INPUT, body)
    return state._replace(done=2, vector=state.vector[:0]), {SERVER: message}


class Server(NamedTuple):
    """A server between two steps.

    Attributes:
        desk: its channels to the clients.
        done: number of steps that it has answered.
        context: bytes of the encryption context; the first server's has no secret key.
        alive: clients in the sum.
        clear: sum of the coordinates that are not encrypted.
        total: the sum, at the end.
    """

    desk: Desk
    done: int = 0
    context: bytes = b""
    alive: tuple[int, ...] = ()
    clear: np.ndarray | None = None
    total: np.ndarray | None = None

    @property
    def session(self) -> Session:
        return self.desk.session


def _answer(parts: Parts, state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    steps = _ADDS if state.desk.address == SERVER else _HOLDS_KEY
    if state.done >= len(steps):
        raise Unexpected("the sum has ended, and the server answers nothing more")
    state, answers = steps[state.done](parts, state, messages)
    return state._replace(done=state.done + 1), answers


def _wait(parts: Parts, state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    if messages:
        raise Unexpected("a message came to a server that waits for the other one")
    return state, {}


def _make_keys(parts: Parts, state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    desk, bodies = state.desk.open(Kind.ADVERTISE, messages)
    for body in bodies.values():
        fixed(body, 0)
    if len(bodies) < 2:
        raise TooFew(f"{len(bodies)} clients have begun, and two are needed")
    context = parts.scheme.context()
    sparse = {"save_public_key": True, "save_galois_keys": False, "save_relin_keys": False}
    own = context.serialize(save_secret_key=True, **sparse)
    public = context.serialize(save_secret_key=False, **sparse)
    state = state._replace(desk=desk, context=own)
    answers = {i: desk.write(Kind.ROSTER, i, public) for i in bodies}
    return state, answers | write_other_server(desk, Kind.HELD, public)


def _take_context(
    parts: Parts, state: Server, messages: Sequence[bytes]
) -> tuple[Server, Messages]:
    data = read_other_server(state.desk, Kind.HELD, messages)
    read_context(parts.scheme, data)
    return state._replace(context=data), {}


def _add(parts: Parts, state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    session, scheme = state.session, parts.scheme
    desk, bodies = state.desk.open(Kind.INPUT, messages)
    if len(bodies) < 2:
        raise TooFew(f"{len(bodies)} clients have sent their vectors, and two are needed")
    require_least(session, len(bodies))
    context, length = read_context(scheme, state.context), parts.length(session)
    seen = parts.coordinates(session)[1]
    cut = scheme.clear_size(session, seen)
    clear: Any = 0
    totals: list[Any] = []
    for body in bodies.values():
        clear = clear + scheme.clear(session, body[:cut], seen)
        vectors = read_ciphertexts(scheme, context, body[cut:], length)
        totals = [a + b for a, b in zip(totals, vectors, strict=True)] if totals else vectors
    clear = clear if clear.dtype.kind == "f" else session.reduced(clear)
    alive = tuple(sorted(bodies))
    body = table_bytes(dict.fromkeys(alive, b""), 0)
    body += chunks_bytes([vector.serialize() for vector in totals])
    state = state._replace(desk=desk, alive=alive, clear=clear)
    return state, write_other_server(desk, Kind.SHARES, body)


def _decrypt(parts: Parts, state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    session, scheme = state.session, parts.scheme
    body = read_other_server(state.desk, Kind.SHARES, messages)
    count = struct.unpack_from("<I", body)[0] if len(body) >= 4 else 0
    (named,) = tables(body[: 4 + 4 * count], [0], session.clients)
    if len(named) < 2:
        raise TooFew(f"a sum of {len(named)} clients, and two are needed")
    require_least(session, len(named))
    if not set(named) <= set(state.desk.clients):
        raise Inconsistent("the other server has added for clients that were not given the key")
    context = tenseal().context_from(state.context)
    found = read_ciphertexts(scheme, context, body[4 + 4 * count :], parts.length(session))
    sums = np.array([number for vector in found for number in vector.decrypt()])
    answer = scheme.publish(session, sums)
    return state._replace(context=b""), write_other_server(state.desk, Kind.PARTIAL, answer)


def _finish(parts: Parts, state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    session = state.session
    body = read_other_server(state.desk, Kind.PARTIAL, messages)
    secret = parts.scheme.published(session, body, parts.coordinates(session)[0])
    assert state.clear is not None
    total = parts.joined(session, secret, state.clear)
    return state._replace(total=total, context=b"", clear=None), {}


_ADDS = (_wait, _take_context, _add, _finish)
_HOLDS_KEY = (_make_keys, _wait, _decrypt)


def _outcome(state: Server) -> tuple[np.ndarray, tuple[int, ...]] | None:
    return None if state.total is None else (state.total, state.alive)


def protocol(
    scheme: Scheme,
    check: Callable[[Session], None],
    require: Callable[[Session, np.ndarray], None],
    reals: bool,
    hidden: tuple[bool, ...] | None = None,
) -> Protocol:
    """The sum of ciphertexts of a scheme.

    Args:
        scheme: way to encrypt.
        check: ``(session) -> None``.  Raises ValueError if the scheme cannot add for this session.
        require: ``(session, vector) -> None``.  Raises ValueError for numbers that it cannot encrypt.
        reals: True if it adds floats.
        hidden: for each coordinate, True if it is encrypted; None for all of them.
    """
    parts = Parts(scheme, hidden)

    def check_both(session: Session) -> None:
        if session.clients < 2:
            raise TooFew("a secure sum of one client is its vector; take at least two clients")
        if hidden is not None and len(hidden) != session.length:
            raise ValueError(
                f"{len(hidden)} coordinates are said to be encrypted or not, and vectors have "
                f"{session.length}"
            )
        check(session)

    def client(
        session: Session, id: int, vector: np.ndarray, seed: bytes, signing: bytes | None = None
    ) -> Client:
        require(session, vector)
        return Client(session, id, vector, seed)

    def hiding(mask: tuple[bool, ...]) -> Protocol:
        return protocol(scheme, check, require, reals, mask)

    mask = "" if hidden is None else " " + np.packbits(hidden).tobytes().hex()
    return Protocol(
        scheme.name + mask,
        ("advertise", "input"),
        2,
        check_both,
        client,
        functools.partial(_send, parts),
        lambda session, address, private: Server(Desk(session, address, private)),
        functools.partial(_answer, parts),
        _outcome,
        lambda clients: 2,
        reals=reals,
        hiding=hiding,
    )
