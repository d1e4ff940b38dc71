"""Compositions that cannot work are refused before the first message, with a remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors as c

X = jax.ShapeDtypeStruct((100,), jnp.float32)
NARROW = jax.ShapeDtypeStruct((100,), jnp.bfloat16)


@pytest.mark.parametrize("memory", [c.error_feedback, c.momentum_correction])
@pytest.mark.parametrize(
    "codec", [c.rand_k(0.1), c.qsgd(levels=1), c.flatten(c.rotated(c.rand_k(0.3))), c.rand_p(0.5)]
)
def test_a_residual_that_grows_without_bound(memory, codec):
    for like in (X, NARROW, {"w": X, "n": jax.ShapeDtypeStruct((2,), jnp.int32)}):
        with pytest.raises(ValueError, match=r"error_feedback\(scaled\(codec\)\)"):
            memory(codec).init(like)
    memory(c.scaled(codec)).init(X)


def test_a_residual_that_is_bounded_is_accepted():
    c.error_feedback(c.quantize(bits=8)).init(X)  # omega < 1
    c.error_feedback(c.rand_k(0.5), decay=0.9).init(X)  # omega = 1 and decay^2 omega < 1
    c.error_feedback(c.fixed_step(0.1)).init(X)  # omega is not known
    c.error_feedback(c.induced(c.top_k(0.5), c.natural())).init(X)
    with pytest.raises(ValueError, match="omega = 1"):
        c.error_feedback(c.rand_k(0.5)).init(X)


@pytest.mark.parametrize("outer", [c.error_feedback, c.momentum_correction])
@pytest.mark.parametrize("inner", [c.error_feedback, c.momentum_correction])
def test_a_residual_that_is_kept_twice(outer, inner):
    for codec in (inner(c.top_k(0.1)), c.flatten(c.per_leaf(inner(c.top_k(0.1))))):
        with pytest.raises(ValueError, match="twice"):
            outer(codec).init(X)


@pytest.mark.parametrize("sparse", [c.top_k(0.5), c.rand_k(0.5), c.threshold(0.1), c.rand_p(0.5)])
@pytest.mark.parametrize("quantiser", [c.quantize(bits=4), c.scaled_sign(), c.k_level(levels=4)])
def test_a_sparsifier_that_is_given_scales_only(quantiser, sparse):
    with pytest.raises(ValueError, match="sparsify first"):
        c.chain(quantiser, sparse).init(X)
    with pytest.raises(ValueError, match="codec 3 of the chain"):
        c.chain(c.cast(jnp.bfloat16), quantiser, sparse).init(X)
    c.chain(sparse, quantiser).init(X)
    c.chain(quantiser, sparse).init(
        jax.ShapeDtypeStruct((), jnp.float32)
    )  # a message of one number


def test_a_later_codec_may_round_scales():
    c.chain(c.quantize(bits=4), c.quantize(bits=4)).init(X)
    c.chain(c.scaled_sign(), c.cast(jnp.bfloat16)).init(X)
    c.chain(c.blockwise(c.absmax(bits=4), size=10), c.top_k(0.5)).init(X)  # many scales


SAME = {
    "k_level": c.k_level(levels=17),
    "k_level of 16 bits": c.k_level(levels=2**16),
    "quantize": c.quantize(bits=8),
    "subtractive_dither": c.subtractive_dither(bits=8),
    "natural_dithering": c.natural_dithering(levels=7),
    "mx": c.mx("float8_e4m3fn"),
    "lloyd_max": c.lloyd_max(bits=3),
    "terngrad": c.terngrad(),
    "cast": c.cast(jnp.float16),
    "quic_fl": c.quic_fl(bits=2),
}


@pytest.mark.ci
@pytest.mark.few(3)
@pytest.mark.optimized
@pytest.mark.parametrize("name", SAME)
def test_a_payload_decodes_to_the_same_numbers_in_every_program(name):
    """Op by op and compiled: no product is fused with a sum, which would not round it."""
    codec, x = SAME[name], jax.random.normal(jax.random.key(4), (1024,))
    payload = jax.jit(codec.encode)(jax.random.key(0), x, codec.init(x))[0]
    with jax.disable_jit():
        alone = np.asarray(codec.decode(payload))
    compiled = np.asarray(jax.jit(codec.decode)(payload))
    np.testing.assert_array_equal(alone, compiled)
