"""The bound of a clipped update is a promise: it must hold in the numbers that are returned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import privacy

INF, NAN = float("inf"), float("nan")
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


@jax.jit
def clip(update, clip_norm):
    return privacy.clip_by_global_norm(update, clip_norm)


each = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})(
    jax.vmap(privacy.clip_by_global_norm)
)


def true_norm(tree) -> float:
    leaves = [np.asarray(x).astype(np.float64).ravel() for x in jax.tree.leaves(tree)]
    return float(np.linalg.norm(np.concatenate(leaves)))


def unlike_anything(rng, shape, dtype):
    """Gaussians with scales from the underflow of squares to their overflow, and some zeros."""
    low, high = (-40, 40) if dtype != jnp.float16 else (-8, 8)
    scale = np.exp(rng.uniform(low, high, (shape[0], *[1] * (len(shape) - 1))))
    x = rng.standard_normal(shape) * scale * (rng.random(shape) < 0.8)
    return jnp.asarray(np.clip(x, -6e4, 6e4) if dtype == jnp.float16 else x, jnp.float32).astype(
        dtype
    )


# The rows of the docstring's table: update, clip_norm -> result, norm, clipped, finite.
ROWS = {
    "norm 0": ([0.0, 0.0], 1.0, [0.0, 0.0], 0.0, False, True),
    "norm tiny": ([3e-30, -4e-30], 1.0, [3e-30, -4e-30], 5e-30, False, True),
    "norm tiny, clip_norm tinier": ([3e-30, -4e-30], 5e-31, [3e-31, -4e-31], 5e-30, True, True),
    "below": ([0.3, 0.4], 1.0, [0.3, 0.4], 0.5, False, True),
    "above": ([3.0, -4.0], 1.0, [0.6, -0.8], 5.0, True, True),
    "squares overflow": ([3e30, -4e30], 1.0, [0.6, -0.8], 5e30, True, True),
    "norm overflows": ([3e38, 3e38], 1.0, [0.5**0.5, 0.5**0.5], INF, True, True),
    "an inf": ([1.0, INF], 1.0, [0.0, 0.0], NAN, False, False),
    "a NaN": ([1.0, NAN], 1.0, [0.0, 0.0], NAN, False, False),
    "clip_norm 0": ([3.0, 4.0], 0.0, [0.0, 0.0], 5.0, True, True),
    "clip_norm 0, norm 0": ([0.0, 0.0], 0.0, [0.0, 0.0], 0.0, False, True),
    "clip_norm inf": ([3e38, 3e38], INF, [3e38, 3e38], INF, False, True),
    "clip_norm inf, a NaN": ([1.0, NAN], INF, [0.0, 0.0], NAN, False, False),
}


@pytest.mark.parametrize("row", ROWS)
def test_table_of_the_docstring(row):
    update, clip_norm, result, norm, clipped, finite = ROWS[row]
    x = jnp.array(update)
    for got in (privacy.clip_by_global_norm(x, clip_norm), clip(x, clip_norm)):
        np.testing.assert_allclose(got.update, np.float32(result), rtol=2e-6)
        np.testing.assert_allclose(got.norm, np.float32(norm), rtol=1e-6)
        assert (bool(got.clipped), bool(got.finite)) == (clipped, finite)


@pytest.mark.parametrize("clip_norm", [-1.0, NAN])
def test_an_impossible_traced_bound_lets_nothing_through(clip_norm):
    assert clip(jnp.array([3.0, 4.0]), clip_norm).update.tolist() == [0.0, 0.0]


@pytest.mark.few(6)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "size", [1, 64, 65, 4097] + [pytest.param(n, marks=pytest.mark.slow) for n in (2, 63)]
)
def test_the_bound_holds_after_rounding(dtype, size):
    rng = np.random.default_rng(size)
    updates = unlike_anything(rng, (500, size), dtype)
    bounds = jnp.asarray(np.exp(rng.uniform(-6, 6, 500)), jnp.float32)
    result = jax.jit(jax.vmap(privacy.clip_by_global_norm))(updates, bounds)
    assert result.update.dtype == dtype
    norms = np.linalg.norm(np.asarray(result.update).astype(np.float64), axis=1)
    clipped = np.asarray(result.clipped)
    assert 50 < clipped.sum() < 450
    assert (norms <= np.asarray(bounds)).all()
    # The margin is no excuse: what is lost is rounding of the dtype.
    lost = 1e-5 if dtype == jnp.float32 else 2 * float(jnp.finfo(dtype).eps)
    if dtype != jnp.float16:  # whose small entries vanish
        assert (norms[clipped] >= np.asarray(bounds)[clipped] * (1 - lost)).all()
    # What fits is not touched.
    np.testing.assert_array_equal(
        np.asarray(result.update)[~clipped], np.asarray(updates)[~clipped]
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bound_holds_at_the_edge(dtype):
    # Updates whose norm is the bound up to a few roundings, on either side.
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((4000, 7)), dtype)
    exact = np.linalg.norm(np.asarray(x).astype(np.float64), axis=1)
    bounds = jnp.asarray(exact * (1 + rng.uniform(-3e-6, 3e-6, 4000)), jnp.float32)
    result = jax.jit(jax.vmap(privacy.clip_by_global_norm))(x, bounds)
    norms = np.linalg.norm(np.asarray(result.update).astype(np.float64), axis=1)
    assert (norms <= np.asarray(bounds).astype(np.float64)).all()
    assert 0 < np.asarray(result.clipped).sum() < 4000


def test_the_norm_is_over_all_leaves():
    tree = {"a": jnp.full((3, 5), 2.0), "b": (jnp.array(7.0), jnp.zeros((0, 4))), "c": None}
    result = clip(tree, 1.0)
    assert float(result.norm) == pytest.approx(np.sqrt(15 * 4 + 49))
    assert true_norm(result.update) == pytest.approx(1.0, abs=1e-5)
    assert float(result.update["b"][0]) == pytest.approx(3.5 * float(result.update["a"][0, 0]))


def test_mixed_dtypes_are_kept():
    tree = {"a": jnp.full(100, 3.0, jnp.bfloat16), "b": jnp.full(100, 4.0)}
    result = clip(tree, 1.0).update
    assert (result["a"].dtype, result["b"].dtype) == (jnp.bfloat16, jnp.float32)
    assert 0.995 < true_norm(result) <= 1


def test_clipping_twice_changes_nothing():
    rng = np.random.default_rng(1)
    for dtype in DTYPES:
        x = unlike_anything(rng, (300, 33), dtype)
        bounds = jnp.asarray(np.exp(rng.uniform(-3, 3, 300)), jnp.float32)
        once = each(x, bounds)
        twice = each(once.update, bounds)
        np.testing.assert_array_equal(twice.update, once.update)
        assert not twice.clipped.any()


def test_long_vectors_do_not_lose_their_tail():
    # Ones added one by one in float32 would stop at 2^24.
    size = 2**24 + 2**21
    result = clip(jnp.ones(size, jnp.float32), 1.0)
    assert float(result.norm) == pytest.approx(size**0.5, rel=1e-6)


@pytest.mark.parametrize("tree", [{}, {"a": jnp.zeros((0, 3))}, None])
def test_nothing_to_clip(tree):
    result = privacy.clip_by_global_norm(tree, 1.0)
    assert (float(result.norm), bool(result.clipped), bool(result.finite)) == (0.0, False, True)


@pytest.mark.parametrize(
    ("update", "clip_norm", "error", "message"),
    [
        ({"w": jnp.ones(2), "n": jnp.arange(2)}, 1.0, TypeError, r"int32 at \['n'\].*keep it out"),
        (jnp.ones(2), -1.0, ValueError, "clip_norm must be at least 0, got -1.0"),
        (jnp.ones(2), NAN, ValueError, "clip_norm must be"),
        (jnp.ones(2), "1", TypeError, "clip_norm must be a real number, got '1'"),
    ],
)
def test_errors_name_the_argument(update, clip_norm, error, message):
    with pytest.raises(error, match=message):
        privacy.clip_by_global_norm(update, clip_norm)
