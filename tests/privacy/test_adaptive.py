"""Adaptive clipping: its accounting, its dynamics, and who counts."""

import functools
import math

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from scipy import stats

import fjx
from fjx import clients, privacy, samplers
from fjx.aggregators import private
from fjx.privacy._mechanisms.adaptive import LEAST, MOST, split_noise
from tests.support.steps import floats

GAUSSIAN = dp_accounting.GaussianDpEvent
jitted = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def adaptive(**settings):
    return privacy.adaptive_gaussian(
        **{"initial_clip": 0.1, "noise_multiplier": 1.0, "cohort_size": 100} | settings
    )


# --------------------------------------------------------------------------------------------------
# Accounting
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("z", "sigma_b", "z_delta"),
    [(1.0, 5.0, 1.00503782), (1.0, 1.0, 1.15470054), (0.0, 5.0, 0.0), (0.0, 0.0, 0.0)],
)
def test_what_is_left_for_the_sum(z, sigma_b, z_delta):
    for got in (split_noise(z, sigma_b), float(jax.jit(split_noise)(z, sigma_b))):
        assert got == pytest.approx(z_delta, rel=1e-7)


def test_both_multipliers_together_are_the_one_claimed():
    for z, sigma_b in np.random.default_rng(0).uniform([0.1, 3.0], [5.9, 50.0], (100, 2)):
        z_delta = split_noise(z, sigma_b)
        assert z_delta**-2 + (2 * sigma_b) ** -2 == pytest.approx(z**-2, rel=1e-12)


@pytest.mark.ci
def test_the_default_for_the_count_is_a_twentieth_of_the_cohort():
    _, metrics = one_round(adaptive(initial_clip=2.0), jnp.zeros((1, 3)), jnp.ones(1))
    assert float(metrics["noise_std"]) == pytest.approx(2.0 * 1.00503782, rel=1e-6)


def epsilon(event):
    return RdpAccountant().compose(event, 1000).get_epsilon(1e-5)


def sampled(event):
    return dp_accounting.PoissonSampledDpEvent(0.01, event)


def test_sum_and_count_are_one_release_of_one_cohort():
    z_delta = split_noise(1.0, 5.0)
    together = dp_accounting.ComposedDpEvent([GAUSSIAN(z_delta), GAUSSIAN(10.0)])
    assert epsilon(sampled(together)) == pytest.approx(2.101366525, abs=1e-8)
    assert epsilon(sampled(GAUSSIAN(1.0))) == pytest.approx(2.101366525, abs=1e-8)
    # As if each had a cohort of its own: a smaller number, which is not what ran.
    apart = dp_accounting.ComposedDpEvent([sampled(GAUSSIAN(z_delta)), sampled(GAUSSIAN(10.0))])
    assert epsilon(apart) == pytest.approx(2.081628862, abs=1e-8)

    mechanism = adaptive(initial_clip=123.0)
    assert (mechanism.event(1.0), mechanism.event(2.0)) == (GAUSSIAN(1.0), GAUSSIAN(0.5))
    claim = privacy.epsilon(
        mechanism, samplers.poisson(0.01), rounds=1000, delta=1e-5, method="rdp"
    )
    assert claim == pytest.approx(2.101366525, abs=1e-3)
    assert claim >= 2.101366525


