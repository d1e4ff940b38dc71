"""Lossless codes: the lengths that the textbooks give, and the integers back."""

import itertools
import math
import sys
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjx import wire

quiet = settings(max_examples=80, deadline=None, derandomize=True, database=None)

FORMULAS = ("elias_gamma", "elias_delta", "elias_omega", "golomb", "run_length")
PACKAGES = {"range": "constriction", "zstd": "zstandard"}
CODERS = (*FORMULAS, *PACKAGES)


def require(coder):
    if coder in PACKAGES:
        pytest.importorskip(PACKAGES[coder])


def code(values, coder, width=31):
    return wire.encode_integers(np.asarray(values), coder, width=width)


# -------------------------------------------------------------------------------------- textbooks
# One code word after another, as strings, from the definitions.


def gamma(n):
    return "0" * (n.bit_length() - 1) + f"{n:b}"


def delta(n):
    return gamma(n.bit_length()) + f"{n:b}"[1:]


def omega(n):
    word = "0"
    while n > 1:
        word = f"{n:b}" + word
        n = n.bit_length() - 1
    return word


def rice(n, b):
    return "0" * (n >> b) + "1" + (f"{n & (1 << b) - 1:0{b}b}" if b else "")


def runs(values):
    """Run-length code of zig-zag codes, as its definition says."""
    words, run = [gamma(1 + sum(v > 0 for v in values))], 0
    for v in values:
        if v == 0:
            run += 1
        else:
            words += [gamma(run + 1), gamma((v + 1) // 2), str(v & 1)]
            run = 0
    return "".join(words)


def textbook(values, coder, width):
    words = {"elias_gamma": gamma, "elias_delta": delta, "elias_omega": omega}
    if coder in words:
        return sum(len(words[coder](v + 1)) for v in values)
    if coder == "run_length":
        return len(runs(values))
    return min(sum(len(rice(v, b)) for v in values) for b in range(width))


@pytest.mark.parametrize(
    ("word", "lengths"),
    [
        (gamma, {1: 1, 2: 3, 3: 3, 4: 5, 7: 5, 8: 7, 16: 9, 1000: 19}),
        (delta, {1: 1, 2: 4, 3: 4, 4: 5, 7: 5, 8: 8, 15: 8, 16: 9, 1000: 16}),
        (omega, {1: 1, 2: 3, 3: 3, 4: 6, 7: 6, 8: 7, 15: 7, 16: 11, 1000: 17}),
    ],
)
def test_the_textbook_s_lengths(word, lengths):
    """Counted by hand: the oracles of this file are themselves checked."""
    assert {n: len(word(n)) for n in lengths} == lengths


@pytest.mark.parametrize(("coder", "word"), [("elias_gamma", gamma), ("elias_delta", delta)])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 17, 1000, 2**12 - 1])
def test_one_integer_is_the_textbook_s_word(coder, word, n):
    """The parts of a single word lie as they always do; bits fill bytes from the lowest."""
    data = code([n - 1], coder)
    bits = "".join(f"{byte:08b}"[::-1] for byte in data[1:])
    assert data[0] == 1
    assert bits.rstrip("0") == word(n).rstrip("0")
    assert len(bits) == 8 * math.ceil(len(word(n)) / 8)


integers = st.integers(1, 16).flatmap(
    lambda width: st.tuples(
        st.just(width),
        st.lists(st.integers(0, 2**width - 1) | st.integers(0, 1) | st.just(0), max_size=60),
    )
)


@pytest.mark.few(3)
@pytest.mark.parametrize("coder", CODERS)
@quiet
@given(integers)
def test_round_trip_and_length(coder, drawn):
    require(coder)
    width, values = drawn
    data = code(np.array(values, np.int64), coder, width)
    assert wire.decode_integers(data, len(values), coder, width=width).tolist() == values
    fixed = math.ceil(len(values) * width / 8)
    if coder in FORMULAS:
        coded = math.ceil(textbook(values, coder, width) / 8)
        assert len(data) == (1 + min(coded, fixed) if values else 0)
    assert len(data) <= (1 + fixed if values else 0)


