"""Coded payloads: the same message for fewer bits, and bits that are counted to the last."""

import functools
import json
import math
import struct
import zlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import ClientUpdate, compose, compressors, data, simulation, wire
from fjx.wire._bits import is_ragged
from fjx.wire._schema import schema_of

c = compressors
FORMULAS = ("elias_gamma", "elias_delta", "elias_omega", "golomb", "run_length")
PACKAGES = {"range": "constriction", "zstd": "zstandard"}


def require(coder):
    if coder in PACKAGES:
        pytest.importorskip(PACKAGES[coder])


def gaussian(d, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(d, np.float32))


def programs(codec):
    """The codec, compiled once for each shape."""
    return codec._replace(encode=jax.jit(codec.encode), decode=jax.jit(codec.decode))


def encoded(codec, x, seed=1):
    return jax.jit(codec.encode)(jax.random.key(seed), x, codec.init(x))[0]


STC = c.chain(c.top_k(0.1), c.scaled_sign())
CODECS = {
    "indices": c.top_k(0.1),
    "signed codes": c.qsgd(levels=7),
    "unsigned codes": c.lloyd_max(bits=3),
    "codes and indices": c.chain(c.top_k(0.1), c.quantize(bits=4)),
    "rows of blocks": c.blockwise(c.chain(c.top_k(0.2), c.qsgd(levels=3)), size=50),
    "a mixture": c.mixture(c.top_k(0.1), c.qsgd(levels=3), probabilities=[0.5, 0.5]),
    "nothing to code": c.cast(jnp.bfloat16),
}


@functools.cache
def message_of(name):
    message = {"w": gaussian(400), "n": np.int32([3]), "e": np.zeros((0, 2), np.float32)}
    return encoded(CODECS[name], message)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", CODECS)
def test_what_is_decoded_stays_and_what_travels_is_counted(name):
    """From bytes, and at most what shapes say, for every coder."""
    codec, plain = programs(CODECS[name]), message_of(name)
    for coder in (*FORMULAS, *PACKAGES):
        require(coder)
        payload = wire.Coded(plain, coder)
        decoded = c.entropy(codec, coder).decode(payload)
        chex.assert_trees_all_equal(decoded, codec.decode(plain))
        data = wire.to_bytes(payload)
        assert 8 * len(data) - wire.header_bits(data) == wire.bits(payload)
        assert wire.bits(payload) <= wire.bits(jax.eval_shape(lambda p: p, payload))
        for received in (wire.from_bytes(data), wire.from_bytes(data, like=payload)):
            chex.assert_trees_all_equal(received, payload)


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("name", "coder"),
    [
        *((name, "golomb") for name in CODECS),
        *(("codes and indices", coder) for coder in FORMULAS if coder != "golomb"),
        *(
            pytest.param(name, coder, marks=pytest.mark.slow)
            for name in CODECS
            for coder in FORMULAS
            if coder != "golomb" and name != "codes and indices"
        ),
    ],
)
def test_a_program_counts_what_travels(name, coder):
    """Of every codec by one formula, and by every formula of a codec with codes and indices."""
    payload = wire.Coded(message_of(name), coder)
    assert int(jax.jit(wire.measured_bits)(payload)) == wire.bits(payload)


@pytest.mark.parametrize("coder", [*FORMULAS, *PACKAGES])
def test_no_more_than_a_byte_for_each_array_of_integers(coder):
    """Random codes and indices in no order, which no code shortens: two arrays, two bytes."""
    require(coder)
    rng = np.random.default_rng(0)
    codes = jnp.asarray(rng.integers(-127, 128, 64), jnp.int8)
    values = wire.Quantized(codes, jnp.float32(1), 8, "float32")
    indices = jnp.asarray(rng.permutation(2**16)[:64], jnp.uint32)
    plain = wire.Sparse(values, indices, (2**16,))
    payload = wire.Coded(plain, coder)
    assert wire.bits(payload) <= wire.bits(plain) + 16
    assert wire.bits(jax.eval_shape(lambda p: p, payload)) == wire.bits(plain) + 16
    chex.assert_trees_all_equal(wire.from_bytes(wire.to_bytes(payload)), payload)


def test_a_payload_without_integers_costs_no_flag():
    for plain in (
        jnp.ones(5),
        {"n": jnp.arange(4)},
    ):
        assert wire.bits(wire.Coded(plain, "golomb")) == wire.bits(plain)


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize("codec", [c.scaled_sign(), c.one_bit_sgd()])
def test_signs_are_coded_like_other_narrow_integers(codec):
    """64 negative coordinates of 4096: run lengths cost a quarter of a bit each, plain signs one."""
    x = jnp.where(jnp.arange(4096) % 64 == 0, -1.0, 1.0)
    plain, _ = codec.encode(jax.random.key(0), x, ())
    payload = wire.Coded(plain, "run_length")
    assert wire.bits(plain) >= 4096 + 32
    assert wire.bits(payload) < 4096 / 3
    assert int(wire.measured_bits(payload)) == wire.bits(payload)
    chex.assert_trees_all_equal(wire.from_bytes(wire.to_bytes(payload)), payload)
    flags = np.asarray(plain.negative)
    data = wire.encode_integers(flags, "golomb", width=1)
    assert (wire.decode_integers(data, flags.size, "golomb", width=1) == flags).all()


