"""Sparsifiers: top_k against a sort, rand_k against its exact variance and inclusion law."""

import functools
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fjx import compressors, wire

SIGMAS = 6.0
DRAWS = 20_000


@functools.cache
def top_k(ratio):
    codec = compressors.top_k(ratio)

    def both(x):
        payload, _ = codec.encode(jax.random.key(0), x, ())
        return payload, codec.decode(payload)

    return jax.jit(both)


# ------------------------------------------------------------------------------------------- top_k


def top_k_by_sorting(x, k):
    """A stable sort by falling magnitude: NaN first, ties to the lowest index."""
    flat = np.asarray(x, np.float64).reshape(-1)
    magnitude = np.where(np.isnan(flat), np.inf, np.abs(flat))
    return np.argsort(-magnitude, kind="stable")[:k]


def check_top_k(x, k, ratio):
    payload, decoded = top_k(ratio)(x)
    kept = np.sort(top_k_by_sorting(x, k))
    np.testing.assert_array_equal(payload.indices, kept)
    expected = np.zeros(x.size, x.dtype)
    expected[kept] = np.asarray(x).reshape(-1)[kept]
    assert decoded.dtype == x.dtype
    np.testing.assert_array_equal(decoded, expected.reshape(x.shape))


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 1e-30, np.inf, -np.inf, np.nan]),
        min_size=12,
        max_size=12,
    )
)
def test_top_k_is_a_stable_sort(values):
    check_top_k(np.float32(values), 5, 5 / 12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.float8_e5m2])
def test_top_k_of_narrow_and_shaped_leaves(dtype):
    """In narrow dtypes ties are many."""
    x = np.random.default_rng(0).standard_normal((16, 16)).astype(dtype)
    check_top_k(x, 26, 0.1)


def test_top_k_of_negative_vectors_keeps_the_most_negative():
    # A threshold min(tau, max(x)) in place of |x| would send all of this.
    payload, decoded = top_k(0.25)(-np.arange(1, 9, dtype=np.float32))
    assert payload.indices.tolist() == [6, 7]
    assert decoded.tolist() == [0, 0, 0, 0, 0, 0, -7, -8]


def test_top_k_of_a_mostly_zero_vector_sends_zeros_as_zeros():
    x = np.float32([0, 0, 0, 0, 0, 3, 0, 0])
    payload, decoded = top_k(0.5)(x)
    assert payload.indices.tolist() == [0, 1, 2, 5]
    np.testing.assert_array_equal(decoded, x)


@pytest.mark.parametrize(("d", "ratio"), [(8, 0.25), (30, 0.1), (7, 0.5), (1, 0.01)])
def test_the_bound_of_top_k_is_tight_for_equal_magnitudes(d, ratio):
    codec = compressors.top_k(ratio)
    x = np.float32(3 * (-1.0) ** np.arange(d))
    error = np.square(np.asarray(top_k(ratio)(x)[1]) - x).sum()
    delta = codec.contract(jax.ShapeDtypeStruct((d,), jnp.float32)).delta
    assert error == pytest.approx((1 - delta) * np.square(x).sum(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ratio", "energy"),
    [
        (0.01, 0.0845),
        (0.5, 0.9287),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in [(0.05, 0.2791), (0.1, 0.4393), (0.25, 0.7236)]
        ),
    ],
)
def test_gaussian_energy_that_top_k_keeps(ratio, energy):
    """Of 2^18 normals: E[z^2; |z| > t] with P(|z| > t) = ratio, within 6 standard errors."""
    d = 2**18
    x = np.random.default_rng(1).standard_normal(d)
    kept = np.asarray(top_k(ratio)(np.float32(x))[1], np.float64)
    share = np.square(kept).sum() / np.square(x).sum()
    # The variance of a share is below E[z^4] / d = 3 / d.
    assert abs(share - energy) < SIGMAS * np.sqrt(3 / d) + 5e-5


# ------------------------------------------------------------------------------------------ the k


