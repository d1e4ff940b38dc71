"""Two levels of servers against a NumPy transcription, and their ends."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fjx import aggregators, algorithms, clients, compressors, privacy, rounds, simulation
from tests.oracles import test_recipes as box
from tests.support import quadratics as q

D, LR, EPOCHS, ROUNDS = box.D, box.LR, box.EPOCHS, 10
LOCAL = {"client_lr": LR, "batch_size": max(box.SIZES), "epochs": EPOCHS}
EDGES, EVERY = [0, 1, 0, 1, 1], 2
COHORTS = box.COHORTS[:ROUNDS]


def run(algorithm):
    """The models and the metrics of ten rounds."""

    def rounds_of(state, table):
        def one(carry, slot):
            state, table = carry
            t, ids, taking_part = slot
            cohort = box.DATASET.cohort(ids, taking_part)
            rows = simulation.gather(table, cohort.ids)
            state, rows, metrics = algorithm.round(jax.random.key(t), state, rows, cohort)
            table = simulation.scatter(table, cohort.ids, rows)
            return (state, table), (state.params, state.edges.drift, metrics)

        slots = jnp.arange(ROUNDS), box.IDS[:ROUNDS], box.TAKING_PART[:ROUNDS]
        return jax.lax.scan(one, (state, table), slots)[1]

    w = jnp.zeros(D)
    table = simulation.make_table(algorithm.init_client(w), box.CLIENTS)
    return jax.device_get(q.jit(rounds_of)(algorithm.init(w), table))


def top_two(x):
    kept = np.argsort(-np.abs(x), kind="stable")[:2]
    return np.where(np.isin(np.arange(D), kept), x, 0.0)


def oracle():
    """Liu et al. 2020, algorithm 1; what edges send is the top two coordinates, with error feedback."""
    w, edge, residual = np.zeros(D), np.zeros((2, D)), np.zeros((2, D))
    seen, models, drifts, sent = np.zeros(2), [], [], []
    for t, cohort in enumerate(COHORTS):
        for e in range(2):
            if members := [i for i in cohort if EDGES[i] == e]:
                moves = [box.local_epochs(i, edge[e]) - edge[e] for i in members]
                edge[e] = edge[e] + box.weighted_mean(members, moves)
                seen[e] += sum(box.SIZES[i] for i in members)
        sent.append(0)
        if (t + 1) % EVERY == 0:
            total = np.zeros(D)
            for e in np.flatnonzero(seen):
                told = top_two(edge[e] - w + residual[e])
                residual[e] += edge[e] - w - told
                total += seen[e] * told
                sent[-1] += 1
            w = w + total / max(seen.sum(), 1)
            edge, seen = np.tile(w, (2, 1)), np.zeros(2)
        models.append(w)
        drifts.append(edge - w)
    return np.array(models), np.array(drifts), np.array(sent)


@pytest.mark.ci
def test_two_levels_are_their_box_with_an_error_fed_back_codec_between_them():
    codec = compressors.error_feedback(compressors.top_k(0.5))
    models, drifts, metrics = run(
        algorithms.hierarchical(
            box.loss_fn, edges=EDGES, edge_rounds=EVERY, edge_uplink=codec, **LOCAL
        )
    )
    expected, expected_drifts, sent = oracle()
    np.testing.assert_allclose(models, expected, atol=1e-5)
    np.testing.assert_allclose(drifts, expected_drifts, atol=1e-5)
    payload = 2 * (32 + 2)  # two values and two positions among four, in whole bytes
    np.testing.assert_array_equal(metrics["cloud_bytes"], sent * (payload // 8 + (payload % 8 > 0)))
    assert np.abs(models[-1]).max() > 0.1


@pytest.mark.ci
def test_one_edge_is_fedavg():
    models, _, metrics = run(algorithms.hierarchical(box.loss_fn, edges=1, **LOCAL))
    np.testing.assert_allclose(models, box.oracle_fedavg(1.0)[:ROUNDS], atol=1e-5)
    np.testing.assert_array_equal(metrics["cloud_bytes"], 4 * D)


@pytest.mark.slow
def test_edges_that_meet_in_each_round_change_nothing():
    models, _, _ = run(algorithms.hierarchical(box.loss_fn, edges=EDGES, **LOCAL))
    np.testing.assert_allclose(models, box.oracle_fedavg(1.0)[:ROUNDS], atol=1e-5)


def test_arguments():
    def hierarchical(edges, **others):
        return algorithms.hierarchical(box.loss_fn, edges=edges, **LOCAL, **others)

    with pytest.raises(ValueError, match="no client on edge 1"):
        hierarchical([0, 2, 2])
    with pytest.raises(ValueError, match="edge -1"):
        hierarchical([0, -1])
    with pytest.raises(ValueError, match="edges must be at least 1"):
        hierarchical(0)
    with pytest.raises(TypeError, match="vector of integers"):
        hierarchical([0.5, 1.0])
    with pytest.raises(ValueError, match="edge_rounds"):
        hierarchical(2, edge_rounds=0)
    with pytest.raises(ValueError, match="sums"):
        hierarchical(2, aggregator=aggregators.median())
    with pytest.raises(TypeError, match="Compressor"):
        hierarchical(2, edge_uplink=aggregators.mean())
    hears = clients.scaffold(box.loss_fn, learning_rate=0.1, epochs=1, batch_size=2)
    hears = hears._replace(on_sent=lambda received, state, public: state)
    with pytest.raises(ValueError, match="must be None"):
        rounds.hierarchical(client=hears, edges=2, server=optax.sgd(1.0))


@pytest.mark.parametrize(("edges", "text"), [([0, 1, 1], "5; got 3"), (6, "5; got 6")])
def test_edges_for_another_population_are_refused(edges, text):
    algorithm = algorithms.hierarchical(box.loss_fn, edges=edges, **LOCAL)
    w = jnp.zeros(D)

    def play():
        rows = simulation.make_table(algorithm.init_client(w), 2)
        return algorithm.round(
            jax.random.key(0), algorithm.init(w), rows, box.DATASET.cohort(jnp.arange(2))
        )

    with pytest.raises(ValueError, match=text):
        jax.eval_shape(play)


def test_noise_of_each_edge_is_refused():
    private = aggregators.private(
        privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0), denominator=2
    )
    with pytest.raises(ValueError, match="weighs its edges by the clients that took part"):
        algorithms.hierarchical(box.loss_fn, edges=2, aggregator=private, **LOCAL)