def test_a_single_coordinate_has_an_index_of_no_bits():
    payload = wire.Coded(wire.Sparse(jnp.ones(1), jnp.zeros(1, jnp.uint32), (1,)), "golomb")
    assert wire.bits(payload) == 32
    chex.assert_trees_all_equal(wire.from_bytes(wire.to_bytes(payload)), payload)


# ------------------------------------------------------------------------------------ closed forms


@pytest.mark.few(1)
@pytest.mark.parametrize(("p", "per_coordinate"), [(0.01, 0.0911), (0.0025, 0.0278)])
def test_sparse_ternary_compression_costs_what_its_paper_s_formula_says(p, per_coordinate):
    """P (1 + b + 1 / (1 - (1 - p)^(2^b))) a coordinate, to 2 %, and the mean: 32 bits."""
    d = 200_000
    codec = c.entropy(c.chain(c.top_k(p), c.scaled_sign()), "golomb")
    bits = wire.bits(encoded(codec, gaussian(d)))
    parameter = 1 + math.floor(math.log2(math.log((math.sqrt(5) - 1) / 2) / math.log(1 - p)))
    formula = p * (1 + parameter + 1 / (1 - (1 - p) ** 2**parameter))
    assert formula == pytest.approx(per_coordinate, abs=6e-5)
    assert (bits - 32 - 16) / d == pytest.approx(formula, rel=0.02)


@pytest.mark.parametrize(("bits", "entropy"), [(2, 1.911), (4, 3.765)])
def test_codes_of_a_gaussian_have_little_to_save(bits, entropy):
    """The entropy of the cells of a Lloyd-Max quantiser: 4 % and 6 % less than their fixed width."""
    pytest.importorskip("constriction")
    d = 100_000
    codec = c.entropy(c.lloyd_max(bits=bits), "range")
    per_coordinate = (wire.bits(encoded(codec, gaussian(d))) - 32) / d
    assert per_coordinate == pytest.approx(entropy, abs=0.01)


@functools.cache
def of_qsgd(levels):
    """Ten messages of 1024 coordinates."""
    x, keys = gaussian(1024), jax.random.split(jax.random.key(1), 10)
    messages = jax.jit(jax.vmap(lambda key: c.qsgd(levels=levels).encode(key, x, ())[0]))(keys)
    messages = jax.tree.map(np.asarray, messages)
    return [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), messages) for i in range(10)]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("levels", "coder"),
    [(32, "elias_omega"), (32, "run_length"), (4, "run_length"), (1, "run_length")],
)
def test_elias_codes_of_qsgd_stay_below_its_bound(levels, coder):
    """For d = s^2 = 1024 at most 2.8 d + 32 bits, as in the paper; for few levels far fewer than d."""
    d = 1024
    mean = np.mean([wire.bits(wire.Coded(plain, coder)) for plain in of_qsgd(levels)])
    if levels == 32:
        assert mean <= 2.8 * d + 32 + 8
    if coder == "run_length" and levels < 32:
        # Each of at most s (s + sqrt(d)) numbers costs a run, a sign and a magnitude: concavity of
        # the logarithm bounds the first by the mean run, d over their number.
        count = levels * (levels + math.sqrt(d))
        assert mean <= 32 + 8 + 21 + count * (2 * math.log2(1 + d / count) + 1 + 1 + 2)


def test_runs_are_shorter_than_a_fixed_width_by_far():
    """S = 1, d = 10^5: about sqrt(d) numbers are not zero, of 15 to 20 bits each."""
    x = gaussian(100_000)
    plain = encoded(c.qsgd(levels=1), x)
    few = int(np.count_nonzero(plain.codes))
    bits = wire.bits(wire.Coded(plain, "run_length"))
    assert few < 2 * math.sqrt(x.size)
    assert bits < 32 + 64 + 22 * few < wire.bits(plain) / 10


# ---------------------------------------------------------------------------------- as any codec


def test_contract_and_state_are_the_codec_s():
    inner = programs(c.error_feedback(c.chain(c.top_k(0.5), c.quantize(bits=8))))
    codec, x = c.entropy(inner, "golomb"), gaussian(16)
    chex.assert_trees_all_equal(codec.init(x), inner.init(x))
    key = jax.random.key(0)
    state = codec.encode(key, x, codec.init(x))[1]
    chex.assert_trees_all_equal(state, inner.encode(jax.random.clone(key), x, inner.init(x))[1])
    for part in (c.top_k(0.3), c.rand_k(0.3), c.quantize(bits=3)):
        assert c.entropy(part, "golomb").contract(x) == part.contract(x)


