"""Encrypted floats: an error within the stated bound, and nothing published as it was decrypted."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tenseal

import fjx
from fjx import aggregators, samplers, secure
from fjx.secure import _bfv, _ckks, _he
from fjx.secure._ckks import DEGREE, PRIMES, RANGE, SCALE, error_bound
from fjx.secure._session import HELPER, SERVER

PRECISION = 2.0**-16
SCHEME = _ckks._scheme(PRECISION)
PUBLIC = {"save_public_key": True, "save_secret_key": False}
SMALL = {**PUBLIC, "save_galois_keys": False, "save_relin_keys": False}


@pytest.fixture(scope="module")
def context():
    return _he.read_context(SCHEME, SCHEME.context().serialize(**SMALL))


def extremes(n, d):
    """The largest numbers of one sign, of both signs, tiny ones, zeros, and random ones."""
    most, random = RANGE / n, np.random.default_rng(0)
    rows = random.uniform(-most, most, (n, d))
    rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] = most, -most, 2.0**-60, 0
    rows[:, 4] = np.where(np.arange(n) % 2, most, -most)
    return rows


@pytest.mark.parametrize("n", [2, pytest.param(60, marks=pytest.mark.ci)])
def test_the_error_is_within_the_bound_at_extremes(n):
    rows = extremes(n, DEGREE // 2 + 5)
    total = secure.play(secure.ckks(), rows).total
    assert np.abs(total - rows.sum(0)).max() < PRECISION


@pytest.mark.ci
@pytest.mark.parametrize("n", [1, 4, 16])
def test_the_noise_is_within_its_own_bound_and_not_far_below(n):
    """2048 slots of one sum: the largest error is some 4 of the standard deviations of a slot.

    The bound takes 8 at a secret that is 6 times as large as usual, together some 70 deviations.
    """
    private = SCHEME.context()
    rows = np.random.default_rng(1).uniform(-9, 9, (n, DEGREE // 2))
    total = sum(tenseal.ckks_vector(private, row.tolist()) for row in rows[1:])
    total = tenseal.ckks_vector(private, rows[0].tolist()) + total
    error = np.abs(np.array(total.decrypt()) - rows.sum(0)).max()
    assert error_bound(n) / 60 < error < error_bound(n)


def test_decrypted_numbers_are_not_published():
    """Published ones are multiples of half the precision, unbiased: 4096 draws, 5 standard errors."""
    step, x = PRECISION / 2, 1 / 3
    sums = np.full(4096, x)
    session = secure.Session("", bytes(16), 0, 2, 4096, 32, (bytes(32), bytes(32)))
    found = SCHEME.published(session, SCHEME.publish(session, sums), 4096)
    assert set(np.unique(found / step)) == {np.floor(x / step), np.ceil(x / step)}
    assert abs(found.mean() - x) < 5 * step / 2 / np.sqrt(4096)
    with pytest.raises(secure.Inconsistent, match="more than its share"):
        SCHEME.publish(session, sums * 4e6)


def test_the_key_holder_is_not_the_server():
    """The adding server never has the secret key, and the other one gets the sum of ciphertexts only."""
    protocol, held, got = secure.ckks(), [], []

    def answer(state, messages):
        if state.desk.address == HELPER:
            got.append([len(message) for message in messages])
        state, answers = protocol.answer(state, messages)
        if state.desk.address == SERVER and state.context:
            held.append(tenseal.context_from(state.context).is_private())
        return state, answers

    secure.play(protocol._replace(answer=answer), np.ones((5, 2)))
    assert set(held) == {False}
    hellos, *others = [sizes for sizes in got if sizes]
    assert len(hellos) == 5
    assert max(hellos) < 100
    assert [len(sizes) for sizes in others] == [1]


def test_bytes_that_are_no_context_are_refused(context):
    good = context.serialize(**SMALL)
    bad = [os.urandom(size) for size in (0, 1, 10, 1000)]
    bad += [good[:size] for size in (10, len(good) // 2, len(good) - 1)]
    bad.append(SCHEME.context().serialize(save_secret_key=True))
    bad.append(_bfv.SCHEME.context().serialize(**SMALL))
    weak = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=DEGREE, coeff_mod_bit_sizes=[50, 49]
    )
    bad.append(weak.serialize(**SMALL))
    for data in bad:
        with pytest.raises(secure.Malformed):
            _he.read_context(SCHEME, data)
    with pytest.raises(secure.Malformed, match="other parameters"):
        _he.read_context(_bfv.SCHEME, good)


def test_bytes_that_are_no_ciphertexts_are_refused(context):
    """A flipped bit may give another ciphertext; nothing crashes, and nothing else is raised."""

    def read(part, length=3):
        return _he.read_ciphertexts(SCHEME, context, _he.chunks_bytes([part]), length)

    good = tenseal.ckks_vector(context, [1.0, 2.0, 3.0]).serialize()
    assert len(read(good)) == 1
    parts = [os.urandom(size) for size in (1, 10, 1000)]
    parts += [good[:size] for size in (10, len(good) // 2, len(good) - 1)]
    parts.append(tenseal.ckks_vector(context, [1.0, 2.0, 3.0], scale=2.0**30).serialize())
    integers = _bfv.SCHEME.context()
    parts.append(tenseal.bfv_vector(integers, [1, 2, 3]).serialize())
    for part in parts:
        with pytest.raises(secure.Malformed):
            read(part)
    with pytest.raises(secure.Malformed, match="4 numbers"):
        read(good, 4)
    for place in np.random.default_rng(0).integers(0, len(good), 20):
        other = good[:place] + bytes([good[place] ^ 16]) + good[place + 1 :]
        try:
            (vector,) = read(other)
            vector + vector
        except secure.Malformed:
            continue


def test_parameters_are_within_the_standard():
    """At most 109 bits of modulus at degree 4096 (homomorphicencryption.org, 128 bits classical)."""
    assert sum(PRIMES) <= 109
    assert 2.0 ** (PRIMES[0] - 1) >= 2 * RANGE * SCALE


@pytest.mark.parametrize(
    ("rows", "protocol", "error", "match"),
    [
        (np.array([[np.nan], [1.0]]), secure.ckks(), ValueError, "not finite"),
        (np.array([[1j], [1.0]]), secure.ckks(), TypeError, "must be of real numbers"),
        (np.array([[2.0**17 + 1], [1.0]]), secure.ckks(), ValueError, "scale the vectors down"),
        (np.ones((2, 1)), secure.ckks(precision=1e-8), ValueError, "take a larger precision"),
        (np.ones((1, 1)), secure.ckks(), secure.TooFew, "at least two"),
        (np.ones((2, 1)), secure.bfv(), TypeError, "must be of integers"),
    ],
)
def test_vectors_that_it_cannot_add_are_refused(rows, protocol, error, match):
    with pytest.raises(error, match=match):
        secure.play(protocol, rows)
    with pytest.raises(ValueError, match="precision"):
        secure.ckks(precision=0.5)


N, D = 5, 4
DATA = fjx.data.from_clients(
    [
        jnp.asarray(np.random.default_rng(i).normal(size=(2 + i % 3, D)), jnp.float32)
        for i in range(N)
    ]
)
PARAMS = {"body": jnp.zeros((2, 2)), "head": jnp.zeros(D)}


def loss(params, x, key):
    return jnp.mean(((params["body"].reshape(-1) + 2 * params["head"])[None] - x) ** 2)


CLIENT = fjx.clients.local_sgd(loss, optax.sgd(0.3), epochs=1, batch_size=2)
MEAN = fjx.compose(client=CLIENT, aggregator=aggregators.mean())


def run(protocol, algorithm=MEAN, rounds=1):
    return secure.run(
        jax.random.key(7), algorithm, PARAMS, DATA, sampler=samplers.full(), rounds=rounds,
        protocol=protocol,
    )  # fmt: skip


def distance(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.abs(x - y).max()) for x, y in leaves)


@pytest.mark.ci
def test_a_run_is_within_the_bound_of_the_plain_one():
    """The mean is a ratio of two sums, each less than the precision off."""
    found = run(secure.ckks())
    exact = fjx.simulate(jax.random.key(7), MEAN, PARAMS, DATA, sampler=samplers.full(), rounds=1)
    weight = float(DATA.weights.sum())
    largest = distance(exact.params, PARAMS)
    bound = PRECISION * (1 + largest) / (weight - PRECISION) + 2.0**-21  # float32
    assert distance(found.params, PARAMS) > 0.01
    assert 0 < distance(found.params, exact.params) < bound
    assert found.rounds[0].survivors == tuple(range(N))


@pytest.mark.ci
def test_a_run_of_integers_is_exact():
    """Sums of integers are rounded to the nearest: precision is below 1/2."""
    integers = fjx.compose(
        client=CLIENT, aggregator=aggregators.integer_mean(0.01, bits=12, clients=N)
    )
    found = run(secure.ckks(), integers, rounds=2)
    same = run(secure.plain(), integers, rounds=2)
    assert distance(found.params, same.params) == 0


@pytest.mark.parametrize("protocol", [secure.bfv(), secure.ckks()])
def test_a_part_is_encrypted_and_the_rest_is_seen(protocol):
    """The key holder gets the masked coordinates only, and the sum is that of all of them."""
    rows = np.array([[1, -2, 3], [4, 5, -6], [7, 8, 9]])
    partly = protocol.hiding((True, False, True))
    found = secure.play(partly, rows, bits=16).signed
    assert np.abs(found - rows.sum(0)).max() < PRECISION
    assert found[1] == 11
    seen = []

    def answer(state, messages):
        state, answers = partly.answer(state, messages)
        if state.desk.address == SERVER and state.clear is not None:
            seen.append(np.asarray(state.clear).tolist())
        return state, answers

    secure.play(partly._replace(answer=answer), rows, bits=16)
    assert seen == [[11]]
    assert partly.name != protocol.hiding((True, True, False)).name
    with pytest.raises(ValueError, match="3 coordinates are said"):
        secure.play(partly, rows[:, :2])


@pytest.mark.ci
def test_a_run_encrypts_leaves_by_path():
    integers = fjx.compose(
        client=CLIENT, aggregator=aggregators.integer_mean(0.01, bits=12, clients=N)
    )
    paths = []

    def head(path):
        paths.append(path)
        return path == "[0][1]"  # the second of body and head

    found = run(secure.selective(secure.bfv(), head), integers, rounds=2)
    assert distance(found.params, run(secure.plain(), integers, rounds=2).params) == 0
    assert {"[0][0]", "[0][1]"} <= set(paths)
    with pytest.raises(ValueError, match="encrypted is False for every leaf"):
        run(secure.selective(secure.bfv(), lambda path: False), integers)
    with pytest.raises(ValueError, match="cannot encrypt a part"):
        secure.selective(secure.secagg_plus(), head)


@pytest.mark.ci
def test_a_run_of_floats_encrypts_leaves_by_path():
    """Leaves in the clear are summed in float64; the encrypted one is within the bound."""
    found = run(secure.selective(secure.ckks(), lambda path: "'head'" in path))
    exact = fjx.simulate(jax.random.key(7), MEAN, PARAMS, DATA, sampler=samplers.full(), rounds=1)
    assert distance(found.params["body"], exact.params["body"]) < 2.0**-21
    assert 0 < distance(found.params["head"], exact.params["head"]) < PRECISION
