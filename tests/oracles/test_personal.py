"""Personal models against NumPy transcriptions of their papers: ten ragged rounds with drop-outs.

The problem is that of ``test_recipes``: linear regression, in which local epochs are full batches.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import algorithms, clients, samplers, simulation
from tests.oracles import test_recipes as box
from tests.support import tables

D, N, LR, EPOCHS, ROUNDS = box.D, box.CLIENTS, box.LR, box.EPOCHS, 10
LOCAL = {"client_lr": LR, "batch_size": max(box.SIZES), "epochs": EPOCHS}
COHORTS = box.COHORTS[:ROUNDS]


def run(make, values, params):
    """The models after each round, and every client's own model at the end, for each value."""

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def rounds(key, value):
        algorithm = make(value)

        def one(carry, slot):
            state, table = carry
            t, ids, taking_part = slot
            cohort = box.DATASET.cohort(ids, taking_part)
            rows = simulation.gather(table, cohort.ids)
            state, rows, _ = algorithm.round(jax.random.fold_in(key, t), state, rows, cohort)
            return (state, simulation.scatter(table, cohort.ids, rows)), state.params

        table = simulation.make_table(algorithm.init_client(params), N)
        slots = jnp.arange(ROUNDS), box.IDS[:ROUNDS], box.TAKING_PART[:ROUNDS]
        (state, table), models = jax.lax.scan(one, (algorithm.init(params), table), slots)
        return models, jax.vmap(lambda row: algorithm.model_of(state, row), axis_size=N)(table)

    return jax.device_get(rounds(jax.random.key(0), jnp.asarray(values)))


def descend(i, w, epochs=EPOCHS, slope=lambda w: 0.0):
    """Epochs of full-batch descent of a client's loss and of another slope."""
    for _ in range(epochs):
        w = w - LR * (box.gradient(i, w) + slope(w))
    return w


def fedavg():
    """The models of McMahan et al.'s algorithm, with all weights before each round."""
    w, before = np.zeros(D), []
    for cohort in COHORTS:
        before.append(w)
        w = w + box.weighted_mean(cohort, [descend(i, w) - w for i in cohort])
    return np.array([*before[1:], w]), before


def local(value=None):
    """Every client by itself."""
    v = np.zeros((N, D))
    for cohort in COHORTS:
        for i in cohort:
            v[i] = descend(i, v[i])
    return v


def oracle_ditto(value):
    """Li et al. 2021, algorithm 1: v_k <- v_k - eta (grad F_k(v_k) + lambda (v_k - w^t))."""
    lam, rate = value
    models, before = fedavg()
    v = np.zeros((N, D))
    for cohort, w in zip(COHORTS, before, strict=True):
        for i in cohort:
            for _ in range(EPOCHS):
                v[i] = v[i] - rate * (box.gradient(i, v[i]) + lam * (v[i] - w))
    return models, v


def oracle_mr_mtl(lam):
    """Liu et al. 2022: as Ditto's own models, around the mean of those of the last round."""
    mean, v, models = np.zeros(D), np.zeros((N, D)), []
    for cohort in COHORTS:
        for i in cohort:
            v[i] = descend(i, v[i], slope=lambda x, w=mean: lam * (x - w))
        mean = box.weighted_mean(cohort, [v[i] for i in cohort])
        models.append(mean)
    return np.array(models), v


def oracle_apfl(adaptive, alpha):
    """Deng et al. 2020, algorithm 1, with the gradient of alpha in equation 10."""
    w, v, a, models = np.zeros(D), np.zeros((N, D)), np.full(N, alpha), []
    for cohort in COHORTS:
        sent = []
        for i in cohort:
            x = w.copy()
            for _ in range(EPOCHS):
                slope = box.gradient(i, a[i] * v[i] + (1 - a[i]) * x)
                toward = slope @ (v[i] - x)
                x, v[i] = x - LR * box.gradient(i, x), v[i] - LR * a[i] * slope
                a[i] = np.clip(a[i] - adaptive * LR * toward, 0, 1)
            sent.append(x - w)
        w = w + box.weighted_mean(cohort, sent)
        models.append(w)
    return np.array(models), a[:, None] * v + (1 - a[:, None]) * w


