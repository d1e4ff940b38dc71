"""Codecs made of codecs: what may be promised of them, and that they come apart as they were made."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import Contract, Stateful, compressors, wire

c = compressors
SIGMAS = 6.0
DRAWS = 4000


def like(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def programs(codec):
    """The codec, compiled once for each shape."""
    return codec._replace(encode=jax.jit(codec.encode), decode=jax.jit(codec.decode))


def sent(codec, key, message):
    """Encoded and decoded, from the first state."""
    payload, _ = codec.encode(key, message, codec.init(message))
    return payload, codec.decode(payload)


def once(codec, message):
    """What arrives, as NumPy's arrays."""
    decoded = jax.jit(functools.partial(sent, codec))(jax.random.key(0), message)[1]
    return jax.tree.map(np.asarray, decoded)


def energy(tree):
    return sum(np.square(np.asarray(x, np.float64)).sum() for x in jax.tree.leaves(tree))


def measured(codec, message):
    """E||C(x) - x||^2 / ||x||^2 over DRAWS draws, and 6 standard errors of it."""
    state = codec.init(message)

    def error(key):
        decoded = codec.decode(codec.encode(key, message, state)[0])
        parts = jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - b)), decoded, message)
        return jax.tree.reduce(jnp.add, parts)

    keys = jax.random.split(jax.random.key(1), DRAWS)
    errors = np.asarray(jax.jit(jax.vmap(error))(keys), np.float64) / energy(message)
    return errors.mean(), SIGMAS * errors.std() / np.sqrt(DRAWS) + 1e-6


FLAT = np.float32((-1.0) ** np.arange(16))
GAUSSIAN = np.random.default_rng(0).standard_normal(16, np.float32)


# ----------------------------------------------------------------------------- contracts of chains


@pytest.mark.few(1)
@pytest.mark.parametrize("x", [FLAT, GAUSSIAN], ids=["flat", "gaussian"])
def test_unbiased_after_unbiased_attains_its_bound(x):
    """rand_k twice: (1 + 1)(1 + 3) - 1 = 7 is the exact error of keeping 2 of 16, for every x."""
    codec = c.chain(c.rand_k(0.5), c.rand_k(0.25))
    contract = codec.contract(like(x))
    assert (contract.unbiased, contract.omega, contract.delta) == (True, 7.0, None)
    assert contract.linear
    share, slack = measured(codec, x)
    assert abs(share - 7) < slack < 0.7


@pytest.mark.slow
def test_unbiased_after_unbiased_holds_where_it_is_not_attained():
    codec = c.chain(c.rand_k(0.5), c.quantize(bits=3))
    contract = codec.contract(like(GAUSSIAN))
    inner = c.quantize(bits=3).contract(jax.ShapeDtypeStruct((8,), jnp.float32)).omega
    assert contract.omega == pytest.approx((1 + 1) * (1 + inner) - 1)
    share, slack = measured(codec, GAUSSIAN)
    assert 1 - slack < share < contract.omega + slack
    assert not contract.linear


def test_unbiased_after_a_projection_attains_its_bound():
    """Half of a flat vector is dropped, and the other half errs by omega = 1/3 of its energy."""
    codec = c.chain(c.top_k(0.5), c.rand_k(0.75))
    contract = codec.contract(like(FLAT))
    assert contract == Contract(delta=pytest.approx(0.5 * (1 - 1 / 3)))
    share, slack = measured(codec, FLAT)
    assert abs(share - (1 - contract.delta)) < slack < 0.1


def test_a_large_omega_after_a_projection_loses_the_contraction():
    """rand_k(1/4) has omega = 3: after top_k the error exceeds ||x||^2, and nothing is promised."""
    codec = c.chain(c.top_k(0.5), c.rand_k(0.25))
    assert codec.contract(like(FLAT)) == Contract()
    share, slack = measured(codec, FLAT)
    assert share - slack > 1


