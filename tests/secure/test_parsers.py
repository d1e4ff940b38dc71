"""Bodies that an authenticated party may write at will are read, or refused with an abort.

The bytes are sealed as an honest party's are, so that they reach the parser of every message.
"""

import numpy as np
import pytest

from fjx import secure
from fjx.secure import _messages, _protocol
from tests.secure.test_refused import KINDS, PROTOCOLS, ROWS, VECTORS


def recorded(name):
    """The kinds of messages of an honest run, and their receivers, of which client 1 stands for all."""
    inner, found = secure.in_memory(), set()

    def send(receiver, message):
        if receiver == 1 or receiver >= len(VECTORS):
            found.add((_messages.header_of(message).kind, receiver))
        inner.send(receiver, message)

    secure.play(PROTOCOLS[name], VECTORS, bits=8, transport=secure.Transport(send, inner.receive))
    return found


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_table_of_messages_is_complete(name):
    assert set(KINDS[name]) == recorded(name)


def mutations(body, random, count):
    """Bytes of any kind: the body cut, longer, with other bits or bytes, and nothing of it."""
    yield b""
    yield body[:-1]
    yield body + b"\0"
    for _ in range(count):
        changed = bytearray(body or b"\0")
        place = int(random.integers(0, min(len(changed), 64 if random.random() < 0.5 else 2**31)))
        match int(random.integers(0, 4)):
            case 0:
                changed[place] ^= 1 << int(random.integers(0, 8))
            case 1:
                changed[place : place + 4] = random.bytes(4)
            case 2:
                changed = changed[:place]
            case _:
                changed[place:place] = random.bytes(int(random.integers(1, 40)))
        yield bytes(changed)


def refusals(monkeypatch, name, kind, receiver, count):
    """Each mutated body of a message, and the abort of its receiver, or None where it went on."""
    write, random, bodies, waiting = _protocol.write, np.random.default_rng(len(name)), [], []

    def altered(session, of, sender, to, key, body, open=b""):
        if (of, to) == (kind, receiver):
            bodies.append(body)
            body = waiting.pop() if waiting else body
        return write(session, of, sender, to, key, body, open)

    monkeypatch.setattr(_protocol, "write", altered)
    secure.play(PROTOCOLS[name], VECTORS, bits=8)
    for changed in mutations(bodies[0], random, count):
        waiting.append(changed)
        try:
            abort = secure.play(PROTOCOLS[name], VECTORS, bits=8).refused.get(receiver)
        except secure.Abort as raised:
            abort = raised
        assert not waiting  # it was sent
        if changed != bodies[0]:
            yield changed, abort


@pytest.mark.few(14)
@pytest.mark.parametrize(("name", "kind", "receiver"), ROWS)
def test_any_body_is_read_or_refused(monkeypatch, name, kind, receiver):
    """Nothing but an abort is raised; a body that is shorter or longer by a byte is refused."""
    count = 3 if name in ("bfv", "ckks", "partly") else 12
    found = list(refusals(monkeypatch, name, kind, receiver, count))
    size = max(len(changed) for changed, _ in found[:3]) - 1
    for changed, abort in found[:3]:
        assert abort is not None or len(changed) not in (size - 1, size + 1)
    assert any(abort is not None for _, abort in found)