def test_no_client_moves_sum_and_count_by_more_than_the_claim():
    """In units of their noise, both together: the attack reaches 1/z, and 2/z for a replaced one."""
    z, sigma_b, clip_norm = 1.5, 1.0, 0.7
    mechanism = adaptive(noise_multiplier=z, count_noise=sigma_b, initial_clip=clip_norm)
    contribute = private(mechanism, denominator=1).contribute
    public = fjx.Public(mechanism.init(None), None, None, None)
    rng = np.random.default_rng(0)
    # Norms near the bound on either side, and far from it; some not finite; some opposite.
    x = rng.standard_normal((4000, 5))
    norms = np.where(rng.random(4000) < 0.5, clip_norm * (1 + rng.uniform(-1e-4, 1e-4, 4000)),
                     np.exp(rng.uniform(-50, 50, 4000)))  # fmt: skip
    x *= (norms / np.linalg.norm(x, axis=1))[:, None]
    x[rng.random(x.shape) < 0.002] = np.nan
    x[2000:] = -x[:2000] * np.exp(rng.choice([0.0, 1e-4, -1e-4], (2000, 1)))
    weights = rng.choice([0.0, 1.0, 250.0], 4000)
    share = jitted(jax.vmap(lambda x, w: contribute(x, w, public)))(
        np.float32(x), np.float32(weights)
    )
    share = jax.tree.map(np.asarray, share)
    seen = np.column_stack([
        floats(share.update, split_noise(z, sigma_b), clip_norm) / (split_noise(z, sigma_b) * clip_norm),
        (share.clients / 2 - share.clipped) / sigma_b,
    ])  # fmt: skip
    alone = np.linalg.norm(seen, axis=1)
    assert (1 - 1e-4) / z < alone.max() <= 1 / z
    apart = np.linalg.norm(seen[:2000] - seen[2000:], axis=1)
    assert 2 * (1 - 1e-4) / z < apart.max() <= 2 / z
    # The sum alone would have been within less.
    assert np.linalg.norm(seen[:, :-1], axis=1).max() < 0.7 / z


# --------------------------------------------------------------------------------------------------
# Dynamics
# --------------------------------------------------------------------------------------------------


def one_round(mechanism, messages, weights):
    """The state and the metrics after a first round, as one program."""
    aggregator = private(mechanism, denominator=1)

    def run(messages, weights):
        public = fjx.Public(aggregator.init(messages[0]), None, None, None)
        shares = jax.vmap(lambda x, w: aggregator.contribute(x, w, public))(messages, weights)
        total = jax.tree.map(lambda share: share.sum(0), shares)
        _, state, metrics = aggregator.finish(jax.random.key(0), total, public)
        return state, metrics

    return jitted(run)(messages, weights)


def followed(mechanism, rounds, norms):
    """The clip norms of a run whose round t meets scalar updates of magnitudes ``norms(key)``."""
    aggregator = private(mechanism, denominator=1)

    def step(state, t):
        draw, finish = jax.random.split(jax.random.fold_in(jax.random.key(7), t))
        updates = norms(draw)
        public = fjx.Public(state, None, None, None)
        shares = jax.vmap(lambda x: aggregator.contribute(x, jnp.float32(1), public))(updates)
        total = jax.tree.map(lambda share: share.sum(0), shares)
        _, state, metrics = aggregator.finish(finish, total, public)
        return state, metrics["clip_norm"]

    state = aggregator.init(jnp.zeros(()))
    return jax.lax.scan(step, state, jnp.arange(rounds))[1]


@pytest.mark.ci
def test_it_finds_the_median():
    """Norms lognormal(0, 1): from 0.1, the median 1 is near after 50 rounds and then followed."""

    def path(learning_rate, target):
        mechanism = adaptive(count_noise=5.0, learning_rate=learning_rate, target_quantile=target)
        return followed(mechanism, 300, lambda key: jnp.exp(jax.random.normal(key, (100,))))

    # As hyper-parameters under vmap; gamma = 0.8 is at exp(0.8416) = 2.32.
    paths = np.asarray(jitted(jax.vmap(path))(jnp.array([0.2, 0.2]), jnp.array([0.5, 0.8])))
    # Noise in b~: deviation (0.25 / 100 + 0.05^2)^(1/2) = 0.07; C then is an AR(1) in logarithms with
    # pull eta pdf(0) = 0.08 and shocks 0.2 * 0.07: deviation 0.036, and of a mean of 100 about 0.018.
    assert paths[0, 0] == np.float32(0.1)
    assert paths[0, 50] == pytest.approx(0.94, abs=0.12)
    assert paths[0, -100:].mean() == pytest.approx(1.0, abs=4 * 0.018)
    assert paths[1, -100:].mean() == pytest.approx(math.exp(stats.norm.ppf(0.8)), rel=0.1)