PAIRS = {
    "biased after biased": (c.top_k(0.5), c.top_k(0.5)),
    "biased after unbiased": (c.quantize(bits=4), c.top_k(0.5)),
    "biased after linear": (c.rand_k(0.5), c.top_k(0.5)),
    "biased after cast": (c.cast(jnp.bfloat16), c.top_k(0.5)),
    "cast after unbiased": (c.quantize(bits=4), c.cast(jnp.bfloat16)),
    "unbiased after cast": (c.cast(jnp.float8_e5m2), c.quantize(bits=4)),
    "anything after feedback": (c.error_feedback(c.top_k(0.5)), c.quantize(bits=8)),
    "feedback after anything": (c.quantize(bits=8), c.error_feedback(c.top_k(0.5))),
}


@pytest.mark.parametrize("name", PAIRS)
def test_nothing_is_promised_of_other_pairs(name):
    assert c.chain(*PAIRS[name]).contract(like(GAUSSIAN)) == Contract()


def test_top_k_after_rand_k_is_worse_than_either_and_shows_why():
    """rand_k stretches by 4, top_k then drops the rest: error (d/k - 1)^2 and more, not 1 - delta."""
    codec = c.chain(c.rand_k(0.25), c.top_k(0.5))
    share, slack = measured(codec, FLAT)
    assert share - slack > 1  # 2 of 16 coordinates err by 3, 14 by 1: (2 * 9 + 14) / 16 = 2
    assert abs(share - 2) < slack + 1e-5


@pytest.mark.parametrize(
    "codec", [c.top_k(0.3), c.quantize(bits=5), c.rand_k(0.3), c.cast(jnp.bfloat16), c.identity()]
)
def test_exact_codecs_are_neutral_in_a_chain(codec):
    wanted = codec.contract(like(GAUSSIAN))
    assert c.chain(c.identity(), codec).contract(like(GAUSSIAN)) == wanted
    assert c.chain(codec).contract(like(GAUSSIAN)) == wanted
    assert c.chain(c.cast(jnp.float32), codec).contract(like(GAUSSIAN)) == wanted


@pytest.mark.slow
def test_quantising_scales_together_promises_nothing():
    """A scale counts for all coordinates of its leaf, so a vector of scales has not their norm.

    The first codec is exact on these leaves; the second rounds the small scale, which 1000
    coordinates share, with the step of the large.  The rule for unbiased pairs would promise 0.24.
    """
    codec = c.chain(c.quantize(bits=8), c.flatten(c.quantize(bits=2)))
    message = {"many": np.full(1000, 0.1, np.float32), "one": np.ones(1, np.float32)}
    first = c.quantize(bits=8).contract(like(message)).omega
    second = c.quantize(bits=2).contract(jax.ShapeDtypeStruct((2,), jnp.float32)).omega
    share, slack = measured(codec, message)
    assert share - slack > 5 > 20 * ((1 + first) * (1 + second) - 1)
    assert codec.contract(like(message)) == Contract()
    # Values of sparsifiers do have the norm of the message.
    for sparsify in (c.rand_k(0.5), c.on("many", c.rand_k(0.5)), c.flatten(c.rand_k(0.5))):
        joint = c.chain(sparsify, c.flatten(c.quantize(bits=4))).contract(like(message))
        assert joint.unbiased
        assert joint.omega is not None


def test_on_and_per_leaf_promise_the_worst_of_their_parts():
    message = {"a": FLAT, "b": GAUSSIAN[:4]}
    part = c.on("a", c.rand_k(0.25)).contract(like(message))
    assert (part.unbiased, part.omega, part.delta) == (True, 3.0, None)
    part = c.on("a", c.top_k(0.25)).contract(like(message))
    assert part == Contract(delta=0.25, projection=True)
    part = c.per_leaf(c.flatten(c.top_k(0.3))).contract(like(message))
    assert part.delta == min(5 / 16, 2 / 4)
    assert c.flatten(c.top_k(0.3)).contract(like(message)).delta == 6 / 20


# -------------------------------------------------------------------------- chains come apart again


