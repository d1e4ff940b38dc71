"""Whatever no honest party sends ends the protocol for whoever receives it."""

import collections

import numpy as np
import pytest

from fjx import secure
from fjx.secure import _crypto, _masked, _messages
from fjx.secure._messages import Kind, table_bytes
from fjx.secure._protocol import ADDRESSES, Desk
from fjx.secure._session import SERVER, Session

PROTOCOLS = {
    "plain": secure.plain(),
    "two_servers": secure.two_servers(),
    "bonawitz": secure.bonawitz(),
    "active": secure.bonawitz(active=True),
    "secagg_plus": secure.secagg_plus(),
    "lightsecagg": secure.lightsecagg(dropout_rate=0.3),
    "bfv": secure.bfv(),
    "ckks": secure.ckks(),
    "partly": secure.bfv().hiding((True, False)),
}
VECTORS = np.arange(8).reshape(4, 2)

# The kinds of messages that are sent to client 1, to the server and to the helper.
KINDS = {
    "plain": [(Kind.INPUT, SERVER)],
    "two_servers": [
        *[(Kind.INPUT, address) for address in ADDRESSES],
        (Kind.HELD, ADDRESSES[1]),
        (Kind.PARTIAL, SERVER),
    ],
    "bfv": [
        (Kind.ADVERTISE, ADDRESSES[1]),
        (Kind.ROSTER, 1),
        (Kind.HELD, SERVER),
        (Kind.INPUT, SERVER),
        (Kind.SHARES, ADDRESSES[1]),
        (Kind.PARTIAL, SERVER),
    ],
}
MASKED = [
    (Kind.ADVERTISE, SERVER),
    (Kind.ROSTER, 1),
    (Kind.SHARES, SERVER),
    (Kind.DELIVERED, 1),
    (Kind.INPUT, SERVER),
    (Kind.SURVIVORS, 1),
    (Kind.UNMASK, SERVER),
]
for name in ("bonawitz", "secagg_plus", "lightsecagg"):
    KINDS[name] = MASKED
KINDS["active"] = [*MASKED, (Kind.SIGNATURE, SERVER), (Kind.SIGNATURES, 1)]
KINDS["ckks"] = KINDS["partly"] = KINDS["bfv"]
ROWS = [(name, kind, receiver) for name, kinds in KINDS.items() for kind, receiver in kinds]


def altered(kind, receiver, alter):
    """A transport on which one message of a kind to a receiver is replaced by those of ``alter``."""
    inner, done = secure.in_memory(), []

    def send(to, message):
        header = _messages.header_of(message)
        if not done and to == receiver and header.kind == kind:
            done.append(message)
            for other in alter(message):
                inner.send(to, other)
        else:
            inner.send(to, message)

    return secure.Transport(send, inner.receive), done


def refusal(name, kind, receiver, alter):
    """The abort of the receiver."""
    transport, done = altered(kind, receiver, alter)
    try:
        outcome = secure.play(PROTOCOLS[name], VECTORS, bits=8, transport=transport)
    except secure.Abort as abort:
        assert done
        return abort if receiver in ADDRESSES else abort.__context__ or abort
    assert done
    assert receiver not in ADDRESSES
    return outcome.refused[receiver]


@pytest.mark.few(14)
@pytest.mark.parametrize(("name", "kind", "receiver"), ROWS)
def test_a_changed_byte_is_refused(name, kind, receiver):
    def change(message):
        place = (_messages.HEADER + len(message)) // 2
        return [message[:place] + bytes([message[place] ^ 1]) + message[place + 1 :]]

    assert isinstance(refusal(name, kind, receiver, change), secure.Tampered | secure.Malformed)


@pytest.mark.few(14)
@pytest.mark.parametrize(("name", "kind", "receiver"), ROWS)
def test_a_message_that_comes_twice_is_refused(name, kind, receiver):
    abort = refusal(name, kind, receiver, lambda message: [message, message])
    assert isinstance(abort, secure.Unexpected)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_message_of_another_session_or_round_is_refused(name):
    """The same message with the header of this session has no key of it."""
    kind, receiver = KINDS[name][0]
    for change in ({"round": 1}, {"session_id": b"other session..."}):
        caught = []
        transport, _ = altered(kind, receiver, lambda m, c=caught: c.append(m) or [m])
        foreign = {"session_id": b"this one session", **change}
        secure.play(PROTOCOLS[name], VECTORS, bits=8, transport=transport, **foreign)

        def swap(message, caught=caught):
            return caught

        transport, _ = altered(kind, receiver, swap)
        with pytest.raises(secure.Unexpected, match="another session or round"):
            secure.play(
                PROTOCOLS[name],
                VECTORS,
                bits=8,
                transport=transport,
                session_id=b"this one session",
            )

        def relabel(message, caught=caught):
            return [message[: _messages.HEADER] + caught[0][_messages.HEADER :]]

        transport, _ = altered(kind, receiver, relabel)
        with pytest.raises(secure.Tampered):
            secure.play(
                PROTOCOLS[name],
                VECTORS,
                bits=8,
                transport=transport,
                session_id=b"this one session",
            )


