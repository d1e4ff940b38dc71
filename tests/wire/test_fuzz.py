"""Every payload type under mutation: bytes are the payload that was written, or refused."""

import contextlib
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import Stateful, wire
from tests.support.frames import frame

FLOAT, THREEFRY = "float32", "threefry2x32"


def u8(*values):
    return jnp.asarray(values, jnp.uint8)


def i8(*values):
    return jnp.asarray(values, jnp.int8)


def seed():
    return jnp.asarray([7, 11], jnp.uint32)


def one():
    return jnp.float32(0.5)


def quantized():
    return wire.Quantized(i8(7, -7, 1), one(), 4, FLOAT)


def sparse():
    return wire.Sparse(quantized(), jnp.asarray([0, 2, 5], jnp.uint32), (6,))


def long_codes():
    """Codes that every coder shortens."""
    codes = np.zeros(200, np.int8)
    codes[[3, 50, 51, 160]] = [1, -1, 3, 1]
    return wire.Quantized(jnp.asarray(codes), one(), 4, FLOAT)


def quic():
    indices = jnp.asarray([3, 9, 0], jnp.uint32)
    codes = jnp.zeros(30, jnp.uint8)
    return wire.Quic(jnp.int32(2), codes, one(), seed(), jnp.ones(3), indices, 2, THREEFRY, FLOAT)


def structure():
    return wire.Structure(jax.tree.structure([0, 0]), (((2,), FLOAT), None))