def test_nested_nodes_of_one_type_are_undone_from_the_inside():
    """8 distinct magnitudes, halved three times: what is left is the largest."""
    x = jnp.array([1.0, -8.0, 3.0, 4.0, -5.0, 6.0, 7.0, 2.0])
    codec = c.chain(c.top_k(0.5), c.top_k(0.5), c.top_k(0.5))
    payload, decoded = jax.jit(functools.partial(sent, codec))(jax.random.key(0), x)
    assert [type(payload), type(payload.values), type(payload.values.values)] == [wire.Sparse] * 3
    assert decoded.tolist() == [0, -8, 0, 0, 0, 0, 0, 0]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "codec",
    [
        c.chain(c.quantize(bits=2), c.natural(), c.quantize(bits=8)),
        c.chain(c.top_k(0.5), c.natural(), c.top_k(0.5)),
        c.chain(c.scaled_sign(), c.natural(), c.scaled_sign()),
        c.chain(c.top_k(0.5), c.quantize(bits=3), c.natural(), c.quantize(bits=3)),
        c.chain(c.blockwise(c.absmax(bits=4), size=2), c.natural(), c.absmax(bits=4)),
    ],
)
def test_a_codec_that_found_nothing_to_encode_decodes_nothing(codec):
    """The third codec has no floats left; the node of its type is the first one's."""
    x = np.float32([1.0, -2.0, 4.0, 0.5])
    decoded = once(codec, x)
    assert decoded.shape == x.shape
    assert energy(decoded - x) <= 2 * energy(x)


@pytest.mark.parametrize("codec", [c.quantize(bits=4), c.chain(c.top_k(0.5), c.cast(jnp.bfloat16))])
def test_keys_are_typed(codec):
    x = jnp.ones(3)
    with pytest.raises(TypeError, match="key must be a typed key"):
        codec.encode(jax.random.PRNGKey(0), x, codec.init(x))


def test_a_leaf_that_is_rounded_when_decoded_is_promised_no_unbiasedness():
    """In bfloat16 a mean of many draws stays away from x by the rounding of the decoded levels."""
    codec, x = c.quantize(bits=8), jnp.array([1, 0.77], jnp.bfloat16)
    draw = jax.jit(jax.vmap(lambda key: sent(codec, key, x)[1]))
    draws = draw(jax.random.split(jax.random.key(0), 20_000))
    means = np.asarray(draws, np.float64).mean(0)
    assert abs(means[1] - float(x[1])) > SIGMAS * (1 / 127) / np.sqrt(20_000)
    assert not codec.contract(like(x)).unbiased
    assert codec.contract(like(x.astype(jnp.float32))).unbiased


def test_a_chain_decodes_in_reverse():
    x = np.random.default_rng(2).standard_normal(40, np.float32)
    first, second = c.top_k(0.25), c.quantize(bits=3)
    both = jax.jit(functools.partial(sent, c.chain(first, second)))
    payload, decoded = both(jax.random.key(3), x)
    assert isinstance(payload, wire.Sparse)
    assert isinstance(payload.values, wire.Quantized)
    step_by_step = jax.jit(lambda payload: first.decode(second.decode(payload)))(payload)
    chex.assert_trees_all_equal(decoded, step_by_step)
    # Values lie on the grid of 7 points around the kept maximum; other coordinates are zero.
    grid = np.unique(np.asarray(step_by_step) / np.abs(x).max() * 3)
    np.testing.assert_allclose(grid, np.round(grid), atol=1e-6)
    assert (np.asarray(step_by_step) != 0).sum() <= 10


