"""A description adds up, and says what the codec's own functions say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire

LIKE = {
    "kernel": jax.ShapeDtypeStruct((40, 30), jnp.float32),
    "bias": jax.ShapeDtypeStruct((30,), jnp.bfloat16),
    "steps": jax.ShapeDtypeStruct((), jnp.int32),
}


@pytest.mark.ci
def test_leaves_add_up_to_the_whole_and_are_the_codec_s():
    codec = compressors.quantize(bits=4)
    found = compressors.describe(codec, LIKE)
    assert [row.name for row in found.leaves] == ["bias", "kernel", "steps"]
    assert [row.bits for row in found.leaves] == [30 * 4 + 32, 1200 * 4 + 32, 32]
    assert found.total.bits == sum(row.bits for row in found.leaves)
    assert found.leaves[1].contract == codec.contract(LIKE["kernel"])
    assert found.leaves[2].contract is None
    assert found.leaves[1].ratio == pytest.approx(1200 * 32 / (1200 * 4 + 32))


@pytest.mark.ci
def test_the_error_is_the_closed_form_s():
    """rand-k: E||C(x) - x||^2 = (d/k - 1) ||x||^2, of 64 messages within 6 standard errors."""
    like = jax.ShapeDtypeStruct((1000,), jnp.float32)
    nmse = compressors.describe(compressors.rand_k(0.25), like, messages=64).total.nmse
    # Given x the squared error is 16 sum of k of 1000 squares / ..., with relative variance < 4 / k.
    assert abs(nmse - 3) < 6 * 4 * np.sqrt(3 / 250 / 64)


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize(
    "codec",
    [
        compressors.flatten(compressors.quantize(bits=4)),
        compressors.chain(
            compressors.on("kernel", compressors.top_k(0.5)),
            compressors.on("bias", compressors.quantize(bits=4)),
        ),
        compressors.induced(compressors.top_k(0.1), compressors.rand_k(0.1)),
        pytest.param(
            compressors.error_feedback(compressors.flatten(compressors.top_k(0.1))),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_codecs_of_whole_trees_are_priced_as_a_whole(codec):
    found = compressors.describe(codec, LIKE)
    assert {row.bits for row in found.leaves} == {None}
    state = jax.eval_shape(codec.init, LIKE)
    key = jax.eval_shape(jax.random.key, 0)
    assert found.total.bits == wire.bits(jax.eval_shape(codec.encode, key, LIKE, state)[0])
    assert all(row.nmse is not None for row in found.leaves[:2])


def test_codecs_by_leaf_are_priced_by_leaf():
    codec = compressors.per_leaf(compressors.flatten(compressors.top_k(0.5)))
    found = compressors.describe(codec, LIKE)
    assert [row.bits for row in found.leaves] == [15 * (16 + 5) + 5, 600 * (32 + 11), 32]
    assert str(found).count("\n") == 6


def test_codecs_of_some_leaves_are_priced_by_leaf_too():
    found = compressors.describe(compressors.on("kernel", compressors.rand_k(0.25)), LIKE)
    assert [row.bits for row in found.leaves] == [30 * 16, 300 * 32 + 64, 32]
    assert [row.contract and row.contract.omega for row in found.leaves] == [0, 3, None]
    assert found.total.bits == sum(row.bits for row in found.leaves)


@pytest.mark.slow
def test_coded_leaves_cost_what_they_are_long():
    inner = compressors.chain(compressors.top_k(0.1), compressors.qsgd(levels=3))
    plain = 120 * (3 + 11) + 32  # a tenth of the kernel: codes, indices and a scale
    for codec in (
        compressors.entropy(inner, "golomb"),
        compressors.on("k", compressors.entropy(inner, "golomb")),
    ):
        found = compressors.describe(codec, LIKE)
        assert found.total.bits == sum(row.bits for row in found.leaves)
        assert found.leaves[1].bits < 0.8 * plain


def test_arguments():
    with pytest.raises(TypeError, match="describe needs a"):
        compressors.describe("top_k", LIKE)
    with pytest.raises(ValueError, match="messages must be"):
        compressors.describe(compressors.identity(), LIKE, messages=0)
