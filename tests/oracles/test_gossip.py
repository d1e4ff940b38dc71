"""CHOCO: gossip with compression on a ring, against its box, its theorem and its invariant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import algorithms, clients, compressors, data, rounds, samplers, theory, wire
from tests.support import quadratics as q

N, D, K = q.N, q.D, q.K


def ring(n):
    """Weights of a third on a node and its two neighbours."""
    return np.sum([np.roll(np.eye(n), shift, axis=1) for shift in (-1, 0, 1)], axis=0) / 3


def sgd(eta=0.01, step_size=0.1, codec=q.TOP):
    return algorithms.choco_sgd(
        q.PROBLEM.loss, codec, mixing=ring(N), step_size=step_size, learning_rate=eta, batch_size=1
    )


@pytest.mark.ci
def test_gossip_obeys_its_theorem_and_preserves_the_mean():
    """Eight nodes on a ring, four of twenty coordinates: e_t <= (1 - rho^2 delta / 82)^t e_0, surely."""
    bound, rounds = theory.choco_gossip(mixing=ring(8), delta=q.DELTA), 3000
    algorithm = algorithms.choco_gossip(q.TOP, mixing=ring(8), step_size=bound.step_size)
    start = np.random.default_rng(0).normal(size=(8, D)).astype(np.float32)
    dataset = fjx.data.from_clients([np.zeros((1, 1), np.float32)] * 8)
    cohort = dataset.cohort(jnp.arange(8))
    rows = jax.vmap(algorithm.init_client)(jnp.asarray(start))

    def step(carry, t):
        state, rows, _ = algorithm.round(jax.random.key(t), *carry, cohort)
        return (state, rows), (state.params, rows.model, rows.public)

    first = algorithm.init(jnp.asarray(start.mean(0)))
    means, x, z = q.float64(
        q.jit(lambda: jax.lax.scan(step, (first, rows), jnp.arange(rounds))[1])()
    )
    mean = start.mean(0, dtype=np.float64)
    np.testing.assert_allclose(x.mean(1), np.broadcast_to(mean, (rounds, D)), atol=5e-6)
    np.testing.assert_allclose(means, np.broadcast_to(mean, (rounds, D)), atol=2e-5)
    # In e_t the public copies have heard the message of x_t already, which is that of round t + 1.
    known = np.square(x[:-1] - z[1:]).sum((1, 2))
    e = np.square(x[:-1] - mean).sum((1, 2)) + known
    e0 = np.square(start - mean).sum() + np.square(start - z[0]).sum()
    t = np.arange(1, rounds)
    assert (e <= bound.rate**t * e0)[::10].all()
    assert bound.rate ** (rounds - 1) > 0.75
    assert 0.02 < e[-1] / e0 < 0.2


@pytest.mark.ci
@pytest.mark.parametrize("share", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
def test_choco_sgd_is_the_box_of_its_paper(share):
    """Top-k is deterministic: 40 rounds against NumPy; edges to absent nodes fall to those present."""
    present = q.some(40, share, seed=1) if share < 1 else np.ones((40, N), bool)
    states, rows, metrics = q.trajectory(sgd(), 40, present=present)
    x, z, w = np.zeros((N, D)), np.zeros((N, D)), ring(N)
    for t in range(40):
        here = present[t]
        y = x - 0.01 * (np.einsum("nij,nj->ni", q.A, x) - q.B) * here[:, None]
        z = z + q.top(y - z) * here[:, None]
        among = w * here[:, None] * here[None, :]
        x = y + 0.1 * (among @ z - among.sum(1)[:, None] * z)
        np.testing.assert_allclose(rows.model[t], x, atol=2e-4)
        np.testing.assert_allclose(rows.public[t], z, atol=2e-4)
        np.testing.assert_allclose(states.params[t], x.mean(0), atol=2e-5)
    np.testing.assert_array_equal(metrics["uplink_bytes"], 2 * q.TOP_BITS // 8 * present.sum(1))
    np.testing.assert_array_equal(metrics["participants"], present.sum(1))
    for t in range(1, 40):
        np.testing.assert_array_equal(rows.model[t][~present[t]], rows.model[t - 1][~present[t]])


@pytest.mark.slow
def test_choco_sgd_comes_near_the_optimum_and_nearer_with_smaller_steps():
    def rests(eta, rounds):
        states, rows, _ = q.trajectory(sgd(eta, 0.15), rounds)
        spread = np.square(q.float64(rows.model[-1]) - q.float64(states.params[-1])).sum(-1).mean()
        return np.sqrt(q.distance(q.models_of(states)[-1])), np.sqrt(spread)

    far, near = rests(0.005, 3000), rests(0.00125, 8000)
    assert near[0] < 0.4 * far[0]
    assert near[1] < 0.4 * far[1]
    assert near[0] < 0.1 * np.sqrt(q.distance(np.zeros(D)))


@pytest.mark.slow
def test_a_simulation_bills_payloads_for_each_neighbour():
    """The most that a node may send by its degree; and what was sent by everybody's, on a star."""
    star = np.eye(N)
    star[0, 1:] = star[1:, 0] = 1 / N
    star[np.arange(N), np.arange(N)] = 1 - (star.sum(1) - 1)
    algorithm = algorithms.choco_sgd(
        q.PROBLEM.loss, q.TOP, mixing=star, step_size=0.1, learning_rate=0.01, batch_size=1
    )
    assert algorithm.traffic(jnp.zeros(D)) == ((N - 1) * q.TOP_BITS, 0)
    result = fjx.simulate(
        jax.random.key(0), algorithm, jnp.zeros(D), q.PROBLEM.dataset, sampler=samplers.full(),
        rounds=3,
    )  # fmt: skip
    assert result.ledger.uplink == 3 * 2 * (N - 1) * q.TOP_BITS
    assert result.ledger.downlink == 0
    np.testing.assert_allclose(
        result.params, np.asarray(result.state.clients.model).mean(0), atol=1e-6
    )
    payload, _ = q.TOP.encode(jax.random.key(0), jnp.ones(D), ())
    assert wire.bits(payload) == q.TOP_BITS


