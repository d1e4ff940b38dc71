"""Codecs that break one law each: the law finds them, and says what and where."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import Contract, compressors, testing, wire
from fjx._tree import is_float
from fjx.testing import _compressor

IDENTITY = compressors.identity()
PROMISES_NOTHING = IDENTITY._replace(contract=lambda like: Contract())


def floats(function, tree):
    return jax.tree.map(lambda x: function(x) if is_float(x) else x, tree)


def encoding(function):
    """A codec that sends ``function(key, x)`` of every floating leaf."""

    def encode(key, message, state):
        return floats(lambda x: function(key, x), message), state

    return PROMISES_NOTHING._replace(encode=encode)


def claiming(codec, **promises):
    return codec._replace(contract=lambda like: Contract(**promises))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Nibbles(wire.Payload):
    """Of bytes, the lower halves travel."""

    codes: jax.Array

    def widths(self):
        return {"codes": 4}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AsNeeded(wire.Payload):
    """Bits that depend on the values."""

    codes: jax.Array

    def widths(self):
        return {"codes": max(1, int(np.max(self.codes, initial=0)).bit_length())}


def in_bytes(payload):
    """Every leaf as an integer from 0 to 255."""
    return compressors.lift(
        lambda key, x: payload(jnp.clip(jnp.abs(100 * x), 0, 255).astype(jnp.uint8)),
        lambda p: p.codes.astype(jnp.float32) / 100,
        lambda leaf: Contract(),
        node=payload,
    )


@jax.custom_batching.custom_vmap
def doubled_in_a_batch(x):
    return x


@doubled_in_a_batch.def_vmap
def _(axis_size, batched, x):
    return 2 * x, True


class Counter:
    """A number that goes up when the program runs."""

    calls = 0

    def __call__(self, x):
        self.calls += 1
        return np.asarray(x) + np.float32(self.calls)


counter = Counter()


def counted(key, x):
    return jax.pure_callback(
        counter, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="broadcast_all"
    )


BROKEN = {
    "keeps_structure_and_dtypes": (
        IDENTITY._replace(decode=lambda p: floats(lambda x: x.astype(jnp.float32), p)),
        "in bfloat16",
        "wanted bfloat16",
    ),
    "declares_a_contract_from_shapes": (claiming(IDENTITY, delta=0.0), "template", "delta = 0.0"),
    "keeps_the_structure_of_its_state": (
        PROMISES_NOTHING._replace(encode=lambda key, message, state: (message, message)),
        "the first message",
        "structure",
    ),
    "uses_each_key_once": (
        encoding(lambda key, x: x + jax.random.normal(key, x.shape, x.dtype)),
        "jax_debug_key_reuse",
        "KeyReuseError",
    ),
    "is_a_pure_function": (
        encoding(lambda key, x: x + jnp.asarray(np.random.default_rng().normal(), x.dtype)),
        "two traces",
        "different programs",
    ),
    "sound_messages_stay_finite": (
        encoding(lambda key, x: jnp.log(x)),
        "the message of seed 0",
        "['matrix']",
    ),
    "passes_integers_through": (
        PROMISES_NOTHING._replace(decode=lambda p: jax.tree.map(lambda x: (2 * x) // 2 * 2, p)),
        "the message of seed 0",
        "['count']",
    ),
    "decodes_from_the_bytes_alone": (in_bytes(Nibbles), "the message of seed 0", "other bits"),
    "costs_the_bits_of_its_bytes": (in_bytes(AsNeeded), "template", "Error"),
    "zeros_decode_to_zeros": (
        encoding(lambda key, x: x / jnp.sqrt(jnp.sum(x**2))),
        "a message of zeros",
        "nan",
    ),
    "a_broken_number_is_never_sent_as_a_sound_one": (
        encoding(lambda key, x: jnp.nan_to_num(x)),
        "a message with NaN at ['matrix']",
        "0.0",
    ),
    "vmap_is_a_loop": (
        encoding(lambda key, x: doubled_in_a_batch(x)),
        "the message of seed 0",
        "in a batch",
    ),
    "traces_once": (
        PROMISES_NOTHING._replace(
            init=lambda like: 0.0,
            encode=lambda key, message, state: (message, state + jnp.float32(1)),
        ),
        "three messages",
        "traced 2 times",
    ),
    "equal_keys_give_equal_payloads": (
        encoding(counted),
        "twice with one key",
        "other bits at [0]['matrix']",
    ),
    "is_unbiased_as_declared": (
        claiming(encoding(lambda key, x: 0.999 * x), unbiased=True),
        "encoded 2000 times",
        "the mean error",
    ),
    "errors_of_clients_average_out": (
        claiming(encoding(lambda key, x: x + 0.5), unbiased=True),
        "encoded 2000 times",
        "a tenth of one's",
    ),
    "errs_as_declared": (
        claiming(compressors.rand_k(0.25), omega=1.0),
        "encoded 2000 times",
        "omega is 1",
    ),
    "is_linear_as_declared": (
        claiming(compressors.quantize(bits=2), linear=True),
        "one key",
        "C(x) + C(y) - C(x + y)",
    ),
    "is_a_projection_as_declared": (
        claiming(compressors.quantize(bits=2), projection=True),
        "encoded 2000 times",
        "of ||x||^2",
    ),
}
"""For each law a codec that breaks it, words of the input and words of what is found."""


def test_every_law_is_broken_once():
    assert BROKEN.keys() == {law.__name__ for law in _compressor.LAWS}


@pytest.mark.few(6)
@pytest.mark.parametrize("law", BROKEN)
def test_a_broken_codec_is_found(law):
    codec, given, found = BROKEN[law]
    laws = {one.name: one for one in testing.compressor_laws(codec)}
    with pytest.raises(testing.LawError) as failure:
        laws[law].check()
    error = failure.value
    assert error.law == law
    assert given in error.given
    assert found in error.found
    assert all(part in str(error) for part in (law, error.statement, error.given, error.remedy))


@pytest.mark.parametrize(
    ("codec", "given"),
    [
        (encoding(lambda key, x: x / jnp.max(jnp.abs(x))), "a message of an empty leaf"),
        (encoding(lambda key, x: jnp.sort(x)[::-1]), "a message of a scalar"),
        (
            PROMISES_NOTHING._replace(
                decode=lambda p: jax.tree.map(lambda x: x * jnp.float32(1), p)
            ),
            "a message like the template, in bfloat16",
        ),
    ],
)
def test_kinds_of_leaves_are_tried_whatever_the_template(codec, given):
    like = {"w": jax.ShapeDtypeStruct((4,), jnp.float32)}
    with pytest.raises(testing.LawError, match="keeps_structure_and_dtypes") as failure:
        testing.check_compressor(codec, like)
    assert failure.value.given == given


def test_a_codec_for_one_message_is_not_tried_on_others():
    def encode(key, message, state):
        return (message["w"], message["b"]), state

    codec = PROMISES_NOTHING._replace(
        encode=encode, decode=lambda payload: {"w": payload[0], "b": payload[1]}
    )
    like = {"w": jnp.ones((3, 2)), "b": jnp.ones(())}
    testing.check_compressor(codec, like, leaves={})
    with pytest.raises(testing.LawError, match="a message of a scalar"):
        testing.check_compressor(codec, like)


def test_a_biased_quantiser_that_looks_right_is_found():
    """Rounding to the nearest instead of at random, in a codec of one's own."""

    def encode(key, x):
        step = jnp.max(jnp.abs(x), initial=0.0) / 7
        return jnp.round(x / jnp.where(step > 0, step, 1)) * step

    codec = claiming(encoding(encode), unbiased=True)
    with pytest.raises(testing.LawError, match="is_unbiased_as_declared"):
        testing.check_compressor(codec)


def test_a_bound_that_only_random_messages_keep_is_found():
    """Natural compression of normal numbers has 0.082 ||x||^2 of error; of 1.5 it has 1/9."""
    law = "errs_as_declared"
    for omega in (0.1, 1 / 8):
        codec = claiming(compressors.natural(), omega=omega)
        laws = {one.name: one for one in testing.compressor_laws(codec, jnp.ones(64), leaves={})}
        if omega == 1 / 8:
            laws[law].check()
        else:
            with pytest.raises(testing.LawError, match="two opposite extremes"):
                laws[law].check()


def test_refuses_what_is_no_codec():
    with pytest.raises(TypeError, match=r"codec must be a fjx\.Compressor"):
        testing.check_compressor(compressors.identity)
