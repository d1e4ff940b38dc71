"""Ciphertexts: digits that add up exactly, and bytes that are refused without a crash."""

import os

import numpy as np
import pytest
import tenseal
from hypothesis import given, settings
from hypothesis import strategies as st

from fjx import secure
from fjx.secure import _he
from fjx.secure._bfv import PLAIN, SCHEME, SLOTS, Limbs
from fjx.secure._session import SERVER


def session(clients, bits):
    return secure.Session("bfv", bytes(16), 0, clients, 3, bits, (bytes(32), bytes(32)))


@pytest.fixture(scope="module")
def public():
    context = tenseal.context(
        tenseal.SCHEME_TYPE.BFV, poly_modulus_degree=SLOTS, plain_modulus=PLAIN
    )
    return context.serialize(
        save_public_key=True,
        save_secret_key=False,
        save_galois_keys=False,
        save_relin_keys=False,
    )


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(2, PLAIN // 2), st.integers(1, 64))
def test_digits_of_any_number_of_clients_add_up(data, clients, bits):
    """The largest digits of all clients stay below half of the modulus, where BFV changes sign."""
    limbs = Limbs.of(session(clients, bits))
    assert clients * ((1 << limbs.width) - 1) <= PLAIN // 2
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=5))
    rows = [limbs.split(np.array([value], np.uint64)).astype(np.int64) for value in values]
    assert all(len(row) == limbs.digits for row in rows)
    total = int(limbs.joined(sum(rows))[0])
    assert total % 2**bits == sum(values) % 2**bits


def test_sums_of_more_than_one_ciphertext():
    rows = np.random.default_rng(0).integers(0, 2**32, (3, SLOTS // 2 + 5), np.uint64)
    outcome = secure.play(secure.bfv(), rows.astype(np.uint32))
    assert np.array_equal(outcome.total, rows.sum(0).astype(np.uint32))


def test_the_server_that_adds_has_no_secret_key():
    held = []

    def answer(state, messages):
        state, answers = secure.bfv().answer(state, messages)
        if state.desk.address == SERVER and state.context:
            held.append(tenseal.context_from(state.context).is_private())
        return state, answers

    secure.play(secure.bfv()._replace(answer=answer), np.ones((2, 2), int))
    assert set(held) == {False}


def test_ciphertexts_of_equal_vectors_differ(public):
    context = _he.read_context(SCHEME, public)
    one, other = (tenseal.bfv_vector(context, [1, 2, 3]).serialize() for _ in range(2))
    assert one != other


def test_bytes_that_are_no_context_are_refused(public):
    private = tenseal.context(
        tenseal.SCHEME_TYPE.BFV, poly_modulus_degree=SLOTS, plain_modulus=PLAIN
    ).serialize(save_secret_key=True)
    bad = [os.urandom(size) for size in (0, 1, 10, 1000)]
    bad += [public[:size] for size in (0, 10, 1000, len(public) // 2, len(public) - 1)]
    for data in [*bad, private]:
        with pytest.raises(secure.Malformed):
            _he.read_context(SCHEME, data)


def test_bytes_that_are_no_ciphertexts_are_refused(public):
    """A flipped bit may give another ciphertext; nothing crashes, and nothing else is raised."""
    context = _he.read_context(SCHEME, public)
    good = tenseal.bfv_vector(context, [1, 2, 3]).serialize()
    parts = [os.urandom(size) for size in (1, 10, 1000)]
    parts += [good[:size] for size in (10, len(good) // 2, len(good) - 1)]
    for part in parts:
        with pytest.raises(secure.Malformed):
            _he.read_ciphertexts(SCHEME, context, _he.chunks_bytes([part]), 3)
    with pytest.raises(secure.Malformed, match="4 numbers"):
        _he.read_ciphertexts(SCHEME, context, _he.chunks_bytes([good]), 4)
    flips = np.random.default_rng(0).integers(0, len(good), 20)
    for place in flips:
        other = good[:place] + bytes([good[place] ^ 16]) + good[place + 1 :]
        try:
            _he.read_ciphertexts(SCHEME, context, _he.chunks_bytes([other]), 3)
        except secure.Malformed:
            continue


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 3))
def test_any_bytes_are_parts_or_refused(body, count):
    try:
        parts = _he.chunks(body, count)
    except secure.Malformed:
        return
    assert _he.chunks_bytes(parts) == body