PARTS = {
    "two sparsifiers": (c.top_k(0.5), c.top_k(0.25)),
    "two quantisers": (c.quantize(bits=4), c.quantize(bits=8)),
    "of two types": (c.top_k(0.5), c.quantize(bits=8)),
    "two casts": (c.cast(jnp.bfloat16), c.cast(jnp.float16)),
    "two masks": (c.rand_k(0.5), c.rand_k(0.25)),
    "flattened": (c.flatten(c.top_k(0.5)), c.flatten(c.top_k(0.25))),
    "with memory": (c.error_feedback(c.top_k(0.5)), c.error_feedback(c.top_k(0.25))),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("name", PARTS)
def test_a_codec_for_each_part(name):
    """``on`` after ``on``: each part decodes as it would alone, as bytes too, the rest as it was."""
    message = {
        "kernel": GAUSSIAN[:8],
        "bias": np.random.default_rng(5).standard_normal(12, np.float32),
        "rest": np.arange(3, dtype=np.float32),
        "count": np.int32([3]),
    }
    first, second = PARTS[name]
    codec = programs(c.chain(c.on("kernel", first), c.on("bias", second)))
    payload, _ = codec.encode(jax.random.key(6), message, codec.init(message))
    decoded = codec.decode(wire.from_bytes(wire.to_bytes(payload)))
    chex.assert_trees_all_equal_structs(decoded, message)
    chex.assert_trees_all_equal(
        [decoded["rest"], decoded["count"]], [message["rest"], message["count"]]
    )
    for part, inner in (("kernel", first), ("bias", second)):
        error, whole = energy(decoded[part] - message[part]), energy(message[part])
        assert 0 < error < (4 if "mask" in name else 1) * whole
        if name in ("two sparsifiers", "two casts", "flattened", "with memory"):  # no randomness
            chex.assert_trees_all_equal(np.asarray(decoded[part]), once(inner, message[part]))


def test_one_part_after_a_codec_of_all():
    """A sparsifier of all leaves, and a second of one: the other's nodes are left as they are."""
    message = {"a": jnp.arange(1.0, 9.0), "b": jnp.arange(1.0, 9.0)}
    decoded = once(c.chain(c.top_k(0.5), c.on("b", c.top_k(0.5))), message)
    assert decoded["a"].tolist() == [0, 0, 0, 0, 5, 6, 7, 8]
    assert decoded["b"].tolist() == [0, 0, 0, 0, 0, 0, 7, 8]


HOLES = {
    "on": c.chain(c.top_k(0.5), c.on("a/values", c.quantize(bits=8)), c.top_k(0.5)),
    "flatten": c.chain(c.top_k(0.5), c.flatten(c.quantize(bits=8)), c.quantize(bits=8)),
    "per_leaf": c.chain(c.top_k(0.5), c.per_leaf(c.quantize(bits=8)), c.quantize(bits=8)),
    "nested": c.chain(
        c.top_k(0.5), c.quantize(bits=4), c.flatten(c.quantize(bits=8)), c.quantize(bits=8)
    ),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("name", HOLES)
def test_nodes_whose_floats_were_taken_out_are_left_alone(name):
    """What is left of them are indices of the first codec, which the third must not decode."""
    message = {"a": np.arange(1, 9, dtype=np.float32), "b": np.arange(1, 9, dtype=np.float32)}
    codec = programs(HOLES[name])
    payload, _ = codec.encode(jax.random.key(0), message, codec.init(message))
    decoded = codec.decode(wire.from_bytes(wire.to_bytes(payload)))
    chex.assert_trees_all_equal(decoded, codec.decode(payload))
    chex.assert_trees_all_equal_shapes(decoded, message)
    decoded = jax.tree.map(np.asarray, decoded)
    assert decoded["a"][:4].tolist() == [0, 0, 0, 0]
    tolerance = 8 / 7 if name == "nested" else 8 / 127
    np.testing.assert_allclose(decoded["a"][4:], [5, 6, 7, 8], atol=tolerance + 1e-5)
    np.testing.assert_allclose(decoded["b"][-1], 8, atol=1e-5)


@pytest.mark.parametrize("whole", [c.flatten, c.per_leaf, lambda codec: c.on("", codec)])
def test_indices_keep_their_width_under_codecs_of_whole_trees(whole):
    """100 of 1000 coordinates: 10 bits an index, not the 32 of its dtype."""
    codec = c.chain(c.top_k(0.1), whole(c.quantize(bits=8)))
    x, key = jax.ShapeDtypeStruct((1000,), jnp.float32), jax.eval_shape(jax.random.key, 0)
    payload, _ = jax.eval_shape(codec.encode, key, x, jax.eval_shape(codec.init, x))
    assert wire.bits(payload) == 100 * 8 + 32 + 100 * 10


def test_a_pattern_can_name_the_fields_of_a_payload():
    """``values`` are quantised where ``on`` says so; indices are integers and pass."""
    message = {"a": jnp.arange(1.0, 9.0), "b": jnp.arange(1.0, 9.0)}
    codec = programs(c.chain(c.top_k(0.5), c.on("a/values", c.quantize(bits=8))))
    payload, _ = codec.encode(jax.random.key(0), message, codec.init(message))
    assert wire.bits(payload) == (4 * 8 + 32 + 16) + (4 * 32 + 16)  # 4 indices of 3 bits: 2 bytes
    np.testing.assert_allclose(codec.decode(payload)["a"], [0, 0, 0, 0, 5, 6, 7, 8], atol=0.07)


# ------------------------------------------------------------------------------------------ states


def test_a_chain_threads_the_states_of_its_codecs():
    """top_k with memory, its values quantised finely: over rounds every coordinate gets through."""
    codec = programs(c.chain(c.error_feedback(c.top_k(0.25)), c.quantize(bits=16)))
    x = jnp.array([4.0, 3.0, 2.0, 1.0])
    state, total = codec.init(x), np.zeros(4)
    assert isinstance(state[0], c.ErrorFeedbackState)
    sent = []
    for t in range(4):
        payload, state = codec.encode(jax.random.key(t), x, state)
        sent.append(int(payload.indices[0]))
        total += np.asarray(codec.decode(payload))
    # x, then x + residual: (4 3 2 1) sends 0; (4 6 4 2) sends 1; (8 3 6 3) sends 0; (4 6 8 4) sends 2.
    assert sent == [0, 1, 0, 2]
    np.testing.assert_allclose(total + np.asarray(state[0].residual), 4 * np.asarray(x), rtol=1e-6)
    assert state[0].residual.tolist() == [4, 6, 0, 4]


def test_memory_inside_a_chain_is_of_the_payload():
    """What follows top_k sees its values: the residual has their shape, and none for indices."""
    codec = programs(c.chain(c.top_k(0.5), c.error_feedback(c.quantize(bits=2))))
    x = jnp.array([4.0, 3.0, 0.5, 0.1])
    state = codec.init(x)
    payload, state = codec.encode(jax.random.key(0), x, state)
    residual = state[1].residual
    assert residual.indices.tolist() == [0, 0]
    assert residual.values.shape == (2,)
    np.testing.assert_allclose(codec.decode(payload)[:2] + residual.values, x[:2], rtol=1e-6)


def test_memory_of_each_leaf():
    message = {"a": jnp.array([3.0, 2.0]), "n": jnp.array([1]), "z": jnp.array([5.0, 4.0, 1.0])}
    codec = programs(c.per_leaf(c.error_feedback(c.flatten(c.top_k(0.5)))))
    payload, state = codec.encode(jax.random.key(0), message, codec.init(message))
    assert len(state) == 2  # none for the integers
    assert state[0].residual.tolist() == [0, 2]
    assert state[1].residual.tolist() == [0, 0, 1]
    assert codec.decode(payload)["n"].tolist() == [1]
    payload, state = codec.encode(jax.random.key(0), message, state)
    assert codec.decode(payload)["a"].tolist() == [0, 4]


@pytest.mark.parametrize("dtype", [jnp.bool_, jnp.int8, jnp.uint32])
def test_feedback_remembers_nothing_of_leaves_that_are_not_floating(dtype):
    message = {"w": jnp.array([1.0, 2.0]), "n": jnp.array([1, 0, 1], dtype)}
    codec = programs(c.error_feedback(c.top_k(0.5)))
    state = codec.init(message)
    for _ in range(3):
        payload, state = codec.encode(jax.random.key(0), message, state)
        chex.assert_trees_all_equal(codec.decode(payload)["n"], message["n"])
        assert not np.asarray(state.residual["n"]).any()


def test_per_leaf_draws_apart():
    x = np.float32([1.0, *[0.5] * 400])
    decoded = once(c.per_leaf(c.flatten(c.quantize(bits=2))), [x, x])
    agree = np.mean(decoded[0][1:] == decoded[1][1:])
    assert abs(agree - 0.5) < SIGMAS * 0.5 / np.sqrt(400)


# --------------------------------------------------------------------------------- error feedback

A = np.float32([[-3, 2, 2], [2, -3, 2], [2, 2, -3]])


def gradient(a, x):
    """Of f_i(x) = <a_i, x>^2 + |x|^2 / 4."""
    return 2 * jnp.dot(a, x) * a + x / 2


def descend(codec, lr, steps, start):
    """Distributed gradient descent with one codec for three clients: all iterates."""
    states = jax.vmap(codec.init)(jnp.zeros((3, 3)))

    def step(carry, t):
        x, states = carry
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), t), 3)
        messages = jax.vmap(gradient, (0, None))(A, x)
        payloads, states = jax.vmap(codec.encode)(keys, messages, states)
        x = x - lr * jax.vmap(codec.decode)(payloads).mean(0)
        return (x, states), x

    run = jax.jit(lambda x: jax.lax.scan(step, (x, states), jnp.arange(steps))[1])
    return np.asarray(run(jnp.asarray(start, jnp.float32)), np.float64)


