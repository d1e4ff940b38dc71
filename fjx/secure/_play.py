"""All parties of one secure sum in one process, and what they sent."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fjx import _validate
from fjx.secure import _crypto
from fjx.secure._errors import Abort
from fjx.secure._protocol import ADDRESSES, Protocol
from fjx.secure._session import Session, reals, require_width, residues


class Sent(NamedTuple):
    """One message of a sum: its step, its two ends and its length.

    Attributes:
        step: name of the step in which it was sent.
        sender: number of a client, or address of a server.
        receiver: number of a client, or address of a server.
        bytes: length of the message.
    """

    step: str
    sender: int
    receiver: int
    bytes: int


class Bill(NamedTuple):
    """All messages of one or many sums.

    Attributes:
        messages: messages in the order in which they were sent.
    """

    messages: tuple[Sent, ...] = ()

    @property
    def up(self) -> int:
        """Bytes from clients to servers."""
        return self._between(False, True)

    @property
    def down(self) -> int:
        """Bytes from servers to clients."""
        return self._between(True, False)

    @property
    def between(self) -> int:
        """Bytes from servers to servers."""
        return self._between(True, True)

    def step(self, name: str) -> "Bill":
        """The messages of one step."""
        return Bill(tuple(m for m in self.messages if m.step == name))

    def of(self, party: int) -> "Bill":
        """The messages that a party has sent or was sent."""
        return Bill(tuple(m for m in self.messages if party in (m.sender, m.receiver)))

    def _between(self, from_server: bool, to_server: bool) -> int:
        return sum(
            m.bytes
            for m in self.messages
            if (m.sender in ADDRESSES) is from_server and (m.receiver in ADDRESSES) is to_server
        )


class Transport(NamedTuple):
    """The way of messages between parties, as a pair of functions.

    Attributes:
        send: ``(receiver, message) -> None``.
        receive: ``(receiver) -> messages``: all that have come for it since the last call.
    """

    send: Callable[[int, bytes], None]
    receive: Callable[[int], Sequence[bytes]]


def in_memory() -> Transport:
    """A transport within one process: a list of messages for each receiver.

    Returns:
        A :class:`Transport`.

    Examples:
        >>> from fjx import secure
        >>> transport = secure.in_memory()
        >>> transport.send(3, b"hello")
        >>> transport.receive(3), transport.receive(3)
        ([b'hello'], [])
    """
    boxes: dict[int, list[bytes]] = {}

    def send(receiver: int, message: bytes) -> None:
        boxes.setdefault(receiver, []).append(message)

    def receive(receiver: int) -> list[bytes]:
        return boxes.pop(receiver, [])

    return Transport(send, receive)


class Outcome(NamedTuple):
    """The end of a secure sum.

    Attributes:
        total: sum modulo 2^b of the survivors' vectors, as unsigned words; of floats, as float64.
        survivors: numbers of the clients in the sum.
        bill: all messages.
        refused: clients that have stopped with an :class:`Abort`, and the abort.
        bits: width b of a coordinate.
    """

    total: np.ndarray
    survivors: tuple[int, ...]
    bill: Bill
    refused: Mapping[int, Abort]
    bits: int

    @property
    def signed(self) -> np.ndarray:
        """The sum as signed integers from -2^(b-1) to 2^(b-1) - 1; a sum of floats as it is."""
        if self.total.dtype.kind == "f":
            return self.total
        signed = self.total.astype(np.dtype(f"i{self.total.dtype.itemsize}"))
        spare = np.array(8 * self.total.dtype.itemsize - self.bits, signed.dtype)
        return (signed << spare) >> spare


def play(
    protocol: Protocol,
    vectors: Any,
    *,
    bits: int = 32,
    leaves: Mapping[int, int] | None = None,
    least: int = 1,
    round: int = 0,
    session_id: bytes | None = None,
    transport: Transport | None = None,
    entropy: Callable[[int], bytes] = os.urandom,
) -> Outcome:
    """One secure sum, with all of its parties in this process.

    Every party has a state of its own, and knows of the others what their messages say.  Messages travel
    as bytes over ``transport``.

    Guarantees:
        - ``total`` is the sum modulo 2^b of the vectors of ``survivors``, to the bit; a protocol of
          floats states its error.
        - All secrets are new random bytes in each call.

    Args:
        protocol: protocol of the sum, such as :func:`secagg_plus`.
        vectors: integers ``[n, d]``, one row for each client; from -2^(b-1) to 2^b - 1.  Numbers for a
            protocol of floats, which ignores ``bits``.
        bits: width b of a coordinate, 1 to 64; the sum is modulo 2^b.
        leaves: the step, by its number, from which on a client sends nothing; clients that are not
            named stay to the end.
        least: fewest clients of which a sum may be known; a protocol may ask for more.
        round: number of the round.
        session_id: 16 bytes, new for every run; random by default.
        transport: transport of the messages; :func:`in_memory` by default.
        entropy: source of secret bytes, ``(count) -> bytes``.  Another one than the default makes a run
            repeatable, and its secrets worthless.

    Returns:
        An :class:`Outcome`.

    Raises:
        TypeError: the vectors are not of integers.
        ValueError: an integer does not fit into b bits, ``leaves`` names a client or step that does not
            exist, or the protocol cannot add for so many clients.
        Abort: a server gave up; a :class:`TooFew` if too few clients were left.

    Examples:
        >>> import numpy as np
        >>> from fjx import secure
        >>> outcome = secure.play(secure.bonawitz(), np.eye(3, dtype=int), bits=16)
        >>> outcome.total.tolist(), outcome.bill.step("input").up
        ([1, 1, 1], 168)
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2:
        raise ValueError(f"vectors must have the shape [clients, coordinates], got {vectors.shape}")
    n, bits, leaves = len(vectors), require_width(bits), dict(leaves or {})
    for client, step in leaves.items():
        if not (0 <= client < n and 0 <= step <= len(protocol.steps)):
            raise ValueError(
                f"leaves names client {client} and step {step}, and there are clients 0 to {n - 1} and "
                f"steps 0 to {len(protocol.steps)}"
            )
    privates = [entropy(_crypto.KEY) for _ in range(protocol.servers)]
    signing = [entropy(_crypto.KEY) for _ in range(n if "sign" in protocol.steps else 0)]
    session = Session(
        protocol=protocol.name,
        id=entropy(16) if session_id is None else session_id,
        round=round,
        clients=n,
        length=vectors.shape[1],
        bits=bits,
        servers=tuple(_crypto.public_key(private) for private in privates),
        identities=tuple(_crypto.signing_key(private) for private in signing),
        least=_validate.static_integer("least", least, at_least=1),
    )
    if len(session.id) != 16:
        raise ValueError(f"session_id must have 16 bytes, got {len(session.id)}")
    try:
        protocol.check(session)
    except Abort as abort:
        abort.bill = Bill()
        raise
    prepared = reals if protocol.reals else residues
    rows = [prepared(f"vectors[{i}]", row, session) for i, row in enumerate(vectors)]
    clients = {
        i: protocol.client(session, i, row, entropy(_crypto.KEY), signing[i] if signing else None)
        for i, row in enumerate(rows)
    }
    servers = {
        address: protocol.server(session, address, private)
        for address, private in zip(ADDRESSES, privates, strict=False)
    }
    wire = in_memory() if transport is None else transport
    sent: list[Sent] = []
    refused: dict[int, Abort] = {}

    def post(step: str, sender: int, messages: Mapping[int, bytes]) -> None:
        for receiver, message in messages.items():
            sent.append(Sent(step, sender, receiver, len(message)))
            wire.send(receiver, message)

    def step_of(number: int, step: str) -> None:
        for i in list(clients):
            if leaves.get(i, number + 1) <= number:
                del clients[i]
                continue
            try:
                clients[i], messages = protocol.send(clients[i], wire.receive(i))
            except Abort as abort:
                refused[i] = abort
                del clients[i]
                continue
            post(step, i, messages)
        # Servers answer the clients, and then each other, until nobody has anything to say.
        waiting = list(servers)
        while waiting:
            inboxes = {address: wire.receive(address) for address in waiting}
            waiting = []
            for address, inbox in inboxes.items():
                servers[address], messages = protocol.answer(servers[address], inbox)
                post(step, address, messages)
                waiting += [other for other in servers if other in messages]

    try:
        for number, name in enumerate(protocol.steps):
            step_of(number, name)
    except Abort as abort:
        abort.bill = Bill(tuple(sent))
        raise
    end = protocol.outcome(servers[ADDRESSES[0]])
    assert end is not None, protocol.name
    return Outcome(*end, Bill(tuple(sent)), refused, bits)