@pytest.mark.slow
def test_executors_agree():
    """In chunks, with padding and an absent node, nodes do what they do all at once."""
    algorithm, ids = sgd(), np.minimum(np.arange(N + 2), N)
    cohort = q.PROBLEM.dataset.cohort(ids)
    cohort = cohort._replace(weights=cohort.weights.at[3].set(0.0))
    params = jnp.linspace(-1.0, 1.0, D)
    rows = jax.vmap(lambda _: algorithm.init_client(params))(jnp.arange(N + 2))
    runs = [
        q.jit(lambda executor=executor: algorithm.round(
            jax.random.key(0), algorithm.init(params), rows, cohort, executor=executor
        ))()
        for executor in (None, fjx.simulation.chunked(4))
    ]  # fmt: skip
    for one, other in zip(*map(jax.tree.leaves, runs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert int(runs[0][2]["participants"]) == N - 1


@pytest.mark.slow
def test_a_broken_node_rests():
    dataset = fjx.data.from_clients([np.full((1, 3), v, np.float32) for v in (1.0, 2.0, 3.0)])

    def loss_fn(w, x, key):
        return jnp.mean((w[None] - x) ** 2 * jnp.where(x == 2.0, jnp.nan, 1.0))

    algorithm = algorithms.choco_sgd(
        loss_fn, compressors.top_k(1.0), mixing=np.full((3, 3), 1 / 3), step_size=0.5,
        learning_rate=0.1, batch_size=1,
    )  # fmt: skip
    rows = jax.vmap(lambda _: algorithm.init_client(jnp.zeros(3)))(jnp.arange(3))
    state, after, metrics = q.jit(algorithm.round)(
        jax.random.key(0), algorithm.init(jnp.zeros(3)), rows, dataset.cohort(jnp.arange(3))
    )
    assert int(metrics["nonfinite"]) == 1
    assert not np.asarray(after.model[1]).any()
    np.testing.assert_allclose(state.params, np.asarray(after.model).mean(0), rtol=1e-6)


@pytest.mark.slow
def test_a_network_learns():
    """On digits with a small network on a ring: the loss of 40 rounds falls by a fifth at least."""
    losses = q.digits_losses(
        algorithms.choco_sgd(
            q.MLP.loss, compressors.top_k(0.2), mixing=ring(10), step_size=0.2, learning_rate=0.2,
            batch_size=64,
        ),
        40,
    )  # fmt: skip
    assert losses[-1] < 0.8 * losses[0]


def test_models_far_from_zero_agree_to_their_own_precision():
    """At 1e4 the last bit of float32 is 0.001, and all four come as near as that to their mean."""
    start = 1e4 + jax.random.normal(jax.random.key(0), (4, 3))
    algorithm = algorithms.choco_gossip(
        compressors.identity(), mixing=np.full((4, 4), 0.25), step_size=1.0
    )
    dataset = data.from_clients([np.zeros((1, 1), np.float32)] * 4)
    rows = jax.vmap(algorithm.init_client)(start)
    _, rows, _ = q.jit(algorithm.round)(
        jax.random.key(1), algorithm.init(start.mean(0)), rows, dataset.cohort(jnp.arange(4))
    )
    np.testing.assert_allclose(rows.model, np.tile(start.mean(0), (4, 1)), atol=2e-3)


def test_arguments():
    client = clients.gradient(q.PROBLEM.loss, batch_size=1)
    with pytest.raises(ValueError, match="square"):
        rounds.choco(client, q.TOP, mixing=np.ones((2, 3)), step_size=0.1)
    with pytest.raises(ValueError, match="symmetric"):
        rounds.choco(client, q.TOP, mixing=np.array([[0.5, 0.5], [0.2, 0.8]]), step_size=0.1)
    with pytest.raises(TypeError, match="ClientUpdate"):
        rounds.choco(q.TOP, client, mixing=np.eye(2), step_size=0.1)
    hears = client._replace(on_aggregate=lambda aggregate, state, public: state)
    with pytest.raises(ValueError, match="on_sent and on_aggregate must be None"):
        rounds.choco(hears, q.TOP, mixing=np.eye(2), step_size=0.1)
    with pytest.raises(TypeError, match="floating leaves only"):
        algorithms.choco_gossip(q.TOP, mixing=np.eye(2), step_size=0.1).init_client(jnp.arange(3))
    with pytest.raises(ValueError, match="join all"):
        theory.choco_gossip(mixing=np.eye(3), delta=0.5)
    with pytest.raises(ValueError, match="symmetric"):
        theory.choco_gossip(mixing=np.array([[0.5, 0.5], [0.2, 0.8]]), delta=0.5)
    small = algorithms.choco_gossip(q.TOP, mixing=np.full((2, 2), 0.5), step_size=0.1)
    rows = jax.vmap(lambda _: small.init_client(jnp.zeros(D)))(jnp.arange(N))
    cohort = q.PROBLEM.dataset.cohort(jnp.arange(N))
    _, _, metrics = q.jit(small.round)(jax.random.key(0), small.init(jnp.zeros(D)), rows, cohort)
    assert (int(metrics["participants"]), int(metrics["rejected"])) == (2, N - 2)
