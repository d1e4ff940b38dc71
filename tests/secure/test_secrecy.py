"""The bytes that a server sees say nothing beside the sum."""

import collections
import contextlib
import itertools

import numpy as np
import pytest

from fjx import secure
from fjx.secure import _crypto, _lightsecagg, _masked, _plain
from fjx.secure._lightsecagg import Code

MODULUS = 4


def structure(monkeypatch, protocol, leaves):
    """The masks of each client by key with their signs, and the keys that the server uses at the end.

    They are recorded from a run of the protocol, in which a mask of zeros stands for each.
    """
    clients, opened, now = collections.defaultdict(dict), set(), [None]

    def add_mask(vector, key, sign=1):
        if now[0] is None:
            opened.add(key)
        else:
            clients[now[0]][key] = clients[now[0]].get(key, 0) + sign

    def send(state, messages):
        now[0] = state.id
        try:
            return protocol.send(state, messages)
        finally:
            now[0] = None

    monkeypatch.setattr(_crypto, "add_mask", add_mask)
    with contextlib.suppress(secure.TooFew):
        secure.play(protocol._replace(send=send), np.zeros((3, 1), int), bits=2, leaves=leaves)
    return clients, opened


def views(clients, opened, vectors, seen):
    """How often each view of the server occurs, over all values of all masks.

    Args:
        clients: signs of the masks of each client, by key.
        opened: keys that the server learns.
        vectors: one integer for each client.
        seen: clients whose masked vector the server has.
    """
    keys = sorted({key for signs in clients.values() for key in signs})
    values = np.array([*itertools.product(range(MODULUS), repeat=len(keys))])
    columns = [
        (vectors[i] + sum(sign * values[:, keys.index(key)] for key, sign in clients[i].items()))
        % MODULUS
        for i in seen
    ]
    columns += [values[:, keys.index(key)] for key in keys if key in opened]
    numbers = sum(column * MODULUS**place for place, column in enumerate(columns))
    return np.bincount(numbers, minlength=MODULUS ** len(columns)).tobytes()


@pytest.mark.parametrize(
    ("protocol", "leaves", "seen"),
    [
        (secure.bonawitz(), {}, (0, 1, 2)),
        (secure.bonawitz(), {1: 2}, (0, 2)),
        (secure.bonawitz(), {1: 3}, (0, 1, 2)),
        (secure.secagg_plus(), {}, (0, 1, 2)),
    ],
)
def test_transcripts_of_equal_sums_are_equally_distributed(monkeypatch, protocol, leaves, seen):
    """Over all inputs of three clients and all masks modulo 4: the view depends on the sum alone."""
    clients, opened = structure(monkeypatch, protocol, leaves)
    # Three pairs, and a mask of its own for each client that has sent its vector.
    assert len({key for signs in clients.values() for key in signs}) == 3 + len(seen)
    by_sum = collections.defaultdict(set)
    for vectors in itertools.product(range(MODULUS), repeat=3):
        total = sum(vectors[i] for i in seen) % MODULUS
        by_sum[total].add(views(clients, opened, vectors, seen))
    assert [len(by_sum[total]) for total in range(MODULUS)] == [1] * MODULUS
    assert len(set.union(*by_sum.values())) == MODULUS  # and the sums themselves differ


@pytest.mark.parametrize("leaves", [{1: 3, 2: 3}, {0: 2, 1: 3}])
def test_an_abort_leaks_nothing(monkeypatch, leaves):
    """One of three is left at the end, too few: the view is the same whatever the vectors are.

    The server then holds one share of each secret, which is uniform (see the tests of Shamir's scheme).
    """
    with pytest.raises(secure.TooFew):
        secure.play(secure.bonawitz(), np.zeros((3, 1), int), bits=2, leaves=leaves)
    clients, opened = structure(monkeypatch, secure.bonawitz(), leaves)
    assert opened == set()
    seen = [i for i in range(3) if leaves.get(i, 4) > 2]
    inputs = itertools.product(range(MODULUS), repeat=3)
    assert len({views(clients, opened, vectors, seen) for vectors in inputs}) == 1


def test_views_tell_vectors_apart_where_a_mask_is_missing(monkeypatch):
    """The same test fails without own masks, if the server asks for the key of a client that is late."""
    clients, _ = structure(monkeypatch, secure.bonawitz(), {})
    pairs = {
        i: {k: s for k, s in signs.items() if _count(clients, k) == 2}
        for i, signs in clients.items()
    }
    of_client_1 = set(pairs[1])
    first = views(pairs, of_client_1, (0, 1, 1), (0, 1, 2))
    second = views(pairs, of_client_1, (0, 2, 0), (0, 1, 2))
    assert first != second