def test_top_1_without_memory_climbs_a_convex_function():
    """Beznosikov et al., example 1: from t (1, 1, 1) every step multiplies by 1 + 11 lr / 6."""
    for lr in (0.003, 0.03):
        iterates = descend(c.top_k(1 / 3), lr, 40, [0.5, 0.5, 0.5])
        expected = 0.5 * (1 + 11 * lr / 6) ** np.arange(1, 41)
        np.testing.assert_allclose(iterates, np.repeat(expected[:, None], 3, 1), rtol=2e-5)


def test_top_1_with_memory_descends_it():
    iterates = descend(c.error_feedback(c.top_k(1 / 3)), 0.01, 4000, [0.5, 0.5, 0.5])
    plain = descend(c.identity(), 0.01, 4000, [0.5, 0.5, 0.5])
    assert np.abs(iterates[-1]).max() < 1e-6
    assert np.abs(plain[-1]).max() < 1e-6
    assert np.abs(descend(c.top_k(1 / 3), 0.01, 400, [0.5] * 3)[-1]).max() > 500


def test_memory_returns_what_a_lossy_codec_would_never_send():
    """One coordinate 2^-20 beside 1: e4m3fn flushes it in every round; with memory it arrives."""
    x = jnp.array([1.0, 2.0**-20])
    rounds = 2**13
    for codec, arrives in (
        (c.cast(jnp.float8_e4m3fn), False),
        (c.error_feedback(c.cast(jnp.float8_e4m3fn)), True),
    ):

        def step(carry, _, codec=codec):
            total, state = carry
            payload, state = codec.encode(jax.random.key(0), x, state)
            return (total + codec.decode(payload), state), None

        start = (jnp.zeros(2), codec.init(x))
        (total, _), _ = jax.jit(lambda s, step=step: jax.lax.scan(step, s, length=rounds))(start)
        small = float(total[1]) / (rounds * 2.0**-20)
        assert small == (pytest.approx(1, abs=0.2) if arrives else 0)


