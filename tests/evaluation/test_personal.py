"""Personal models, fine-tuning and the baselines without a federation, by hand on means."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import algorithms, clients, data, evaluation, samplers, simulation

VALUES = ([1.0, 3.0], [5.0], [], [8.0, 8.0, 2.0])
DATASET = data.from_clients([np.float32(v) for v in VALUES])
MEANS = np.array([2.0, 5.0, np.nan, 6.0])


def loss_fn(w, x, key):
    return jnp.mean((w - x) ** 2) / 2


def score(w, x):
    return {"model": jnp.broadcast_to(w, x.shape)}


def simulate(algorithm, **options):
    options = {"sampler": samplers.full(), "rounds": 3, "progress": False, **options}
    dataset = options.pop("dataset", DATASET)
    return fjx.simulate(jax.random.key(0), algorithm, jnp.zeros(()), dataset, **options)


FEDAVG = algorithms.fedavg(loss_fn, client_lr=1.0, batch_size=8)
WORK = clients.local_sgd(loss_fn, optax.sgd(1.0), epochs=1, batch_size=8)
OWN = evaluation.personal(score, DATASET)


@pytest.mark.ci
def test_clients_alone_find_their_own_means_and_send_nothing():
    """A full step of a quadratic ends at a client's mean; an absent one keeps the initial model."""
    result = simulate(
        evaluation.local_only(WORK),
        sampler=samplers.Sampler(
            lambda key, t, n: samplers.Sample(
                jnp.array([0, 3, 2]), jnp.array([True, True, True]), jnp.int32(0)
            ),
            lambda n: 3,
            None,
        ),
        evaluate=OWN,
        evaluate_first=True,
    )
    models = result.history.evaluations["model"]
    np.testing.assert_allclose(models[0], [0, 0, np.nan, 0])
    np.testing.assert_allclose(models[-1], [2, 0, np.nan, 6])
    assert (result.ledger.uplink, result.ledger.downlink) == (0, 0)
    assert float(result.params) == 0.0
    assert result.history.rounds["loss"].shape == (3,)


@pytest.mark.ci
def test_the_model_of_a_client_of_fedavg_is_the_common_one_and_tuning_makes_it_its_own():
    evaluate = evaluation.together(
        common=simulation.per_client(score, DATASET),
        own=OWN,
        tuned=evaluation.tuned(score, WORK, DATASET, DATASET, key=jax.random.key(1)),
        test=lambda w: {"model": w},
    )
    result = simulate(FEDAVG, evaluate=evaluate)
    last = {name: x[-1] for name, x in result.history.evaluations.items()}
    assert sorted(last) == ["common_model", "own_model", "test_model", "tuned_model"]
    common = np.mean([1, 3, 5, 8, 8, 2])
    assert last["test_model"] == pytest.approx(common)
    for name in ("common_model", "own_model"):
        np.testing.assert_allclose(last[name], np.where(np.isnan(MEANS), np.nan, common), rtol=1e-6)
    np.testing.assert_allclose(last["tuned_model"], MEANS, rtol=1e-6)


@pytest.mark.ci
def test_a_sweep_scores_personal_models_by_the_same_call():
    result = evaluation.sweep(
        lambda lr: evaluation.local_only(
            clients.local_sgd(loss_fn, optax.sgd(lr), epochs=1, batch_size=8)
        ),
        jnp.zeros(()), DATASET, sampler=samplers.full(), rounds=1, evaluate=OWN, progress=False,
        grid={"lr": [0.5, 1.0]}, seeds=1,
    )  # fmt: skip
    np.testing.assert_allclose(result.final("model"), [[MEANS / 2], [MEANS]], rtol=1e-6)


def test_one_client_has_everything():
    pooled = evaluation.centralised(DATASET)
    assert pooled.num_clients == 1
    np.testing.assert_array_equal(pooled.client(0), DATASET.arrays)
    assert not pooled.hosted
    assert evaluation.centralised(data.on_host(DATASET)).hosted


def test_states_on_the_host_are_refused_before_anything_runs():
    for options in ({"table": simulation.host_table}, {"dataset": data.on_host(DATASET)}):
        with pytest.raises(ValueError, match="evaluate reads the states of all clients"):
            simulate(evaluation.local_only(WORK), evaluate=OWN, **options)


def test_other_clients_are_refused():
    other = evaluation.personal(score, data.take_clients(DATASET, [0, 1]))
    with pytest.raises(ValueError, match="4 clients, and the dataset to evaluate has 2"):
        simulate(evaluation.local_only(WORK), evaluate=other)
    with pytest.raises(ValueError, match="at least one evaluation"):
        evaluation.together()
    with pytest.raises(ValueError, match="train has 2 clients"):
        evaluation.tuned(
            score, WORK, data.take_clients(DATASET, [0, 1]), DATASET, key=jax.random.key(0)
        )
    with pytest.raises(TypeError, match="local_only needs a fjx"):
        evaluation.local_only(optax.sgd(0.1))
