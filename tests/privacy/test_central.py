"""Laplace noise, and noise on a grid: laws of the noise, exact sums, norms after rounding."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dp_accounting.rdp import compute_epsilon
from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS
from scipy import stats

from fjx import Public, aggregators, privacy, samplers
from fjx.privacy._mechanisms import integer_noise as _discrete

fast = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def nobody(update):
    return privacy.Contribution(update, jnp.int32(0), jnp.int32(0), jnp.zeros(()))


@pytest.mark.ci
def test_laplace_noise_and_its_epsilon():
    mechanism = privacy.laplace(clip_norm=0.5, noise_multiplier=3.0)
    zeros = {"a": jnp.zeros(20_000), "b": jnp.zeros((100, 200))}
    noised, state, metrics = fast(mechanism.release)(jax.random.key(0), nobody(zeros), ())
    assert state == ()
    for leaf in jax.tree.leaves(noised):
        assert stats.kstest(np.asarray(leaf).ravel(), stats.laplace(scale=1.5).cdf).pvalue > 1e-4
    a, b = (np.asarray(leaf).ravel() for leaf in jax.tree.leaves(noised))
    assert abs(np.corrcoef(a, b)[0, 1]) * np.sqrt(a.size) < 5
    assert float(metrics["noise_std"]) == pytest.approx(1.5 * math.sqrt(2))
    clipped = mechanism.clip(jnp.array([3.0, -1.0]), jnp.ones(()), ()).update
    assert 0.5 * (1 - 1e-4) < np.abs(np.asarray(clipped, np.float64)).sum() <= 0.5
    # Pure: 1/z where one comes or goes, T/z in T rounds.
    spent = privacy.epsilon(mechanism, samplers.full(), rounds=1, delta=1e-12)
    assert float(spent) == pytest.approx(1 / 3, abs=1e-3)
    with pytest.raises(ValueError, match="calibrated to an L1 norm, and clip_norm bounds the l2"):
        privacy.laplace(clip_norm=privacy.by_global_norm(1.0), noise_multiplier=1.0)


def test_the_grid_keeps_norms_and_sums_exact():
    """Whatever 5000 clients send: integers of norm at most C / gamma, and a sum that loses nothing."""
    gamma = 2.0**-6
    mechanism = privacy.discrete_gaussian(
        clip_norm=1.0, noise_multiplier=0.0, granularity=gamma, dimension=40
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 40)).astype(np.float32)
    x[:2500] *= (
        rng.uniform(0.9, 1.1, (2500, 1)) / np.linalg.norm(x[:2500], axis=1, keepdims=True)
    ).astype(np.float32)
    own = fast(jax.vmap(lambda v: mechanism.clip(v, jnp.ones(()), ()).update))(jnp.asarray(x))
    assert own.dtype == jnp.int32
    steps = np.asarray(own, np.float64)
    assert 0.95 / gamma < np.linalg.norm(steps, axis=1).max() <= 1 / gamma
    out, _, metrics = fast(mechanism.release)(jax.random.key(0), nobody(jnp.sum(own, 0)), ())
    np.testing.assert_array_equal(np.asarray(out, np.float64), gamma * steps.sum(0))
    assert int(metrics["unnoised_may_wrap"]) == 0


def test_the_noised_sum_is_that_of_integers_however_large_it_is():
    """Beyond 2^24 steps, where float32 sums lose a client, and beyond 2^31, where integers wrap."""
    mechanism = privacy.discrete_gaussian(
        clip_norm=1.0, noise_multiplier=0.0, granularity=2.0**-22, dimension=2
    )
    noisy = privacy.discrete_gaussian(
        clip_norm=1.0, noise_multiplier=2.0**-12, granularity=2.0**-22, dimension=2
    )
    aggregator = aggregators.private(mechanism, denominator=1)
    messages = jnp.array([[1.0, -1.0], [0.25, 2.0**-21]])
    public = Public((), jax.random.key(0), jnp.int32(0), jnp.int32(1))
    each = [jax.jit(aggregator.contribute)(x, jnp.float32(1), public) for x in messages]
    full, small = (np.asarray(share.update, np.int64) for share in each)
    assert 2**21 < full[0] <= 2**22 / math.sqrt(2)
    release = fast(mechanism.release)

    def total(*counts):
        """So many clients of either kind, in int32 as an executor adds them up."""

        def add(a, b):
            return jnp.int32(counts[0]) * a.astype(jnp.int32) + jnp.int32(counts[1]) * b.astype(
                jnp.int32
            )

        return jax.tree.map(add, *each)

    sums = {}
    for count in (100, 500, 1000):
        for extra in (0, 1):
            exact = count * full + extra * small
            wrapped = (exact + 2**31) % 2**32 - 2**31
            share = total(count, extra)
            np.testing.assert_array_equal(share.update, wrapped)
            sums[count, extra] = np.asarray(share.update, np.int64)
            message, _, metrics = release(jax.random.key(0), share, ())
            np.testing.assert_array_equal(message, (wrapped * 2.0**-22).astype(np.float32))
            assert int(metrics["unnoised_may_wrap"]) == (count + extra > 511)
    assert abs(sums[100, 0]).max() > 2**24
    # One client more moves it by what it contributes, and no more.
    for count in (100, 500, 1000):
        moved = (sums[count, 1] - sums[count, 0] + 2**31) % 2**32 - 2**31
        np.testing.assert_array_equal(moved, small)
    # Noise is added before anything is rounded to a float.
    key = jax.random.key(1)
    drawn = [
        np.asarray(fast(noisy.release)(jax.random.clone(key), nobody(x), ())[0]) * 2**22
        for x in (jnp.zeros(2, jnp.int32), jnp.full(2, 2**24 + 1, jnp.int32))
    ]
    np.testing.assert_array_equal(drawn[1], (2**24 + 1 + drawn[0].astype(int)).astype(np.float32))


@pytest.mark.ci
def test_noise_on_the_grid_is_the_discrete_gaussian_with_the_gaussian_curve():
    mechanism = privacy.discrete_gaussian(
        clip_norm=8.0, noise_multiplier=1.0, granularity=4.0, dimension=3
    )
    zeros = {"a": jnp.zeros(100_000, jnp.int32), "b": jnp.zeros(100_000, jnp.int32)}
    noised, _, metrics = fast(mechanism.release)(jax.random.key(3), nobody(zeros), ())
    a, b = (np.asarray(leaf) / 4 for leaf in jax.tree.leaves(noised))
    for k, probability in [(0, 0.1994711), (1, 0.1760327), (-2, 0.1209854)]:
        error = math.sqrt(probability * (1 - probability) / 2e5)
        assert abs(np.mean(np.concatenate([a, b]) == k) - probability) < 5 * error
    assert abs(np.corrcoef(a, b)[0, 1]) * np.sqrt(a.size) < 5
    assert float(metrics["noise_std"]) == pytest.approx(8.0, rel=1e-6)
    orders = np.array([2.0, 7.5])
    np.testing.assert_allclose(mechanism.event(2.0).rdp(orders), orders * 4 / 2)
    gaussian = privacy.gaussian(clip_norm=8.0, noise_multiplier=1.0)
    ours, theirs = (
        privacy.epsilon(m, samplers.full(), rounds=10, delta=1e-5, method="rdp")
        for m in (mechanism, gaussian)
    )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-3)


def test_what_the_grid_refuses():
    make = functools.partial(
        privacy.discrete_gaussian, clip_norm=1.0, noise_multiplier=1.0, dimension=9
    )
    with pytest.raises(ValueError, match="granularity must be a power of two"):
        make(granularity=0.1)
    with pytest.raises(ValueError, match=r"at least noise_multiplier \* clip_norm / 3000"):
        make(granularity=2.0**-20)
    with pytest.raises(ValueError, match=r"granularity must be at least clip_norm / 2\^22"):
        make(granularity=2.0**-23, noise_multiplier=1e-4)
    with pytest.raises(ValueError, match=r"rounding 400 coordinates .* may add 1.25 to a norm"):
        make(granularity=0.125, dimension=400)
    with pytest.raises(ValueError, match="too little left for a single step"):
        make(granularity=0.5, dimension=15)
    mechanism = make(granularity=0.125)
    with pytest.raises(
        ValueError, match="accounted for 9 coordinates and the message has 10; make"
    ):
        mechanism.clip({"a": jnp.ones(7), "b": jnp.ones(3)}, jnp.ones(()), ())
    with pytest.raises(
        TypeError, match=r"sum of int32 steps, as clip makes them, got \['float32'\]"
    ):
        mechanism.release(jax.random.key(0), nobody(jnp.ones(9)), ())


# --------------------------------------------------------------------------------------------------
# What it costs that noise is drawn from tables
# --------------------------------------------------------------------------------------------------


def delta_of(p, q, epsilon):
    """The least delta for which p and q are that close, of finite laws."""
    return max(np.maximum(a - math.exp(epsilon) * b, 0).sum() for a, b in ((p, q), (q, p)))


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_draws_within_a_total_variation_cost_one_plus_e_to_the_epsilon_of_it(bits):
    """Discrete Gaussians rounded to few bits, exactly: how far neighbours are is within the bound."""
    k = np.arange(-40, 41)
    ideal = np.exp(-(k**2) / 8.0)
    ideal /= ideal.sum()
    table = np.round(ideal * 2**bits) / 2**bits
    table[40] += 1 - table.sum()
    apart = np.abs(table - ideal).sum() / 2
    costs = []
    for epsilon in (0.0, 0.3, 1.0, 2.0):
        drawn, promised = (delta_of(p, np.roll(p, 1), epsilon) for p in (table, ideal))
        assert drawn <= promised + (1 + math.exp(epsilon)) * apart + 1e-15
        costs.append((drawn - promised) / apart)
    assert max(costs) > 0.5  # and it does cost: tails that the table lacks


def test_epsilon_pays_for_tables_from_delta():
    """A hundred thousand rounds of much noise: epsilon is a fixed point."""
    mechanism = privacy.discrete_gaussian(
        clip_norm=2.0, noise_multiplier=1000.0, granularity=1.0, dimension=3
    )
    orders = np.array(DEFAULT_RDP_ORDERS)
    rounds = 100_000
    apart = rounds * 3 * _discrete.discrete_gaussian(2000.0).distance
    assert mechanism.event(1.0).distance * rounds == pytest.approx(apart)
    assert mechanism.event(2.0).distance == mechanism.event(1.0).distance
    curve = rounds * orders / (2 * 1000.0**2)

    def claim(delta, rounds=rounds):
        how = {"rounds": rounds, "delta": delta, "method": "rdp"}
        return float(privacy.epsilon(mechanism, samplers.full(), **how))

    for delta in (200 * apart, 600 * apart):
        epsilon = claim(delta)
        spendable = delta - (1 + math.exp(epsilon)) * apart
        assert compute_epsilon(orders, curve, spendable)[0] == pytest.approx(epsilon, rel=1e-9)
        # The draws are charged, and visibly.
        assert epsilon > compute_epsilon(orders, curve, delta)[0] * 1.0005
    # Where no epsilon is enough, none is claimed, and the claim says what it would have paid for.
    assert claim(2 * apart) == math.inf
    for delta, tells in ((2 * apart, True), (1e-6, False)):
        told = privacy.epsilon(mechanism, samplers.full(), rounds=rounds, delta=delta, method="rdp")
        assert any("Tables of integer noise" in words for words in told.caveats) == tells
    assert claim(2 * apart, rounds=0) == 0
    # In a ledger the distances of all runs are one.
    ledger = privacy.Ledger()
    for _ in range(2):
        ledger = ledger.add(mechanism, samplers.full(), rounds=rounds // 2)
    assert float(ledger.epsilon(delta=300 * apart, method="rdp")) == pytest.approx(
        claim(300 * apart)
    )


def test_a_large_run_can_afford_its_tables():
    """A million coordinates, 1000 clients, 500 rounds: what tables cost is far below delta."""
    mechanism = privacy.distributed_gaussian(
        clip_norm=1.0,
        noise_multiplier=2.0,
        granularity=1e-3,
        bits=24,
        clients=1000,
        dimension=2**20,
    )
    claim = privacy.epsilon(
        mechanism, samplers.uniform(1000), rounds=500, delta=1e-6, num_clients=100_000, method="rdp"
    )
    (run,) = (
        privacy.Ledger()
        .add(mechanism, samplers.uniform(1000), rounds=500, num_clients=100_000)
        .runs
    )
    assert 0 < (1 + math.exp(claim)) * run.distance < 1e-9
    assert claim < 4
    assert not any("Tables" in words for words in claim.caveats)


def test_a_client_pays_for_draws_of_its_own_rounds_and_for_honest_shares():
    mechanism = privacy.discrete_gaussian(
        clip_norm=1.0, noise_multiplier=1.0, granularity=2.0**-4, dimension=9
    )
    each = mechanism.event(1.0).distance
    for sampler, rounds in (
        (samplers.full(), 12),
        (samplers.cyclic(4), 3),
        (samplers.poisson(0.1), 12),
    ):
        (run,) = privacy.Ledger().add(mechanism, sampler, rounds=12).runs
        assert run.distance == pytest.approx(rounds * each)
    for make in (privacy.distributed_gaussian, privacy.distributed_skellam):
        shared = make(
            clip_norm=1.0,
            noise_multiplier=1.0,
            granularity=0.05,
            bits=16,
            clients=10,
            dimension=7,
            dropped=2,
            colluding=3,
        )
        family = make.__name__.removeprefix("distributed_")
        noise = {"gaussian": _discrete.discrete_gaussian, "skellam": _discrete.skellam}[family]
        table = noise(20 / math.sqrt(5))
        assert shared.event(1.0).distance == pytest.approx(5 * 7 * table.distance)