@pytest.mark.parametrize(
    ("ratio", "d", "k"),
    [
        (0.1, 30, 3),  # 0.1 * 30 = 3.0000000000000004
        (1 / 3, 9, 3),
        (0.7, 10, 7),
        (0.29, 100, 29),  # 28.999999999999996
        (0.58, 100, 58),  # 57.99999999999999
        (0.1, 31, 4),
        (1.0, 17, 17),
        (1, 17, 17),
        (0.999, 17, 17),
        (1e-12, 10, 1),
        (1e-300, 10, 1),
        (5e-324, 1, 1),
        (0.5, 0, 0),
        (1e-12, 0, 0),
        (np.float64(0.1), 30, 3),
    ],
)
def test_k(ratio, d, k):
    x = jax.ShapeDtypeStruct((d,), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)
    for factory in (compressors.top_k, compressors.rand_k):
        codec = factory(ratio)
        payload = jax.eval_shape(codec.encode, key, x, ())[0]
        assert payload.values.shape == (k,)
        contract = codec.contract(x)
        if factory is compressors.top_k:
            assert contract.delta == (k / d if d else 1)
        else:
            assert contract.omega == pytest.approx(d / k - 1 if d else 0)


@pytest.mark.parametrize("d", [3 * 10**8, 10**9, 2 * 10**9])
def test_k_of_long_vectors_is_not_one_too_many(d):
    """0.1 * d is off by more than an absolute slack of 1e-9 would forgive."""
    from fjx._kernels.select import share_of

    for tenths in range(1, 10):
        assert share_of(tenths / 10, d) == tenths * d // 10


# ------------------------------------------------------------------------------------------ rand_k


@functools.cache
def rand_k_draws(d, ratio):
    """DRAWS decodings of one Gaussian vector."""
    codec = compressors.rand_k(ratio)
    x = np.random.default_rng(2).standard_normal(d, np.float32)
    decode = jax.jit(jax.vmap(lambda key: codec.decode(codec.encode(key, x, ())[0])))
    keys = jax.random.split(jax.random.key(3), DRAWS)
    return np.float64(x), np.asarray(decode(keys), np.float64)


CASES = pytest.mark.parametrize(
    ("d", "k"), [(12, 3), (13, 1), (10, 9), pytest.param(64, 16, marks=pytest.mark.slow)]
)


@pytest.mark.few(1)
@CASES
def test_rand_k_is_without_replacement(d, k):
    _, decoded = rand_k_draws(d, k / d)
    assert ((decoded != 0).sum(1) == k).all()


@pytest.mark.few(1)
@CASES
def test_rand_k_scales_by_d_over_k(d, k):
    x, decoded = rand_k_draws(d, k / d)
    sent = decoded != 0
    np.testing.assert_allclose(
        decoded[sent], np.broadcast_to(x * d / k, sent.shape)[sent], rtol=1e-6
    )


@pytest.mark.few(1)
@CASES
def test_each_coordinate_is_included_with_probability_k_over_d(d, k):
    """20,000 draws, within 6 standard errors; pairs too, with k (k - 1) / (d (d - 1))."""
    _, decoded = rand_k_draws(d, k / d)
    sent = (decoded != 0).astype(np.float64)
    p = k / d
    assert np.abs(sent.mean(0) - p).max() < SIGMAS * np.sqrt(p * (1 - p) / DRAWS)
    pair = k * (k - 1) / (d * (d - 1))
    pairs = (sent.T @ sent / DRAWS)[np.triu_indices(d, 1)]
    assert np.abs(pairs - pair).max() < SIGMAS * np.sqrt(pair * (1 - pair) / DRAWS) + (pair == 0)


