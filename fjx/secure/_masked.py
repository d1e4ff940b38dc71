"""Sums of masked vectors: the client of Bonawitz et al. and of SecAgg+.

Client i adds to its vector a mask of its own, PRG(b_i), and for each neighbour j the mask PRG(s_ij) that
the two agree on, with a plus at the lower number and a minus at the higher one.  The masks of pairs
cancel in the sum.  Shares of b_i and of the key behind the s_ij are held by the neighbours.  For each
client they give back one of the two: b_i if its vector has come, the key if it has not.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fjx.secure import _crypto
from fjx.secure._crypto import KEY, TAG, Stream, derive
from fjx.secure._errors import Inconsistent, TooFew, Unexpected
from fjx.secure._messages import Kind, fixed, packed, table_bytes, tables
from fjx.secure._protocol import Channel, Messages, read_survivors
from fjx.secure._session import SERVER, Session, require_least
from fjx.secure._shamir import PRIME, split_secret

SHARE = 33
"""Bytes of one share."""

SEALED = 2 * SHARE + TAG
"""Bytes of the two shares that one client sends to another."""

SIGNATURE = 64


class Neighbours(NamedTuple):
    """The clients that hold each other's shares.

    Attributes:
        of: neighbours of each client.
        threshold: number of shares that give a secret back.
    """

    of: tuple[tuple[int, ...], ...]
    threshold: int

    def holders(self, client: int) -> tuple[int, ...]:
        """The clients that hold shares of a client's secrets: its neighbours and itself."""
        return tuple(sorted((*self.of[client], client)))

    def connect(self, clients: Collection[int]) -> bool:
        """True if paths over neighbours lead from each of some clients to all others of them."""
        apart, reached = set(clients), set(list(clients)[:1])
        while reached:
            apart -= reached
            reached = {j for i in reached for j in apart.intersection(self.of[i])}
        return not apart


class Rules(NamedTuple):
    """The choices that make one protocol of this family.

    Attributes:
        neighbours: ``(session) -> Neighbours``.
        active: True if the server may lie: keys are signed, and so are the lists of survivors.
    """

    neighbours: Callable[[Session], Neighbours]
    active: bool


class Peer(NamedTuple):
    """The public keys of another client: for sealing, and for masks."""

    channel: bytes
    mask: bytes


class Client(NamedTuple):
    """A client between two steps.

    Attributes:
        session: facts that all parties agree on.
        rules: choices of the protocol.
        id: number of the client.
        vector: its vector, as residues.
        seed: the source of all its secrets.
        signing: private key of its signatures, or None.
        done: number of steps that it has sent.
        peers: public keys of its neighbours.
        held: shares that it holds, by owner: of the key, and of the own mask.
        alive: survivors among those whose shares it holds.
    """

    session: Session
    rules: Rules
    id: int
    vector: np.ndarray
    seed: bytes
    signing: bytes | None
    done: int = 0
    peers: Mapping[int, Peer] = {}
    held: Mapping[int, tuple[bytes, bytes]] = {}
    alive: tuple[int, ...] = ()

    def secret(self, purpose: str) -> bytes:
        """One of its secrets."""
        return derive(self.seed, self.session.name, purpose, self.id)

    @property
    def channel(self) -> Channel:
        return Channel(self.session, self.id, self.secret("channel"))

    @property
    def neighbours(self) -> Neighbours:
        return self.rules.neighbours(self.session)


def client(
    rules: Rules,
    session: Session,
    id: int,
    vector: np.ndarray,
    seed: bytes,
    signing: bytes | None = None,
) -> Client:
    """A client before its first step."""
    if rules.active and signing is None:
        raise ValueError("this protocol signs: give the client its signing key")
    return Client(session, rules, id, vector, seed, signing)


def send(state: Client, messages: Sequence[bytes]) -> tuple[Client, Messages]:
    """One step of a client."""
    steps = [_advertise, _share, _mask, *([_sign] if state.rules.active else []), _unmask]
    if state.done >= len(steps):
        raise Unexpected(f"client {state.id} has ended, and answers nothing more")
    state, message = steps[state.done](state, messages)
    return state._replace(done=state.done + 1), {SERVER: message}


def advertised(session: Session, id: int, channel: bytes, mask: bytes) -> bytes:
    """The content that a client signs to say that two keys are its own."""
    return _crypto.digest("advertised", session.name, id, channel, mask)


def survived(session: Session, alive: Sequence[int]) -> bytes:
    """The content that a client signs to say which clients it was told have survived."""
    return _crypto.digest("survived", session.name, *alive)


def mask_key(private: bytes, public: bytes, session: Session, i: int, j: int) -> bytes:
    """The key of the mask of a pair."""
    return _crypto.agree(private, public, session.name, "mask of a pair", min(i, j), max(i, j))


def _advertise(state: Client, messages: Sequence[bytes]) -> tuple[Client, bytes]:
    if messages:
        raise Unexpected("a message came before the first step")
    mask = _crypto.public_key(state.secret("mask"))
    body = mask
    if state.rules.active:
        assert state.signing is not None
        channel = _crypto.public_key(state.secret("channel"))
        body += _crypto.sign(state.signing, advertised(state.session, state.id, channel, mask))
    return state, state.channel.first(Kind.ADVERTISE, body)


