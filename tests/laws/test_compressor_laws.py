"""Every public compressor keeps the laws of ``fjx.testing``, and three of the library's own."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import pytest

from fjx import compressors, testing, wire
from fjx._base import Contract
from fjx.testing import _compressor
from fjx.testing._laws import jit, normal
from tests.support import tables

NAMES = [law.__name__ for law in _compressor.LAWS]

RARER = {
    "float16", "float8_e5m2", "quantize_2", "quantize_5", "rotated_in_blocks", "eden", "drive",
    "chain_rand_k_quantize", "chain_top_k_bfloat16", "chain_quantize_twice", "chain_top_k_twice",
    "flatten_top_k", "per_leaf_flatten", "chain_on_flatten", "scaled", "induced", "kashin",
    "natural_dithering", "product_quantize", "random_projection", "eden_mixed", "rotated_quantize",
    "quantize_12", "float8_e4m3fn", "stochastic_cast", "terngrad", "k_level", "absmax", "fixed_step",
    "one_bit_sgd", "lloyd_max", "stc", "importance_sampling", "chain_of_nothing", "repeat",
    "momentum_correction", "bernoulli", "quic_fl", "mixture", "shifted", "qsgd", "threshold", "mx",
    "subtractive_dither",
}  # fmt: skip
"""Rows on which programs take long to compile, and variants of other rows: slow evidence."""

COMMON = tables.COMPRESSORS.keys() - RARER

KINDS = {"quantize_8", "top_k", "rand_k", "power_sgd", "error_feedback"}
"""Rows, one of each kind, for laws that compile a program of their own."""

DEFAULT = {"quantize_8", "top_k", "power_sgd", "error_feedback"}
"""Rows on which every law runs by default."""

SHAPES = {"declares_a_contract_from_shapes", "keeps_the_structure_of_its_state"}
"""Laws that read shapes alone."""

TRACED = {"keeps_structure_and_dtypes", "uses_each_key_once"}
"""Laws that compile nothing, and trace a program or two."""

ALONE = {"vmap_is_a_loop", "traces_once", "equal_keys_give_equal_payloads"}
"""Laws that need a second program of ``encode``."""


NAMED = {"on_matrix", "chain_on_flatten"}
"""Rows that are made for messages with a leaf called matrix."""


def tier(name, law):
    if law in SHAPES:
        return tables.DEFAULT
    if law in TRACED:
        return tables.tier(name, COMMON, tables.COMPRESSORS)
    return tables.tier(name, DEFAULT, KINDS if law in ALONE else COMMON)


@functools.cache
def laws(name):
    others = {"leaves": {}} if name in NAMED else {}
    return {law.name: law for law in testing.compressor_laws(tables.COMPRESSORS[name], **others)}


@tables.cases(dict.fromkeys(tables.COMPRESSORS, NAMES), tier)
def test_law(name, law):
    if law not in laws(name):
        pytest.skip("its contract does not promise it")
    laws(name)[law].check()


def test_a_contract_is_not_all_silence():
    """The laws above would pass a table of codecs that promise nothing."""
    promised = [codec.contract(testing.message_like()) for codec in tables.COMPRESSORS.values()]
    assert sum(c != Contract() for c in promised) >= 0.7 * len(promised)


every = tables.rows(tables.COMPRESSORS, DEFAULT, COMMON)
every_kind = tables.rows(tables.COMPRESSORS, DEFAULT, KINDS)


@pytest.mark.few(2)
@pytest.mark.optimized
@every_kind
def test_one_program_of_both_decodes_to_what_the_server_decodes_from_bytes(name, getkey):
    """A simulation fuses encode and decode, and a fused program may round otherwise than its parts."""
    codec = tables.COMPRESSORS[name]

    @jax.jit
    def both(key, message, state):
        payload, _ = codec.encode(key, message, state)
        return payload, codec.decode(payload)

    decoder = jax.jit(codec.decode)
    for seed in range(3):
        message = normal(testing.message_like(), seed)
        payload, decoded = both(getkey(), message, codec.init(message))
        received = wire.from_bytes(wire.to_bytes(payload))
        if isinstance(received, wire.Shifted):  # the receiver has the memory already
            received = dataclasses.replace(received, memory=payload.memory)
        chex.assert_trees_all_equal(decoder(received), decoded)


@pytest.mark.few(2)
@every_kind
def test_bits_are_measured_in_a_compiled_program(name, getkey):
    codec, message = tables.COMPRESSORS[name], normal(testing.message_like(), 0)

    @jit
    def measured(key):
        payload, _ = codec.encode(key, message, codec.init(message))
        return payload, wire.measured_bits(payload)

    payload, bits = measured(getkey())
    assert int(bits) == wire.bits(payload)


@pytest.mark.few(4)
@pytest.mark.parametrize("name", tables.LEVELS)
def test_has_no_more_values_than_levels(name, getkey):
    """A codec that does nothing would pass every law of unbiasedness, and be billed for less."""
    codec, message = tables.COMPRESSORS[name], normal(testing.message_like(), 5)

    @jit
    def both(key):
        return codec.decode(codec.encode(key, message, codec.init(message))[0])

    decoded = both(getkey())
    for leaf in (decoded["matrix"], decoded["nested"]["vector"]):
        assert 1 < len(np.unique(np.asarray(leaf))) <= tables.LEVELS[name]


@every
def test_is_portable(name):
    """No operation that a phone's compiler lacks: no LAPACK, no call to the host, no 64-bit number."""
    codec, message = tables.COMPRESSORS[name], normal(testing.message_like(), 0)
    state = codec.init(message)
    program = jax.make_jaxpr(lambda key: codec.encode(key, message, state))(jax.random.key(0))
    found = set(primitives(program.jaxpr))
    assert found.isdisjoint(UNPORTABLE), found & UNPORTABLE


UNPORTABLE = {
    *("qr", "geqrf", "householder_product", "eigh", "eig", "svd", "cholesky", "lu"),
    *("pure_callback", "io_callback", "debug_callback", "custom_call", "fft"),
}


def primitives(jaxpr):
    """The names of all operations, of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
            if hasattr(value, "jaxpr"):
                yield from primitives(value.jaxpr)
            elif hasattr(value, "eqns"):
                yield from primitives(value)


@pytest.mark.few(2)
@every_kind
def test_error_feedback_conserves_mass(name, getkey):
    """decode(payload) + residual = message + old residual, over three rounds."""
    if name in ("error_feedback", "momentum_correction"):
        pytest.skip("feedback around feedback counts the residual twice, and is refused")
    # A schedule of ones: it accepts codecs with which residuals may grow, too.
    codec = compressors.error_feedback(tables.COMPRESSORS[name], decay=lambda t: 1.0)
    step, decode = jit(codec.encode), jit(codec.decode)
    message = normal(testing.message_like(), 0)
    state, sent = codec.init(message), []
    for _ in range(3):
        payload, state = step(getkey(), message, state)
        sent.append(decode(payload))
    total = jax.tree.map(lambda *x: sum(map(np.asarray, x)), *sent, state.residual)
    expected = jax.tree.map(lambda x: 3 * np.asarray(x), message)
    chex.assert_trees_all_close(total, expected, rtol=1e-5, atol=1e-5)