def _count(clients, key):
    return sum(key in signs for signs in clients.values())


@pytest.mark.parametrize("name", ["bonawitz", "secagg_plus", "two_servers", "lightsecagg"])
def test_what_a_client_sends_is_uniform_and_independent_of_its_vector(monkeypatch, name):
    """Chi-square of the top byte of 50,000 coordinates: 256 bins, 255 degrees of freedom.

    The bound is six standard errors, 255 + 6 sqrt(510).  The pairs of the top two bits that are sent and
    of one bit of the vector have 8 bins: 7 + 6 sqrt(14).
    """
    sent = []
    module = {"two_servers": _plain, "lightsecagg": _lightsecagg}.get(name, _masked)
    packed = module.packed
    monkeypatch.setattr(module, "packed", lambda v, bits: sent.append((v, bits)) or packed(v, bits))
    d, b = 50_000, 24
    vector = np.zeros((3, d), int)
    vector[0, ::2] = 2**b - 1
    seeds = (_crypto.digest("seed", i) for i in itertools.count())
    secure.play(getattr(secure, name)(), vector, bits=b, entropy=lambda n: next(seeds)[:n])
    masked, bits = next((v, w) for v, w in sent if len(v) == d)
    top = (masked >> masked.dtype.type(bits - 8)).astype(int)
    counts = np.bincount(top, minlength=256)
    assert ((counts - d / 256) ** 2 / (d / 256)).sum() < 255 + 6 * 510**0.5
    pairs = np.bincount((top >> 6) * 2 + (vector[0] > 0), minlength=8)
    assert ((pairs - d / 8) ** 2 / (d / 8)).sum() < 7 + 6 * 14**0.5


@pytest.mark.parametrize("privacy", [1, 2])
def test_values_of_a_mask_hide_it_from_as_many_clients_as_promised(privacy):
    """Over a basis of rows: the values of T clients are a bijection of the T random rows."""
    code = Code(clients=5, survivors=privacy + 2, privacy=privacy, length=2, width=31)
    zero, unit = np.zeros(2, np.uint64), np.eye(privacy, dtype=np.uint64)[:, :, None]
    columns = [code.encoded(zero, row) for row in unit]  # piece = 1: one element a row
    prime = 2**31 - 1
    for holders in itertools.combinations(range(5), privacy):
        matrix = [[int(column[j][0]) for column in columns] for j in holders]
        det = (
            matrix[0][0]
            if privacy == 1
            else (matrix[0][0] * matrix[1][1] - matrix[0][1] * matrix[1][0])
        )
        assert det % prime != 0


def test_rows_that_hide_a_mask_are_random_and_new(monkeypatch):
    """They were zeros in a published implementation: every client could then read the mask."""
    used, encoded = [], Code.encoded
    monkeypatch.setattr(Code, "encoded", lambda self, *x: used.append(x) or encoded(self, *x))
    for _ in range(2):
        secure.play(secure.lightsecagg(privacy_rate=0.5), np.zeros((4, 20), int), bits=8)
    assert len(used) == 8  # four clients in two sums
    assert all(rows.shape == (2, 10) for _, rows in used)
    numbers = [number for pair in used for part in pair for number in part.ravel().tolist()]
    assert len(set(numbers)) == len(numbers) == 8 * 40  # of 2^31: two are equal once in 40,000 runs


@pytest.mark.parametrize("name", ["bonawitz", "lightsecagg", "two_servers"])
def test_every_round_has_new_keys(monkeypatch, name):
    """Also with the same seeds: the session and the round are part of every key."""
    keys, derive = [], _crypto.derive

    def recorded(secret, salt, *info, **others):
        keys.append(derive(secret, salt, *info, **others))
        return keys[-1]

    for module in (_crypto, _masked, _plain, _lightsecagg):
        monkeypatch.setattr(module, "derive", recorded)
    runs = []
    for change in ({"round": 0}, {"round": 1}, {"session_id": b"t" * 16}):
        keys.clear()
        secure.play(
            getattr(secure, name)(),
            np.zeros((3, 2), int),
            **{"session_id": b"s" * 16, **change},
            entropy=lambda size: b"e" * size,
        )
        runs.append(set(keys))
    assert len(set.union(*runs)) == sum(map(len, runs))
