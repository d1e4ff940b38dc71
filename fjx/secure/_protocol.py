"""Protocols as pure state machines, and the channel between a client and a server."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fjx.secure import _crypto
from fjx.secure._errors import Inconsistent, Malformed, TooFew, Unexpected
from fjx.secure._messages import Kind, read, tables, write
from fjx.secure._session import HELPER, SERVER, Session

Messages = dict[int, bytes]
"""Messages to send, by the address of the receiver."""


class Protocol(NamedTuple):
    """A secure sum, as pure functions of the host.

    The functions ``send`` and ``answer`` take a state and the messages that came, and return the next
    state and the messages to send.  They raise an :class:`Abort` for messages that no honest party
    sends, and where too few parties are left.  A state is used once: a client that sends twice from one
    state would use its keys twice.

    Attributes:
        name: name with all parameters; parties with another name have no key in common.
        steps: names of the steps in which clients send, in order.
        servers: number of servers.
        check: ``(session) -> None``.  Raises ValueError or :class:`TooFew` if the protocol cannot add
            for this session.
        client: ``(session, number, vector, seed, signing_key) -> state``.  ``vector`` holds residues;
            ``seed`` is 32 random bytes, new for every session and round.
        send: ``(state, messages) -> (state, messages)`` of a client in one step.
        server: ``(session, address, private_key) -> state``.
        answer: ``(state, messages) -> (state, messages)`` of a server.
        outcome: ``(state) -> (total, survivors)`` of the first server, or None before its end.
        fewest: ``(clients) -> int``.  The fewest of so many clients of which it gives the sum.
        degree: ``(clients) -> int``.  The neighbours with whom a client shares its secrets, where these
            are not all others; else None.
        hides: True if no server sees a vector as long as no more parties collude than the protocol
            allows.
        reals: True if vectors and sums are of float64, and the sum is not exact.
        hiding: ``(mask) -> protocol``, which encrypts only the coordinates that are True in a mask; None
            if the protocol has no such form.
    """

    name: str
    steps: tuple[str, ...]
    servers: int
    check: Callable[[Session], None]
    client: Callable[[Session, int, np.ndarray, bytes, bytes | None], Any]
    send: Callable[[Any, Sequence[bytes]], tuple[Any, Messages]]
    server: Callable[[Session, int, bytes], Any]
    answer: Callable[[Any, Sequence[bytes]], tuple[Any, Messages]]
    outcome: Callable[[Any], tuple[np.ndarray, tuple[int, ...]] | None]
    fewest: Callable[[int], int]
    degree: Callable[[int], int] | None = None
    hides: bool = True
    reals: bool = False
    hiding: Callable[[tuple[bool, ...]], "Protocol"] | None = None


ADDRESSES = (SERVER, HELPER)
"""The addresses of the servers, in the order of :attr:`Session.servers`."""


class Channel(NamedTuple):
    """One client's sealed channel to one server: its end at the client.

    Attributes:
        session: session of the client.
        id: number of the client.
        private: the client's private key of this session.
        server: address of the server.
    """

    session: Session
    id: int
    private: bytes
    server: int = SERVER

    def _key(self, way: str) -> bytes:
        public = self.session.servers[ADDRESSES.index(self.server)]
        return _crypto.agree(self.private, public, self.session.name, way, self.id, self.server)

    def first(self, kind: Kind, body: bytes) -> bytes:
        """The first message to the server, which brings the client's public key."""
        public = _crypto.public_key(self.private)
        return write(self.session, kind, self.id, self.server, self._key("up"), body, public)

    def write(self, kind: Kind, body: bytes) -> bytes:
        """A later message to the server."""
        return write(self.session, kind, self.id, self.server, self._key("up"), body)

    def read(self, kind: Kind, messages: Sequence[bytes]) -> bytes:
        """The body of the only message that came, which the server has sent."""
        if len(messages) != 1:
            raise Unexpected(
                f"client {self.id} waits for one message {kind.name}, and {len(messages)} came"
            )

        def key(sender: int, clear: bytes) -> bytes:
            if sender != self.server:
                raise Unexpected(f"a message from {sender}, and {self.server} is the server")
            return self._key("down")

        return read(self.session, kind, self.id, key, messages[0])[2]