@CASES
def test_rand_k_has_exactly_the_variance_of_the_docstring(d, k):
    """E||C(x) - x||^2 = (d/k - 1) ||x||^2 is an equality for every x: 6 standard errors."""
    x, decoded = rand_k_draws(d, k / d)
    errors = np.square(decoded - x).sum(1)
    expected = (d / k - 1) * np.square(x).sum()
    slack = SIGMAS * errors.std() / np.sqrt(DRAWS) + 1e-6 * expected
    assert slack < 0.1 * expected
    assert abs(errors.mean() - expected) < slack


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_d_over_k_is_not_rounded_before_it_scales(dtype):
    """10/3 is 3.328125 in bfloat16, a bias of -0.16 % of every coordinate alike."""
    codec = compressors.rand_k(0.3)
    x = np.random.default_rng(0).uniform(1, 2, 10).astype(dtype)
    decoded = jax.jit(lambda key: codec.decode(codec.encode(key, x, ())[0]))(jax.random.key(0))
    assert decoded.dtype == dtype
    sent = np.asarray(decoded) != 0
    expected = (np.asarray(x, np.float32) * np.float32(10 / 3)).astype(dtype)
    np.testing.assert_array_equal(np.asarray(decoded)[sent], expected[sent])


def test_clients_and_leaves_choose_apart():
    codec = compressors.rand_k(0.1)
    keys = jax.random.split(jax.random.key(4), 8)
    message = {"a": np.ones(1000, np.float32), "b": np.ones(1000, np.float32)}
    send = jax.jit(jax.vmap(lambda key: codec.decode(codec.encode(key, message, ())[0])))
    decoded = send(keys)
    both = np.concatenate([decoded["a"], decoded["b"]]).astype(bool).astype(int)
    shared = (both @ both.T)[~np.eye(16, dtype=bool)]
    # Two masks of 100 of 1000 share 10 on average, with a variance below 10.
    assert shared.max() < 10 + SIGMAS * np.sqrt(10)


@pytest.mark.ci
def test_another_process_decodes_from_the_bytes_alone():
    """The positions follow from the seed on the wire: no key, no state and no message is shared."""
    codec = compressors.rand_k(0.25)
    x = np.random.default_rng(5).standard_normal((5, 8), np.float32)
    payload, _ = jax.jit(codec.encode)(jax.random.key(6), x, ())
    data = wire.to_bytes(payload)
    script = f"""
import numpy as np
from fjx import compressors, wire
payload = wire.from_bytes(bytes.fromhex({data.hex()!r}))
print(np.asarray(compressors.rand_k(0.9).decode(payload)).tobytes().hex())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert bytes.fromhex(done.stdout) == np.asarray(codec.decode(payload)).tobytes()


def test_the_seed_on_the_wire_is_the_leaf_s_and_says_nothing_of_other_leaves():
    codec = compressors.rand_k(0.5)
    key = jax.random.key(7)
    payload, _ = codec.encode(key, [jnp.ones(4), jnp.ones(4)], ())
    seeds = {tuple(part.seed.tolist()) for part in payload}
    assert len(seeds) == 2
    assert tuple(jax.random.key_data(key).tolist()) not in seeds


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_keys_whose_draws_depend_on_their_neighbours_are_refused(impl):
    """Under vmap such a generator draws for all clients at once: one client cannot repeat its draw."""
    for key in (jax.random.key(8, impl=impl), jax.random.split(jax.random.key(8, impl=impl))[0]):
        with pytest.raises(ValueError, match="impl='threefry2x32'"):
            compressors.rand_k(0.5).encode(key, jnp.ones(8), ())


# --------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize("factory", [compressors.top_k, compressors.rand_k])
def test_arguments(factory):
    for wrong in ("0.1", None, True, [0.1], 1j):
        with pytest.raises(TypeError, match="ratio must be a real number"):
            factory(wrong)
    for wrong in (0, 0.0, -0.1, 1.0001, 2, math.nan, math.inf):
        with pytest.raises(ValueError, match="ratio must be"):
            factory(wrong)
    with pytest.raises(TypeError, match="must be a Python number"):
        jax.jit(lambda r: factory(r).contract(jnp.ones(3)).delta)(0.5)


@pytest.mark.parametrize("factory", [compressors.top_k, compressors.rand_k])
def test_a_concrete_scalar_array_is_a_number_also_under_jit(factory):
    codec = factory(jnp.float32(0.5))
    assert jax.jit(codec.encode)(jax.random.key(0), jnp.ones(4), ())[0].values.shape == (2,)
