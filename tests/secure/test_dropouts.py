"""Exact sums whatever drops out, and a typed abort where one more does.

Every pattern of up to eight clients is in ``test_every_dropout.py``.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjx import secure
from fjx.secure._graph import circle

PROTOCOLS = {
    "plain": secure.plain(),
    "two_servers": secure.two_servers(),
    "bonawitz": secure.bonawitz(),
    "active": secure.bonawitz(active=True),
    "secagg_plus": secure.secagg_plus(adversary_rate=0.2, dropout_rate=0.3),
    "lightsecagg": secure.lightsecagg(dropout_rate=0.4, privacy_rate=0.3),
    "bfv": secure.bfv(),
}


def needed(name, n):
    """The clients that must stay, by the docstrings; None where it depends on a graph."""
    return {
        "plain": 1,
        "two_servers": 2,
        "bfv": 2,
        "bonawitz": max(n // 2 + 1, 2),
        "active": min(max(2 * n // 3 + 1, 2), n),
        "lightsecagg": max(n - 2 * n // 5, 2),
    }[name]


def survivors(name, n, leaves, graph):
    """The clients in the sum, or None if there is none: the protocol as sets."""
    steps = PROTOCOLS[name].steps
    at = [{i for i in range(n) if leaves.get(i, len(steps)) > k} for k in range(len(steps))]
    if name != "secagg_plus":
        enough = all(len(there) >= needed(name, n) for there in at)
        return tuple(sorted(at[steps.index("input")])) if enough else None
    near, t = graph
    holders = [set(near[i]) | {i} for i in range(n)]
    there, sets = set(range(n)), []
    for k in range(4):
        there = {i for i in at[k] & there if k == 0 or len(holders[i] & there) >= t}
        if len(there) < t:
            return None
        sets.append(there)
    _, shared, came, last = sets
    apart, new = set(came), {min(came)}
    while new:
        apart -= new
        new = {j for i in new for j in near[i]} & apart
    if apart:  # groups with no mask between them
        return None
    for i in shared:
        wanted = i in came or set(near[i]) & came
        if wanted and len(holders[i] & last) < t:
            return None
    return tuple(sorted(came))


def check(name, vectors, bits, leaves):
    protocol, n = PROTOCOLS[name], len(vectors)
    graph = None

    def look(session):
        nonlocal graph
        protocol.check(session)
        if name == "secagg_plus":
            neighbours = protocol.client.args[0].neighbours(session)
            graph = neighbours.of, neighbours.threshold

    outcome = error = None
    try:
        outcome = secure.play(protocol._replace(check=look), vectors, bits=bits, leaves=leaves)
    except secure.TooFew as abort:
        error = abort
    expected = survivors(name, n, leaves, graph)
    if expected is None:
        assert error is not None, leaves
        return "aborted"
    assert outcome is not None, (leaves, error)
    assert outcome.survivors == expected
    total = [sum(int(vectors[i][k]) for i in expected) % 2**bits for k in range(vectors.shape[1])]
    assert outcome.total.tolist() == total
    return "summed"


def vectors_of(n, bits, seed=0):
    """Random rows between extreme ones."""
    word = np.uint32 if bits <= 32 else np.uint64
    rows = np.random.default_rng(seed).integers(0, 2**bits, (n, 3), np.uint64).astype(word)
    rows[:, 0], rows[0, 1] = 2**bits - 1, 0
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("name", PROTOCOLS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_random_patterns_of_many_clients(name, data):
    n = data.draw(st.integers(9, 30))
    steps = len(PROTOCOLS[name].steps)
    stays = st.just(steps) | st.just(steps) | st.just(steps) | st.integers(0, steps)
    leaves = dict(enumerate(data.draw(st.lists(stays, min_size=n, max_size=n))))
    bits = data.draw(st.integers(1, 40))
    check(name, vectors_of(n, bits, seed=n), bits, leaves)


@pytest.mark.few(7)
@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("bits", [1, 7, 33])
def test_odd_widths_and_signs(name, bits):
    low = -(1 << bits - 1)
    rows = np.array([[low, 0, low], [low, -1, 0], [-1, -1, 0], [0, 0, low]], np.int64)
    outcome = secure.play(PROTOCOLS[name], rows, bits=bits)
    assert outcome.total.tolist() == [int(x) % 2**bits for x in rows.sum(0)]
    signed = [(int(x) - low) % 2**bits + low for x in rows.sum(0)]
    assert outcome.signed.tolist() == signed


@pytest.mark.parametrize("name", PROTOCOLS)
def test_vectors_without_coordinates(name):
    outcome = secure.play(PROTOCOLS[name], np.zeros((3, 0), int))
    assert (outcome.total.shape, outcome.survivors) == ((0,), (0, 1, 2))


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "plain"])
def test_the_sum_of_one_client_is_refused(name):
    with pytest.raises(secure.TooFew, match="sum of one client is its vector"):
        secure.play(PROTOCOLS[name], np.zeros((1, 2), int))


@pytest.mark.parametrize(
    ("vectors", "bits", "leaves", "error", "match"),
    [
        (np.zeros((3, 2)), 8, None, TypeError, "must be of integers"),
        (np.full((3, 2), 256), 8, None, ValueError, "do not fit into bits=8"),
        (np.full((3, 2), -129), 8, None, ValueError, "do not fit into bits=8"),
        (np.zeros(3, int), 8, None, ValueError, "clients, coordinates"),
        (np.zeros((3, 2), int), 65, None, ValueError, "bits"),
        (np.zeros((3, 2), int), 8, {3: 0}, ValueError, "leaves names client 3"),
        (np.zeros((3, 2), int), 8, {0: 9}, ValueError, "step 9"),
    ],
)
def test_bad_arguments_are_refused(vectors, bits, leaves, error, match):
    with pytest.raises(error, match=match):
        secure.play(secure.plain(), vectors, bits=bits, leaves=leaves)


def test_a_field_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="does not fit into the field"):
        secure.play(secure.lightsecagg(), np.zeros((3, 2), int), bits=60)


def test_what_is_sent_is_what_the_layout_says():
    """Bonawitz et al.: their traffic law, d ceil(b) bits and a constant for each peer, in our bytes."""
    n, d, bits = 5, 1000, 26
    bill = secure.play(secure.bonawitz(), np.zeros((n, d), int), bits=bits).bill
    header, tag, key, share = 34, 16, 32, 33
    peers = n - 1
    up = {
        "advertise": header + key + key + tag,
        "share": header + 4 + peers * (4 + 2 * share + tag) + tag,
        "input": header + -(-d * bits // 8) + tag,
        "unmask": header + 4 + n * (4 + share) + 4 + tag,
    }
    down = {
        "advertise": header + 4 + peers * (4 + 2 * key) + tag,
        "share": header + 4 + peers * (4 + 2 * share + tag) + tag,
        "input": header + 4 + n * 4 + tag,
        "unmask": 0,
    }
    assert {step: bill.step(step).up for step in up} == {s: n * b for s, b in up.items()}
    assert {step: bill.step(step).down for step in down} == {s: n * b for s, b in down.items()}
    assert bill.of(0).up == sum(up.values())
    assert (bill.between, len(bill.messages)) == (0, 7 * n)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_sum_of_fewer_than_the_session_allows_is_not_known(name):
    step = PROTOCOLS[name].steps.index("input")
    rows = np.ones((5, 1), int)
    outcome = secure.play(PROTOCOLS[name], rows, leaves={4: step}, least=4)
    assert outcome.total.tolist() == [4]
    with pytest.raises(secure.TooFew, match="sum of 4 clients, and the session asks for 5"):
        secure.play(PROTOCOLS[name], rows, leaves={4: step}, least=5)


def test_clients_that_fall_apart_give_no_sum():
    """Four clients on a circle: opposite ones have no mask in common, so two of them are two sums.

    Their neighbours have left, and their keys are what the server may ask for.
    """
    protocol, rows = secure.secagg_plus(), vectors_of(4, 32)
    places = circle(b"s" * 16, 0, 4)
    for gone in itertools.combinations(range(4), 2):
        leaves = {places[k]: 2 for k in gone}
        try:
            secure.play(protocol, rows, leaves=leaves, session_id=b"s" * 16)
            found = "summed"
        except secure.TooFew as abort:
            found = str(abort)
        assert ("fall apart" in found) == ((gone[1] - gone[0]) == 2), found