measured = {
    (coder, width): jax.jit(
        lambda values, count, coder=coder, width=width: wire.coded_bits(
            values, coder, width=width, count=count
        )
    )
    for coder in FORMULAS
    for width in (1, 7, 16, 31)
}


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("coder", "width"),
    [
        pytest.param(coder, width, marks=pytest.mark.slow if width in (7, 16) else ())
        for coder, width in measured
    ],
)
def test_a_program_counts_what_is_written(coder, width):
    rng = np.random.default_rng(width)
    top = 2**width - 1
    samples = [
        np.zeros(300, np.int64),
        np.full(300, top),
        rng.integers(0, top + 1, 300),
        np.minimum(rng.geometric(0.2, 300) - 1, top),
        np.where(rng.random(300) < 0.03, rng.integers(0, top + 1, 300), 0),
        np.minimum(2 ** rng.integers(0, width + 1, 300), top),
    ]
    for values, count in itertools.product(samples, (0, 1, 2, 131, 300)):
        got = measured[coder, width](values.astype(np.uint32), np.int32(count))
        assert int(got) == 8 * len(code(values[:count], coder, width))


@pytest.mark.few(2)
@pytest.mark.parametrize("coder", FORMULAS)
def test_counts_beyond_32_bits_do_not_wrap(coder):
    """2^18 numbers of 31 bits: in unary they would take 2^49 bits, 2^32 of them 2^17 times over."""
    count = jax.jit(lambda values: wire.coded_bits(values, coder, width=31))
    fixed = 8 + 8 * math.ceil(2**18 * 31 / 8)
    assert int(count(np.full(2**18, 2**31 - 1, np.uint32))) == fixed


def test_programs_count_only_where_there_is_a_formula():
    for coder in PACKAGES:
        with pytest.raises(ValueError, match="no formula"):
            wire.coded_bits(jnp.zeros(3, jnp.uint32), coder, width=3)


# ------------------------------------------------------------------------------------ closed forms


def best_parameter(p):
    """Gallager and van Voorhis for powers of two: 1 + floor(log2(log(phi - 1) / log(1 - p)))."""
    return 1 + math.floor(math.log2(math.log((math.sqrt(5) - 1) / 2) / math.log(1 - p)))


@pytest.mark.parametrize(
    ("p", "parameter", "expected"),
    [(0.1, 3, 4.756), (0.01, 6, 8.108), (0.0025, 8, 10.114), (0.001, 9, 11.495)],
)
def test_gaps_of_chance_cost_what_golomb_s_formula_says(p, parameter, expected):
    """E[bits] = b + 1 / (1 - (1 - p)^(2^b)); 200,000 gaps, within 6 standard errors of it."""
    gaps = np.random.default_rng(0).geometric(p, 200_000) - 1
    data = code(gaps, "golomb")
    assert parameter == best_parameter(p) == data[0] - 1
    mean = parameter + 1 / (1 - (1 - p) ** 2**parameter)
    assert mean == pytest.approx(expected, abs=6e-4)
    # A word has b + 1 + floor(gap / 2^b) bits.
    error = np.std(gaps >> parameter) / math.sqrt(gaps.size)
    assert abs(8 * (len(data) - 2) / gaps.size - mean) < 6 * error


@pytest.mark.parametrize("shares", [[0.5, 0.25, 0.125, 0.125], [0.9, 0.05, 0.05], [0.2] * 5])
def test_range_codes_cost_the_entropy_and_few_bytes(shares):
    """The entropy of the integers' own frequencies, 8 bytes, and at most 6 for each frequency."""
    pytest.importorskip("constriction")
    values = np.random.default_rng(1).choice(len(shares), 20_000, p=shares)
    frequencies = np.bincount(values) / values.size
    entropy = -np.sum(frequencies * np.log2(frequencies)) * values.size
    excess = len(code(values, "range", 8)) - entropy / 8
    assert 0 < excess < 8 + 6 * len(shares)


