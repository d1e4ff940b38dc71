"""Gossip averaging and gradient tracking: transcriptions, fixed points, and what they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import algorithms, clients, compressors, rounds
from tests.support import quadratics as q

N, D, ETA, RAGGED, ROUNDS = q.N, q.D, 0.01, 12, 2500

PRESENT = np.ones((ROUNDS, N), bool)
PRESENT[:RAGGED] = q.some(RAGGED, 0.6, seed=2)
"""Rounds with absent nodes, two of them without anybody, and then everybody."""

PAIRS = np.stack([rounds.metropolis(np.kron(np.eye(N // 2), 1 - np.eye(2)))] * 2)
PAIRS[1] = np.roll(PAIRS[1], (1, 1), axis=(0, 1))
"""A ring of which each second edge is there in even rounds, and the others in odd ones."""


def dsgd(mixing):
    return algorithms.dsgd(q.PROBLEM.loss, mixing=mixing, client_lr=ETA, batch_size=1)


def slopes(x):
    """Each node's gradient at its own model."""
    return np.einsum("nij,nj->ni", q.A, x) - q.B


def mixed(w, x, here):
    """The average over neighbours that are there."""
    among = w * here[:, None] * here[None, :]
    return x + among @ x - among.sum(1)[:, None] * x


@pytest.mark.ci
def test_gossip_over_a_graph_that_changes_is_its_box():
    _, rows, metrics = q.trajectory(dsgd(PAIRS), RAGGED, present=PRESENT[:RAGGED])
    x = np.zeros((N, D))
    for t, here in enumerate(PRESENT[:RAGGED]):
        x = mixed(PAIRS[t % 2], x - ETA * slopes(x) * here[:, None], here)
        np.testing.assert_allclose(rows.model[t], x, atol=1e-5)
    # One neighbour in each round.
    np.testing.assert_array_equal(metrics["uplink_bytes"], 4 * D * PRESENT[:RAGGED].sum(1))


@pytest.mark.ci
def test_gossip_stalls_where_its_fixed_point_is():
    """X = W (x - eta (A x - b)), a linear system; nodes differ there, and none is at the optimum."""
    states, rows, _ = q.trajectory(dsgd(rounds.ring(N)), ROUNDS, present=PRESENT)
    w = np.kron(rounds.ring(N), np.eye(D))
    a = np.zeros((N * D, N * D))
    for i in range(N):
        a[i * D : (i + 1) * D, i * D : (i + 1) * D] = q.A[i]
    system = np.eye(N * D) - w @ (np.eye(N * D) - ETA * a)
    fixed = np.linalg.solve(system, ETA * w @ q.B.reshape(-1)).reshape(N, D)
    np.testing.assert_allclose(rows.model[-1], fixed, atol=1e-4)
    np.testing.assert_allclose(states.params[-1], fixed.mean(0), atol=1e-4)
    assert q.distance(fixed).min() > 1e-2


@pytest.mark.ci
def test_gradient_tracking_is_its_box_and_converges_where_gossip_stalls():
    algorithm = algorithms.gradient_tracking(
        q.PROBLEM.loss, mixing=PAIRS, learning_rate=ETA, batch_size=1
    )
    _, rows, metrics = q.trajectory(algorithm, ROUNDS, present=PRESENT)
    x, y, g = np.zeros((N, D)), np.zeros((N, D)), np.zeros((N, D))
    for t, here in enumerate(PRESENT[:RAGGED]):
        new = slopes(x)
        y = np.where(here[:, None], y + new - g, y)
        g = np.where(here[:, None], new, g)
        x = mixed(PAIRS[t % 2], np.where(here[:, None], x - ETA * y, x), here)
        y = mixed(PAIRS[t % 2], y, here)
        np.testing.assert_allclose(rows.model[t], x, atol=1e-5)
        np.testing.assert_allclose(rows.tracker[t], y, atol=1e-4)
    # The invariant, in all rounds: sum y_i = sum g_i.
    np.testing.assert_allclose(rows.tracker.sum(1), rows.gradient.sum(1), atol=1e-3)
    assert q.distance(np.asarray(rows.model[-1], np.float64)).max() < 1e-6
    np.testing.assert_array_equal(metrics["uplink_bytes"], 8 * D * PRESENT.sum(1))


@pytest.mark.slow
def test_the_ends_identity_and_complete_graph():
    """Without neighbours every node trains alone; with all of them it is gradient descent."""
    _, alone, _ = q.trajectory(dsgd(np.eye(N)), 10)
    _, together, _ = q.trajectory(dsgd(np.full((N, N), 1 / N)), 10)
    x, z = np.zeros((N, D)), np.zeros((N, D))
    for t in range(10):
        x, z = x - ETA * slopes(x), np.tile((z - ETA * slopes(z)).mean(0), (N, 1))
        np.testing.assert_allclose(alone.model[t], x, atol=1e-5)
        np.testing.assert_allclose(together.model[t], z, atol=1e-5)


@pytest.mark.slow
def test_choco_without_compression_is_gossip():
    ring = rounds.ring(N)
    choco = algorithms.choco_sgd(
        q.PROBLEM.loss, compressors.identity(), mixing=ring, step_size=1.0, learning_rate=ETA,
        batch_size=1,
    )  # fmt: skip
    _, one, _ = q.trajectory(choco, 30)
    _, other, _ = q.trajectory(dsgd(ring), 30)
    np.testing.assert_allclose(one.model, other.model, atol=1e-5)


def test_arguments():
    client = clients.gradient(q.PROBLEM.loss, batch_size=1)
    two = np.kron(np.eye(2), np.full((2, 2), 0.5))
    with pytest.raises(ValueError, match=r"not connected .* node 0 never hears of \[2, 3\]"):
        rounds.gossip(client, mixing=two)
    with pytest.raises(ValueError, match="tracking: the graph is not connected over its 2 rounds"):
        rounds.tracking(client, mixing=np.stack([two, two]), step_size=0.1)
    with pytest.raises(ValueError, match="symmetric"):
        rounds.gossip(client, mixing=np.array([[0.5, 0.5], [0.2, 0.8]]))
    with pytest.raises(ValueError, match="at least one matrix"):
        rounds.gossip(client, mixing=np.zeros((0, 3, 3)))
    with pytest.raises(ValueError, match="step_size"):
        rounds.tracking(client, mixing=rounds.ring(3), step_size=0.0)
    with pytest.raises(TypeError, match="ClientUpdate"):
        rounds.gossip(None, mixing=rounds.ring(3))
    hears = client._replace(on_aggregate=lambda aggregate, state, public: state)
    with pytest.raises(ValueError, match="on_sent and on_aggregate must be None"):
        rounds.gossip(hears, mixing=rounds.ring(3))
    with pytest.raises(TypeError, match="floating leaves only"):
        rounds.gossip(client, mixing=rounds.ring(3)).init_client(jnp.arange(3))


def test_a_node_uses_its_own_model():
    algorithm = dsgd(rounds.ring(N))
    row = algorithm.init_client(jnp.ones(D))
    model = algorithm.model_of(algorithm.init(jnp.zeros(D)), row)
    np.testing.assert_array_equal(jax.device_get(model), np.ones(D))
