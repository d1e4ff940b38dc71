"""What personal models are for: stated problems on which one common model must fail."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import Stateful, algorithms, clients, data, simulation
from tests.support import quadratics as q
from tests.support import tables

N, D, ROUNDS = 12, 6, 60
RNG = np.random.default_rng(0)
CENTRE = RNG.normal(size=D)


def regression(truths, size, noise=0.2, shift=0.0):
    """Clients with their own true weights, and features that a shift moves."""
    made = []
    for w, move in zip(truths, np.broadcast_to(shift, len(truths)), strict=True):
        x = RNG.normal(size=(size, D))
        y = x @ w + noise * RNG.normal(size=size)
        made.append({"x": (x + move).astype(np.float32), "y": y.astype(np.float32)})
    return data.from_clients(made)


def loss_fn(w, batch, key):
    return jnp.mean((batch["x"] @ w - batch["y"]) ** 2) / 2


def own_models(algorithm, params, dataset, rounds=ROUNDS):
    """Each client's model after some rounds of everybody."""

    def run():
        cohort = dataset.cohort(jnp.arange(N))
        table = simulation.make_table(algorithm.init_client(params), N)

        def one(carry, t):
            return algorithm.round(jax.random.key(t), *carry, cohort)[:2], None

        (state, rows), _ = jax.lax.scan(one, (algorithm.init(params), table), jnp.arange(rounds))
        return jax.vmap(lambda row: algorithm.model_of(state, row), axis_size=N)(rows)

    return jax.device_get(q.jit(run)())


def error(models, truths):
    """The mean of the clients' squared errors: half the loss on fresh examples, without the noise."""
    return float(np.square(models - truths).sum(-1).mean())


LOCAL = {"client_lr": 0.1, "batch_size": 8, "epochs": 2}
KIN = CENTRE + 0.3 * RNG.normal(size=(N, D))
FEW = regression(KIN, 8, noise=0.8)


@functools.cache
def baselines():
    """Errors of the common model, and of training alone."""
    common = own_models(algorithms.fedavg(loss_fn, **LOCAL), jnp.zeros(D), FEW)
    alone = own_models(algorithms.mr_mtl(loss_fn, lam=0.0, **LOCAL), jnp.zeros(D), FEW)
    return error(common, KIN), error(alone, KIN)


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    [
        algorithms.ditto(loss_fn, lam=1.0, **LOCAL),
        algorithms.mr_mtl(loss_fn, lam=1.0, **LOCAL),
        algorithms.apfl(loss_fn, alpha=0.4, **LOCAL),
        algorithms.pfedme(
            loss_fn, lam=1.0, personal_lr=0.2, personal_steps=8, **(LOCAL | {"client_lr": 0.3})
        ),
    ],
    ids=["ditto", "mr_mtl", "apfl", "pfedme"],
)
def test_an_own_model_near_the_common_one_is_better_than_either(algorithm):
    """Twelve clients whose truths are akin, eight noisy examples each in six dimensions."""
    found = error(own_models(algorithm, jnp.zeros(D), FEW), KIN)
    assert found < 0.9 * min(baselines())


@pytest.mark.slow
def test_clusters_are_found():
    """Half of the clients have the opposite truth: the common model is near zero, two are right."""
    truths = np.where(np.arange(N) % 2, 1, -1)[:, None] * CENTRE
    dataset = regression(truths, 8)
    pair = jnp.asarray(0.3 * RNG.normal(size=(2, D)), jnp.float32)
    common = error(
        own_models(algorithms.fedavg(loss_fn, **LOCAL), jnp.zeros(D), dataset, 30), truths
    )
    clustered = algorithms.ifca(loss_fn, clusters=2, **LOCAL)
    assert error(own_models(clustered, pair, dataset, 30), truths) < 0.05 * common
    mixture = own_models(algorithms.fedem(loss_fn, components=2, **LOCAL), pair, dataset, 30)
    best = mixture.models[np.arange(N), mixture.weights.argmax(1)]
    assert error(best, truths) < 0.05 * common
    assert mixture.weights.max(1).min() > 0.8