def oracle_pfedme(rate, lam=4.0, steps=3):
    """Dinh et al. 2020, algorithm 1; theta is found by gradient steps from w."""

    def solve(i, w):
        theta = w
        for _ in range(steps):
            theta = theta - rate * (box.gradient(i, theta) + lam * (theta - w))
        return theta

    w, theta, models = np.zeros(D), np.zeros((N, D)), []
    for cohort in COHORTS:
        sent = []
        for i in cohort:
            x = w
            for _ in range(EPOCHS):
                x = x - LR * lam * (x - solve(i, x))
            theta[i] = solve(i, x)
            sent.append(x - w)
        w = w + box.weighted_mean(cohort, sent)
        models.append(w)
    return np.array(models), theta


def oracle_per_fedavg(first_order, alpha):
    """Fallah et al. 2020, algorithm 1: both batches are all examples, and H = X^T X / n."""
    w, models = np.zeros(D), []
    for cohort in COHORTS:
        sent = []
        for i in cohort:
            x = w
            hessian = box.REGRESSION[i][0].T @ box.REGRESSION[i][0] / box.SIZES[i]
            for _ in range(EPOCHS):
                slope = box.gradient(i, x - alpha * box.gradient(i, x))
                x = x - LR * (slope if first_order else slope - alpha * hessian @ slope)
            sent.append(x - w)
        w = w + box.weighted_mean(cohort, sent)
        models.append(w)
    return np.array(models), np.tile(w, (N, 1))


def oracle_reptile(epsilon, steps=4):
    """Nichol et al. 2018, algorithm 2, with equal weights."""
    w, models = np.zeros(D), []
    for cohort in COHORTS:
        w = w + epsilon * np.mean([descend(i, w, steps) - w for i in cohort], axis=0)
        models.append(w)
    return np.array(models), np.tile(w, (N, 1))


# A model of a body and a head: predictions are x * body @ head.


def split_loss(params, batch, key):
    error = batch["x"] @ (params["body"] * params["head"]) - batch["y"]
    return jnp.mean(error**2) / 2


def split_gradients(i, body, head):
    x, y = box.REGRESSION[i]
    error = (x * body) @ head - y
    return head * (x.T @ error) / len(y), body * (x.T @ error) / len(y)


START = {"body": jnp.linspace(0.5, 1.5, D), "head": jnp.linspace(-0.5, 0.5, D)}


def oracle_split(rep, value, heads_too=2):
    """Arivazhagan et al. 2019 (both at once), or Collins et al. 2021 (head first, then body)."""
    body = np.asarray(START["body"], np.float64)
    heads, models = np.tile(np.asarray(START["head"], np.float64), (N, 1)), []
    for cohort in COHORTS:
        sent = []
        for i in cohort:
            b, h = body, heads[i]
            if rep:
                for _ in range(heads_too):
                    h = h - LR * split_gradients(i, b, h)[1]
                for _ in range(EPOCHS):
                    b = b - LR * split_gradients(i, b, h)[0]
            else:
                for _ in range(EPOCHS):
                    to_b, to_h = split_gradients(i, b, h)
                    b, h = b - LR * to_b, h - LR * to_h
            heads[i] = h
            sent.append(b - body)
        body = body + box.weighted_mean(cohort, sent)
        models.append(body)
    first = np.tile(np.asarray(START["head"]), (ROUNDS, 1))
    own = {"body": np.tile(body, (N, 1)), "head": heads}
    return {"body": np.array(models), "head": first}, own


# Two models side by side.

PAIR = jnp.array([[1.0, -1.0, 0.5, 0.0], [-1.0, 1.0, 0.0, 0.5]])


def loss_at(i, w):
    x, y = box.REGRESSION[i]
    return np.mean((x @ w - y) ** 2) / 2


