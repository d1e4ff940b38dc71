"""The private sum: an attack on its sensitivity, and its noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import Public, privacy
from fjx._base import SUM
from fjx.aggregators._private import private
from fjx.privacy._mechanisms.grid import Steps
from tests.support.steps import floats

CLIP_NORM = 0.7
QUIET = private(privacy.gaussian(clip_norm=CLIP_NORM, noise_multiplier=0.0), denominator=10)
NOISY = private(privacy.gaussian(clip_norm=CLIP_NORM, noise_multiplier=2.0), denominator=10)


PUBLIC = Public((), None, None, None)


fast = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def total_of(aggregator, messages, weights):
    shares = jax.vmap(lambda x, w: aggregator.contribute(x, w, PUBLIC))(messages, weights)
    return jax.tree.map(lambda share: share.sum(0), shares)


@functools.partial(fast, static_argnums=0)
def aggregate(aggregator, key, messages, weights):
    public = Public((), jax.random.key(1), None, jnp.int32(len(weights)))
    return aggregator.finish(key, total_of(aggregator, messages, weights), public)


def values(update):
    """Of a sum of QUIET: whole steps, as floats."""
    return jax.tree.map(
        lambda steps: floats(steps, 0.0, CLIP_NORM), update, is_leaf=lambda x: isinstance(x, Steps)
    )


def flat(update, *axes):
    parts = [np.asarray(x, np.float64) for x in jax.tree.leaves(update)]
    return np.concatenate([x.reshape(*x.shape[: len(axes)], -1) for x in parts], -1)


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_client_moves_the_sum_by_more_than_the_bound(dtype):
    """A search over cohorts of up to six with hostile members; each leaves, or sends the opposite."""
    trials, clients = 3000, 6
    rng = np.random.default_rng(5)

    def hostile(*shape):
        x = rng.standard_normal((trials, clients, *shape))
        x = x * np.exp(rng.uniform(-60, 60, (trials, clients, *[1] * len(shape))))
        for poison in (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40):
            x = np.where(rng.random(x.shape) < 0.01, poison, x)
        return jnp.asarray(x, jnp.float32).astype(dtype)

    messages = {"w": hostile(2, 3), "b": hostile()}
    # Also aligned cohorts, where rounding of the sum has most to say.
    aligned = jnp.asarray(rng.random((trials, 1)) < 0.3)
    messages = {
        "w": jnp.where(aligned[..., None, None], messages["w"][:, :1], messages["w"]),
        "b": jnp.where(aligned, messages["b"][:, :1], messages["b"]),
    }
    weights = jnp.asarray(rng.choice([0.0, 1.0, 250.0], (trials, clients)), jnp.float32)
    gone = weights.at[:, 0].set(0.0)
    here = weights.at[:, 0].set(1.0)
    opposite = jax.tree.map(lambda x: x.at[:, 0].multiply(jnp.asarray(-1, dtype)), messages)

    totals = jax.jit(jax.vmap(lambda m, w: total_of(QUIET, m, w).update))
    with_client, without, replaced = (
        flat(values(totals(m, w)), trials)
        for m, w in ((messages, here), (messages, gone), (opposite, here))
    )
    assert np.isfinite(with_client).all()
    moved = np.linalg.norm(with_client - without, axis=1)
    assert moved.max() <= CLIP_NORM * (1 + 1e-6)
    assert moved.max() > CLIP_NORM * (1 - 1e-5)  # the attack does reach the bound
    moved = np.linalg.norm(with_client - replaced, axis=1)
    assert 2 * CLIP_NORM * (1 - 1e-5) < moved.max() <= 2 * CLIP_NORM * (1 + 1e-6)


def test_weights_count_as_zero_or_one():
    messages = jnp.array([[0.1, 0.2], [0.3, -0.1], [9.0, 9.0]])
    total = fast(lambda w: total_of(QUIET, messages, w))(jnp.array([1.0, 500.0, 0.0]))
    np.testing.assert_allclose(values(total.update), [0.4, 0.1], rtol=1e-6)
    assert int(total.clients) == 2


@pytest.mark.parametrize("poison", [0.5, float("nan"), float("inf")])
def test_who_does_not_take_part_or_is_not_finite_contributes_exactly_nothing(poison):
    message = {"w": jnp.array([1.0, poison]), "b": jnp.ones((), jnp.bfloat16)}
    weights = jnp.array([0.0, -1.0, float("nan"), 1.0])
    shares = contributions(message, weights)
    silent = np.array([True, True, True, not np.isfinite(poison)])
    for leaf in jax.tree.leaves(shares):
        leaf = np.asarray(leaf, np.float64).reshape(4, -1)
        assert (leaf[silent] == 0).all()
    assert shares.clients.tolist() == [0, 0, 0, int(np.isfinite(poison))]


@fast
def contributions(message, weights):
    """Of one message with several weights."""
    return jax.vmap(lambda w: QUIET.contribute(message, w, PUBLIC))(weights)


@pytest.mark.ci
def test_noise_is_added_once_whatever_the_cohort():
    noise = []
    for clients in (0, 1, 7):
        weights = (jnp.arange(7) < clients).astype(jnp.float32)
        messages = jnp.full((7, 5000), 2.0**-12)
        key = jax.random.key(4)
        message, _, metrics = aggregate(NOISY, key, messages, weights)
        plain, _, _ = aggregate(QUIET, key, messages, weights)
        noise.append(np.asarray(message - plain))
        assert float(metrics["noise_std"]) == pytest.approx(2.0 * CLIP_NORM / 10)
    # One draw, identical up to rounding: also when nobody came.
    np.testing.assert_allclose(noise[1], noise[0], atol=1e-6)
    np.testing.assert_allclose(noise[2], noise[0], atol=1e-6)
    std = 2.0 * CLIP_NORM / 10
    assert noise[0].std() == pytest.approx(std, abs=5 * std / np.sqrt(2 * 5000))


def test_the_denominator_is_fixed_and_may_be_traced():
    messages, weights = jnp.full((4, 2), 0.1), jnp.array([1.0, 1.0, 0.0, 0.0])

    def run(denominator):
        mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=0.0)
        public = Public((), jax.random.key(1), None, jnp.int32(4))
        aggregator = private(mechanism, denominator)
        total = total_of(aggregator, messages, weights)
        return aggregator.finish(jax.random.key(0), total, public)[0]

    for got in (fast(lambda: run(4))(), fast(run)(4.0)):
        np.testing.assert_allclose(got, [0.05, 0.05], rtol=1e-6)


def test_metrics_that_are_not_private_say_so():
    messages = jnp.array([[0.3, 0.4], [3.0, 4.0], [6.0, 8.0], [1e9, 0.0]])
    weights = jnp.array([1.0, 2.0, 1.0, 0.0])
    _, _, metrics = aggregate(QUIET, jax.random.key(0), messages, weights)
    assert float(metrics["unnoised_clipped"]) == pytest.approx(2 / 3)
    assert float(metrics["unnoised_norm"]) == pytest.approx((0.5 + 5 + 10) / 3)
    assert set(metrics) == {"unnoised_clipped", "unnoised_norm", "noise_std"}
    _, _, metrics = aggregate(QUIET, jax.random.key(0), messages, 0 * weights)
    assert np.isnan([metrics["unnoised_clipped"], metrics["unnoised_norm"]]).all()


def test_outliers_are_counted_where_the_bound_has_a_threshold():
    bound = privacy.zeroed(privacy.by_global_norm(CLIP_NORM), above=6.0)
    mechanism = privacy.gaussian(clip_norm=bound, noise_multiplier=0.0)
    messages = jnp.array([[0.3, 0.4], [3.0, 4.0], [6.0, 8.0], [1e9, 0.0], [jnp.nan, 0.0]])
    weights = jnp.array([1.0, 2.0, 1.0, 0.0, 1.0])
    message, _, metrics = aggregate(private(mechanism, 1), jax.random.key(0), messages, weights)
    np.testing.assert_allclose(message, [0.3 + 0.6 * 0.7, 0.4 + 0.8 * 0.7], rtol=1e-5)
    assert float(metrics["unnoised_zeroed"]) == pytest.approx(1 / 3)
    assert float(metrics["unnoised_clipped"]) == pytest.approx(2 / 3)


def test_sums_are_float32_and_combine_by_addition():
    assert NOISY.combine is SUM
    messages = {"w": jnp.ones((3, 2), jnp.bfloat16)}
    message, state, _ = aggregate(NOISY, jax.random.key(0), messages, jnp.ones(3))
    assert (message["w"].dtype, state) == (jnp.float32, ())


def test_init_refuses_what_cannot_be_noised():
    like = {"w": jax.ShapeDtypeStruct((2,), jnp.bfloat16), "n": jax.ShapeDtypeStruct((), jnp.int32)}
    with pytest.raises(TypeError, match=r"message must have floating leaves.*int32 at \['n'\]"):
        NOISY.init(like)
    assert NOISY.init({"w": like["w"]}) == ()
    with pytest.raises(ValueError, match="denominator must be greater than 0, got 0"):
        private(privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0), denominator=0)
