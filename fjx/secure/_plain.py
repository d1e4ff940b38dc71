"""Sums without secrecy from one server, and with two servers of which each sees one share."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fjx.secure import _crypto
from fjx.secure._crypto import KEY, derive
from fjx.secure._errors import Inconsistent, TooFew, Unexpected
from fjx.secure._messages import (
    Kind,
    fixed,
    packed,
    packed_size,
    table_bytes,
    tables,
    unpacked,
)
from fjx.secure._protocol import (
    Channel,
    Desk,
    Messages,
    Protocol,
    no_check,
    read_other_server,
    write_other_server,
)
from fjx.secure._session import HELPER, SERVER, Session, require_least


class Client(NamedTuple):
    """A client that sends once."""

    session: Session
    id: int
    vector: np.ndarray
    seed: bytes
    done: bool = False

    def channel(self, server: int) -> Channel:
        private = derive(self.seed, self.session.name, "channel", self.id)
        return Channel(self.session, self.id, private, server)

    def ended(self) -> "Client":
        return self._replace(done=True, vector=self.vector[:0])


class Server(NamedTuple):
    """A server that adds what comes.

    Attributes:
        desk: its channels to the clients.
        done: number of steps that it has answered.
        parts: what clients have sent, by client.
        total: the sum, once it is known.
        alive: the clients in it.
    """

    desk: Desk
    done: int = 0
    parts: dict[int, bytes] = {}  # noqa: RUF012 (never changed in place)
    total: np.ndarray | None = None
    alive: tuple[int, ...] = ()

    @property
    def session(self) -> Session:
        return self.desk.session


def _client(
    session: Session, id: int, vector: np.ndarray, seed: bytes, signing: bytes | None = None
) -> Client:
    return Client(session, id, vector, seed)


def _server(session: Session, address: int, private: bytes) -> Server:
    return Server(Desk(session, address, private))


def _outcome(state: Server) -> tuple[np.ndarray, tuple[int, ...]] | None:
    return None if state.total is None else (state.total, state.alive)


def _protocol(
    name: str,
    servers: int,
    check: Callable[[Session], None],
    send: Callable[..., tuple[Client, Messages]],
    answer: Callable[..., tuple[Server, Messages]],
    fewest: int,
) -> Protocol:
    return Protocol(
        name, ("input",), servers, check, _client, send, _server, answer, _outcome, lambda n: fewest
    )


def _require_first(state: Client, messages: Sequence[bytes]) -> None:
    if state.done or messages:
        raise Unexpected(f"client {state.id} sends once, and answers nothing")


def plain() -> Protocol:
    """A sum without secrecy: the server sees every vector.

    It is the baseline of all others: same integers, same messages around them, one step.

    Guarantees:
        - The sum is exact modulo 2^b over the clients that have sent.
        - Bytes that are changed, repeated or meant for another session are refused.
        - Nothing is hidden from the server.

    Returns:
        A :class:`Protocol`.

    Examples:
        >>> import numpy as np
        >>> from fjx import secure
        >>> vectors = np.array([[1, 2], [3, 4], [5, -6]])
        >>> secure.play(secure.plain(), vectors, bits=8).signed.tolist()
        [9, 0]
    """

    def send(state: Client, messages: Sequence[bytes]) -> tuple[Client, Messages]:
        _require_first(state, messages)
        body = packed(state.vector, state.session.bits)
        return state.ended(), {SERVER: state.channel(SERVER).first(Kind.INPUT, body)}

    def answer(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
        if state.done:
            raise Unexpected("the sum has ended, and the server answers nothing more")
        session = state.session
        desk, bodies = state.desk.open(Kind.INPUT, messages)
        if not bodies:
            raise TooFew("no client has sent its vector")
        require_least(session, len(bodies))
        total = np.zeros(session.length, session.word)
        for body in bodies.values():
            total += unpacked(body, session.length, session.bits, session.word)
        total = session.reduced(total)
        return state._replace(desk=desk, done=1, total=total, alive=tuple(sorted(bodies))), {}

    return _protocol("plain", 1, no_check, send, answer, fewest=1)._replace(hides=False)


def two_servers() -> Protocol:
    """A sum over two servers that do not collude, with additive shares.

    A client sends a random seed to one server, and its vector minus the mask of the seed to the other.
    Each adds what it has; the two sums together are the sum of the vectors.  This is the core of Prio
    without its proofs: a client may send any integers.

    Guarantees:
        - The sum is exact modulo 2^b over the clients that have sent to both servers.
        - Each server by itself sees uniform bytes beside the sum, however many clients collude with it.
        - The servers add nothing for fewer than two clients.
        - If both collude, they see every vector.

    Returns:
        A :class:`Protocol`.

    Examples:
        >>> import numpy as np
        >>> from fjx import secure
        >>> vectors = np.array([[1, 2], [3, 4], [5, -6]])
        >>> outcome = secure.play(secure.two_servers(), vectors, bits=8, leaves={1: 0})
        >>> outcome.signed.tolist(), outcome.survivors
        ([6, -4], (0, 2))

    References:
        Corrigan-Gibbs, Boneh, *Prio: Private, Robust, and Scalable Computation of Aggregate
        Statistics*, NSDI 2017 (arXiv:1703.06255).
    """

    def check(session: Session) -> None:
        if session.clients < 2:
            raise TooFew("a secure sum of one client is its vector; take at least two clients")

    def send(state: Client, messages: Sequence[bytes]) -> tuple[Client, Messages]:
        _require_first(state, messages)
        session = state.session
        seed = derive(state.seed, session.name, "share", state.id)
        share = state.vector.copy()
        _crypto.add_mask(share, _share_key(session, state.id, seed), -1)
        return state.ended(), {
            SERVER: state.channel(SERVER).first(Kind.INPUT, seed),
            HELPER: state.channel(HELPER).first(
                Kind.INPUT, packed(session.reduced(share), session.bits)
            ),
        }

    def answer(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
        steps = _first_server if state.desk.address == SERVER else _second_server
        if state.done >= len(steps):
            raise Unexpected("the sum has ended, and the server answers nothing more")
        state, answers = steps[state.done](state, messages)
        return state._replace(done=state.done + 1), answers

    return _protocol("two servers", 2, check, send, answer, fewest=2)


def _share_key(session: Session, client: int, seed: bytes) -> bytes:
    return derive(seed, session.name, "mask of a share", client)


def _collect(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    session = state.session
    size = KEY if state.desk.address == SERVER else packed_size(session.length, session.bits)
    desk, bodies = state.desk.open(Kind.INPUT, messages)
    for body in bodies.values():
        fixed(body, size)
    state = state._replace(desk=desk, parts=dict(sorted(bodies.items())))
    if state.desk.address == HELPER:
        return state, {}
    return state, write_other_server(
        state.desk, Kind.HELD, table_bytes(dict.fromkeys(bodies, b""), 0)
    )


def _add_shares(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    """The second server adds for the clients that have sent to both."""
    session = state.session
    (held,) = tables(read_other_server(state.desk, Kind.HELD, messages), [0], session.clients)
    alive = tuple(i for i in state.parts if i in held)
    _require_two(alive)
    require_least(session, len(alive))
    total = np.zeros(session.length, session.word)
    for i in alive:
        total += unpacked(state.parts[i], session.length, session.bits, session.word)
    body = table_bytes(dict.fromkeys(alive, b""), 0)
    body += packed(session.reduced(total), session.bits)
    return state._replace(parts={}, alive=alive), write_other_server(state.desk, Kind.PARTIAL, body)


def _add_masks(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    """The first server adds the masks of the same clients."""
    session = state.session
    body = read_other_server(state.desk, Kind.PARTIAL, messages)
    size = packed_size(session.length, session.bits)
    cut = max(len(body) - size, 0)
    (named,) = tables(body[:cut], [0], session.clients)
    alive = tuple(named)
    if not set(alive) <= set(state.parts):
        raise Inconsistent("the other server has added for clients whose seed has not come")
    _require_two(alive)
    require_least(session, len(alive))
    total = unpacked(body[cut:], session.length, session.bits, session.word)
    for i in alive:
        _crypto.add_mask(total, _share_key(session, i, state.parts[i]))
    return state._replace(parts={}, total=session.reduced(total), alive=alive), {}


def _require_two(alive: Sequence[int]) -> None:
    if len(alive) < 2:
        raise TooFew(f"{len(alive)} clients have sent to both servers, and two are needed")


_first_server = (_collect, _add_masks)
_second_server = (_collect, _add_shares)