# ------------------------------------------------------------------------------------- on, by path


def chosen(pattern, message):
    """Which leaves a pattern selects, as paths: those of whose ones the codec leaves a quarter."""
    codec = c.on(pattern, c.top_k(0.25))
    ones = jax.tree.map(lambda leaf: np.ones(4, np.float32), message)
    decoded = once(codec, ones)
    paths = jax.tree_util.tree_leaves_with_path(decoded)
    return {jax.tree_util.keystr(p, simple=True, separator="/") for p, leaf in paths if 0 in leaf}


TREE = Stateful(
    params={"Dense_0": {"kernel": 0, "bias": 0}, "Dense_1": {"kernel": 0, "bias": 0}},
    state=[0, (0, {"kernel_mean": 0})],
)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("kernel$", {"params/Dense_0/kernel", "params/Dense_1/kernel"}),
        ("kernel", {"params/Dense_0/kernel", "params/Dense_1/kernel", "state/1/1/kernel_mean"}),
        ("^params/Dense_0", {"params/Dense_0/kernel", "params/Dense_0/bias"}),
        ("^state/0$", {"state/0"}),
        ("Dense_[1-9]/bias|^state/1/0", {"params/Dense_1/bias", "state/1/0"}),
        ("(?i)BIAS", {"params/Dense_0/bias", "params/Dense_1/bias"}),
    ],
)
def test_a_pattern_is_searched_for_in_the_path(pattern, paths):
    assert chosen(pattern, TREE) == paths


def test_patterns_nest():
    """The inner pattern sees the same paths as the outer."""
    message = {"a": {"w": jnp.ones(4), "b": jnp.ones(4)}, "z": {"w": jnp.ones(4)}}
    decoded = once(c.on("^a/", c.on("w$", c.top_k(0.25))), message)
    assert [decoded["a"]["w"].sum(), decoded["a"]["b"].sum(), decoded["z"]["w"].sum()] == [1, 4, 4]


