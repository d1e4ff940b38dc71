"""The Poisson binomial mechanism: its moments, its sums, and its curve against an exhaustive search."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fjx import Public, aggregators, privacy, samplers, wire
from fjx._kernels import random as _random
from fjx.privacy import _curves

fast = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def test_unbiased_with_the_closed_form_variance():
    """Four clients, 20,000 rounds; c^2 / (m theta^2) sum p (1 - p), which is less than its bound."""
    mechanism = privacy.poisson_binomial(bound=2.0, theta=0.4, trials=6, clients=4, dimension=3)
    x = np.array(
        [[2.0, -1.0, 0.0], [2.0, 0.5, 0.1], [-2.0, 1.0, 0.0], [2.0, 5.0, -0.3]], np.float32
    )
    cut, count = np.clip(x, -2, 2).astype(np.float64), 20_000

    @fast
    def sums(key):
        keys = jax.random.split(key, (count, 4))
        one = jax.vmap(lambda key, x: mechanism.encode(key, x).codes)
        codes = jax.vmap(lambda keys: one(keys, jnp.asarray(x)))(keys)
        return codes, mechanism.decode(codes.sum(1, dtype=jnp.uint32), jnp.int32(4))

    codes, draws = map(np.asarray, sums(jax.random.key(1)))
    p = 0.5 + 0.4 * cut / 2
    variance = 2.0**2 / (6 * 0.4**2) * (p * (1 - p)).sum(0)
    assert np.all(np.abs(draws.mean(0) - cut.sum(0)) < 5 * np.sqrt(variance / count))
    np.testing.assert_allclose(draws.var(0), variance, rtol=5 * math.sqrt(2.2 / count))
    assert variance.max() <= 4 * mechanism.variance
    assert variance.min() < 0.6 * 4 * mechanism.variance
    # Each client's count is binomial, and nothing else.
    counts = np.bincount(codes[:, 1, 1], minlength=7)
    wanted = count * stats.binom.pmf(np.arange(7), 6, 0.6)
    assert stats.chisquare(counts, wanted).pvalue > 1e-4
    assert codes.max() == 6


@pytest.mark.parametrize("theta", [0.1, 0.25, 0.4])
def test_no_others_are_worse_than_those_of_the_curve(theta):
    """Over how many trials of the others are at each end, and over mixed trials of the client itself."""

    def pmf(count, p):
        return stats.binom.pmf(np.arange(count + 1), count, p)

    def divergence(p, q, order):
        return math.log(np.sum(p**order * q ** (1 - order))) / (order - 1)

    low, high = 0.5 - theta, 0.5 + theta
    for n, m in [(1, 3), (2, 1), (3, 2), (4, 3), (8, 2)]:
        for other in (low, 0.5):
            curve = _curves.poisson_binomial(low, other, trials=m, shares=n, dimension=1)
            for order in (1.5, 2.0, 8.0):
                worst, bound = 0.0, float(curve(order))
                for at_high in range((n - 1) * m + 1):
                    others = np.convolve(pmf(at_high, high), pmf((n - 1) * m - at_high, low))
                    for own in (low, high):
                        a = np.convolve(others, pmf(m, own))
                        b = np.convolve(others, pmf(m, other))
                        if own != other:
                            worst = max(worst, divergence(a, b, order), divergence(b, a, order))
                    for flipped in range(1, m):
                        a = np.convolve(
                            others, np.convolve(pmf(m - flipped, high), pmf(flipped, low))
                        )
                        b = np.convolve(others, pmf(m, other))
                        worst = max(worst, divergence(a, b, order))
                assert worst == pytest.approx(bound, rel=1e-9)


def test_curves_add_up_over_coordinates_and_shrink_with_clients():
    mechanism = privacy.poisson_binomial(bound=1.0, theta=0.1, trials=4, clients=50, dimension=7)
    # Coins of 23 bits: theta is rounded down to a multiple of 2^-23.
    low = 0.5 - math.floor(0.1 * 2**23) / 2**23
    one = _curves.poisson_binomial(low, low, trials=4, shares=50, dimension=1)
    orders = np.array([2.0, 16.0])
    np.testing.assert_allclose(mechanism.event(2.0).rdp(orders), 7 * one(orders), rtol=1e-12)
    # Nearly the Gaussian of the same variance: a (2 m theta)^2 / (2 n m p (1 - p)).
    gaussian = orders / 2 * (2 * 4 * 0.1) ** 2 / (50 * 4 * 0.4 * 0.6)
    np.testing.assert_allclose(one(orders), gaussian, rtol=0.05)
    assert np.all(mechanism.event(1.0).rdp(orders) < mechanism.event(2.0).rdp(orders))
    fewer = privacy.poisson_binomial(
        bound=1.0, theta=0.1, trials=4, clients=50, dimension=7, dropped=10, colluding=15
    )
    assert fewer.least == 40
    np.testing.assert_allclose(
        fewer.event(2.0).rdp(orders),
        7 * _curves.poisson_binomial(low, low, trials=4, shares=25, dimension=1)(orders),
    )
    # Probabilities that a float cannot hold are not lost: theta near a half, many clients, a high order.
    extreme = _curves.poisson_binomial(0.01, 0.01, trials=8, shares=300, dimension=1)(256.0)
    assert 1.0 < float(extreme) < math.inf


def test_sums_need_exactly_the_stated_bits_and_go_through_the_aggregator():
    mechanism = privacy.poisson_binomial(bound=1.0, theta=0.49, trials=5, clients=3, dimension=8)
    assert mechanism.bits == 4  # 16 values
    aggregator = aggregators.distributed(mechanism, denominator=3)
    x = jnp.full(8, 0.25)
    public = Public.first(aggregator, x, jax.random.key(0), size=3)
    assert wire.bits(jax.eval_shape(aggregator.encode, jax.random.key(0), x, public)) == 8 * 4
    ends = mechanism.decode(jnp.array([0, 7, 8, 15], jnp.uint32), jnp.int32(3))
    unit = 1 / (5 * 0.49)
    np.testing.assert_allclose(ends, unit * np.array([-7.5, -0.5, 0.5, 7.5]), rtol=1e-6)
    own = fast(mechanism.encode)(jax.random.key(1), jnp.array([2.0, 0.1]))
    assert (int(own.saturated), bool(own.clipped), bool(own.finite)) == (1, True, True)
    for theta in (0.0, 2.0**-24, 0.4999999, 0.5):
        with pytest.raises(
            ValueError, match=r"theta must be at least 1.19\S* and at most 0.499999"
        ):
            privacy.poisson_binomial(bound=1.0, theta=theta, trials=5, clients=3, dimension=8)


def test_no_coin_is_more_unfair_than_what_is_accounted(monkeypatch):
    """The coins next to 1/2 -+ theta, at either end, for thetas and bounds that no float holds.

    A compiler may multiply by 1 / c instead: a chance may then be fairer, by less than a step of coins.
    """
    thetas = (0.1, 1 / 3, 0.4999, 2.0**-23)
    for theta, bound in zip(thetas, (0.3, 1.7, 1e-3, 1.0), strict=True):
        mechanism = privacy.poisson_binomial(
            bound=bound, theta=theta, trials=1, clients=2, dimension=2
        )

        def sent(coin, mechanism=mechanism, bound=bound):
            monkeypatch.setattr(_random, "uniform", lambda key, shape: jnp.full(shape, coin))
            x = jnp.array([bound, -bound], jnp.float32)
            return mechanism.encode(jax.random.key(0), x).codes

        end = math.floor(theta * 2**23)
        coins = 2**22 + np.array([end, end - 1, 1 - end, -end - 1])
        codes = fast(jax.vmap(sent))(jnp.asarray(coins / 2**23, jnp.float32))
        assert codes.tolist() == [[0, 0], [1, 0], [1, 0], [1, 1]], theta


def test_a_claim_says_that_its_worst_case_was_searched():
    mechanism = privacy.poisson_binomial(bound=1.0, theta=0.25, trials=8, clients=10, dimension=3)
    claim = privacy.epsilon(mechanism, samplers.full(), rounds=2, delta=1e-5, method="rdp")
    assert "was searched, and is not proved" in claim.caveats[0]