@pytest.mark.parametrize("name", ["bonawitz", "active", "secagg_plus", "lightsecagg"])
def test_a_message_of_another_step_is_refused(name):
    transport, sent = secure.in_memory(), collections.defaultdict(list)

    def send(receiver, message):
        sent[receiver].append(message)
        late = receiver == SERVER and _messages.header_of(message).kind == Kind.INPUT
        transport.send(receiver, sent[SERVER][0] if late else message)

    with pytest.raises(secure.Unexpected, match="ADVERTISE came, and this step waits for INPUT"):
        secure.play(
            PROTOCOLS[name], VECTORS, bits=8, transport=secure.Transport(send, transport.receive)
        )


class Party:
    """Three honest clients, and a server whose messages a test writes."""

    def __init__(self, protocol, n=3):
        self.private = b"p" * 32
        self.signing = [bytes([i]) * 32 for i in range(n)]
        self.session = Session(
            protocol.name,
            b"s" * 16,
            0,
            n,
            2,
            8,
            (_crypto.public_key(self.private),),
            tuple(map(_crypto.signing_key, self.signing)),
        )
        self.protocol, self.n = protocol, n
        rows = np.zeros((n, 2), np.uint32)
        self.clients = [
            protocol.client(self.session, i, rows[i], bytes([50 + i]) * 32, self.signing[i])
            for i in range(n)
        ]
        self.server = protocol.server(self.session, SERVER, self.private)
        self.inbox = [[] for _ in range(n)]

    @property
    def desk(self) -> Desk:
        return self.server.desk

    def step(self):
        """All clients send, and the honest server answers."""
        messages = []
        for i in range(self.n):
            self.clients[i], out = self.protocol.send(self.clients[i], self.inbox[i])
            messages += out.values()
        self.server, answers = self.protocol.answer(self.server, messages)
        self.inbox = [[answers[i]] if i in answers else [] for i in range(self.n)]

    def say(self, kind, body, client=0):
        """Client 0 receives this body in place of the server's."""
        return self.protocol.send(self.clients[client], [self.desk.write(kind, client, body)])


def at(name, steps):
    party = Party(PROTOCOLS[name])
    for _ in range(steps):
        party.step()
    return party


def ids(*clients):
    return table_bytes(dict.fromkeys(clients, b""), 0)


@pytest.mark.parametrize("name", ["bonawitz", "lightsecagg"])
def test_a_public_key_that_comes_twice_is_refused(name):
    party = at(name, 1)
    size = 64 if name == "bonawitz" else 32
    keys = {i: party.desk.clients[i].ljust(size, b"m") for i in (1, 2)}
    for roster in (
        {1: keys[1], 2: keys[1]},  # one key for two
        {1: keys[1], 2: party.desk.clients[0].ljust(size, b"n")},  # the client's own
    ):
        with pytest.raises(secure.Inconsistent, match="same public key twice"):
            party.say(Kind.ROSTER, table_bytes(roster, size))


def test_a_roster_of_strangers_or_of_too_few_is_refused():
    party = at("bonawitz", 1)
    keys = party.desk.clients
    own = {0: keys[0] + b"m" * 32, 1: keys[1] + b"n" * 32}
    with pytest.raises(secure.Inconsistent, match="not its neighbours"):
        party.say(Kind.ROSTER, table_bytes(own, 64))
    with pytest.raises(secure.TooFew):
        party.say(Kind.ROSTER, table_bytes({}, 64))


@pytest.mark.parametrize("name", ["bonawitz", "active", "lightsecagg"])
def test_impossible_survivors_are_refused(name):
    party = at(name, 3)
    with pytest.raises(secure.Inconsistent, match="that it has dropped out"):
        party.say(Kind.SURVIVORS, ids(1, 2))
    with pytest.raises(secure.TooFew):
        party.say(Kind.SURVIVORS, ids(0))
    with pytest.raises(secure.Malformed, match="client 3"):
        party.say(Kind.SURVIVORS, ids(0, 3))
    with pytest.raises(secure.Malformed):  # a list of the dead beside that of the living
        party.say(Kind.SURVIVORS, ids(0, 1) + ids(1, 2))


