"""LightSecAgg: each client codes one mask, and the sum of the masks is decoded in one shot."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fjx import _validate
from fjx.secure import _crypto, _prime
from fjx.secure._crypto import KEY, TAG, derive
from fjx.secure._errors import Inconsistent, Malformed, TooFew, Unexpected
from fjx.secure._messages import Kind, fixed, packed, packed_size, table_bytes, tables, unpacked
from fjx.secure._protocol import Channel, Desk, Messages, Protocol, read_survivors
from fjx.secure._session import SERVER, Session, require_least

WORD = np.dtype(np.uint64)


class Code(NamedTuple):
    """The code of the masks of a session.

    A mask is cut into ``survivors - privacy`` pieces.  With ``privacy`` random rows behind them they are
    the values of a polynomial at 1, 2, ..., ``survivors``; client j is sent its value at
    ``survivors + 1 + j``.

    Attributes:
        clients: number n of clients.
        survivors: number U of values that give the polynomial back.
        privacy: number T of values that say nothing about the pieces.
        length: coordinates of the vectors.
        width: w, for the field of 2^w - 1 elements.
    """

    clients: int
    survivors: int
    privacy: int
    length: int
    width: int

    @property
    def pieces(self) -> int:
        return self.survivors - self.privacy

    @property
    def piece(self) -> int:
        """Coordinates of one piece."""
        return -(-self.length // self.pieces)

    def point(self, client: int) -> int:
        """The place at which a client's value is taken."""
        return self.survivors + 1 + client

    def encoded(self, mask: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
        """The value of each client, from a mask and as many random rows as ``privacy``."""
        known = tuple(range(1, self.survivors + 1))
        values = np.concatenate([self.cut(mask), rows])
        return [
            _prime.combined(_prime.lagrange(known, self.point(j), self.width), values, self.width)
            for j in range(self.clients)
        ]

    def cut(self, mask: np.ndarray) -> np.ndarray:
        """The pieces of a mask, the last one filled with zeros."""
        whole = np.zeros(self.pieces * self.piece, np.uint64)
        whole[: self.length] = mask
        return whole.reshape(self.pieces, self.piece)

    def decoded(self, values: Mapping[int, np.ndarray]) -> np.ndarray:
        """The mask, from the values of ``survivors`` clients."""
        known = tuple(self.point(j) for j in values)
        rows = np.stack(list(values.values()))
        pieces = [
            _prime.combined(_prime.lagrange(known, k + 1, self.width), rows, self.width)
            for k in range(self.pieces)
        ]
        return np.concatenate(pieces)[: self.length]


class Client(NamedTuple):
    """A client between two steps.

    Attributes:
        session: facts that all parties agree on.
        code: code of the masks.
        id: number of the client.
        vector: its vector, as residues.
        seed: the source of all its secrets.
        done: number of steps that it has sent.
        peers: public keys of the others.
        held: values that it holds, by owner.
    """

    session: Session
    code: Code
    id: int
    vector: np.ndarray
    seed: bytes
    done: int = 0
    peers: Mapping[int, bytes] = {}
    held: Mapping[int, np.ndarray] = {}

    def secret(self, purpose: str) -> bytes:
        """One of its secrets."""
        return derive(self.seed, self.session.name, purpose, self.id)

    @property
    def channel(self) -> Channel:
        return Channel(self.session, self.id, self.secret("channel"))

    @property
    def mask(self) -> np.ndarray:
        """Its mask."""
        return _prime.uniform(self.secret("mask"), (self.code.length,), self.code.width)

    def pair_key(self, sender: int, receiver: int) -> bytes:
        """The key under which one client seals a value for another."""
        other = self.peers[receiver if sender == self.id else sender]
        own, name = self.secret("channel"), self.session.name
        return _crypto.agree(own, other, name, "value", sender, receiver)


def _advertise(state: Client, messages: Sequence[bytes]) -> tuple[Client, bytes]:
    if messages:
        raise Unexpected("a message came before the first step")
    return state, state.channel.first(Kind.ADVERTISE, b"")


def _share(state: Client, messages: Sequence[bytes]) -> tuple[Client, bytes]:
    code, n = state.code, state.session.clients
    (peers,) = tables(state.channel.read(Kind.ROSTER, messages), [KEY], n)
    own = _crypto.public_key(state.secret("channel"))
    if state.id in peers or len({own, *peers.values()}) < len(peers) + 1:
        raise Inconsistent(f"client {state.id} was sent the same public key twice")
    if len(peers) + 1 < code.survivors:
        raise TooFew(f"client {state.id} has {len(peers)} peers, and needs {code.survivors - 1}")
    state = state._replace(peers=peers)
    # These rows hide the mask from T clients.  With zeros for them, one value would give it away.
    rows = _prime.uniform(state.secret("rows"), (code.privacy, code.piece), code.width)
    values = code.encoded(state.mask, rows)
    sealed = {
        j: _crypto.seal(state.pair_key(state.id, j), 0, b"", packed(values[j], code.width))
        for j in peers
    }
    size = packed_size(code.piece, code.width) + TAG
    state = state._replace(held={state.id: values[state.id]})
    return state, state.channel.write(Kind.SHARES, table_bytes(sealed, size))


def _input(state: Client, messages: Sequence[bytes]) -> tuple[Client, bytes]:
    code = state.code
    size = packed_size(code.piece, code.width) + TAG
    body = state.channel.read(Kind.DELIVERED, messages)
    (sealed,) = tables(body, [size], code.clients)
    if not set(sealed) <= set(state.peers):
        raise Inconsistent(f"client {state.id} was sent values of clients without keys")
    if len(sealed) + 1 < code.survivors:
        raise TooFew(f"client {state.id} has values of {len(sealed)} others, too few")
    held = dict(state.held)
    for j, box in sealed.items():
        value = _crypto.unseal(state.pair_key(j, state.id), 0, b"", box)
        held[j] = _elements(value, code.piece, code.width)
    masked = _prime.add(state.vector.astype(np.uint64), state.mask, code.width)
    return state._replace(held=held), state.channel.write(Kind.INPUT, packed(masked, code.width))


def _unmask(state: Client, messages: Sequence[bytes]) -> tuple[Client, bytes]:
    code = state.code
    alive = read_survivors(state.channel, messages, state.held, code.survivors)
    require_least(state.session, len(alive))
    total = np.zeros(code.piece, np.uint64)
    for j in alive:
        total = _prime.add(total, state.held[j], code.width)
    ended = state._replace(held={}, vector=state.vector[:0])
    return ended, state.channel.write(Kind.UNMASK, packed(total, code.width))


_CLIENT = (_advertise, _share, _input, _unmask)


def _send(state: Client, messages: Sequence[bytes]) -> tuple[Client, Messages]:
    if state.done >= len(_CLIENT):
        raise Unexpected(f"client {state.id} has ended, and answers nothing more")
    state, message = _CLIENT[state.done](state, messages)
    return state._replace(done=state.done + 1), {SERVER: message}


def _elements(body: bytes, length: int, width: int) -> np.ndarray:
    """Elements of the field, checked."""
    found = unpacked(body, length, width, WORD)
    if (found == np.uint64((1 << width) - 1)).any():
        raise Malformed("a number is not below the prime of the field")
    return found


class Server(NamedTuple):
    """The server between two steps.

    Attributes:
        desk: its channels to the clients.
        code: code of the masks.
        done: number of steps that it has answered.
        shared: clients that have sent the values of their mask.
        total: sum of the masked vectors; at the end, of the vectors.
        alive: clients whose masked vector is in the sum.
    """

    desk: Desk
    code: Code
    done: int = 0
    shared: tuple[int, ...] = ()
    total: np.ndarray | None = None
    alive: tuple[int, ...] = ()

    @property
    def session(self) -> Session:
        return self.desk.session


def _require(state: Server, came: int, step: str) -> None:
    if came < state.code.survivors:
        raise TooFew(f"{came} clients have sent {step}, and {state.code.survivors} are needed")


def _roster(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    desk, bodies = state.desk.open(Kind.ADVERTISE, messages)
    for body in bodies.values():
        fixed(body, 0)
    _require(state, len(bodies), "their keys")
    if len(set(desk.clients.values())) < len(desk.clients):
        raise Inconsistent("two clients have sent the same public key")
    state = state._replace(desk=desk)
    keys = desk.clients
    rosters = {i: table_bytes({j: k for j, k in keys.items() if j != i}, KEY) for i in keys}
    return state, state.desk.write_each(Kind.ROSTER, rosters)


def _deliver(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    everybody = tuple(state.desk.clients)
    size = packed_size(state.code.piece, state.code.width) + TAG
    bodies = state.desk.read(Kind.SHARES, messages, everybody)
    _require(state, len(bodies), "the values of their mask")
    boxes = {i: tables(body, [size], state.code.clients)[0] for i, body in bodies.items()}
    for i, to in boxes.items():
        if set(to) != set(everybody) - {i}:
            raise Inconsistent(f"client {i} has not sealed values for all others")
    delivered = {j: table_bytes({i: boxes[i][j] for i in boxes if i != j}, size) for j in boxes}
    state = state._replace(shared=tuple(boxes))
    return state, state.desk.write_each(Kind.DELIVERED, delivered)


def _add(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    code = state.code
    bodies = state.desk.read(Kind.INPUT, messages, state.shared)
    _require(state, len(bodies), "their vectors")
    require_least(state.session, len(bodies))
    total = np.zeros(code.length, np.uint64)
    for body in bodies.values():
        total = _prime.add(total, _elements(body, code.length, code.width), code.width)
    state = state._replace(total=total, alive=tuple(bodies))
    survivors = table_bytes(dict.fromkeys(bodies, b""), 0)
    return state, state.desk.write_each(Kind.SURVIVORS, dict.fromkeys(bodies, survivors))


def _finish(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    code, session = state.code, state.session
    bodies = state.desk.read(Kind.UNMASK, messages, state.alive)
    _require(state, len(bodies), "their sum of values")
    first = list(bodies)[: code.survivors]
    mask = code.decoded({j: _elements(bodies[j], code.piece, code.width) for j in first})
    assert state.total is not None
    total = _prime.subtract(state.total, mask, code.width)
    return state._replace(total=session.reduced(total.astype(session.word))), {}


_SERVER = (_roster, _deliver, _add, _finish)


def _answer(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    if state.done >= len(_SERVER):
        raise Unexpected("the sum has ended, and the server answers nothing more")
    state, answers = _SERVER[state.done](state, messages)
    return state._replace(done=state.done + 1), answers


def _outcome(state: Server) -> tuple[np.ndarray, tuple[int, ...]] | None:
    if state.done < len(_SERVER):
        return None
    assert state.total is not None
    return state.total, state.alive


def lightsecagg(*, dropout_rate: float = 0.1, privacy_rate: float = 0.5) -> Protocol:
    """The secure sum LightSecAgg, whose cost does not grow with the number of dropouts.

    Each client adds a mask over a prime field, and sends a coded value of it to every other client ahead
    of time.  The survivors add the values of the survivors, and the server decodes the sum of the masks
    from U of these sums.  With n clients, U = n - floor(dropout_rate n), and T is the integer part of
    privacy_rate n, but at least 1 and below U.

    Guarantees:
        - The sum is exact modulo 2^b over the clients whose masked vector has come.
        - It is found as long as U clients stay to the end; else the server raises :class:`TooFew`.
        - A server that follows the protocol, with up to T clients, learns nothing beside the sum.
        - The rows that hide a mask from T clients are uniform and independent of it.
        - Bytes that are changed, repeated or meant for another step, round or session are refused.
        - Nothing is promised against a server that lies, or clients that send wrong values.

    Args:
        dropout_rate: largest share of clients that drop out.
        privacy_rate: share of clients that may collude with the server.

    Returns:
        A :class:`Protocol`.

    Raises:
        TypeError: a rate is not a number.
        ValueError: a rate is outside of [0, 1); for a session, the sum of n integers of b bits does not
            fit into the field of 2^61 - 1 elements.

    Examples:
        >>> import numpy as np
        >>> from fjx import secure
        >>> vectors = np.arange(20).reshape(10, 2)
        >>> outcome = secure.play(secure.lightsecagg(), vectors, bits=8, leaves={9: 2})
        >>> outcome.total.tolist(), len(outcome.survivors)
        ([72, 81], 9)

    References:
        So et al., *LightSecAgg: a Lightweight and Versatile Design for Secure Aggregation in Federated
        Learning*, MLSys 2022 (arXiv:2109.14236).
    """
    dropout = _validate.static_number("dropout_rate", dropout_rate, at_least=0, below=1)
    privacy = _validate.static_number("privacy_rate", privacy_rate, at_least=0, below=1)

    def survivors_of(n: int) -> int:
        return max(n - int(dropout * n + 1e-9), 2)

    @functools.lru_cache(maxsize=64)
    def code_of(session: Session) -> Code:
        n = session.clients
        survivors = survivors_of(n)
        hidden = min(max(int(privacy * n + 1e-9), 1), survivors - 1)
        width = _prime.width_for(n * ((1 << session.bits) - 1))
        return Code(n, survivors, hidden, session.length, width)

    def check(session: Session) -> None:
        if session.clients < 2:
            raise TooFew("a secure sum of one client is its vector; take at least two clients")
        if not code_of(session).width:
            raise ValueError(
                f"the sum of {session.clients} integers of {session.bits} bits does not fit into the "
                "field of 2^61 - 1 elements; take fewer bits"
            )

    def client(
        session: Session, id: int, vector: np.ndarray, seed: bytes, signing: bytes | None = None
    ) -> Client:
        return Client(session, code_of(session), id, vector, seed)

    def server(session: Session, address: int, private: bytes) -> Server:
        return Server(Desk(session, address, private), code_of(session))

    return Protocol(
        name=f"lightsecagg {dropout!r} {privacy!r}",
        steps=("advertise", "share", "input", "unmask"),
        servers=1,
        check=check,
        client=client,
        send=_send,
        server=server,
        answer=_answer,
        outcome=_outcome,
        fewest=survivors_of,
    )
