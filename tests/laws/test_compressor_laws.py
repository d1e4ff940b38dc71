"""What every compressor promises, whatever it is."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import _tree, wire
from fjx._base import Contract
from fjx.wire._bits import is_ragged
from tests.support import tables

DRAWS = 2000
SIGMAS = 6.0  # a bound that a sound codec misses with probability below 1e-8 a coordinate

pytestmark = pytest.mark.optimized  # a fused program may round otherwise than its parts

RARER = {
    "float16", "float8_e5m2", "quantize_2", "quantize_5", "rotated_in_blocks", "eden", "drive",
    "chain_rand_k_quantize", "chain_top_k_bfloat16", "chain_quantize_twice", "chain_top_k_twice",
    "flatten_top_k", "per_leaf_flatten", "chain_on_flatten", "scaled", "induced", "kashin",
    "natural_dithering", "product_quantize", "random_projection", "eden_mixed", "rotated_quantize",
    "quantize_12", "float8_e4m3fn", "stochastic_cast", "terngrad", "k_level", "absmax", "fixed_step",
    "one_bit_sgd", "lloyd_max", "stc", "importance_sampling", "chain_of_nothing", "repeat",
    "momentum_correction", "bernoulli", "quic_fl",
}  # fmt: skip
"""Rows on which the laws are slow: programs that take long to compile, and variants of other rows."""

KINDS = {
    "quantize_8", "top_k", "rand_k", "power_sgd", "error_feedback",
}  # fmt: skip
"""Rows, one of each kind, for laws that compile a program of their own."""


every = tables.rows(tables.COMPRESSORS, tables.COMPRESSORS.keys() - RARER)
every_kind = tables.rows(tables.COMPRESSORS, KINDS)


@functools.cache
def jitted(name):
    """One compiled encode-decode per codec, shared by the laws."""
    codec = tables.COMPRESSORS[name]

    def both(key, message, state):
        payload, state = codec.encode(key, message, state)
        return payload, codec.decode(payload), state

    return codec, jax.jit(both)


@functools.cache
def decoder(name):
    """The server's program, which is given a payload and nothing else."""
    return jax.jit(tables.COMPRESSORS[name].decode)


quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""For programs that no law compares bit for bit: compiling is what takes the time."""


def float_leaves(tree):
    return [x for x in jax.tree.leaves(tree) if _tree.is_float(x)]


def squared_norm(tree):
    return sum(float(np.sum(np.square(np.asarray(x, np.float64)))) for x in float_leaves(tree))


@every
def test_decodes_to_the_message_s_shapes_and_dtypes(name, getkey):
    codec, both = jitted(name)
    for dtype in (jnp.float32, jnp.bfloat16):
        message = tables.message(dtype=dtype)
        _, decoded, _ = jax.eval_shape(both, getkey(), message, codec.init(message))
        chex.assert_trees_all_equal_shapes_and_dtypes(decoded, message)


@pytest.mark.slow
@every
def test_bfloat16_runs_and_stays_finite(name, getkey):
    codec, both = jitted(name)
    message = tables.message(dtype=jnp.bfloat16)
    _, decoded, _ = both(getkey(), message, codec.init(message))
    chex.assert_tree_all_finite(decoded)
    chex.assert_trees_all_equal_shapes_and_dtypes(decoded, message)


@every
def test_passes_integers_and_empty_leaves_through(name, getkey):
    codec, both = jitted(name)
    message = tables.message()
    _, decoded, _ = both(getkey(), message, codec.init(message))
    chex.assert_trees_all_equal(decoded["count"], message["count"])
    assert decoded["empty"].shape == (0, 3)


@every
def test_decodes_from_the_bytes_alone(name, getkey):
    codec, both = jitted(name)
    for seed in range(3):
        message = tables.message(seed)
        payload, decoded, _ = both(getkey(), message, codec.init(message))
        received = wire.from_bytes(wire.to_bytes(payload))
        chex.assert_trees_all_equal(decoder(name)(received), decoded)
        chex.assert_trees_all_equal_structs(received, payload)


@every
def test_bits_are_those_of_the_bytes_and_need_shapes_only(name, getkey):
    codec, both = jitted(name)
    message = tables.message()
    state = codec.init(message)
    payload, _, _ = both(getkey(), message, state)
    data = wire.to_bytes(payload)
    assert 8 * len(data) - wire.header_bits(data) == wire.bits(payload)
    abstract = jax.eval_shape(codec.encode, getkey(), message, state)[0]
    if is_ragged(payload):
        assert wire.bits(abstract) >= wire.bits(payload)
    else:
        assert wire.bits(abstract) == wire.bits(payload)
    assert int(jax.jit(wire.measured_bits)(payload)) == wire.bits(payload)


@every
def test_zero_in_zero_out(name, getkey):
    codec, both = jitted(name)
    message = _tree.zeros_like(tables.message())
    _, decoded, state = both(getkey(), message, codec.init(message))
    chex.assert_trees_all_equal(decoded, message)
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(state))


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_broken_coordinate_is_never_sent_as_a_sound_one(name, bad, getkey):
    """Either the decoded message is not finite, or the coordinate was not among those sent."""
    codec, both = jitted(name)
    message = tables.message()
    message["nested"]["vector"] = message["nested"]["vector"].at[5].set(bad)
    _, decoded, _ = both(getkey(), message, codec.init(message))
    if bool(_tree.all_finite(decoded)):
        assert any(part in name for part in ("rand_k", "rand_p", "bernoulli", "scaled"))
        assert float(decoded["nested"]["vector"][5]) == 0.0


@every_kind
def test_vmap_is_a_loop(name, getkey):
    codec, both = jitted(name)
    messages = [tables.message(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *messages)
    keys = jax.random.split(getkey(), 3)
    states = jax.vmap(codec.init)(stacked)
    payloads, decoded, after = jax.jit(jax.vmap(both))(keys, stacked, states)
    for i, message in enumerate(messages):
        payload, *rest = both(keys[i], message, codec.init(message))
        chex.assert_trees_all_equal(jax.tree.map(lambda x, i=i: x[i], payloads), payload)
        # A fused multiply-add may round a residual differently.
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, i=i: x[i], [decoded, after]), rest, atol=1e-6
        )


@every_kind
def test_works_under_scan_and_traces_once(name, getkey):
    codec = tables.COMPRESSORS[name]
    message, traces = tables.message(), []

    @quick
    def rounds(key, message, state):
        traces.append(name)

        def body(carry, t):
            _, state = codec.encode(jax.random.fold_in(key, t), message, carry)
            return state, None

        return jax.lax.scan(body, state, jnp.arange(3))[0]

    state = rounds(getkey(), message, codec.init(message))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, codec.init(message))
    rounds(getkey(), tables.message(1), state)
    assert traces == [name]


@every
def test_equal_keys_give_equal_payloads(name, getkey):
    codec, both = jitted(name)
    message, key = tables.message(), getkey()
    first = both(jax.random.clone(key), message, codec.init(message))
    second = both(jax.random.clone(key), message, codec.init(message))
    chex.assert_trees_all_equal(first, second)


def contract_message():
    """A message of floats alone on which contracts are tested."""
    message = tables.message(3)
    return {k: v for k, v in message.items() if k not in ("count", "empty")}


@functools.cache
def draws(name):
    """DRAWS independent decodings of one message: the evidence of the statistical laws."""
    codec = tables.COMPRESSORS[name]
    message = contract_message()
    state = codec.init(message)
    keys = jax.random.split(jax.random.key(11), DRAWS)
    decode = quick(jax.vmap(lambda key: codec.decode(codec.encode(key, message, state)[0])))
    return codec.contract(message), message, jax.tree.map(np.asarray, decode(keys))


@every
def test_unbiased_as_declared(name):
    """The mean of 2000 draws is within 6 standard errors of x, by coordinate and towards zero.

    The error of a coordinate is pooled over its leaf: one that rounds up once in 10,000 draws shows
    no spread of its own.  The second bound, on the mean shrinkage, has the power that this costs.
    """
    contract, message, decoded = draws(name)
    if not contract.unbiased:
        pytest.skip("promises no unbiasedness")
    for x, y in zip(float_leaves(message), float_leaves(decoded), strict=True):
        x, y = np.asarray(x, np.float64), y.astype(np.float64)
        pooled = np.sqrt(y.var(0).mean())
        standard_error = np.maximum(y.std(0), pooled) / np.sqrt(DRAWS)
        rounding = 1e-6 * np.abs(x).max()
        np.testing.assert_array_less(np.abs(y.mean(0) - x), SIGMAS * standard_error + rounding)
        shrinkage = np.mean((y.mean(0) - x) * np.sign(x))
        assert abs(shrinkage) < SIGMAS * pooled / np.sqrt(DRAWS * x.size) + rounding


@every
def test_variance_and_contraction_as_declared(name):
    """The mean squared error of 2000 draws is below the bound plus 6 standard errors."""
    contract, message, decoded = draws(name)
    parts = [
        np.square(y.astype(np.float64) - np.asarray(x)).reshape(DRAWS, -1).sum(1)
        for x, y in zip(float_leaves(message), float_leaves(decoded), strict=True)
    ]
    error = np.sum(parts, axis=0)
    slack = SIGMAS * error.std() / np.sqrt(DRAWS) + 1e-9
    if contract.omega is not None:
        assert error.mean() <= contract.omega * squared_norm(message) + slack
    if contract.delta is not None:
        assert 0 < contract.delta <= 1
        assert error.mean() <= (1 - contract.delta) * squared_norm(message) + slack


@every
def test_projection_and_linearity_as_declared(name, getkey):
    contract, message, decoded = draws(name)
    codec, both = jitted(name)
    if contract.projection:
        for i in range(3):
            y = jax.tree.map(lambda leaf, i=i: leaf[i], decoded)
            rest = jax.tree.map(lambda a, b: np.asarray(a) - b, message, y)
            np.testing.assert_allclose(
                squared_norm(message), squared_norm(y) + squared_norm(rest), rtol=1e-5
            )
    if contract.linear:
        other = jax.tree.map(lambda x: 2 * x + 1, message)
        key, state = getkey(), codec.init(message)

        def send(x):
            return both(jax.random.clone(key), x, state)[1]

        once, summed = _tree.add(send(message), send(other)), send(_tree.add(message, other))
        for x, y in zip(jax.tree.leaves(once), jax.tree.leaves(summed), strict=True):
            # Relative to the largest: a coordinate may be a sum that cancels.
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(y).max())


@every
def test_the_errors_of_independent_clients_average_out(name):
    """The mean of 10 of the 2000 draws errs 10 times less than one of them, where unbiased.

    Both sides are estimates of one variance, by 200 means and by 2000 draws; the bound is 6 standard
    errors of the first, which has a relative error of at most sqrt(kurtosis / 200).
    """
    contract, message, decoded = draws(name)
    if not contract.unbiased:
        pytest.skip("promises no unbiasedness")
    one, ten = 0.0, []
    for x, y in zip(float_leaves(message), float_leaves(decoded), strict=True):
        error = (y.astype(np.float64) - np.asarray(x)).reshape(DRAWS, -1)
        one += np.square(error).sum() / DRAWS
        ten.append(error.reshape(DRAWS // 10, 10, -1).mean(1))
    squared = np.square(np.concatenate(ten, axis=1)).sum(1)
    slack = SIGMAS * squared.std() / np.sqrt(DRAWS / 10)
    assert abs(10 * squared.mean() - one) <= 10 * slack + 1e-9


@every
def test_has_no_more_values_than_levels(name, getkey):
    """A codec that does nothing would pass every law of unbiasedness, and be billed for less."""
    codec, both = jitted(name)
    if name not in tables.LEVELS:
        pytest.skip("is no quantiser of single coordinates")
    message = tables.message(5)
    _, decoded, _ = both(getkey(), message, codec.init(message))
    for leaf in (decoded["matrix"], decoded["nested"]["vector"]):
        assert 1 < len(np.unique(np.asarray(leaf))) <= tables.LEVELS[name]


@every
def test_is_portable(name):
    """No operation that a phone's compiler lacks: no LAPACK, no call to the host, no 64-bit number."""
    codec = tables.COMPRESSORS[name]
    message = tables.message()
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


def test_a_contract_is_not_all_silence():
    """The laws above would pass a table of codecs that promise nothing."""
    message = contract_message()
    promised = [codec.contract(message) for codec in tables.COMPRESSORS.values()]
    assert sum(c != Contract() for c in promised) >= 0.7 * len(promised)


@every_kind
def test_error_feedback_conserves_mass(name, getkey):
    """decode(payload) + residual = message + old residual, over three rounds."""
    from fjx import compressors

    if name == "error_feedback":
        pytest.skip("feedback around feedback counts the residual twice")
    codec = compressors.error_feedback(tables.COMPRESSORS[name])
    step = quick(codec.encode)
    message = tables.message()
    state, sent = codec.init(message), []
    for _ in range(3):
        payload, state = step(getkey(), message, state)
        sent.append(decoder(name)(payload))
    total = jax.tree.map(lambda *x: sum(map(np.asarray, x)), *sent, state.residual)
    expected = jax.tree.map(lambda x: 3 * np.asarray(x), message)
    chex.assert_trees_all_close(total, expected, rtol=1e-5, atol=1e-5)
