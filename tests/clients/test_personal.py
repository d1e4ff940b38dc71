"""Clients with models of their own: arguments, and the model that a client uses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fjx import (
    Examples,
    Stateful,
    Turn,
    aggregators,
    algorithms,
    clients,
    rounds,
    simulation,
)
from fjx.clients._clusters import choosing
from tests.support import tables

N = len(tables.SIZES)
DATASET = tables.federated()
LOCAL = {"client_lr": 0.1, "batch_size": 2}
MODEL = tables.weights()


def loss_fn(model, batch, key):
    return jnp.mean((batch["x"] @ model["w"] + model["b"] - batch["y"]) ** 2)


@pytest.mark.ci
def test_fine_tuning_is_the_local_work():
    """A step of the full batch: w - eta g."""
    tune = clients.fine_tuned(
        clients.local_sgd(loss_fn, optax.sgd(0.1), steps=1, batch_size=max(tables.SIZES))
    )
    window = jax.tree.map(lambda x: x[0], DATASET.examples(jnp.arange(1))._replace(arrays=()))
    examples = Examples(DATASET.arrays, window.offset, window.size)
    found = tune(jax.random.key(0), MODEL, examples, Turn())
    batch = jax.tree.map(lambda x: x[: tables.SIZES[0]], DATASET.arrays)
    slope = jax.grad(loss_fn)(MODEL, batch, jax.random.key(0))
    for x, w, g in zip(*map(jax.tree.leaves, (found, MODEL, slope)), strict=True):
        np.testing.assert_allclose(x, w - 0.1 * g, atol=1e-6)


def test_fine_tuning_needs_a_client_without_state():
    with pytest.raises(TypeError, match=r"fine_tuned needs a fjx\.ClientUpdate"):
        clients.fine_tuned(loss_fn)
    tune = clients.fine_tuned(clients.averaged(clients.gradient(loss_fn, batch_size=2), eta=0.5))
    examples = Examples(DATASET.arrays, jnp.int32(0), jnp.int32(2))
    with pytest.raises(ValueError, match="client without state"):
        tune(jax.random.key(0), MODEL, examples, Turn())


def test_an_algorithm_without_personal_models_uses_the_common_one():
    algorithm = algorithms.fedavg(loss_fn, **LOCAL)
    state = algorithm.init(MODEL)
    assert algorithm.personal is None
    assert algorithm.model_of(state, algorithm.init_client(MODEL)) is state.params


def test_an_average_of_messages_keeps_the_personal_model():
    """A wrapper of a client passes on which model its client uses."""
    inner = clients.local_sgd(loss_fn, optax.sgd(0.1), steps=1, batch_size=2)
    keeps = inner._replace(init=lambda params: params, personal=lambda sent, state: state)
    client = clients.averaged(keeps, eta=0.5)
    model = client.personal(None, client.init(MODEL))
    np.testing.assert_array_equal(model["w"], MODEL["w"])


@pytest.mark.parametrize(
    ("recipe", "wrong"),
    [
        (algorithms.ditto, {"lam": -1.0}),
        (algorithms.mr_mtl, {"lam": -1.0}),
        (algorithms.apfl, {"alpha": 1.5}),
        (algorithms.apfl, {"client_lr": 0.0}),
        (algorithms.pfedme, {"lam": 0.0}),
        (algorithms.pfedme, {"personal_lr": 0.0}),
        (algorithms.pfedme, {"personal_steps": 0}),
        (algorithms.per_fedavg, {"alpha": -0.1}),
        (algorithms.reptile, {"steps": 0}),
        (algorithms.reptile, {"server_lr": 0.0}),
        (algorithms.ifca, {"clusters": 0}),
        (algorithms.ifca, {"clusters": 257}),
        (algorithms.fedem, {"components": 0}),
    ],
)
def test_numbers_out_of_range(recipe, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        recipe(loss_fn, **LOCAL | wrong)


@pytest.mark.parametrize("recipe", [algorithms.apfl, algorithms.pfedme, algorithms.per_fedavg])
def test_mutable_state_is_refused_where_two_models_would_share_it(recipe):
    loss = clients.whole_batch(tables.centred_error)
    model = Stateful(MODEL, {"mean": jnp.zeros(4), "batches": jnp.int32(0)})
    with pytest.raises(TypeError, match=f"{recipe.__name__} cannot adapt mutable state"):
        recipe(loss, **LOCAL).init_client(model)


def stacked(count):
    return jax.tree.map(lambda x: jnp.stack([x] * count), MODEL)


@pytest.mark.parametrize(
    "algorithm",
    [
        algorithms.ifca(loss_fn, clusters=3, **LOCAL),
        algorithms.hypcluster(loss_fn, clusters=3, **LOCAL),
        algorithms.fedem(loss_fn, components=3, **LOCAL),
    ],
    ids=["ifca", "hypcluster", "fedem"],
)
@pytest.mark.parametrize("count", [None, 2])
def test_models_must_be_side_by_side(algorithm, count):
    params = MODEL if count is None else stacked(count)
    for function in (algorithm.init, algorithm.init_client, algorithm.traffic):
        with pytest.raises(ValueError, match=r"=3 needs 3 models stacked .* jax\.vmap\(init\)"):
            function(params)


def test_more_clusters_than_clients():
    algorithm = algorithms.ifca(loss_fn, clusters=N + 1, **LOCAL)
    params = stacked(N + 1)

    def play():
        rows = simulation.make_table(algorithm.init_client(params), 2)
        cohort = DATASET.cohort(jnp.arange(2))
        return algorithm.round(jax.random.key(0), algorithm.init(params), rows, cohort)

    with pytest.raises(ValueError, match=f"at most the number of clients, {N}; got {N + 1}"):
        jax.eval_shape(play)


@pytest.mark.parametrize("broken", [jnp.nan, jnp.inf])
def test_a_model_that_diverged_is_nobodys_choice(broken):
    models = {"w": jnp.array([broken, 1.0, 0.0])}
    client = choosing(
        clients.local_sgd(lambda m, x, key: jnp.mean((m["w"] - x) ** 2), optax.sgd(0.1), steps=1,
                          batch_size=1),
        lambda m, x, key: jnp.mean((m["w"] - x) ** 2), clusters=3, batch_size=1,
    )  # fmt: skip
    examples = Examples(jnp.array([0.9, 0.8]), jnp.int32(0), jnp.int32(2))
    message, chosen, _ = client.update(jax.random.key(0), models, jnp.int32(0), examples, Turn())
    assert int(chosen) == int(message["group"]) == 1
    assert np.isfinite(message["update"]["w"]).all()


def test_a_cluster_needs_an_aggregator_that_sums():
    with pytest.raises(ValueError, match="aggregator that sums"):
        algorithms.ifca(loss_fn, clusters=2, aggregator=aggregators.median(), **LOCAL)


def test_a_client_without_examples_keeps_its_cluster():
    algorithm = algorithms.ifca(loss_fn, clusters=2, **LOCAL)
    assert algorithm.runs_its_aggregator
    assert int(algorithm.init_client(stacked(2)).client) == 0


LISTED = clients.listed([0.1, 0.05, 0.01])
SCHEDULED = {
    **{name: {} for name in ("ditto", "mr_mtl", "apfl", "pfedme", "per_fedavg", "reptile")},
    **{name: {"pattern": "^w$"} for name in ("fedper", "fedrep", "lg_fedavg")},
    "fedbn": {"pattern": "^b$"},
    "ifca": {"clusters": 2},
    "hypcluster": {"clusters": 2},
    "fedem": {"components": 2},
    "hierarchical": {"edges": 2},
    "dsgd": {"mixing": rounds.ring(N)},
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_the_length_of_a_schedule_is_known(name):
    """So that a longer run is refused."""
    recipe = getattr(algorithms, name)
    assert recipe(loss_fn, client_lr=LISTED, batch_size=2, **SCHEDULED[name]).rounds == 3
    assert recipe(loss_fn, client_lr=0.1, batch_size=2, **SCHEDULED[name]).rounds is None