def test_constant_integers_cost_next_to_nothing():
    for coder, most in (("range", 16), ("run_length", 4), ("zstd", 40)):
        require(coder)
        assert len(code(np.zeros(100_000, int), coder, 8)) <= most


# ------------------------------------------------------------------------------------- bad streams


@pytest.mark.parametrize("coder", CODERS)
def test_cut_anywhere_or_longer(coder):
    require(coder)
    values = np.random.default_rng(0).geometric(0.3, 60) - 1
    data = code(values, coder, 16)
    assert data[0] > 0
    for end in range(len(data)):
        with pytest.raises(ValueError, match=r"integers|frame"):
            wire.decode_integers(data[:end], 60, coder, width=16)
    with pytest.raises(ValueError, match="followed by 1 bytes"):
        wire.decode_integers(data + b"\0", 60, coder, width=16)


@pytest.mark.parametrize("coder", CODERS)
@quiet
@given(st.binary(max_size=24), st.integers(0, 40), st.integers(1, 31), st.integers(0, 32))
def test_any_bytes_are_read_or_refused(coder, data, count, width, first):
    """What is read is written as the same bytes, if a package of others has no say in that."""
    require(coder)
    data = bytes([first]) + data
    try:
        values = wire.decode_integers(data, count, coder, width=width)
    except ValueError:
        return
    again = wire.encode_integers(values, coder, width=width)
    assert again == data or coder == "zstd"
    assert wire.decode_integers(again, count, coder, width=width).tolist() == values.tolist()


@pytest.mark.parametrize("coder", CODERS)
def test_no_memory_is_taken_for_a_claim(coder):
    """10^9 integers in a few bytes: refused at once, but of runs and frequencies, which could be so."""
    require(coder)
    if coder in ("run_length", "range"):
        pytest.skip("a constant costs nothing; from_bytes bounds how much a stranger may claim")
    streams = [b"\1" + bytes(20), b"\1" + b"\xff" * 20, b"\1\1" + b"\xa5" * 20, b"\0" * 20]
    tracemalloc.start()
    try:
        for data in streams:
            with pytest.raises(ValueError, match=r"integers|frame"):
                wire.decode_integers(data, 10**9, coder, width=8)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_fixed_width_where_a_code_is_shorter_is_refused():
    """Else two frames would be one payload."""
    values = np.zeros(40, np.uint8)
    fixed = b"\0" + bytes(40)
    assert code(values, "elias_gamma", 8) != fixed
    with pytest.raises(ValueError, match="not coded as fjx codes them"):
        wire.decode_integers(fixed, 40, "elias_gamma", width=8)


# --------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize("values", [[-1], [8], [2**40]])
def test_integers_out_of_range(values):
    with pytest.raises(ValueError, match=r"must lie in \[0, 8\)"):
        code(values, "golomb", 3)


def test_what_is_no_integer():
    with pytest.raises(TypeError, match="coders take integers"):
        code([0.5], "golomb", 3)


@pytest.mark.parametrize("width", [0, 32, -1])
def test_widths(width):
    with pytest.raises(ValueError, match="width must be"):
        code([0], "golomb", width)


def test_an_unknown_coder_lists_those_there_are():
    with pytest.raises(ValueError, match=r"elias_gamma, .*, zstd, got 'huffman'"):
        code([0], "huffman")


@pytest.mark.parametrize("coder", PACKAGES)
def test_a_missing_package_is_named_with_its_extra(coder, monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGES[coder], None)
    with pytest.raises(ImportError, match=rf'{PACKAGES[coder]}: pip install "fjx\[coders\]"'):
        code([0, 1], coder)
