"""Every labelled pattern of dropouts of up to eight clients, each played to its end.

A pattern gives each client a step from which on it sends nothing.  States are values, so patterns that
begin alike share what they have in common: after each step the play forks into all sets of clients that
may send next.  An abort ends all patterns that go on from there, because nobody sends after it.
"""

import collections
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import secure
from fjx.secure import _crypto, _he, _lightsecagg, _masked, _plain, _survivors
from fjx.secure._protocol import ADDRESSES
from fjx.secure._session import HELPER, SERVER
from tests.secure.test_dropouts import PROTOCOLS, survivors, vectors_of


class World(NamedTuple):
    """All parties between two steps, and what is on its way to them."""

    clients: dict[int, Any]
    servers: dict[int, Any]
    boxes: dict[int, list[bytes]]


class End(NamedTuple):
    """The end of some patterns: one of them, how many they are, and the sum or None."""

    leaves: dict[int, int]
    patterns: int
    outcome: tuple[np.ndarray, tuple[int, ...]] | None


def beginning(protocol, rows, bits):
    """The parties, with secrets that a test may know."""
    n = len(rows)
    private = [bytes([90 + k]) * 32 for k in range(protocol.servers)]
    signing = [bytes([i + 1]) * 32 for i in range(n if "sign" in protocol.steps else 0)]
    session = secure.Session(
        protocol.name, b"s" * 16, 0, n, rows.shape[1], bits,
        tuple(map(_crypto.public_key, private)), tuple(map(_crypto.signing_key, signing)),
    )  # fmt: skip
    protocol.check(session)
    clients = {
        i: protocol.client(
            session, i, rows[i], bytes([50 + i]) * 32, signing[i] if signing else None
        )
        for i in range(n)
    }
    servers = {
        address: protocol.server(session, address, key)
        for address, key in zip(ADDRESSES, private, strict=False)
    }
    return session, World(clients, servers, {})


def offered(protocol, world):
    """What each client would send now, and the clients that stop by themselves."""
    sends, stopped = {}, []
    for i, client in world.clients.items():
        try:
            sends[i] = protocol.send(client, world.boxes.get(i, []))
        except secure.TooFew:
            stopped.append(i)
    return sends, stopped


def arrived(protocol, world, sends):
    """The world after these clients have sent, and all servers have answered."""
    servers, boxes = dict(world.servers), collections.defaultdict(list)
    for _, messages in sends.values():
        for receiver, message in messages.items():
            boxes[receiver].append(message)
    waiting = list(servers)
    while waiting:
        inboxes = {address: boxes.pop(address, []) for address in waiting}
        waiting = []
        for address, inbox in inboxes.items():
            servers[address], messages = protocol.answer(servers[address], inbox)
            for receiver, message in messages.items():
                boxes[receiver].append(message)
            waiting += [other for other in servers if other in messages]
    return World({i: state for i, (state, _) in sends.items()}, servers, dict(boxes))


def ends(protocol, world, step=0, left=(), ways=1):
    """The ends of all patterns that go on from a world.

    Args:
        protocol: protocol that is played.
        world: parties before a step.
        step: number of the step.
        left: pairs of a client that has left, and the step at which it did.
        ways: number of patterns that have come here, by the steps of clients that stopped by themselves.
    """
    steps = len(protocol.steps)
    sends, stopped = offered(protocol, world)
    ways *= (steps - step + 1) ** len(stopped)  # it does not matter when they leave from now on
    for count in range(len(sends) + 1):
        for there in itertools.combinations(sends, count):
            gone = [*left, *((i, step) for i in sends if i not in there)]
            try:
                after = arrived(protocol, world, {i: sends[i] for i in there})
            except secure.TooFew:
                yield End(dict(gone), ways * (steps - step) ** count, None)
                continue
            if step + 1 < steps:
                yield from ends(protocol, after, step + 1, gone, ways)
            else:
                outcome = protocol.outcome(after.servers[SERVER])
                assert outcome is not None
                yield End(dict(gone), ways, outcome)


@pytest.fixture
def remembered(monkeypatch):
    """Keys that were derived before are looked up: most of the time of a small sum goes there."""
    derive = functools.cache(_crypto.derive)
    monkeypatch.setattr(_crypto, "agree", functools.cache(_crypto.agree))
    for module in (_crypto, _masked, _plain, _lightsecagg, _he):
        monkeypatch.setattr(module, "derive", derive)


def graph_of(name, session):
    """The neighbours of each client and the threshold, of a protocol on a graph."""
    if name != "secagg_plus":
        return None
    found = PROTOCOLS[name].client.args[0].neighbours(session)
    return found.of, found.threshold


def check_every_pattern(name, n):
    protocol, bits = PROTOCOLS[name], 32
    rows = vectors_of(n, bits)
    session, world = beginning(protocol, rows, bits)
    graph, patterns, sums, seen = graph_of(name, session), 0, {}, []
    for end in ends(protocol, world):
        patterns += end.patterns
        expected = survivors(name, n, end.leaves, graph)
        assert (end.outcome is None) == (expected is None), end
        if expected is not None:
            total, alive = end.outcome
            assert alive == expected
            if alive not in sums:
                sums[alive] = rows[list(alive)].sum(0, dtype=np.uint32)
            assert np.array_equal(total, sums[alive])
        seen.append((end.leaves, expected))
    assert patterns == (len(protocol.steps) + 1) ** n
    assert {expected is None for _, expected in seen} == {True, False}
    check_arrays(protocol, n, graph, seen)


def check_arrays(protocol, n, graph, seen):
    """The arrays of the compiled simulation agree with all of these ends."""
    steps = len(protocol.steps)
    leaves = np.array([[left.get(i, steps) for i in range(n)] for left, _ in seen])
    near, threshold = np.ones((n, n), bool), protocol.fewest(n)
    if graph is not None:
        near = np.array([[j in graph[0][i] or i == j for j in range(n)] for i in range(n)])
    there = np.arange(steps)[None, :, None] < leaves[:, None, :]
    summed = protocol.steps.index("input")

    def model(one):
        return _survivors.survivors(jnp.asarray(near), threshold, one, summed)

    found = np.asarray(jax.jit(jax.vmap(model))(there))
    expected = np.array([[i in (alive or ()) for i in range(n)] for _, alive in seen])
    assert np.array_equal(found, expected)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_pattern_of_three_clients(remembered, name):
    check_every_pattern(name, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("n", [2, 4, 5, 6, 7, 8])
def test_every_pattern_of_up_to_eight_clients(remembered, name, n):
    check_every_pattern(name, n)


@pytest.mark.parametrize("n", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_two_servers_add_the_clients_that_have_reached_both(remembered, n):
    """Every pair of sets of clients: whose message has come to the one, and to the other."""
    protocol, rows = PROTOCOLS["two_servers"], vectors_of(n, 32)
    _, world = beginning(protocol, rows, 32)
    sends, _ = offered(protocol, world)
    reached = [set(s) for k in range(n + 1) for s in itertools.combinations(range(n), k)]
    for first, second in itertools.product(reached, repeat=2):
        got = {SERVER: first, HELPER: second}
        some = {
            i: (state, {to: m for to, m in messages.items() if i in got[to]})
            for i, (state, messages) in sends.items()
        }
        both = first & second
        if len(both) < 2:
            with pytest.raises(secure.TooFew):
                arrived(protocol, world, some)
            continue
        total, alive = protocol.outcome(arrived(protocol, world, some).servers[SERVER])
        assert alive == tuple(sorted(both))
        assert np.array_equal(total, rows[list(alive)].sum(0, dtype=np.uint32))