def test_from_below_with_all_clipped_it_grows_by_a_fixed_factor():
    mechanism = adaptive(noise_multiplier=0.0, count_noise=0.0)
    path = np.asarray(jitted(lambda: followed(mechanism, 40, lambda key: jnp.ones(100)))())
    np.testing.assert_allclose(path[:25], 0.1 * np.exp(0.1 * np.arange(25)), rtol=1e-5)
    assert np.argmax(path >= 1) == math.ceil(math.log(10) / (0.2 * 0.5)) == 24
    # Above, all fit, and it falls by the same factor: the sign is right.
    assert path[25] == pytest.approx(path[23], rel=1e-5)


@pytest.mark.ci
def test_the_noised_fraction_has_the_noise_that_is_accounted():
    mechanism = adaptive(cohort_size=50, count_noise=4.0, initial_clip=1.0)
    total = privacy.Contribution(jnp.zeros(1), jnp.int32(40), jnp.int32(10), jnp.zeros(()))
    keys = jax.random.split(jax.random.key(3), 20_000)
    state = mechanism.init(None)
    noised, _, metrics = jitted(jax.vmap(lambda key: mechanism.release(key, total, state)))(keys)
    fraction, sums = np.asarray(metrics["noised_unclipped"]), np.asarray(noised[:, 0])
    # 30 of 40 fit: 1/2 + (30 - 10) / 2 / 50.
    assert fraction.mean() == pytest.approx(0.7, abs=5 * 0.08 / math.sqrt(20_000))
    assert fraction.std() == pytest.approx(0.08, rel=5 / math.sqrt(2 * 20_000))
    assert sums.std() == pytest.approx(split_noise(1.0, 4.0), rel=5 / math.sqrt(2 * 20_000))
    assert abs(np.corrcoef(fraction, sums)[0, 1]) < 5 / math.sqrt(20_000)


def test_who_does_not_take_part_does_not_count():
    mechanism = adaptive(cohort_size=4, noise_multiplier=0.0, count_noise=0.0, initial_clip=1.0)
    messages = jnp.array([[0.5], [2.0], [9.0], [jnp.nan], [jnp.inf], [0.1]])
    state, metrics = one_round(mechanism, messages, jnp.array([1.0, 7.0, 0.0, 1.0, 1.0, 3.0]))
    # Of 0.5, 2.0 and 0.1 two fit: 1/2 + (2 - 3/2) / 4.
    assert float(metrics["noised_unclipped"]) == pytest.approx(0.625)
    assert float(state.clip_norm) == pytest.approx(math.exp(-0.2 * 0.125), rel=1e-6)


@pytest.mark.ci
def test_an_empty_round_is_a_round():
    mechanism = adaptive(initial_clip=1.0, cohort_size=20)
    state, metrics = one_round(mechanism, jnp.ones((2, 3)), jnp.zeros(2))
    assert float(metrics["noised_unclipped"]) != 0.5
    assert float(state.clip_norm) != 1.0
    # And the sum is noised, too.
    nothing = privacy.Contribution(jnp.zeros(3), jnp.int32(0), jnp.int32(0), jnp.zeros(()))
    noised, _, _ = jitted(mechanism.release)(jax.random.key(0), nothing, mechanism.init(None))
    assert (noised != 0).all()


def test_metrics_that_are_public_and_those_that_are_not():
    _, metrics = one_round(adaptive(), jnp.ones((2, 3)), jnp.ones(2))
    public = {name for name in metrics if not name.startswith("unnoised_")}
    assert public == {"clip_norm", "noised_unclipped", "noise_std"}
    assert set(metrics) - public == {"unnoised_clipped", "unnoised_norm"}