def _share(state: Client, messages: Sequence[bytes]) -> tuple[Client, bytes]:
    session, near = state.session, state.neighbours
    size = 2 * KEY + (SIGNATURE if state.rules.active else 0)
    (roster,) = tables(state.channel.read(Kind.ROSTER, messages), [size], session.clients)
    own = _crypto.public_key(state.secret("channel")), _crypto.public_key(state.secret("mask"))
    peers = {i: Peer(row[:KEY], row[KEY : 2 * KEY]) for i, row in roster.items()}
    if not set(peers) <= set(near.of[state.id]):
        raise Inconsistent(
            f"client {state.id} was sent keys of clients that are not its neighbours"
        )
    keys = [*own, *(key for peer in peers.values() for key in peer)]
    if len(set(keys)) < len(keys):
        raise Inconsistent(f"client {state.id} was sent the same public key twice")
    if len(peers) + 1 < near.threshold:
        raise TooFew(
            f"client {state.id} has {len(peers)} neighbours, and its secrets need {near.threshold} "
            "holders"
        )
    if state.rules.active:
        for i, row in roster.items():
            content = advertised(session, i, *peers[i])
            _crypto.verify(session.identities[i], row[2 * KEY :], content)

    points = [i + 1 for i in (*peers, state.id)]
    pairs = [_split(state, purpose, points) for purpose in ("mask", "own mask")]
    both = {point - 1: (pairs[0][point], pairs[1][point]) for point in points}
    sealed = {
        j: _crypto.seal(_pair_key(state, peer, state.id, j), 0, b"", b"".join(both[j]))
        for j, peer in peers.items()
    }
    state = state._replace(peers=peers, held={state.id: both[state.id]})
    return state, state.channel.write(Kind.SHARES, table_bytes(sealed, SEALED))


def _split(state: Client, purpose: str, points: list[int]) -> dict[int, bytes]:
    """Shares of one of a client's secrets."""
    stream = Stream(state.secret(f"shares of {purpose}"))
    coefficients = [stream.below(PRIME) for _ in range(state.neighbours.threshold - 1)]
    secret = int.from_bytes(state.secret(purpose), "little")
    shares = split_secret(secret, coefficients, points)
    return {point: share.to_bytes(SHARE, "little") for point, share in shares.items()}


def _pair_key(state: Client, peer: Peer, sender: int, receiver: int) -> bytes:
    """The key under which one client seals shares for another."""
    own, name = state.secret("channel"), state.session.name
    return _crypto.agree(own, peer.channel, name, "shares", sender, receiver)


def _mask(state: Client, messages: Sequence[bytes]) -> tuple[Client, bytes]:
    session, threshold = state.session, state.neighbours.threshold
    (sealed,) = tables(state.channel.read(Kind.DELIVERED, messages), [SEALED], session.clients)
    if not set(sealed) <= set(state.peers):
        raise Inconsistent(f"client {state.id} was sent shares of clients without keys")
    if len(sealed) + 1 < threshold:
        raise TooFew(
            f"client {state.id} has shares of {len(sealed)} others, and needs {threshold - 1}"
        )
    held = dict(state.held)
    for j, box in sealed.items():
        shares = _crypto.unseal(_pair_key(state, state.peers[j], j, state.id), 0, b"", box)
        held[j] = (shares[:SHARE], shares[SHARE:])

    masked = state.vector.copy()
    _crypto.add_mask(masked, state.secret("own mask"))
    for j in sealed:
        key = mask_key(state.secret("mask"), state.peers[j].mask, session, state.id, j)
        _crypto.add_mask(masked, key, 1 if state.id < j else -1)
    body = packed(session.reduced(masked), session.bits)
    return state._replace(held=held), state.channel.write(Kind.INPUT, body)


def _survivors(state: Client, messages: Sequence[bytes]) -> tuple[int, ...]:
    """The survivors that the server names, once they are found to be possible."""
    near = state.neighbours
    alive = read_survivors(state.channel, messages, state.held, near.threshold)
    if len(near.of[state.id]) + 1 == state.session.clients:  # else it knows its neighbours only
        require_least(state.session, len(alive))
    return alive


def _sign(state: Client, messages: Sequence[bytes]) -> tuple[Client, bytes]:
    alive = _survivors(state, messages)
    assert state.signing is not None
    signature = _crypto.sign(state.signing, survived(state.session, alive))
    return state._replace(alive=alive), state.channel.write(Kind.SIGNATURE, signature)


def _unmask(state: Client, messages: Sequence[bytes]) -> tuple[Client, bytes]:
    if state.rules.active:
        _require_signatures(state, messages)
        alive = state.alive
    else:
        alive = _survivors(state, messages)
    # One list splits the clients in two, so that nobody can ask for both shares of one of them.
    own = {i: state.held[i][1] for i in alive}
    keys = {i: shares[0] for i, shares in state.held.items() if i not in alive}
    body = table_bytes(own, SHARE) + table_bytes(keys, SHARE)
    return state._replace(held={}, vector=state.vector[:0]), state.channel.write(Kind.UNMASK, body)


def _require_signatures(state: Client, messages: Sequence[bytes]) -> None:
    """Checks that enough survivors have signed the list that this client was told."""
    body = state.channel.read(Kind.SIGNATURES, messages)
    (signatures,) = tables(body, [SIGNATURE], state.session.clients)
    if not set(signatures) <= set(state.alive):
        raise Inconsistent(
            f"client {state.id} was sent signatures of clients that have dropped out"
        )
    if len(signatures) < state.neighbours.threshold:
        raise TooFew(
            f"{len(signatures)} clients have signed the list of survivors, and "
            f"{state.neighbours.threshold} must"
        )
    for i, signature in signatures.items():
        content = survived(state.session, state.alive)
        _crypto.verify(state.session.identities[i], signature, content)


def require_share(body: bytes) -> int:
    """A share from its bytes."""
    value = int.from_bytes(fixed(body, SHARE), "little")
    if value >= PRIME:
        raise Inconsistent("a share is outside of the field")
    return value