def oracle_ifca(value=None):
    """Ghosh et al. 2020, algorithm 1, model averaging."""
    w, chosen, models = np.asarray(PAIR, np.float64), np.zeros(N, int), []
    for cohort in COHORTS:
        for i in cohort:
            chosen[i] = np.argmin([loss_at(i, x) for x in w])
        new = w.copy()
        for j in range(2):
            if members := [i for i in cohort if chosen[i] == j]:
                new[j] += box.weighted_mean(members, [descend(i, w[j]) - w[j] for i in members])
        w = new
        models.append(w)
    return np.array(models), w[chosen]


def oracle_fedem(value=None):
    """Marfoq et al. 2021, algorithm 1: responsibilities of the round's beginning, then weighted SGD."""
    w, pi, models = np.asarray(PAIR, np.float64), np.full((N, 2), 0.5), []
    for cohort in COHORTS:
        sent = []
        for i in cohort:
            x, y = box.REGRESSION[i]
            likelihood = pi[i][:, None] * np.exp(-((w @ x.T - y) ** 2) / 2)
            q = likelihood / likelihood.sum(0)
            pi[i] = q.mean(1)
            models_i = w.copy()
            for _ in range(EPOCHS):
                models_i = models_i - LR * (q * (models_i @ x.T - y)) @ x / len(y)
            sent.append(models_i - w)
        w = w + box.weighted_mean(cohort, sent)
        models.append(w)
    return np.array(models), clients.Mixture(np.tile(w, (N, 1, 1)), pi)


loss_fn, zeros = box.loss_fn, jnp.zeros(D)
apfl = functools.partial(algorithms.apfl, loss_fn, **LOCAL)
per_fedavg = functools.partial(algorithms.per_fedavg, loss_fn, **LOCAL)
pfedme = functools.partial(algorithms.pfedme, loss_fn, lam=4.0, **LOCAL)
one = [0.0]

BOXES = {
    "ditto": (
        lambda v: algorithms.ditto(loss_fn, lam=v[0], personal_lr=v[1], **LOCAL),
        [(0.0, LR), (2.0, LR), (1e5, 1e-5)],
        zeros,
        oracle_ditto,
    ),
    "mr_mtl": (
        lambda lam: algorithms.mr_mtl(loss_fn, lam=lam, **LOCAL), [0.0, 2.0], zeros, oracle_mr_mtl,
    ),
    "apfl": (
        lambda a: apfl(alpha=a), [0.0, 0.4, 1.0], zeros, functools.partial(oracle_apfl, False),
    ),
    "apfl_adaptive": (
        lambda a: apfl(alpha=a, adaptive=True), [0.4], zeros, functools.partial(oracle_apfl, True),
    ),
    "pfedme": (
        lambda rate: pfedme(personal_lr=rate, personal_steps=3), [0.1], zeros, oracle_pfedme,
    ),
    "pfedme_one_step": (
        lambda rate: pfedme(personal_lr=rate, personal_steps=1),
        [0.1, 0.25],
        zeros,
        functools.partial(oracle_pfedme, steps=1),
    ),
    "per_fedavg": (
        lambda alpha: per_fedavg(alpha=alpha),
        [0.0, 0.1],
        zeros,
        functools.partial(oracle_per_fedavg, False),
    ),
    "fo_maml": (
        lambda alpha: per_fedavg(alpha=alpha, first_order=True),
        [0.1],
        zeros,
        functools.partial(oracle_per_fedavg, True),
    ),
    "reptile": (
        lambda epsilon: algorithms.reptile(
            loss_fn, client_lr=LR, batch_size=max(box.SIZES), steps=4, server_lr=epsilon
        ),
        [0.5, 1.0],
        zeros,
        oracle_reptile,
    ),
    "fedper": (
        lambda _: algorithms.fedper(split_loss, pattern="^head", **LOCAL),
        one,
        START,
        functools.partial(oracle_split, False),
    ),
    "lg_fedavg": (
        lambda _: algorithms.lg_fedavg(split_loss, pattern="^head", **LOCAL),
        one,
        START,
        functools.partial(oracle_split, False),
    ),
    "fedrep": (
        lambda _: algorithms.fedrep(split_loss, pattern="^head", private_epochs=2, **LOCAL),
        one,
        START,
        functools.partial(oracle_split, True),
    ),
    "ifca": (lambda _: algorithms.ifca(loss_fn, clusters=2, **LOCAL), one, PAIR, oracle_ifca),
    "hypcluster": (
        lambda _: algorithms.hypcluster(loss_fn, clusters=2, **LOCAL), one, PAIR, oracle_ifca,
    ),
    "fedem": (
        lambda _: algorithms.fedem(loss_fn, components=2, **LOCAL), one, PAIR, oracle_fedem,
    ),
}  # fmt: skip

