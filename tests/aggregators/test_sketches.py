"""Sums of sketches against sketches of sums, and FetchSGD against its box without a sketch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import aggregators, clients, data, samplers, wire

D, N = 60, 4


@functools.partial(jax.jit, static_argnums=0)
def round_of(aggregator, state, stacked, key, weights=None, t=0):
    """The aggregate of round t, and the next state."""
    return aggregators.aggregate(key, aggregator, stacked, weights=weights, state=state, round=t)[
        :2
    ]


@pytest.mark.ci
def test_a_sum_of_sketches_is_the_estimate_of_the_mean():
    """The mean of n sketches says what a sketch of the weighted mean does."""
    x = jax.random.normal(jax.random.key(0), (N, D))
    weights = jnp.array([1.0, 2.0, 0.0, 3.0])
    a = aggregators.sketched(rows=3, columns=16)
    key = jax.random.key(1)
    together, _ = round_of(a, a.init(x[0]), x, jax.random.clone(key), weights)
    mean = jnp.average(x, axis=0, weights=weights)
    alone, _ = round_of(a, a.init(x[0]), mean[None], key)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert float(jnp.max(jnp.abs(alone - mean))) > 0.1  # 16 columns are not enough


@pytest.mark.ci
def test_one_row_is_unbiased_whatever_the_number_of_clients():
    """4000 rounds: the mean of the estimates, and the variance of the collisions of the mean."""
    x = jax.random.normal(jax.random.key(2), (N, D))
    a = aggregators.sketched(rows=1, columns=16)
    state = a.init(x[0])
    keys = jax.random.split(jax.random.key(3), 4000)
    got = np.asarray(jax.jit(jax.vmap(lambda key: round_of(a, state, x, key)[0]))(keys), np.float64)
    mean = np.asarray(x.mean(0), np.float64)
    assert np.abs(got.mean(0) - mean).max() < 6 * got.std(0).max() / np.sqrt(4000)
    block = np.arange(D) // 16
    expected = sum(np.square(mean)[block != b].sum() for b in block) / 16
    errors = np.square(got - mean).sum(1)
    assert abs(errors.mean() - expected) < 6 * errors.std() / np.sqrt(4000)


@pytest.mark.slow
def test_fetch_sgd_with_room_is_top_k_with_momentum_and_feedback():
    """With a column for each coordinate, six rounds of the paper's box on vectors, in NumPy."""
    k, rho = 6, 0.7
    a = aggregators.fetch_sgd(k / D, rows=1, columns=D, momentum=rho)
    state = a.init(jnp.zeros(D))
    u, e = np.zeros(D), np.zeros(D)
    for t in range(6):
        x = jax.random.normal(jax.random.key(t), (N, D))
        delta, state = round_of(a, state, x, jax.random.key(100 + t), t=t)
        u = rho * u + np.asarray(x, np.float64).mean(0)
        e = e + u
        kept = np.argsort(-np.abs(e))[:k]
        expected = np.zeros(D)
        expected[kept] = e[kept]
        e = e - expected
        np.testing.assert_allclose(delta, expected, atol=1e-5)
        np.testing.assert_allclose(np.sum(np.asarray(state.error) ** 2), e @ e, rtol=1e-4)


@pytest.mark.slow
def test_fetch_sgd_keeps_its_hashes_and_sends_k_coordinates():
    a = aggregators.fetch_sgd(0.1, rows=3, columns=20)
    x = jax.random.normal(jax.random.key(0), (N, D))
    state, seeds = a.init(x[0]), []
    for t in range(3):
        delta, state = round_of(a, state, x, jax.random.key(t), t=t)
        assert int(jnp.sum(delta != 0)) == 6
        seeds.append(np.asarray(state.seed))
    assert (seeds[0] == seeds[1]).all()
    assert (seeds[1] == seeds[2]).all()
    other = round_of(a, a.init(x[0]), x, jax.random.key(9))[1]
    assert not (np.asarray(other.seed) == seeds[0]).all()


def test_what_is_not_given_to_the_model_waits():
    """The same mean in every round, without momentum: what was given and what waits are the sum."""
    a = aggregators.fetch_sgd(0.1, rows=1, columns=D, momentum=0.0)
    x = jax.random.normal(jax.random.key(0), (1, D))
    state, given = a.init(x[0]), np.zeros(D)
    for t in range(15):
        delta, state = round_of(a, state, x, jax.random.key(t), t=t)
        given += np.asarray(delta)
    waiting = np.linalg.norm(np.asarray(state.error))
    np.testing.assert_allclose(np.linalg.norm(15 * np.asarray(x[0]) - given), waiting, rtol=1e-4)
    # Top-k contracts: what waits is bounded, and does not grow with the number of rounds.
    assert waiting < 15 * np.linalg.norm(x[0]) / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "aggregator",
    [aggregators.sketched(rows=3, columns=8), aggregators.fetch_sgd(0.5, rows=3, columns=8)],
    ids=["sketched", "fetch_sgd"],
)
def test_a_simulated_run_bills_the_sketch_and_learns(aggregator):
    """Least squares in ten dimensions, through the public calls: the loss falls by half."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=10).astype(np.float32)
    arrays = []
    for _ in range(6):
        features = rng.normal(size=(8, 10)).astype(np.float32)
        arrays.append({"x": features, "y": features @ truth})
    dataset = data.from_clients(arrays)

    def loss_fn(w, batch, key):
        return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)

    client = clients.local_sgd(loss_fn, optax.sgd(0.01), epochs=1, batch_size=8)
    algorithm = fjx.compose(client=client, aggregator=aggregator)
    start = jnp.zeros(10)
    result = fjx.simulate(
        jax.random.key(0), algorithm, start, dataset, sampler=samplers.full(), rounds=30
    )
    assert result.ledger.uplink == 30 * 6 * 32 * 3 * 8
    whole = {k: jnp.concatenate([a[k] for a in arrays]) for k in ("x", "y")}
    assert loss_fn(result.params, whole, None) < loss_fn(start, whole, None) / 2
    public = fjx.Public.first(aggregator, start, jax.random.key(0))
    sent = aggregator.encode(jax.random.key(1), start + 1.0, public)
    np.testing.assert_array_equal(wire.from_bytes(wire.to_bytes(sent)), sent)


def test_arguments():
    with pytest.raises(ValueError, match="rows"):
        aggregators.sketched(rows=0, columns=4)
    with pytest.raises(ValueError, match="momentum"):
        aggregators.fetch_sgd(0.1, rows=1, columns=4, momentum=1.0)
    with pytest.raises(TypeError, match="floats"):
        aggregators.sketched(rows=1, columns=4).init(jnp.arange(3))
