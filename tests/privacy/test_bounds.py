"""Each bound: the table of its docstring row by row, and its promise after rounding."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import privacy

INF, NAN = float("inf"), float("nan")
DTYPES = [jnp.float32, jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow)]
ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}


jitted = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def clip_with(make):
    """``(update, bound's number, weight) -> Clipped`` as one program."""
    return jitted(lambda update, number, weight=1.0: make(number).clip(update, weight))


def check(result, update, norm, clipped, finite, zeroed=None):
    np.testing.assert_allclose(result.update, np.float32(update), rtol=3e-6)
    np.testing.assert_allclose(result.norm, np.float32(norm), rtol=1e-6)
    assert (bool(result.clipped), bool(result.finite)) == (clipped, finite)
    assert (None if result.zeroed is None else bool(result.zeroed)) == zeroed


# --------------------------------------------------------------------------------------------------
# The rows of the docstrings' tables: update, clip_norm -> result, norm, clipped, finite
# --------------------------------------------------------------------------------------------------

ROWS = {
    privacy.by_l1_norm: {
        "norm 0": ([0.0, 0.0], 1.0, [0.0, 0.0], 0.0, False, True),
        "norm tiny": ([3e-30, -4e-30], 1.0, [3e-30, -4e-30], 7e-30, False, True),
        "below": ([0.3, -0.6], 1.0, [0.3, -0.6], 0.9, False, True),
        "above": ([3.0, -5.0], 1.0, [0.375, -0.625], 8.0, True, True),
        "norm overflows": ([3e38, 3e38], 1.0, [0.5, 0.5], INF, True, True),
        "an inf": ([1.0, INF], 1.0, [0.0, 0.0], NAN, False, False),
        "a NaN": ([1.0, NAN], 1.0, [0.0, 0.0], NAN, False, False),
        "clip_norm nearly 0": ([3.0, 5.0], 1e-31, [0.0, 0.0], 8.0, True, True),
        "clip_norm small": ([3.0, 5.0], 1e-30, [3.75e-31, 6.25e-31], 8.0, True, True),
        "clip_norm 0": ([3.0, 5.0], 0.0, [0.0, 0.0], 8.0, True, True),
        "clip_norm negative": ([3.0, 5.0], -1.0, [0.0, 0.0], 8.0, True, True),
        "clip_norm NaN": ([3.0, 5.0], NAN, [0.0, 0.0], 8.0, False, True),
        "clip_norm inf": ([3.0, 5.0], INF, [3.0, 5.0], 8.0, False, True),
    },
    privacy.by_linf_norm: {
        "norm 0": ([0.0, 0.0], 1.0, [0.0, 0.0], 0.0, False, True),
        "norm tiny": ([3e-30, -4e-30], 1.0, [3e-30, -4e-30], 4e-30, False, True),
        "below": ([0.3, -0.9], 1.0, [0.3, -0.9], 0.9, False, True),
        "above": ([1.0, -4.0], 1.0, [0.25, -1.0], 4.0, True, True),
        "norm 3e38": ([1.5e38, -3e38], 1.0, [0.5, -1.0], 3e38, True, True),
        "an inf": ([1.0, INF], 1.0, [0.0, 0.0], NAN, False, False),
        "a NaN": ([1.0, NAN], 1.0, [0.0, 0.0], NAN, False, False),
        "clip_norm nearly 0": ([1.0, 4.0], 1e-31, [0.0, 0.0], 4.0, True, True),
        "clip_norm small": ([1.0, 4.0], 4e-31, [1e-31, 4e-31], 4.0, True, True),
        "clip_norm 0": ([1.0, 4.0], 0.0, [0.0, 0.0], 4.0, True, True),
        "clip_norm negative": ([1.0, 4.0], -1.0, [0.0, 0.0], 4.0, True, True),
        "clip_norm NaN": ([1.0, 4.0], NAN, [0.0, 0.0], 4.0, False, True),
        "clip_norm inf": ([1.0, 4.0], INF, [1.0, 4.0], 4.0, False, True),
    },
    privacy.normalized: {
        "norm 0": ([0.0, 0.0], 2.5, [0.0, 0.0], 0.0, False, True),
        "all entries subnormal": ([1e-39, 1e-40], 2.5, [1e-39, 1e-40], 0.0, False, True),
        "norm tiny": ([3e-30, -4e-30], 2.5, [1.5, -2.0], 5e-30, True, True),
        "below": ([0.3, 0.4], 2.5, [1.5, 2.0], 0.5, True, True),
        "above": ([30.0, 40.0], 2.5, [1.5, 2.0], 50.0, True, True),
        "norm overflows": ([3e38, 3e38], 1.0, [0.5**0.5, 0.5**0.5], INF, True, True),
        "an inf": ([1.0, INF], 2.5, [0.0, 0.0], NAN, False, False),
        "a NaN": ([1.0, NAN], 2.5, [0.0, 0.0], NAN, False, False),
        "clip_norm nearly 0": ([3.0, 4.0], 1e-31, [0.0, 0.0], 5.0, True, True),
        "clip_norm 0": ([3.0, 4.0], 0.0, [0.0, 0.0], 5.0, True, True),
        "clip_norm negative": ([3.0, 4.0], -1.0, [0.0, 0.0], 5.0, True, True),
        "clip_norm NaN": ([3.0, 4.0], NAN, [0.0, 0.0], 5.0, True, True),
        "clip_norm inf": ([3.0, 4.0], INF, [0.0, 0.0], 5.0, True, True),
    },
}


@pytest.mark.parametrize("make", ROWS, ids=lambda make: make.__name__)
def test_tables_of_the_norms(make):
    clip = clip_with(make)
    for update, clip_norm, *wanted in ROWS[make].values():
        check(clip(jnp.array(update), clip_norm), *wanted)
    # Known beforehand instead of traced, it means the same.
    update, clip_norm, *wanted = ROWS[make]["above"]
    check(clip_with(lambda _: make(clip_norm))(jnp.array(update), 0.0), *wanted)


def test_table_of_groups():
    clip = clip_with(lambda c: privacy.grouped({"a": c, "b": privacy.by_global_norm(4.0)}))

    def run(a, b, c=3.0):
        result = clip({"a": jnp.array(a), "b": [jnp.array(b), jnp.zeros(0)]}, c)
        assert result.update["b"][1].shape == (0,)
        return result._replace(update=jnp.concatenate([result.update["a"], result.update["b"][0]]))

    check(run([1.0], [2.0, 2.0]), [1.0, 2.0, 2.0], 3.0, False, True)
    check(run([6.0], [2.0, 3.0]), [3.0, 2.0, 3.0], 7.0, True, True)
    check(run([0.0], [0.0, 40.0]), [0.0, 0.0, 4.0], 40.0, True, True)
    check(run([3e38], [3e38, 0.0]), [3.0, 4.0, 0.0], INF, True, True)
    check(run([6.0], [NAN, 3.0]), [0.0, 0.0, 0.0], NAN, False, False)
    check(run([-INF], [1.0, 0.0]), [0.0, 0.0, 0.0], NAN, False, False)
    check(run([6.0], [2.0, 3.0], c=-1.0), [0.0, 2.0, 3.0], 7.0, True, True)


def test_a_zeroed_part_leaves_the_others():
    bound = privacy.grouped({"a": privacy.zeroed(privacy.by_global_norm(1.0), above=5.0), "b": 1.0})
    result = jitted(bound.clip)({"a": jnp.array([6.0]), "b": jnp.array([0.5])}, 1.0)
    check(result._replace(update=jnp.concatenate([*result.update.values()])),
          [0.0, 0.5], math.hypot(6, 0.5), True, True, True)  # fmt: skip


@pytest.mark.parametrize(
    ("norm", "radius"),
    [(privacy.by_global_norm, 5.0), (privacy.by_l1_norm, 7.0), (privacy.by_linf_norm, 4.0)],
    ids=["l2", "l1", "linf"],
)
def test_joint_radii(norm, radius):
    assert privacy.grouped([norm(3.0), norm(4.0)]).sensitivity("add_or_remove_one") == radius
    traced = float(jax.jit(lambda c: privacy.grouped([norm(c), norm(4.0)]).radius)(3.0))
    assert radius <= traced <= radius * (1 + 1e-5)


def test_table_of_zeroed():
    clip = clip_with(lambda above: privacy.zeroed(privacy.by_global_norm(2.5), above=above))
    rows = [
        ([0.3, 0.4], 100.0, [0.3, 0.4], 0.5, False, True, False),
        ([30.0, 40.0], 100.0, [1.5, 2.0], 50.0, True, True, False),
        ([60.0, 80.0], 100.0, [1.5, 2.0], 100.0, True, True, False),
        ([61.0, 80.0], 100.0, [0.0, 0.0], math.hypot(61, 80), True, True, True),
        ([0.3, 0.4], 0.25, [0.0, 0.0], 0.5, True, True, True),  # below the bound, too
        ([3e38, 3e38], 100.0, [0.0, 0.0], INF, True, True, True),
        ([NAN, 1.0], 100.0, [0.0, 0.0], NAN, False, False, False),
        ([3.0, -INF], 100.0, [0.0, 0.0], NAN, False, False, False),
        ([3e38, 4e37], INF, [2.5 * 0.99122791, 2.5 * 0.13216372], 3.02654e38, True, True, False),
        ([3.0, 4.0], 0.0, [0.0, 0.0], 5.0, True, True, True),
        ([0.0, 0.0], 0.0, [0.0, 0.0], 0.0, False, True, False),
        ([3.0, 4.0], -1.0, [0.0, 0.0], 5.0, True, True, True),
        ([3.0, 4.0], NAN, [0.0, 0.0], 5.0, True, True, True),
    ]
    for update, above, *wanted in rows:
        result = clip(jnp.array(update), above)
        if update[0] == 3e38 and above == INF:
            np.testing.assert_allclose(result.norm, math.hypot(3e38, 4e37), rtol=1e-6)
            wanted[1] = result.norm
        check(result, *wanted)


def test_table_of_weighted():
    clip = clip_with(lambda most: privacy.weighted(privacy.by_global_norm(2.5), most=most))
    x, once = jnp.array([3.0, 4.0]), np.array([1.5, 2.0])
    factors = [(0.5, 0.5), (2.0, 2.0), (10.0, 10.0), (250.0, 10.0), (INF, 10.0)]
    for weight, factor in [*factors, (0.0, 0.0), (-1.0, 0.0), (NAN, 0.0)]:
        check(clip(x, 10.0, weight), factor * once, 5.0, True, True)
    check(clip(jnp.array([NAN, 1.0]), 10.0, 2.0), [0.0, 0.0], NAN, False, False)
    for most in (0.0, -1.0, NAN, INF):
        check(clip(x, most, 2.0), [0.0, 0.0], 5.0, True, True)


def test_wrappers_nest():
    inner = privacy.grouped([privacy.normalized(3.0), privacy.by_global_norm(4.0)])
    bound = privacy.weighted(privacy.zeroed(inner, above=1e6), most=2.0)
    assert (bound.norm, bound.radius) == ("l2", 10.0)
    x = [jnp.full(3, 1e-3), jnp.full(3, 1e3)]
    clip = jitted(bound.clip)
    once, twice = clip(x, 1.0), clip(x, 7.0)
    assert np.linalg.norm(once.update[0]) == pytest.approx(3.0, rel=1e-5)
    assert np.linalg.norm(twice.update[1]) == pytest.approx(8.0, rel=1e-5)
    gone = clip([x[0], 1e4 * x[1]], 1.0)
    assert bool(gone.zeroed)
    assert not np.any(jax.tree.leaves(gone.update))


# --------------------------------------------------------------------------------------------------
# After rounding
# --------------------------------------------------------------------------------------------------

ROUNDED = {
    "l1": lambda c: privacy.by_l1_norm(c),
    "linf": lambda c: privacy.by_linf_norm(c),
    "normalized": lambda c: privacy.normalized(c),
    "weighted": lambda c: privacy.weighted(privacy.by_global_norm(c), most=3.0),
}


def norms_of(updates, norm):
    return np.linalg.norm(np.asarray(updates).astype(np.float64), ORDERS[norm], axis=1)


@functools.cache
def program(name):
    return jitted(jax.vmap(lambda x, c: ROUNDED[name](c).clip(x, jnp.float32(5.0))))


@pytest.mark.few(4)
@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bounds_hold_after_rounding(name, dtype):
    """Of updates of any scale, and of updates whose norm is the bound up to a few roundings."""
    rng, size = np.random.default_rng(0), 65
    scale = np.exp(rng.uniform(-8, 8, (1000, 1))) if dtype == jnp.float16 else (
        np.exp(rng.uniform(-60, 60, (1000, 1)))
    )  # fmt: skip
    x = rng.standard_normal((1000, size)) * scale * (rng.random((1000, size)) < 0.8)
    x = jnp.asarray(np.clip(x, -6e4, 6e4) if dtype == jnp.float16 else x, jnp.float32).astype(dtype)
    norm = ROUNDED[name](1.0).norm
    bounds = np.exp(rng.uniform(-6, 6, 1000))
    edge = norms_of(x, norm) * (1 + rng.uniform(-3e-6, 3e-6, 1000))
    bounds[500:] = np.where((edge > 1e-20) & (edge < 1e20), edge, bounds)[500:]
    bounds = np.float32(bounds)
    result = program(name)(x, bounds)
    assert result.update.dtype == dtype
    reached = norms_of(result.update, norm)
    most = 3.0 if name.startswith("weighted") else 1.0
    assert (reached <= most * bounds.astype(np.float64)).all()
    clipped = np.asarray(result.clipped)
    assert clipped.sum() > 100
    lost = 1e-5 if dtype == jnp.float32 else 3 * float(jnp.finfo(dtype).eps)
    if dtype != jnp.float16:  # whose small entries vanish
        assert (reached[clipped] >= most * bounds[clipped] * (1 - lost)).all()
    if most == 1.0:
        np.testing.assert_array_equal(np.asarray(result.update)[~clipped], np.asarray(x)[~clipped])


@pytest.mark.parametrize("name", ["l1", "linf"])
def test_clipping_twice_changes_nothing(name):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((1000, 65)) * 1e3, jnp.float32)
    bounds = jnp.asarray(np.exp(rng.uniform(-3, 12, 1000)), jnp.float32)
    once = program(name)(x, bounds)
    twice = program(name)(once.update, bounds)
    assert 100 < np.sum(once.clipped) < 1000
    np.testing.assert_array_equal(twice.update, once.update)
    assert not twice.clipped.any()