@pytest.mark.parametrize("name", ["bonawitz", "lightsecagg"])
def test_nobody_is_given_both_shares_of_a_client(name):
    """The second list of survivors is refused, whatever it says."""
    party = at(name, 3)
    client, _ = party.say(Kind.SURVIVORS, ids(0, 1, 2))
    party.clients[0] = client
    with pytest.raises(secure.Unexpected, match="has ended"):
        party.say(Kind.SURVIVORS, ids(0, 1))
    assert client.held == {}


def test_survivors_whose_shares_have_not_come_are_refused():
    party = Party(secure.bonawitz(), n=4)
    party.step()
    for i in (0, 1, 2):  # client 3 leaves
        party.clients[i], out = party.protocol.send(party.clients[i], party.inbox[i])
        party.inbox[i] = list(out.values())
    party.server, answers = party.protocol.answer(
        party.server, [m for i in (0, 1, 2) for m in party.inbox[i]]
    )
    party.clients[0], _ = party.protocol.send(party.clients[0], [answers[0]])
    with pytest.raises(secure.Inconsistent, match="does not hold"):
        party.say(Kind.SURVIVORS, ids(0, 1, 2, 3))


def test_an_active_server_cannot_show_two_lists():
    """Client 3 is told of other survivors than the others, and its signature fails for their list."""
    party = Party(secure.bonawitz(active=True), n=4)
    for _ in range(3):
        party.step()
    lists = [(0, 1, 2), (0, 1, 2), (0, 1, 2), (0, 1, 3)]
    signatures = {}
    for i, alive in enumerate(lists):
        party.clients[i], out = party.say(Kind.SURVIVORS, ids(*alive), client=i)
        signatures[i] = party.desk.read(Kind.SIGNATURE, [out[SERVER]], range(4))[i]
    honest = {i: signatures[i] for i in (0, 1, 2)}
    party.say(Kind.SIGNATURES, table_bytes(honest, 64))
    with pytest.raises(secure.Tampered, match="signature"):
        party.say(Kind.SIGNATURES, table_bytes(honest | {2: signatures[3]}, 64))
    with pytest.raises(secure.TooFew, match="2 clients have signed"):
        party.say(Kind.SIGNATURES, table_bytes({i: honest[i] for i in (0, 1)}, 64))
    with pytest.raises(secure.Inconsistent, match="dropped out"):
        party.say(Kind.SIGNATURES, table_bytes(signatures, 64))


def test_an_active_server_cannot_exchange_a_key():
    party = at("active", 1)
    body = party.clients[0].channel.read(Kind.ROSTER, party.inbox[0])
    (roster,) = _messages.tables(body, [128], party.n)
    roster[1] = roster[1][:32] + _crypto.public_key(b"m" * 32) + roster[1][64:]
    with pytest.raises(secure.Tampered, match="signature"):
        party.say(Kind.ROSTER, table_bytes(roster, 128))


def test_shares_of_another_key_are_found_out(monkeypatch):
    """A client that shares another key than its own, and leaves, cannot falsify the sum."""
    split = _masked._split

    def wrong(state, purpose, points):
        lie = state.id == 1 and purpose == "mask"
        return split(state._replace(seed=b"w" * 32) if lie else state, purpose, points)

    monkeypatch.setattr(_masked, "_split", wrong)
    with pytest.raises(secure.Inconsistent, match="a key that is not its own"):
        secure.play(secure.bonawitz(), VECTORS, bits=8, leaves={1: 2})


def test_a_client_sends_no_more_than_its_steps():
    party = at("bonawitz", 4)
    assert party.protocol.outcome(party.server)[1] == (0, 1, 2)
    with pytest.raises(secure.Unexpected, match="has ended"):
        party.protocol.send(party.clients[0], [])
    with pytest.raises(secure.Unexpected, match="has ended"):
        party.protocol.answer(party.server, [])


def test_a_stranger_is_refused():
    party = Party(secure.bonawitz())
    key = _crypto.public_key(b"x" * 32)
    message = _messages.write(party.session, Kind.ADVERTISE, 7, SERVER, b"k" * 32, b"m" * 32, key)
    with pytest.raises(secure.Malformed, match="client 7"):
        party.protocol.answer(party.server, [message])