EXAMPLES = {
    "Quantized": lambda: [quantized()],
    "Cast": lambda: [
        wire.Cast(jnp.ones(3, jnp.float8_e5m2), jnp.int16(2), FLOAT),
        wire.Cast(jnp.ones((2, 1), jnp.bfloat16), None, FLOAT),
    ],
    "Signs": lambda: [wire.Signs(jnp.asarray([True, False, True]), one(), FLOAT)],
    "TwoMeans": lambda: [wire.TwoMeans(jnp.asarray([True, False]), one(), one(), "bfloat16")],
    "Natural": lambda: [wire.Natural(jnp.asarray([[511, 0, 127]], jnp.uint16), FLOAT)],
    "Dithered": lambda: [wire.Dithered(i8(-3, 0, 2), one(), 3, FLOAT)],
    "LloydMax": lambda: [wire.LloydMax(u8(7, 0, 3), one(), 3, FLOAT)],
    "FixedStep": lambda: [wire.FixedStep(i8(-8, 7, 0), 0.25, 4, FLOAT)],
    "KLevel": lambda: [wire.KLevel(u8(0, 4, 2), one(), one(), 5, FLOAT)],
    "SubtractivelyDithered": lambda: [
        wire.SubtractivelyDithered(i8(7, -7, 0), one(), seed(), 4, FLOAT, THREEFRY)
    ],
    "Ternary": lambda: [wire.Ternary(u8(242, 121), one(), (7,), FLOAT)],
    "Microscaled": lambda: [wire.Microscaled(u8(1, 15, 7), u8(127), "float4_e2m1fn", FLOAT)],
    "Codebook": lambda: [wire.Codebook(u8(0, 2, 1), jnp.ones((3, 2)), 3, (5,), FLOAT)],
    "MixedLloydMax": lambda: [wire.MixedLloydMax(u8(3, 0), u8(1), one(), 2, (3,), FLOAT)],
    "Quic": lambda: [quic()],
    "Sparse": lambda: [sparse()],
    "Masked": lambda: [wire.Masked(jnp.ones(2), seed(), (5,), THREEFRY)],
    "Rotated": lambda: [wire.Rotated(jnp.ones(4), seed(), (3,), FLOAT, 2, THREEFRY, 4)],
    "Flat": lambda: [wire.Flat(jnp.ones(2), [None, jnp.arange(3)], structure())],
    "Leaves": lambda: [wire.Leaves((quantized(),), [None, jnp.arange(3)], structure())],
    "Blocks": lambda: [
        wire.Blocks(wire.Quantized(jnp.ones((2, 3), jnp.int8), jnp.ones(2), 3, FLOAT), (5,), 3)
    ],
    "Selected": lambda: [wire.Selected({"a/b": quantized()}, {"a": {"b": None}, "n": u8(3)})],
    "Summed": lambda: [wire.Summed((quantized(), jnp.ones(3)), [None, u8(1)])],
    "OneOf": lambda: [wire.OneOf(u8(1)[0], (sparse(), jnp.arange(4.0)))],
    "SubModel": lambda: [wire.SubModel(jnp.int32(2), jnp.asarray([1.0, 2.0, 0.0]), seed())],
    "Codes": lambda: [wire.Codes(i8(-3, 2, 0), 4), wire.Codes(u8(6, 0), 3)],
    "Words": lambda: [wire.Words(jnp.asarray([7, 1], jnp.uint32), 33)],
    "Kept": lambda: [
        wire.Kept(
            jnp.int32(2), jnp.asarray([1.0, 2.0, 0.0]), jnp.asarray([1, 4, 0], jnp.uint32), (5,)
        )
    ],
    "BernoulliMasked": lambda: [
        wire.BernoulliMasked(
            jnp.int32(1), jnp.asarray([2.0, 0.0, 0.0]), seed(), 0.5, (3,), THREEFRY
        )
    ],
    "MaybeSent": lambda: [
        wire.MaybeSent(u8(1)[0], jnp.ones((1, 3))),
        wire.MaybeSent(u8(0)[0], jnp.zeros((1, 2))),
    ],
    "LowRank": lambda: [wire.LowRank(jnp.ones((3, 1)), jnp.ones((4, 1)), (3, 2, 2), FLOAT)],
    "Sketched": lambda: [wire.Sketched(jnp.ones((2, 3)), seed(), (7,), FLOAT, THREEFRY)],
    "Projected": lambda: [wire.Projected(jnp.ones(2), seed(), (7,), FLOAT, THREEFRY)],
    "Seed": lambda: [wire.Seed(seed(), THREEFRY)],
    "SideInformation": lambda: [wire.SideInformation(None)],
    "Shifted": lambda: [wire.Shifted(sparse(), wire.SideInformation(None))],
    "Observed": lambda: [wire.Observed(sparse(), wire.SideInformation(None))],
    "Coded": lambda: [
        *(wire.Coded(long_codes(), coder) for coder in CODERS),
        wire.Coded({"s": sparse(), "l": long_codes()}, "golomb"),
        *([wire.Coded(quic(), "run_length")] if hasattr(wire, "Quic") else []),
        wire.Coded(wire.OneOf(u8(0)[0], (long_codes(), sparse())), "elias_delta"),
    ],
}
"""Small payloads by the name of their type.  A new type of payload adds a row here."""

CODERS = ["elias_gamma", "elias_delta", "elias_omega", "golomb", "run_length", "range", "zstd"]

PLAIN = [{"a": jnp.ones(2), "b": [jnp.asarray([True]), None, (u8(3),)]}, Stateful(jnp.ones(2), {})]


def payload_types(cls=wire.Payload):
    """All that the library defines, but for those that are there to be derived from."""
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("fjx.") and sub is not wire.Ragged:
            yield sub
        yield from payload_types(sub)


def examples():
    for cls in payload_types():
        if cls.__name__ in EXAMPLES:
            yield from filter(readable, EXAMPLES[cls.__name__]())
    yield from PLAIN


def readable(payload):
    """Whether the packages of its coder are installed."""
    needs = {"range": "constriction", "zstd": "zstandard"}
    if getattr(payload, "coder", None) in needs:
        try:
            __import__(needs[payload.coder])
        except ImportError:
            return False
    return True


def test_every_payload_type_has_an_example():
    missing = {cls.__name__ for cls in payload_types()} - set(EXAMPLES)
    assert not missing, f"add examples of {sorted(missing)} to EXAMPLES"


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_of_their_type_and_survive(name):
    if not hasattr(wire, name):
        pytest.skip("is not among the payloads")
    for payload in EXAMPLES[name]():
        assert type(payload).__name__ == name
        if readable(payload):
            data = wire.to_bytes(payload)
            for received in (wire.from_bytes(data), wire.from_bytes(data, like=payload)):
                assert wire.to_bytes(received) == data
                assert jax.tree.structure(received) == jax.tree.structure(payload)
            assert 8 * len(data) == wire.header_bits(data) + wire.bits(payload)