def test_directions_do_not_depend_on_norms():
    x = np.float32(np.random.default_rng(0).standard_normal((1, 65)))
    scaled = jnp.asarray(np.ldexp(x, np.arange(-90, 90, 4)[:, None]))
    directions = program("normalized")(scaled, jnp.full(len(scaled), 0.3)).update
    assert (directions == directions[:1]).all()


def test_many_subnormal_entries_do_not_add_up_to_more_than_the_bound():
    # XLA counts each as zero, and returns it as it is: together they are of norm 2.4e-37.
    x = jnp.full(600, 1e-38)
    for make in (privacy.by_global_norm, privacy.by_l1_norm):
        clip, norm = clip_with(make), make(1.0).norm
        for clip_norm in np.float32([2e-38, 1e-36, 1e-30, 1e-20]):
            result = clip(x, clip_norm).update
            assert norms_of(result[None], norm) <= np.float64(clip_norm)
        np.testing.assert_array_equal(result, x)


# --------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: privacy.by_l1_norm(0.0), ValueError, "clip_norm must be greater than 0, got 0.0"),
        (lambda: privacy.by_linf_norm(INF), ValueError, "clip_norm must be finite, got inf"),
        (lambda: privacy.normalized("1"), TypeError, "clip_norm must be a real number, got '1'"),
        (lambda: privacy.grouped({}), ValueError, r"at least one bound.*got \[\]"),
        (
            lambda: privacy.grouped([1.0, privacy.by_l1_norm(1.0)]),
            ValueError,
            r"all in one norm.*\['l2', 'l1'\]",
        ),
        (lambda: privacy.grouped({"a": -1.0}), ValueError, "clip_norm must be greater than 0"),
        (lambda: privacy.zeroed(1.0, above=1.0), TypeError, r"zeroed needs a fjx.privacy.Bound"),
        (
            lambda: privacy.zeroed(privacy.by_global_norm(1.0), above=0),
            ValueError,
            "above must be greater than 0, got 0",
        ),
        (lambda: privacy.weighted(None, most=1.0), TypeError, r"weighted needs a fjx.*got None"),
        (
            lambda: privacy.weighted(privacy.by_global_norm(1.0), most=INF),
            ValueError,
            "most must be finite, got inf",
        ),
        (
            lambda: privacy.gaussian(clip_norm=privacy.by_l1_norm(1.0), noise_multiplier=1.0),
            ValueError,
            "bounds the l1 norm",
        ),
    ],
)
def test_errors_name_the_argument(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("make", ROWS, ids=lambda make: make.__name__)
def test_integers_cannot_be_bounded(make):
    with pytest.raises(TypeError, match=r"floating leaves only, got int32 at \['n'\]"):
        make(1.0).clip({"n": jnp.arange(3), "w": jnp.ones(2)}, 1.0)


def test_groups_must_begin_the_tree_of_the_update():
    bound = privacy.grouped({"conv": 1.0, "dense": 1.0})
    with pytest.raises(ValueError, match=r"grouped: the bounds .*'conv'.* must be a prefix"):
        bound.clip({"conv": jnp.ones(2)}, 1.0)