IN_CI = {"ditto", "per_fedavg", "fedrep", "ifca", "fedem"}


@tables.rows(BOXES, set(), IN_CI)
def test_a_recipe_is_its_algorithm_box(name):
    make, values, params, oracle = BOXES[name]
    found = run(make, values, params)
    for row, value in enumerate(values):
        expected = oracle(value)
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(x[row], y, atol=1e-5)
    models = jax.tree.leaves(found)[0]
    assert np.abs(models[:, -1] - models[:, 0]).max() > 0.05


def test_the_boxes_reduce_to_those_that_they_generalise():
    """In NumPy, at the values at which the test above compares fjx with them."""
    models, before = fedavg()
    common, own = oracle_ditto((0.0, LR))
    np.testing.assert_array_equal(common, models)
    np.testing.assert_array_equal(own, local())
    last = np.array([next(w for c, w in zip(COHORTS[::-1], before[::-1], strict=True) if i in c)
                     for i in range(N)])  # fmt: skip
    np.testing.assert_allclose(oracle_ditto((1e5, 1e-5))[1], last, atol=1e-4)
    np.testing.assert_array_equal(oracle_mr_mtl(0.0)[1], local())
    np.testing.assert_allclose(oracle_apfl(False, 0.0)[1], np.tile(models[-1], (N, 1)), atol=1e-12)
    np.testing.assert_allclose(oracle_apfl(False, 1.0)[1], local(), atol=1e-12)
    np.testing.assert_allclose(oracle_apfl(False, 0.4)[0], models, atol=1e-12)
    np.testing.assert_allclose(oracle_pfedme(0.25, lam=4.0, steps=1)[0], models, atol=1e-12)
    np.testing.assert_allclose(oracle_per_fedavg(False, 0.0)[0], models, atol=1e-12)


def test_the_schedule_has_clients_of_both_clusters():
    """Else the oracle of IFCA would not tell clusters apart."""
    assert len(np.unique(oracle_ifca()[1], axis=0)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        functools.partial(algorithms.ifca, clusters=1),
        functools.partial(algorithms.hypcluster, clusters=1),
        functools.partial(algorithms.fedem, components=1),
    ],
    ids=["ifca", "hypcluster", "fedem"],
)
def test_one_model_is_fedavg(recipe):
    models, own = run(lambda _: recipe(loss_fn, **LOCAL), one, zeros[None])
    expected, _ = fedavg()
    np.testing.assert_allclose(models[0, :, 0], expected, atol=1e-5)
    own = own.models[:, :, 0] if isinstance(own, clients.Mixture) else own
    np.testing.assert_allclose(own[0], np.tile(expected[-1], (N, 1)), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("table", [simulation.make_table, simulation.host_table])
def test_personal_models_live_in_any_table(table):
    """The model of a client is read from a table on the device or on the host."""
    algorithm = algorithms.fedrep(split_loss, pattern="^head", **LOCAL)
    result = fjx.simulate(
        jax.random.key(0), algorithm, START, box.DATASET, sampler=samplers.uniform(3), rounds=4,
        evaluate_every=2, table=table, progress=False,
    )  # fmt: skip
    rows = result.state.client(np.arange(N))
    models = jax.vmap(lambda row: algorithm.model_of(result.state.algorithm, row))(rows)
    assert len(np.unique(models["head"], axis=0)) == N
    np.testing.assert_array_equal(models["body"], np.tile(result.params["body"], (N, 1)))
    assert result.ledger.uplink == 4 * 3 * 32 * D