def test_a_message_of_one_leaf_has_the_empty_path():
    assert once(c.on("^$", c.top_k(0.5)), jnp.array([1.0, 2.0])).tolist() == [0, 2]


def test_a_pattern_without_a_match_lists_the_paths():
    codec = c.on("kernal", c.top_k(0.5))
    with pytest.raises(
        ValueError, match=r"'kernal' matches no floating leaf among \['a/kernel', 'b/0'\]"
    ):
        codec.init({"a": {"kernel": jnp.ones(2)}, "b": [jnp.ones(2)]})


def test_two_leaves_with_one_path_are_not_mixed_up():
    codec = c.on("a", c.top_k(0.5))
    with pytest.raises(ValueError, match="two leaves have one path"):
        codec.init({"a/b": jnp.ones(2), "a": {"b": jnp.zeros(2)}})


# ------------------------------------------------------------------------------ flatten, per_leaf


def test_global_and_local_top_k_keep_different_energy():
    """One leaf is 10 times the other: of 10 of 100 coordinates, global top-k spends none on it."""
    big = 10 * np.random.default_rng(8).standard_normal(50, np.float32)
    message = {"big": big, "small": np.full(50, 0.01, np.float32)}
    everything = np.concatenate([big, message["small"]])
    best = np.sort(np.square(np.float64(everything)))[-10:].sum()
    whole = once(c.flatten(c.top_k(0.1)), message)
    local = once(c.per_leaf(c.top_k(0.1)), message)
    assert energy(whole) == pytest.approx(best, rel=1e-6)
    assert energy(local) < 0.9 * energy(whole)
    assert [int((v[k] != 0).sum()) for v in (whole, local) for k in ("big", "small")] == [
        10,
        0,
        5,
        5,
    ]
    chex.assert_trees_all_equal(local, once(c.top_k(0.1), message))


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("first", "second", "vector"),
    [
        (jnp.float32, jnp.bfloat16, jnp.float32),
        (jnp.bfloat16, jnp.bfloat16, jnp.bfloat16),
        (jnp.float16, jnp.bfloat16, jnp.float32),
        (jnp.bfloat16, jnp.float8_e5m2, jnp.bfloat16),
        (jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float32),
    ],
)
def test_flatten_takes_a_dtype_that_holds_all(first, second, vector):
    """The extremes of each dtype survive beside the other's, in either order."""
    for dtypes in ((first, second), (second, first)):
        message = [np.array([jnp.finfo(t).max, jnp.finfo(t).tiny, -1], t) for t in dtypes]
        message.append(np.int32([7]))
        codec = programs(c.flatten(c.identity()))
        payload, _ = codec.encode(jax.random.key(0), message, ())
        assert payload.vector.dtype == vector
        decoded = codec.decode(payload)
        for got, want in zip(decoded, message, strict=True):
            assert got.dtype == want.dtype
            assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


def test_flatten_of_nothing_floating():
    message = {"n": jnp.array([1, 2]), "empty": jnp.zeros((0, 2))}
    for codec in (c.flatten(c.top_k(0.5)), c.flatten(c.quantize(bits=4)), c.flatten(c.rand_k(0.5))):
        chex.assert_trees_all_equal(once(codec, message), message)


# --------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize("wrong", [None, 0.1, "top_k", c.top_k, (c.top_k(0.1),)])
def test_what_is_not_a_compressor_is_refused_by_name(wrong):
    for name, make in {
        "chain": lambda: c.chain(c.identity(), wrong),
        "error_feedback": lambda: c.error_feedback(wrong),
        "on": lambda: c.on("a", wrong),
        "flatten": lambda: c.flatten(wrong),
        "per_leaf": lambda: c.per_leaf(wrong),
    }.items():
        with pytest.raises(TypeError, match=rf"^{name} needs a fjx\.Compressor such as"):
            make()


def test_patterns_must_be_patterns():
    with pytest.raises(re.error):
        c.on("(", c.identity())
    with pytest.raises(TypeError):
        c.on(3, c.identity())
