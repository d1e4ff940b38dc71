"""Schemes that the clients of a round share: their sums against decoding each, and their papers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import aggregators, clients, compressors, data, wire

SIGMAS = 6.0


def in_order(aggregator, order):
    """The same aggregator, whose shares are added in another order."""

    def finish(key, total, public):
        total = jax.tree.map(lambda x: x[order].sum(0, dtype=x.dtype), total)
        return aggregator.finish(key, total, public)

    return aggregator._replace(combine=fjx.STACK, finish=finish)


def run(aggregator, stacked, key=0, weights=None):
    """One round over stacked messages: the result and its metrics."""

    @jax.jit
    def a_round(key, stacked, weights):
        message, _, metrics = aggregators.aggregate(key, aggregator, stacked, weights=weights)
        return message, metrics

    weights = None if weights is None else jnp.asarray(weights, jnp.float32)
    return a_round(jax.random.key(key), stacked, weights)


def many(aggregator, stacked, draws):
    """Results of many rounds."""

    def one(key):
        return aggregators.aggregate(key, aggregator, stacked)[0]

    keys = jax.random.split(jax.random.key(7), draws)
    return np.asarray(jax.jit(jax.lax.map, static_argnums=0)(one, keys), np.float64)


def within(errors, expected):
    """A mean of squared errors is what it should be, within 6 standard errors."""
    slack = SIGMAS * errors.std() / np.sqrt(errors.size) + 1e-6 * expected
    assert abs(errors.mean() - expected) < slack
    assert slack < 0.3 * expected + 1e-6


def vectors(n, d, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, d))


def encoded(aggregator, message, rank=0, n=4):
    public = fjx.Public.first(aggregator, message, jax.random.key(3), rank=rank, size=n)
    return aggregator.encode(jax.random.key(4), message, public)


# ---------------------------------------------------------------------------------------- rotations


@pytest.mark.ci
def test_a_rotation_around_the_mean_is_the_mean():
    stacked = {"w": vectors(4, 21).reshape(4, 3, 7), "b": vectors(4, 2, 1)}
    for block in (None, 8):
        got, _ = run(aggregators.rotated(aggregators.mean(), block=block), stacked)
        for name, x in stacked.items():
            np.testing.assert_allclose(got[name], x.mean(0), atol=2e-6)


@pytest.mark.slow
def test_one_inverse_rotation_is_the_mean_of_n():
    """Against rotating, encoding, decoding and rotating back for each client, with the same keys."""
    from fjx._kernels.hadamard import rotate, unrotate

    x = vectors(5, 60)
    codec = compressors.k_level(levels=4)
    got, _ = run(aggregators.rotated(aggregators.compressed(codec)), x)
    shared, own, _ = jax.random.split(jax.random.key(0), 3)

    @jax.jit
    def alone(rank, x):
        once = jax.random.fold_in(shared, 0)
        turned = rotate(jax.random.clone(once), jnp.pad(x, (0, 4)), rounds=2, block=64)
        key = jax.random.fold_in(jax.random.fold_in(own, rank), 0)
        back = codec.decode(codec.encode(key, turned, ())[0])
        return unrotate(once, back, rounds=2, block=64)[:60]

    decoded = [alone(rank, x[rank]) for rank in range(5)]
    np.testing.assert_allclose(got, np.mean(decoded, axis=0), atol=5e-6)


@pytest.mark.slow
def test_a_shared_rotation_helps_what_one_large_coordinate_spoils():
    x = vectors(10, 256).at[:, 3].set(100.0)
    plain = many(aggregators.compressed(compressors.k_level(levels=16)), x, 40)
    turned = many(
        aggregators.rotated(aggregators.compressed(compressors.k_level(levels=16))), x, 40
    )
    exact = np.asarray(x.mean(0))
    assert np.square(turned - exact).sum(1).mean() < np.square(plain - exact).sum(1).mean() / 4


# ----------------------------------------------------------------------------- masks and permutations


@pytest.mark.slow
def test_a_shared_mask_errs_by_d_over_k_minus_1_of_the_mean_whatever_n():
    """2000 draws; the pitfall of one seed for all, here on purpose: n gains nothing."""
    for n in (1, 10):
        x = jnp.broadcast_to(vectors(1, 24), (n, 24))
        errors = np.square(many(aggregators.shared_rand_k(0.25), x, 2000) - np.asarray(x[0])).sum(1)
        within(errors, 3 * np.square(np.asarray(x[0])).sum())


@pytest.mark.slow
def test_a_sum_of_masked_values_is_the_mean_of_the_decoded():
    x = vectors(6, 40)
    weights = [1, 2, 0, 1, 3, 0.5]
    aggregator = aggregators.shared_rand_k(0.2)
    got, _ = run(aggregator, x, weights=weights)
    kept = np.flatnonzero(np.asarray(got))
    assert len(kept) == 8
    expected = np.average(np.asarray(x), axis=0, weights=weights)[kept] * 5
    np.testing.assert_allclose(np.asarray(got)[kept], expected, rtol=1e-5)
    assert wire.bits(encoded(aggregator, x[0])) == 8 * 32


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize(("d", "n"), [(13, 4), (3, 4), (5, 12), (1, 3), (7, 1)])
def test_perm_k_is_exact_on_equal_messages(d, n):
    x = jnp.broadcast_to(vectors(1, d), (n, d))
    got, _ = jax.vmap(lambda key: run(aggregators.perm_k(n), x, key=key))(jnp.arange(3))
    np.testing.assert_allclose(got, np.broadcast_to(x[0], (3, d)), rtol=1e-6)


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize(("d", "n", "a"), [(12, 4, 1.0), (4, 12, 3 / 11)])
def test_perm_k_errs_as_its_theorem_says(d, n, a):
    x = vectors(n, d)
    mean = np.asarray(x.mean(0), np.float64)
    result = many(aggregators.perm_k(n), x, 4000)
    spread = np.square(np.asarray(x)).sum(1).mean() - np.square(mean).sum()
    within(np.square(result - mean).sum(1), a * spread)
    slack = SIGMAS * result.std(0).max() / np.sqrt(4000)
    assert np.abs(result.mean(0) - mean).max() < slack


@pytest.mark.ci
def test_perm_k_of_an_incomplete_cohort_is_unbiased_for_those_who_came():
    x = vectors(4, 6)
    seeds = jnp.arange(300)
    once = jax.vmap(lambda k: run(aggregators.perm_k(4), x, key=k, weights=[1, 1, 0, 1])[0])
    results = np.asarray(jax.jit(once)(seeds))
    expected = np.asarray(x)[[0, 1, 3]].mean(0)
    assert np.abs(results.mean(0) - expected).max() < SIGMAS * results.std(0).max() / np.sqrt(300)


@pytest.mark.ci
def test_perm_k_counts_those_it_has_no_place_for():
    got, metrics = run(aggregators.perm_k(3), vectors(5, 6))
    assert int(metrics["surplus"]) == 2
    assert bool(jnp.isfinite(got).all())


# ---------------------------------------------------------------------------------------- integers


@pytest.mark.ci
def test_integers_add_up_in_any_order_and_to_the_mean_of_the_decoded():
    x = vectors(7, 30)
    aggregator = aggregators.integer_mean(2.0**-6, bits=12, clients=7)
    got, metrics = run(aggregator, x)
    again, _ = run(in_order(aggregator, np.array([6, 2, 0, 1, 5, 3, 4])), x)
    np.testing.assert_array_equal(got, again)
    assert np.abs(np.asarray(got - x.mean(0))).max() < 2.0**-6
    assert int(metrics["overflowed"]) == 0
    assert wire.bits(encoded(aggregator, x[0])) == 30 * 12


@pytest.mark.slow
def test_integers_err_by_the_variance_of_random_rounding():
    x = vectors(5, 10)
    f = np.asarray(x, np.float64) / 0.5 % 1
    result = many(aggregators.integer_mean(0.5, bits=8, clients=5), x, 4000)
    within(np.square(result - np.asarray(x.mean(0))).sum(1), 0.25 * (f * (1 - f)).sum() / 25)


@pytest.mark.ci
def test_what_does_not_fit_is_left_out_and_counted():
    x = vectors(4, 3).at[1, 2].set(1e6).at[3, 0].set(jnp.nan)
    got, metrics = run(aggregators.integer_mean(2.0**-8, bits=16, clients=4), x)
    assert int(metrics["overflowed"]) == 2
    np.testing.assert_allclose(got, x[jnp.array([0, 2])].mean(0), atol=2.0**-8)
    _, metrics = run(aggregators.integer_mean(2.0**-8, bits=16, clients=3), vectors(4, 3))
    assert int(metrics["surplus"]) == 1


def test_a_client_that_does_not_fit_says_so_with_an_integer_that_no_coordinate_uses():
    """-2^(bits-1) in every coordinate; the range itself fits, and all of it survives the wire."""
    aggregator = aggregators.integer_mean(0.5, bits=8, clients=4)
    edge = jnp.array([-63.5, 63.5, 0.0])
    public = fjx.Public.first(aggregator, edge, jax.random.key(0), size=4)

    def share(x, weight=1.0):
        payload = aggregator.encode(jax.random.key(1), x, public)
        payload = wire.from_bytes(wire.to_bytes(payload))
        codes = np.asarray(payload.codes).tolist()
        return codes, [
            x.tolist() for x in aggregator.contribute(payload, jnp.float32(weight), public)
        ]

    assert share(edge) == ([-127, 127, 0], [[-127, 127, 0], 1, 0, 0])
    for beyond in (-63.6, 64.0, jnp.nan, jnp.inf):
        assert share(edge.at[2].set(beyond)) == ([-128] * 3, [[0] * 3, 0, 1, 0])
    # Of a client without weight neither its integers nor its failure count.
    assert share(edge, 0.0)[1] == share(2 * edge, 0.0)[1] == [[0] * 3, 0, 0, 0]


def test_sums_that_could_wrap_are_refused_when_they_are_made():
    aggregators.integer_mean(1.0, bits=24, clients=256)
    with pytest.raises(ValueError, match="beyond int32"):
        aggregators.integer_mean(1.0, bits=24, clients=257)


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize(("x", "n"), [(0.5, 10), (0.33, 10), (0.999, 7), (1.0, 4)])
def test_correlated_rounding_of_equal_values(x, n):
    """|error| < 1/n surely, with variance f (1 - f) / n^2, f = frac(n x): 3000 draws."""
    stacked = jnp.full((n, 1), x)
    aggregator = aggregators.correlated_quantization(2, low=0.0, high=1.0)
    errors = many(aggregator, stacked, 3000)[:, 0] - np.float32(x)
    assert np.abs(errors).max() < 1 / n + 1e-6
    f = np.float32(n) * np.float32(x) % 1
    f = 0.0 if f > 1 - 1e-5 else f
    expected = f * (1 - f) / n**2
    spread = np.square(errors)
    assert abs(spread.mean() - expected) < SIGMAS * spread.std() / np.sqrt(3000) + 1e-9


@pytest.mark.slow
def test_correlated_rounding_is_unbiased_and_beats_independent_rounding():
    """Clients near 0.5, n = 10: 0.0015 against 0.025 of independent rounding (4000 draws)."""
    x = 0.5 + 0.02 * vectors(10, 8)
    result = many(aggregators.correlated_quantization(2, low=0.0, high=1.0), x, 4000)
    mean = np.asarray(x.mean(0), np.float64)
    assert np.abs(result.mean(0) - mean).max() < SIGMAS * result.std(0).max() / np.sqrt(4000)
    each = np.square(result - mean).mean()
    assert each < 0.25 * (0.25 / 10)
    assert 0.0005 < each < 0.003


@pytest.mark.slow
def test_correlated_rounding_to_more_levels_stays_on_neighbouring_ones():
    x = jnp.linspace(-1.0, 1.0, 33)[None].repeat(6, 0)
    aggregator = aggregators.correlated_quantization(5, low=-1.0, high=1.0)
    got, metrics = run(aggregator, x)
    assert np.abs(np.asarray(got - x[0])).max() < 0.5 / 6 + 1e-6
    assert float(metrics["clipped"]) == 0
    assert wire.bits(encoded(aggregator, x[0])) == 8 * -(-33 * 3 // 8)
    _, metrics = run(aggregator, x.at[0, :3].set(7.0))
    assert float(metrics["clipped"]) == pytest.approx(3 / (6 * 33))


# ------------------------------------------------------------------------------------------- votes


@pytest.mark.few(2)
@pytest.mark.parametrize("n", [1, 2, 7, 33])
def test_the_vote_on_words_is_the_sign_of_the_sum_of_signs(n):
    x = np.array(jax.random.normal(jax.random.key(n), (n, 71)), np.float32)
    x[:, 5] = 0.0
    x[: n // 2, 6], x[n // 2 : 2 * (n // 2), 6] = 1.0, -1.0
    weights = np.ones(n, np.float32)
    if n > 2:
        weights[1] = 0
    got, _ = run(aggregators.majority_vote(), jnp.asarray(x), weights=weights)
    zeros = np.where(np.arange(n) % 2 == 0, 1, -1)[:, None]  # in round 0
    votes = np.where(x == 0, zeros, np.sign(x)) * (weights > 0)[:, None]
    np.testing.assert_array_equal(got, np.sign(votes.sum(0)))


@pytest.mark.ci
def test_zeros_do_not_drift():
    """A coordinate that is zero for everybody goes one step to and fro at most, whoever comes."""
    vote, x = aggregators.majority_vote(), jnp.zeros((5, 3)).at[:, 0].set(1.0)

    def step(round):
        def one(rank, x):
            public = fjx.Public((), jax.random.key(0), rank, 5, round, fjx.Public.first(
                vote, x, jax.random.key(0)).template)  # fmt: skip
            return vote.contribute(vote.encode(jax.random.key(1), x, public), 1.0, public)

        ballots = jax.vmap(one)(jnp.arange(5), x)
        public = fjx.Public.first(vote, x[0], jax.random.key(0), size=5)
        return vote.finish(jax.random.key(2), ballots, public)[0]

    walk = np.cumsum(jax.vmap(step)(jnp.arange(6)), axis=0)
    np.testing.assert_array_equal(walk[:, 0], [1, 2, 3, 4, 5, 6])
    assert np.abs(walk[:, 1:]).max() <= 1


def test_a_ballot_is_a_bit_a_coordinate():
    assert wire.bits(encoded(aggregators.majority_vote(), jnp.ones(71))) == 96
    nobody, _ = run(aggregators.majority_vote(), jnp.ones((2, 5)), weights=[0, 0])
    assert not np.asarray(nobody).any()


# -------------------------------------------------------------------------------------- in a round


@functools.cache
def problem():
    rng = np.random.default_rng(0)
    dataset = data.from_clients(
        [{"x": rng.normal(size=(6, 20)).astype(np.float32)} for _ in range(4)]
    )

    def loss_fn(w, batch, key):
        return jnp.mean((batch["x"] - w[None]) ** 2)

    return dataset, clients.local_sgd(loss_fn, optax.sgd(0.1), epochs=1, batch_size=3)


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("aggregator", "bits"),
    [
        pytest.param(
            aggregators.rotated(aggregators.compressed(compressors.quantize(bits=4))),
            32 * 4 + 32,
            marks=pytest.mark.slow,
        ),
        (aggregators.rotated(aggregators.integer_mean(0.01, bits=10, clients=4)), 32 * 10),
        pytest.param(aggregators.shared_rand_k(0.5), 10 * 32, marks=pytest.mark.slow),
        (aggregators.perm_k(4), 5 * 32),
        (aggregators.correlated_quantization(4, low=-0.3, high=0.3), 20 * 2),
        (aggregators.majority_vote(), 32),
        pytest.param(aggregators.rotated(aggregators.mean()), 32 * 32, marks=pytest.mark.slow),
    ],
)
def test_a_round_prices_what_is_sent_and_chunks_agree(aggregator, bits):
    dataset, client = problem()
    algorithm = fjx.compose(client=client, aggregator=aggregator)
    w = jnp.zeros(20)
    assert algorithm.traffic(w).uplink == bits
    rows = fjx.simulation.make_table(algorithm.init_client(w), 4)
    cohort = dataset.cohort(jnp.arange(4))

    def result(executor):
        round = jax.jit(functools.partial(algorithm.round, executor=executor))
        return round(jax.random.key(1), algorithm.init(w), rows, cohort)[0].params

    whole = result(None)
    assert float(jnp.abs(whole).max()) > 0
    np.testing.assert_allclose(result(fjx.simulation.chunked(2)), whole, atol=1e-5)


def test_arguments():
    for wrong in (aggregators.as_vector, aggregators.rotated, lambda x: aggregators.compressed(x)):
        with pytest.raises(TypeError, match="needs a fjx"):
            wrong("mean")
    with pytest.raises(ValueError, match="does not say itself"):
        aggregators.compressed(compressors.identity(), aggregators.perm_k(2))
    with pytest.raises(ValueError, match="without a state"):
        aggregators.compressed(compressors.error_feedback(compressors.identity())).init(jnp.ones(3))
    with pytest.raises(TypeError, match="must be of floats"):
        aggregators.majority_vote().init({"n": jnp.int32(1)})
    with pytest.raises(ValueError, match="power of two"):
        aggregators.rotated(aggregators.mean(), block=6)
    with pytest.raises(ValueError, match="high must be"):
        aggregators.correlated_quantization(2, low=1.0, high=1.0)
