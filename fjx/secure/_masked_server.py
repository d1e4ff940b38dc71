"""The server of Bonawitz et al. and of SecAgg+."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fjx.secure import _crypto
from fjx.secure._crypto import KEY
from fjx.secure._errors import Inconsistent, Malformed, TooFew, Unexpected
from fjx.secure._masked import (
    SEALED,
    SHARE,
    SIGNATURE,
    Peer,
    Rules,
    mask_key,
    require_share,
    survived,
)
from fjx.secure._messages import Kind, fixed, table_bytes, tables, unpacked
from fjx.secure._protocol import Desk, Messages
from fjx.secure._session import Session, require_least
from fjx.secure._shamir import join_shares


class Server(NamedTuple):
    """The server between two steps.

    Attributes:
        rules: choices of the protocol.
        desk: its channels to the clients.
        done: number of steps that it has answered.
        peers: public keys of the clients that have begun.
        rows: record of each client in the roster.
        shared: clients that have shared their secrets.
        total: sum of the masked vectors; at the end, of the vectors.
        alive: clients whose masked vector is in the sum.
    """

    rules: Rules
    desk: Desk
    done: int = 0
    peers: Mapping[int, Peer] = {}
    rows: Mapping[int, bytes] = {}
    shared: tuple[int, ...] = ()
    total: np.ndarray | None = None
    alive: tuple[int, ...] = ()

    @property
    def session(self) -> Session:
        return self.desk.session


def server(rules: Rules, session: Session, address: int, private: bytes) -> Server:
    """The server before its first step."""
    return Server(rules, Desk(session, address, private))


def outcome(state: Server) -> tuple[np.ndarray, tuple[int, ...]] | None:
    """The sum and the clients in it, at the end."""
    if state.done < (5 if state.rules.active else 4):
        return None
    assert state.total is not None
    return state.total, state.alive


def answer(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    """One step of the server, once the messages of a step have come."""
    steps = [_roster, _deliver, _add, *([_pass_on] if state.rules.active else []), _finish]
    if state.done >= len(steps):
        raise Unexpected("the sum has ended, and the server answers nothing more")
    state, answers = steps[state.done](state, messages)
    return state._replace(done=state.done + 1), answers


def _require(state: Server, came: int, step: str) -> None:
    threshold = state.rules.neighbours(state.session).threshold
    if came < threshold:
        raise TooFew(f"{came} clients have sent {step}, and the threshold is {threshold}")


def _roster(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    desk, bodies = state.desk.open(Kind.ADVERTISE, messages)
    _require(state, len(bodies), "their keys")
    near, size = state.rules.neighbours(desk.session), SIGNATURE if state.rules.active else 0
    rows = {i: desk.clients[i] + fixed(body, KEY + size) for i, body in bodies.items()}
    peers = {i: Peer(row[:KEY], row[KEY : 2 * KEY]) for i, row in rows.items()}
    keys = [key for peer in peers.values() for key in peer]
    if len(set(keys)) < len(keys):
        raise Inconsistent("two clients have sent the same public key")
    state = state._replace(desk=desk, peers=peers, rows=rows)
    rosters = {
        i: table_bytes({j: rows[j] for j in near.of[i] if j in rows}, 2 * KEY + size) for i in rows
    }
    return state, state.desk.write_each(Kind.ROSTER, rosters)


def _deliver(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    n, near = state.session.clients, state.rules.neighbours(state.session)
    bodies = state.desk.read(Kind.SHARES, messages, tuple(state.peers))
    _require(state, len(bodies), "their shares")
    boxes = {i: tables(body, [SEALED], n)[0] for i, body in bodies.items()}
    for i, to in boxes.items():
        if set(to) != set(near.of[i]) & set(state.peers):
            raise Inconsistent(f"client {i} has not sealed shares for all of its neighbours")
    delivered = {
        j: table_bytes({i: boxes[i][j] for i in near.of[j] if i in boxes}, SEALED) for j in boxes
    }
    state = state._replace(shared=tuple(boxes))
    return state, state.desk.write_each(Kind.DELIVERED, delivered)


def _add(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    session, near = state.session, state.rules.neighbours(state.session)
    bodies = state.desk.read(Kind.INPUT, messages, state.shared)
    _require(state, len(bodies), "their vectors")
    require_least(session, len(bodies))
    if not near.connect(bodies):
        raise TooFew(
            f"the {len(bodies)} clients that are left fall apart into groups without a mask between "
            "them, and each group's sum would be seen"
        )
    total = np.zeros(session.length, session.word)
    for body in bodies.values():
        total += unpacked(body, session.length, session.bits, session.word)
    state = state._replace(total=total, alive=tuple(bodies))
    survivors = {
        i: table_bytes({j: b"" for j in near.holders(i) if j in bodies}, 0) for i in bodies
    }
    return state, state.desk.write_each(Kind.SURVIVORS, survivors)


def _pass_on(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    bodies = state.desk.read(Kind.SIGNATURE, messages, state.alive)
    _require(state, len(bodies), "their signatures")
    for i, body in bodies.items():
        content = survived(state.session, state.alive)
        _crypto.verify(state.session.identities[i], fixed(body, SIGNATURE), content)
    signatures = table_bytes(bodies, SIGNATURE)
    return state, state.desk.write_each(Kind.SIGNATURES, dict.fromkeys(bodies, signatures))


def _finish(state: Server, messages: Sequence[bytes]) -> tuple[Server, Messages]:
    session, near = state.session, state.rules.neighbours(state.session)
    bodies = state.desk.read(Kind.UNMASK, messages, state.alive)
    _require(state, len(bodies), "the shares that unmask")
    gone = tuple(i for i in state.shared if i not in state.alive)
    own: dict[int, dict[int, int]] = {i: {} for i in state.alive}
    keys: dict[int, dict[int, int]] = {i: {} for i in gone}
    for holder, body in bodies.items():
        both = tables(body, [SHARE, SHARE], session.clients)
        for found, shares in zip((own, keys), both, strict=True):
            wanted = {i for i in found if holder in near.holders(i)}
            if set(shares) != wanted:
                raise Malformed(f"client {holder} has not sent the shares that it was asked for")
            for i, share in shares.items():
                found[i][holder + 1] = require_share(share)

    assert state.total is not None
    total = state.total.copy()
    for i in state.alive:
        _crypto.add_mask(total, _joined(state, i, own[i]), -1)
    for i in gone:
        left = [j for j in near.of[i] if j in state.alive]
        if not left:
            continue
        private = _joined(state, i, keys[i])
        if _crypto.public_key(private) != state.peers[i].mask:
            raise Inconsistent(f"the shares of client {i} give a key that is not its own")
        for j in left:  # the mask that j has added
            key = mask_key(private, state.peers[j].mask, session, i, j)
            _crypto.add_mask(total, key, -1 if j < i else 1)
    return state._replace(total=session.reduced(total)), {}


def _joined(state: Server, client: int, shares: Mapping[int, int]) -> bytes:
    """A secret of a client, from the first shares that came."""
    threshold = state.rules.neighbours(state.session).threshold
    if len(shares) < threshold:
        raise TooFew(
            f"{len(shares)} neighbours of client {client} are left, and the threshold is {threshold}"
        )
    secret = join_shares({point: shares[point] for point in sorted(shares)[:threshold]})
    if secret >= 1 << 8 * KEY:
        raise Inconsistent(f"the shares of client {client} give no secret")
    return secret.to_bytes(KEY, "little")
