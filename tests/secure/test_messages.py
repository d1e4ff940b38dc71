"""Messages as bytes: what is written is read, and nothing else is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjx import secure
from fjx.secure import _messages
from fjx.secure._messages import Kind

SESSION = secure.Session("p", b"s" * 16, 3, 5, 4, 32, (bytes(32),))
KEY = b"k" * 32


def read(data, kind=Kind.SHARES, receiver=9):
    return _messages.read(SESSION, kind, receiver, lambda sender, clear: KEY, data)


def test_a_message_comes_back():
    data = _messages.write(SESSION, Kind.SHARES, 2, 9, KEY, b"body")
    assert read(data) == (2, b"", b"body")
    assert len(data) == _messages.HEADER + 4 + 16


def test_every_byte_of_a_message_matters():
    data = _messages.write(SESSION, Kind.SHARES, 2, 9, KEY, b"body")
    for place in range(len(data)):
        with pytest.raises(secure.Abort):
            read(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(secure.Malformed):
            read(data[:place])
    with pytest.raises(secure.Malformed):
        read(data + b"\0")


@pytest.mark.parametrize(
    ("change", "match"),
    [({"kind": Kind.INPUT}, "waits for INPUT"), ({"receiver": 8}, "a message for 9 came to 8")],
)
def test_messages_for_others_are_refused(change, match):
    data = _messages.write(SESSION, Kind.SHARES, 2, 9, KEY, b"body")
    with pytest.raises(secure.Unexpected, match=match):
        read(data, **change)


@pytest.mark.parametrize("other", [{"round": 4}, {"id": b"t" * 16}])
def test_messages_of_other_sessions_are_refused(other):
    data = _messages.write(SESSION._replace(**other), Kind.SHARES, 2, 9, KEY, b"body")
    with pytest.raises(secure.Unexpected, match="another session or round"):
        read(data)


def test_messages_under_other_keys_are_refused():
    data = _messages.write(SESSION, Kind.SHARES, 2, 9, b"x" * 32, b"body")
    with pytest.raises(secure.Tampered, match="fails authentication"):
        read(data)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_refused(data):
    with pytest.raises(secure.Abort):
        read(data)


records = st.dictionaries(st.integers(0, 9), st.binary(min_size=3, max_size=3), max_size=5)


@settings(max_examples=50, deadline=None)
@given(records, records)
def test_tables_come_back(first, second):
    body = _messages.table_bytes(first, 3) + _messages.table_bytes(second, 3)
    assert _messages.tables(body, [3, 3], 10) == [first, second]


@settings(max_examples=50, deadline=None)
@given(
    st.binary(max_size=60) | records.map(lambda t: _messages.table_bytes(t, 3)), st.integers(1, 10)
)
def test_any_bytes_are_one_table_or_refused(body, clients):
    """There is one way to write a table: bytes that are read are those that are written."""
    try:
        (table,) = _messages.tables(body, [3], clients)
    except secure.Malformed:
        return
    assert _messages.table_bytes(table, 3) == body
    assert all(i < clients for i in table)


@pytest.mark.parametrize("numbers", [(2, 1), (1, 1), (0, 10)])
def test_tables_out_of_order_or_with_strangers_are_refused(numbers):
    body = b"".join(_messages.table_bytes({i: b"abc"}, 3)[4:] for i in numbers)
    with pytest.raises(secure.Malformed, match="in a table of 10 clients"):
        _messages.tables(b"\x02\0\0\0" + body, [3], 10)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 64), st.integers(0, 20), st.data())
def test_packed_integers_are_those_of_arithmetic(bits, length, data):
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=length, max_size=length))
    word = np.dtype(np.uint32 if bits <= 32 else np.uint64)
    packed = _messages.packed(np.array(values, word), bits)
    whole = sum(value << bits * i for i, value in enumerate(values))
    assert packed == whole.to_bytes(-(-bits * length // 8), "little")
    found = _messages.unpacked(packed, length, bits, word)
    assert (found.dtype, found.tolist()) == (word, values)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 33), st.integers(0, 9), st.binary(max_size=40))
def test_any_bytes_are_packed_integers_or_refused(bits, length, body):
    word = np.dtype(np.uint32 if bits <= 32 else np.uint64)
    try:
        found = _messages.unpacked(body, length, bits, word)
    except secure.Malformed:
        return
    assert _messages.packed(found, bits) == body