def test_it_stays_positive_and_finite_under_any_history():
    """Cohorts far larger than announced pull to either end, where noise and clipping still work."""

    def run(learning_rate, clipped):
        mechanism = adaptive(learning_rate=learning_rate, cohort_size=1.0, noise_multiplier=0.01)

        def step(state, t):
            total = privacy.Contribution(jnp.zeros(4), jnp.int32(2000), clipped, jnp.zeros(()))
            key = jax.random.fold_in(jax.random.key(0), t)
            noised, after, metrics = mechanism.release(key, total, state)
            return after, (state.clip_norm, noised, metrics["noise_std"])

        return jax.lax.scan(step, mechanism.init(None), jnp.arange(50))[1]

    rates, clipped = jnp.array([0.2, 0.2, 1e6, 1e6]), jnp.array([0, 2000, 0, 2000])
    norms, noise, std = map(np.asarray, jitted(jax.vmap(run))(rates, clipped))
    np.testing.assert_array_equal(norms[:, -1], np.float32([LEAST, MOST, LEAST, MOST]))
    np.testing.assert_allclose(std / norms, 0.01, rtol=0.02)
    assert np.isfinite(noise).all()
    assert (noise != 0).all()


@pytest.mark.ci
def test_a_run_carries_the_clip_norm_from_round_to_round():
    """All of three clients are clipped, and the count says so: 1/2 - 3/2/3 = 0."""
    mechanism = adaptive(noise_multiplier=0.0, count_noise=0.0, cohort_size=3)
    algorithm = fjx.compose(
        client=clients.gradient(lambda w, x, key: -1e3 * jnp.mean(x @ w), batch_size=1),
        aggregator=private(mechanism, denominator=3),
    )
    result = fjx.simulate(
        jax.random.key(0),
        algorithm,
        jnp.zeros(2),
        fjx.data.from_clients([np.ones((1, 2), np.float32)] * 3),
        sampler=samplers.full(),
        rounds=5,
        executor=fjx.simulation.chunked(2),
    )
    norms = 0.1 * np.exp(0.1 * np.arange(6))
    np.testing.assert_allclose(result.history.rounds["clip_norm"], norms[:5], rtol=1e-5)
    assert float(result.state.algorithm.aggregator.clip_norm) == pytest.approx(norms[5], rel=1e-5)
    assert np.linalg.norm(result.params) == pytest.approx(norms[:5].sum(), rel=1e-4)


def test_other_bounds_follow():
    def bound(c):
        return privacy.zeroed(privacy.grouped({"a": c, "b": 2 * c}), above=10 * c)

    mechanism = adaptive(bound=bound, initial_clip=1.0, noise_multiplier=0.0, cohort_size=4)
    messages = {"a": jnp.array([[0.5], [2.0], [60.0]]), "b": jnp.array([[0.5], [0.5], [0.5]])}
    shares = jitted(jax.vmap(lambda x: mechanism.clip(x, 1.0, mechanism.init(None))))(messages)
    assert shares.clipped.tolist() == [False, True, True]
    assert shares.zeroed.tolist() == [False, False, True]
    assert mechanism.sensitivity("replace_one") == pytest.approx(2 * math.sqrt(5))


# --------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"count_noise": 0.5}, ValueError, r"count_noise must be greater than .* 0.5, got 0.5"),
        ({"cohort_size": 10}, ValueError, r"got 0.5.*raise cohort_size"),
        ({"cohort_size": 0}, ValueError, "cohort_size must be greater than 0, got 0"),
        ({"initial_clip": 0.0}, ValueError, "initial_clip must be at least"),
        ({"target_quantile": 1.1}, ValueError, "target_quantile must be .*at most 1, got 1.1"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be at least 0, got -1.0"),
        ({"noise_multiplier": None}, TypeError, "noise_multiplier must be a real number"),
        ({"bound": privacy.by_l1_norm}, ValueError, "bounds the l1 norm"),
    ],
)
def test_errors_name_the_argument(settings, error, message):
    with pytest.raises(error, match=message):
        adaptive(**settings)


def test_a_traced_count_that_leaves_nothing_gives_no_number():
    for got in jax.vmap(split_noise)(jnp.array([1.0, 2.0]), jnp.array([0.5, 0.5])):
        assert jnp.isnan(got)
