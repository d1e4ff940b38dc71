"""What is promised of narrow leaves is true, and memories of narrow messages are wide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import Contract, rounds
from fjx import compressors as c
from tests.support import tables

NAMED = {"on_matrix", "chain_on_flatten"}
SIZE = 37


def floats(tree):
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def like(dtype):
    return jax.eval_shape(lambda: tables.message(dtype=dtype))


@pytest.mark.few(40)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", tables.COMPRESSORS)
def test_memories_of_codecs_are_in_float32_at_least(name, dtype):
    codec = tables.COMPRESSORS[name]
    state = jax.eval_shape(codec.init, like(dtype))
    assert all(jnp.finfo(x.dtype).bits >= 32 for x in floats(state))
    key = jax.eval_shape(jax.random.key, 0)
    payload, after = jax.eval_shape(codec.encode, key, like(dtype), state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), (state,)) == jax.tree.map(
        lambda x: (x.shape, x.dtype), (after,)
    )
    found = jax.eval_shape(codec.decode, payload)
    assert [x.dtype for x in jax.tree.leaves(found)] == [
        x.dtype for x in jax.tree.leaves(like(dtype))
    ]


MODELS = {
    *("choco", "choco_gossip", "choco_sgd", "dsgd", "gradient_tracking", "gossip", "tracking"),
    *("ditto", "mr_mtl", "apfl", "pfedme", "moon"),
    *("fedper", "lg_fedavg", "fedrep", "fedbn", "private_leaves"),
}
"""Recipes whose clients hold a model of their own, or a part of one, in the dtype of the user."""


@pytest.mark.parametrize("name", sorted(tables.ALGORITHMS.keys() - MODELS))
def test_memories_of_recipes_are_in_float32_at_least(name):
    algorithm, params = tables.ALGORITHMS[name], tables.params_of(name)
    narrow = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x, params
    )
    row = jax.eval_shape(algorithm.init_client, narrow)
    state = jax.eval_shape(algorithm.init, narrow)
    state = getattr(state, "inner", state)  # of the trained part, if others are frozen
    assert all(
        jnp.finfo(x.dtype).bits >= 32 for x in floats((row, state.aggregator, state.downlink))
    )


HARD = np.float32([
    [1.0] + [0.1669921875] * (SIZE - 1),
    [1.0] * (SIZE // 2) + [0.25] * (SIZE - SIZE // 2),
    [1.0] + [0.3125] * (SIZE - 1),
    np.random.default_rng(0).standard_normal(SIZE),
])  # fmt: skip
"""Messages of few digits, which bfloat16 holds, beside a Gaussian one."""


def promised(name):
    """What a codec promises of a bfloat16 leaf, besides what it promises of no leaf."""
    if name in NAMED:
        return Contract()
    return tables.COMPRESSORS[name].contract(jax.ShapeDtypeStruct((SIZE,), jnp.bfloat16))


@pytest.mark.few(5)
@pytest.mark.parametrize(
    "name", [n for n in tables.COMPRESSORS if promised(n)._replace(linear=False) != Contract()]
)
def test_what_is_promised_of_narrow_leaves_is_true(name):
    codec, contract = tables.COMPRESSORS[name], promised(name)
    messages = jnp.asarray(HARD, jnp.bfloat16)

    def send(x, key):
        return codec.decode(codec.encode(key, x, codec.init(x))[0]).astype(jnp.float32)

    keys = jax.random.split(jax.random.key(0), 400)
    decoded = jax.jit(jax.vmap(jax.vmap(send, (None, 0)), (0, None)))(messages, keys)
    for x, y in zip(np.float64(messages), np.float64(decoded), strict=True):
        share = np.square(y - x).sum(1) / np.square(x).sum()
        slack = 6 * share.std() / np.sqrt(len(keys)) + 1e-6
        if contract.unbiased:
            spread = np.maximum(y.std(0), np.sqrt(y.var(0).mean()))
            assert (abs(y.mean(0) - x) <= 6 * spread / np.sqrt(len(keys)) + 1e-6).all()
        assert contract.omega is None or share.mean() <= contract.omega + slack
        assert contract.delta is None or share.mean() <= 1 - contract.delta + slack
        if contract.projection:
            np.testing.assert_allclose(
                np.square(y).sum(1) / np.square(x).sum() + share, 1, atol=1e-5
            )


def test_a_rounding_behind_a_codec_is_in_its_promise():
    """It loses 0.50 of this message and promises 0.51; of float16, which underflows, nothing."""
    leaf = jax.ShapeDtypeStruct((SIZE,), jnp.bfloat16)
    assert 0.5 < 1 - c.absmax(bits=3).contract(leaf).delta < 0.51
    assert c.absmax(bits=3).contract(jax.ShapeDtypeStruct((SIZE,), jnp.float16)) == Contract()
    assert c.lloyd_max(bits=3).contract(leaf).projection is False
    assert c.rotated(c.identity()).contract(leaf) == Contract()
    mixed = {"a": leaf, "b": jax.ShapeDtypeStruct((9,), jnp.float32)}
    assert not c.flatten(c.quantize(bits=4)).contract(mixed).unbiased
    assert c.flatten(c.top_k(0.5)).contract(mixed).delta == 0.5


LINKS = {
    "error_feedback": c.error_feedback(c.top_k(0.5)),
    "momentum_correction": c.momentum_correction(c.top_k(0.5), momentum=0.0),
}


@pytest.mark.parametrize("name", LINKS)
def test_a_narrow_message_loses_nothing_for_good(name):
    """Of 3000 messages (1, 0.001), all that is not sent is in the residual: 8 more digits are needed."""
    codec, x = LINKS[name], jnp.array([1.0, 1e-3], jnp.bfloat16)

    def step(carry, key):
        state, total = carry
        payload, state = codec.encode(key, x, state)
        return (state, total + codec.decode(payload).astype(jnp.float32)), None

    start = codec.init(x), jnp.zeros(2)
    keys = jax.random.split(jax.random.key(0), 3000)
    state, total = jax.jit(lambda: jax.lax.scan(step, start, keys)[0])()
    assert float(total[1] + state.residual[1]) == pytest.approx(3000 * float(x[1]), rel=1e-3)


@pytest.mark.parametrize("name", ["shifted", "difference"])
def test_the_memory_of_a_narrow_message_reaches_it(name):
    """Differences of 2^-9 of the memory are added up at both ends, where bfloat16 rounds them away."""
    lam = 2.0**-9
    codec = {
        "shifted": c.shifted(c.identity(), lam=lam),
        "difference": rounds.difference(c.identity(), num_clients=1, lam=lam)["uplink"],
    }[name]
    x = jnp.ones(1, jnp.bfloat16)
    zeros = jax.ShapeDtypeStruct((1,), jnp.bfloat16)

    def step(state, key):
        return codec.encode(key, x, state)[1], None

    keys = jax.random.split(jax.random.key(0), 4000)
    state = jax.jit(lambda: jax.lax.scan(step, codec.init(zeros), keys)[0])()
    assert float(state.memory[0]) == pytest.approx(1, abs=1e-2)


def test_sums_of_narrow_terms_are_rounded_once():
    """Twelve rounds of two means: a sum in bfloat16 would be rounded eleven times."""
    codec, x = c.repeat(c.one_bit_sgd(), times=12), jnp.array([1, 1 / 3, 0.9, 0.77], jnp.bfloat16)
    decoded = jax.jit(lambda: codec.decode(codec.encode(jax.random.key(0), x, codec.init(x))[0]))()
    wide = c.repeat(c.one_bit_sgd(), times=12)
    y = x.astype(jnp.float32)
    exact = jax.jit(lambda: wide.decode(wide.encode(jax.random.key(0), y, wide.init(y))[0]))()
    np.testing.assert_allclose(np.float32(decoded), exact, rtol=2.0**-7)