@pytest.mark.ci
def test_inside_a_chain():
    """Coding commutes with what follows, and the message comes apart as it was made."""
    x = np.asarray(gaussian(64))
    for codec in (
        c.chain(c.top_k(0.25), c.entropy(c.quantize(bits=4), "golomb")),
        c.chain(c.entropy(c.top_k(0.25), "golomb"), c.quantize(bits=4)),
        c.flatten(c.entropy(c.chain(c.top_k(0.25), c.quantize(bits=4)), "golomb")),
    ):
        payload, decode = encoded(codec, x), jax.jit(codec.decode)
        decoded = decode(wire.from_bytes(wire.to_bytes(payload)))
        chex.assert_trees_all_equal(decoded, decode(payload))
        kept = np.where(np.abs(x) >= np.sort(np.abs(x))[-16], x, 0)
        assert np.abs(np.asarray(decoded) - kept).max() < np.abs(x).max() / 7


def test_blocks_are_coded_from_outside():
    with pytest.raises(ValueError, match="needs a codec"):
        c.blockwise(c.entropy(c.qsgd(levels=3), "golomb"), size=8)


@pytest.mark.ci
def test_a_round_counts_what_each_client_sends():
    """Three clients, of which the last is absent, send x, 2x and 3x: equal codes, equal lengths."""
    x = gaussian(500)
    client = ClientUpdate(
        lambda params: (),
        lambda key, model, state, examples, turn: (
            examples.take(jnp.zeros(1, jnp.int32))[0],
            state,
            {},
        ),
        lambda params: params,
    )
    clients = data.from_clients([np.asarray(x)[None] * n for n in (1, 2, 3)])
    cohort = clients.cohort(np.arange(3, dtype=np.int32), np.array([True, True, False]))

    def metrics(coder, run):
        algorithm = compose(client=client, uplink=c.entropy(STC, coder))
        rows = simulation.make_table(algorithm.init_client(x), 3)
        return run(algorithm.round)(jax.random.key(0), algorithm.init(x), rows, cohort)[2]

    one = wire.bits(encoded(c.entropy(STC, "golomb"), x))
    assert 8 * int(metrics("golomb", jax.jit)["uplink_bytes"]) == 2 * one
    shapes = metrics("zstd", lambda program: functools.partial(jax.eval_shape, program))
    assert "uplink_bytes" not in shapes  # billed by shapes: the most it may cost


def test_a_simulation_of_a_coder_without_formula_bills_the_most():
    plain = encoded(c.qsgd(levels=1), gaussian(100))
    assert is_ragged(wire.Coded(plain, "golomb"))
    assert not is_ragged(wire.Coded(plain, "zstd"))
    assert not is_ragged(wire.Coded(wire.OneOf(jnp.uint8(0), (plain, jnp.ones(3))), "zstd"))
    with pytest.raises(ValueError, match="no formula"):
        wire.measured_bits(wire.Coded(plain, "zstd"))


@pytest.mark.parametrize("coder", ["huffman", "", None])
def test_coders_by_name(coder):
    with pytest.raises(ValueError, match="coder must be one of"):
        c.entropy(c.identity(), coder)
    with pytest.raises(TypeError, match=r"entropy needs a fjx\.Compressor"):
        c.entropy(None, "golomb")


# ---------------------------------------------------------------------------------- bad payloads


def test_a_bomb_is_refused():
    """A gigabyte of zeros in ten bytes: without a payload to compare with, no memory is taken."""
    codes = jax.ShapeDtypeStruct((2**30,), jnp.int8)
    schema = wire.Coded(
        wire.Quantized(codes, jax.ShapeDtypeStruct((), jnp.float32), 8, "float32"), "run_length"
    )
    text = schema_of(schema)
    assert json.loads(text)[1] == "Coded"
    body = b"\1\1" + bytes(4)
    head = struct.pack("<4sII", b"FJX\x01", len(text), zlib.crc32(text + body))
    with pytest.raises(ValueError, match="claims room for"):
        wire.from_bytes(head + text + body)


@pytest.mark.parametrize("coder", [*FORMULAS, *PACKAGES])
def test_an_index_out_of_range_is_refused(coder):
    """Gaps that lead to coordinate 999 of 999, which ten bits can name."""
    require(coder)
    indices = jnp.arange(99, 1000, 100).astype(jnp.uint32)
    sound = wire.Coded(wire.Sparse(jnp.ones(10), indices, (1000,)), coder)
    chex.assert_trees_all_equal(wire.from_bytes(wire.to_bytes(sound)), sound)
    forged = wire.Coded(wire.Sparse(jnp.ones(10), indices, (999,)), coder)
    with pytest.raises(ValueError, match=r"must lie in \[0, 999\)"):
        wire.from_bytes(wire.to_bytes(forged))