@pytest.mark.slow
def test_a_model_that_is_meant_to_be_adapted_adapts_better():
    """Features of different sizes: one gradient step moves clients by different parts of the way."""
    truths = CENTRE + RNG.normal(size=(N, D))
    sizes = np.linspace(0.3, 1.5, N)
    made = [
        {"x": (s * x).astype(np.float32), "y": (s * x @ w).astype(np.float32)}
        for s, w, x in zip(sizes, truths, RNG.normal(size=(N, 8, D)), strict=True)
    ]
    dataset = data.from_clients(made)

    def after_a_step(alpha_of_training, alpha=0.3):
        recipe = functools.partial(algorithms.per_fedavg, loss_fn, **(LOCAL | {"client_lr": 0.05}))
        w = own_models(recipe(alpha=alpha_of_training), jnp.zeros(D), dataset, 200)[0]
        losses = []
        for batch in made:
            x, y = (np.asarray(batch[k], np.float64) for k in "xy")
            moved = w - alpha * x.T @ (x @ w - y) / len(y)
            losses.append(np.mean((x @ moved - y) ** 2) / 2)
        return np.mean(losses)

    assert after_a_step(0.3) < 0.97 * after_a_step(0.0)


@pytest.mark.slow
def test_private_heads_on_a_shared_representation():
    """Truths in a plane of six dimensions: a head of two numbers is learned from few examples."""
    plane, heads = np.linalg.qr(RNG.normal(size=(D, 2)))[0], RNG.normal(size=(N, 2))
    truths = heads @ plane.T
    dataset = regression(truths, 8, noise=0.3)

    def split_loss(params, batch, key):
        return jnp.mean((batch["x"] @ (params["body"] @ params["head"]) - batch["y"]) ** 2) / 2

    start = {
        "body": jnp.asarray(np.linalg.qr(RNG.normal(size=(D, 2)))[0], jnp.float32),
        "head": jnp.full(2, 0.1),
    }
    slow, errors = LOCAL | {"client_lr": 0.02}, {}
    for name, algorithm in {
        "fedavg": algorithms.fedavg(split_loss, **slow),
        "fedrep": algorithms.fedrep(split_loss, pattern="head", private_epochs=30, **slow),
        "fedper": algorithms.fedper(split_loss, pattern="head", **slow),
    }.items():
        found = own_models(algorithm, start, dataset, 1000)
        errors[name] = error(np.einsum("nij,nj->ni", found["body"], found["head"]), truths)
    alone = own_models(algorithms.mr_mtl(loss_fn, lam=0.0, **LOCAL), jnp.zeros(D), dataset, 500)
    assert errors["fedrep"] < 0.6 * min(errors["fedavg"], error(alone, truths))
    assert errors["fedper"] < 0.6 * min(errors["fedavg"], error(alone, truths))


@pytest.mark.slow
def test_private_statistics_for_shifted_features():
    """Each client's features are moved by its own number, and the model subtracts a running mean."""
    shift = np.linspace(-3, 3, N)[:, None]
    truths = np.tile(CENTRE, (N, 1))
    dataset = regression(truths, 8, shift=shift[:, 0])
    params = {"w": jnp.zeros(D), "b": jnp.zeros(())}
    model = Stateful(params, {"mean": jnp.zeros(D), "batches": jnp.int32(0)})
    loss = clients.whole_batch(tables.centred_error)

    def test_error(algorithm):
        found = own_models(algorithm, model, dataset)
        fresh = RNG.normal(size=(N, 50, D))
        centred = fresh + shift[:, :, None] - found.state["mean"][:, None]
        told = np.einsum("nbd,nd->nb", centred, found.params["w"]) + found.params["b"][:, None]
        return np.mean((told - fresh @ CENTRE) ** 2)

    shared = test_error(algorithms.fedavg(loss, **LOCAL))
    private = test_error(algorithms.fedbn(loss, pattern="^state", **LOCAL))
    assert private < 0.3 * shared