def read_survivors(
    channel: Channel, messages: Sequence[bytes], held: Collection[int], threshold: int
) -> tuple[int, ...]:
    """The survivors that the server names to a client, once they are found to be possible.

    Args:
        channel: the client's end of its channel.
        messages: messages that came.
        held: clients of whom it holds a share.
        threshold: number of shares that give a secret back.

    Raises:
        Inconsistent: a survivor is a stranger, or the client itself is not one.
        TooFew: they are fewer than the threshold.
    """
    id, session = channel.id, channel.session
    (named,) = tables(channel.read(Kind.SURVIVORS, messages), [0], session.clients)
    alive = tuple(named)
    if not set(alive) <= set(held):
        raise Inconsistent(f"client {id} was told of survivors whose shares it does not hold")
    if id not in alive:
        raise Inconsistent(f"client {id} was told that it has dropped out")
    if len(alive) < threshold:
        raise TooFew(f"client {id} was told of {len(alive)} survivors, and needs {threshold}")
    return alive


class Desk(NamedTuple):
    """A server's ends of the channels to its clients.

    Attributes:
        session: session of the server.
        address: address of the server.
        private: its private key.
        clients: public key of each client that has begun.
    """

    session: Session
    address: int
    private: bytes
    clients: Mapping[int, bytes] = {}

    def _key(self, way: str, client: int) -> bytes:
        public = self.clients[client]
        return _crypto.agree(self.private, public, self.session.name, way, client, self.address)

    def open(self, kind: Kind, messages: Sequence[bytes]) -> tuple["Desk", dict[int, bytes]]:
        """The bodies of first messages by client, and the desk that knows these clients."""
        known: dict[int, bytes] = {}
        bodies: dict[int, bytes] = {}

        def key(sender: int, clear: bytes) -> bytes:
            if sender in known:
                raise Unexpected(f"a second message {kind.name} from client {sender}")
            if sender >= self.session.clients:
                raise Malformed(f"client {sender} in a session of {self.session.clients}")
            known[sender] = clear
            return self._replace(clients=known)._key("up", sender)

        for data in messages:
            sender, _, body = read(self.session, kind, self.address, key, data, open=_crypto.KEY)
            bodies[sender] = body
        return self._replace(clients=dict(sorted(known.items()))), bodies

    def read(self, kind: Kind, messages: Sequence[bytes], among: Sequence[int]) -> dict[int, bytes]:
        """The bodies of later messages by client, of which each of ``among`` may send one."""
        bodies: dict[int, bytes] = {}

        def key(sender: int, clear: bytes) -> bytes:
            if sender not in among:
                raise Unexpected(
                    f"a message {kind.name} from {sender}, who takes no part in this step"
                )
            if sender in bodies:
                raise Unexpected(f"a second message {kind.name} from client {sender}")
            return self._key("up", sender)

        for data in messages:
            sender, _, body = read(self.session, kind, self.address, key, data)
            bodies[sender] = body
        return dict(sorted(bodies.items()))

    def write(self, kind: Kind, client: int, body: bytes) -> bytes:
        """A message to a client."""
        return write(self.session, kind, self.address, client, self._key("down", client), body)

    def write_each(self, kind: Kind, bodies: Mapping[int, bytes]) -> Messages:
        """A message to each of some clients."""
        return {i: self.write(kind, i, body) for i, body in bodies.items()}


def _key_between(desk: Desk, sender: int) -> bytes:
    """The key by which one server writes to the other."""
    other = desk.session.servers[1 if desk.address == SERVER else 0]
    return _crypto.agree(desk.private, other, desk.session.name, "servers", sender)


def _other(desk: Desk) -> int:
    return HELPER if desk.address == SERVER else SERVER


def write_other_server(desk: Desk, kind: Kind, body: bytes) -> Messages:
    """A message to the other server."""
    own, other = desk.address, _other(desk)
    return {other: write(desk.session, kind, own, other, _key_between(desk, own), body)}


def read_other_server(desk: Desk, kind: Kind, messages: Sequence[bytes]) -> bytes:
    """The body of the only message that came, which the other server has sent."""
    if len(messages) != 1:
        raise Unexpected(f"one message {kind.name} is expected, and {len(messages)} came")
    other = _other(desk)

    def key(sender: int, clear: bytes) -> bytes:
        if sender != other:
            raise Unexpected(f"a message {kind.name} from {sender}, who is not the other server")
        return _key_between(desk, other)

    return read(desk.session, kind, desk.address, key, messages[0])[2]


def no_check(session: Session) -> None:
    """A protocol that adds for every session."""