# ----------------------------------------------------------------------------------------- mutation


def split(data):
    length = int.from_bytes(data[4:8], "little")
    return data[12 : 12 + length], data[12 + length :]


def mutated(rng, part, donors, alphabet):
    """One edit: bytes flipped, replaced, removed, inserted, repeated, cut off, or from another frame."""
    part = bytearray(part)
    at, size = int(rng.integers(len(part) + 1)), int(rng.integers(1, 6))
    new = bytes(rng.choice(alphabet, size).tolist())
    match int(rng.integers(7)):
        case 0 if at < len(part):
            part[at] ^= 1 << int(rng.integers(8))
        case 1:
            part[at : at + size] = new
        case 2:
            del part[at : at + size]
        case 3:
            part[at:at] = new
        case 4:
            part[at:at] = part[at : at + 20]
        case 5:
            del part[at:]
        case 6:
            other = donors[int(rng.integers(len(donors)))]
            start = int(rng.integers(len(other) + 1))
            part[at : at + 20] = other[start : start + 20]
    return bytes(part)


TEXT = np.frombuffer(b'0123456789-,.[]"ntuef', np.uint8)
BYTES = np.concatenate([np.arange(256), np.repeat([0, 1, 255], 40)]).astype(np.uint8)


def attack(count, seed, likes):
    """How many of so many mutations were accepted; what is neither refused nor sound is a failure."""
    rng = np.random.default_rng(seed)
    payloads = list(examples())
    frames = [wire.to_bytes(payload) for payload in payloads]
    schemas, bodies = zip(*map(split, frames), strict=True)
    accepted, refused = 0, set()
    for i in range(count):
        number = int(rng.integers(len(frames)))
        schema, body = schemas[number], bodies[number]
        sort = int(rng.integers(4))
        if sort == 0:  # an accident: the check sum tells
            data = mutated(rng, frames[number], frames, BYTES)
        else:  # a forger, whose check sums are true
            for _ in range(int(rng.integers(1, 4))):
                if sort == 1:
                    schema = mutated(rng, schema, schemas, TEXT)
                else:
                    body = mutated(rng, body, bodies, BYTES)
            data = frame(schema, body)
        like = payloads[number] if likes and i % 2 else None
        try:
            received = wire.from_bytes(data, like)
        except ValueError as error:
            refused.add(str(error)[:17])
            continue
        assert sort != 0 or data == frames[number], data
        again = wire.to_bytes(received)
        if b'"zstd"' in schema:  # of which a payload has many forms
            assert wire.to_bytes(wire.from_bytes(again)) == again, data
        else:
            assert again == data, data
        assert 8 * len(again) == wire.header_bits(again) + wire.bits(received)
        accepted += 1
    assert refused == {"payload refused: "}
    return accepted


def test_mutated_frames_are_read_or_refused():
    accepted = attack(1500, 0, likes=True)
    assert 20 < accepted < 1000  # what changes a float changes the payload, and no check can tell


def test_mutated_bodies_take_no_memory():
    """With a payload to compare with, nobody can claim room."""
    payloads = [payload for payload in examples() if readable(payload)]
    frames = [split(wire.to_bytes(payload)) for payload in payloads]
    rng = np.random.default_rng(1)
    tracemalloc.start()
    try:
        for _ in range(300):
            number = int(rng.integers(len(frames)))
            schema, body = frames[number]
            data = frame(schema, mutated(rng, body, [b for _, b in frames], BYTES))
            with contextlib.suppress(ValueError):
                wire.from_bytes(data, payloads[number])
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_many_mutated_frames_are_read_or_refused(part):
    """240,000 in all."""
    attack(30_000, 100 + part, likes=part % 2 == 0)
