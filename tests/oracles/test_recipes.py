"""The recipes against slow float64 transcriptions of the papers' algorithm boxes.

Clients are ragged, cohorts partial, with padding and dropouts, after a fixed schedule.  Local epochs
are full-batch where the order of batches must not matter; one test replays the order instead.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fjx import (
    Examples,
    Turn,
    aggregators,
    algorithms,
    clients,
    data,
    privacy,
    samplers,
    simulation,
)
from fjx._kernels.permutation import permute_by, reshuffle, shuffle

SIZES, D, ROUNDS, EPOCHS, LR = (3, 5, 1, 7, 2), 4, 20, 3, 0.05
CLIENTS = len(SIZES)


def regression_clients():
    rng = np.random.default_rng(0)
    centre = rng.normal(size=D)
    for size in SIZES:
        x = rng.normal(size=(size, D))
        w = centre + rng.normal(size=D)
        yield x, x @ w + 0.1 * rng.normal(size=size)


REGRESSION = list(regression_clients())
DATASET = data.from_clients(
    [{"x": x.astype(np.float32), "y": y.astype(np.float32)} for x, y in REGRESSION]
)


def schedule():
    """Four slots a round: distinct clients, now and then a padding slot, now and then a dropout."""
    rng = np.random.default_rng(1)
    ids = np.stack([rng.permutation(CLIENTS + 1)[:4] for _ in range(ROUNDS)]).astype(np.int32)
    return ids, rng.random(ids.shape) < 0.8


IDS, TAKING_PART = schedule()
COHORTS = [
    [int(i) for i in ids[taking] if i < CLIENTS]
    for ids, taking in zip(IDS, TAKING_PART, strict=True)
]
"""Who takes part, for the oracles."""


def loss_fn(w, batch, key):
    return jnp.mean((batch["x"] @ w - batch["y"]) ** 2) / 2


def gradient(i, w):
    x, y = REGRESSION[i]
    return x.T @ (x @ w - y) / len(y)


def run(algorithm):
    """The model after each round, and the state and table at the end, by fjx."""

    # Compiling is what takes the time; the arithmetic is the same without LLVM's optimiser.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def rounds(key, state, table):
        def one(carry, slot):
            state, table = carry
            t, ids, taking_part = slot
            cohort = DATASET.cohort(ids, taking_part)
            rows = simulation.gather(table, cohort.ids)
            state, rows, _ = algorithm.round(jax.random.fold_in(key, t), state, rows, cohort)
            return (state, simulation.scatter(table, cohort.ids, rows)), state.params

        return jax.lax.scan(one, (state, table), (jnp.arange(ROUNDS), IDS, TAKING_PART))

    w = jnp.zeros(D)
    table = simulation.make_table(algorithm.init_client(w), CLIENTS)
    (state, table), models = rounds(jax.random.key(0), algorithm.init(w), table)
    return np.asarray(models), state, table


def by_examples(cohort):
    """n_k / n of the cohort."""
    sizes = np.array([SIZES[i] for i in cohort], np.float64)
    return sizes / sizes.sum()


def local_epochs(i, w, mu=0.0):
    """E epochs of one full batch each: ClientUpdate of McMahan et al., with FedProx's term."""
    y = w.copy()
    for _ in range(EPOCHS):
        y = y - LR * (gradient(i, y) + mu * (y - w))
    return y


def weighted_mean(cohort, values):
    return sum(p * v for p, v in zip(by_examples(cohort), values, strict=True))


def every_cohort(step):
    """The model after each round; an empty cohort leaves everything as it is."""
    w, models = np.zeros(D), []
    for cohort in COHORTS:
        w = step(cohort, w)
        models.append(w)
    return np.array(models)


def oracle_fedsgd():
    """McMahan et al. 2017, section 2: w <- w - eta sum_k (n_k / n) g_k."""
    return every_cohort(
        lambda cohort, w: w - 0.1 * weighted_mean(cohort, [gradient(i, w) for i in cohort])
    )


def oracle_fedavg(server_lr):
    """McMahan et al. 2017, algorithm 1, with the server's step of Reddi et al."""

    def step(cohort, w):
        return w + server_lr * weighted_mean(cohort, [local_epochs(i, w) - w for i in cohort])

    return every_cohort(step)


def oracle_fedavgm(server_lr, momentum):
    """Hsu et al. 2019, section 4: v <- beta v + Delta; w <- w + eta v."""
    v = np.zeros(D)

    def step(cohort, w):
        nonlocal v
        v = momentum * v + weighted_mean(cohort, [local_epochs(i, w) - w for i in cohort])
        return w + server_lr * v

    return every_cohort(step)


def oracle_fedprox(mu):
    """Li et al. 2020, algorithm 2, the local problem solved by gradient descent."""
    return every_cohort(
        lambda cohort, w: weighted_mean(cohort, [local_epochs(i, w, mu) for i in cohort])
    )


def oracle_adaptive(second_moment, *, eta, beta1, tau):
    """Reddi et al. 2021, algorithm 2: uniform mean, v_{-1} = tau^2, no bias correction."""
    m, v = np.zeros(D), np.full(D, tau**2)

    def step(cohort, x):
        nonlocal m, v
        delta = np.mean([local_epochs(i, x) - x for i in cohort], axis=0)
        m = beta1 * m + (1 - beta1) * delta
        v = second_moment(v, delta**2)
        return x + eta * m / (np.sqrt(v) + tau)

    return every_cohort(step)


def oracle_scaffold(server_lr):
    """Karimireddy et al. 2020, algorithm 1, option II; also c and the c_i at the end."""
    c, c_i = np.zeros(D), np.zeros((CLIENTS, D))

    def step(cohort, x):
        nonlocal c
        dy, dc = [], []
        for i in cohort:
            y = x.copy()
            for _ in range(EPOCHS):
                y = y - LR * (gradient(i, y) - c_i[i] + c)
            c_plus = c_i[i] - c + (x - y) / (EPOCHS * LR)
            dy.append(y - x)
            dc.append(c_plus - c_i[i])
            c_i[i] = c_plus
        c = c + len(cohort) / CLIENTS * np.mean(dc, axis=0)
        return x + server_lr * np.mean(dy, axis=0)

    return every_cohort(step), c, c_i


def oracle_dp_fedavg(clip_norm, denominator):
    """McMahan et al. 2018, algorithm 1 with a fixed denominator, and no noise."""

    def step(cohort, w):
        total = np.zeros(D)
        for i in cohort:
            update = local_epochs(i, w) - w
            total += update * min(1.0, clip_norm / np.linalg.norm(update))
        return w + total / denominator

    return every_cohort(step)


def oracle_dp_ftrl(noise, clip_norm, denominator, server_lr, momentum):
    """Kairouz et al. 2021, DP-FTRLM: v_t = gamma v_{t-1} + s_t, w_{t+1} = w_0 + eta v_t.

    s_t is the noised sum of all rounds so far; ``noise[t]`` is the noise on it.
    """
    total, v = np.zeros(D), np.zeros(D)
    rounds = iter(noise)

    def step(cohort, w):
        nonlocal total, v
        for i in cohort:
            update = local_epochs(i, w) - w
            total = total + update * min(1.0, clip_norm / np.linalg.norm(update))
        v = momentum * v + (total + next(rounds)) / denominator
        return server_lr * v

    return every_cohort(step)


def test_the_schedule_has_what_makes_rounds_hard():
    assert min(map(len, COHORTS)) >= 1  # the oracles' means need somebody
    assert (IDS == CLIENTS).any()
    assert (~TAKING_PART & (IDS < CLIENTS)).any()
    assert {i for cohort in COHORTS for i in cohort} == set(range(CLIENTS))


local = {"client_lr": LR, "batch_size": max(SIZES), "epochs": EPOCHS}
uniform = aggregators.uniform(aggregators.mean())
adaptive = {**local, "server_lr": 0.1, "tau": 1e-2, "aggregator": uniform}

RECIPES = {
    "fedsgd": (algorithms.fedsgd(loss_fn, learning_rate=0.1, batch_size=2), oracle_fedsgd),
    "fedavg": (
        algorithms.fedavg(loss_fn, **local, server_lr=0.7),
        functools.partial(oracle_fedavg, 0.7),
    ),
    "fedavgm": (
        algorithms.fedavgm(loss_fn, **local, server_lr=0.5, momentum=0.8),
        functools.partial(oracle_fedavgm, 0.5, 0.8),
    ),
    "fedprox": (
        algorithms.fedprox(loss_fn, mu=2.0, **local),
        functools.partial(oracle_fedprox, 2.0),
    ),
    "fedadagrad": (
        algorithms.fedadagrad(loss_fn, **adaptive, beta1=0.5),
        functools.partial(oracle_adaptive, np.add, eta=0.1, beta1=0.5, tau=1e-2),
    ),
    "fedadam": (
        algorithms.fedadam(loss_fn, **adaptive, beta1=0.8, beta2=0.9),
        functools.partial(
            oracle_adaptive,
            lambda v, square: 0.9 * v + 0.1 * square,
            eta=0.1,
            beta1=0.8,
            tau=1e-2,
        ),
    ),
    "fedyogi": (
        algorithms.fedyogi(loss_fn, **adaptive, beta1=0.8, beta2=0.9),
        functools.partial(
            oracle_adaptive,
            lambda v, square: v - 0.1 * square * np.sign(v - square),
            eta=0.1,
            beta1=0.8,
            tau=1e-2,
        ),
    ),
    "dp_fedavg": (
        algorithms.dp_fedavg(loss_fn, **local, clip_norm=0.2, noise_multiplier=0.0, cohort_size=3),
        functools.partial(oracle_dp_fedavg, 0.2, 3),
    ),
}


@pytest.mark.few(5)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_its_algorithm_box(name):
    algorithm, oracle = RECIPES[name]
    models, _, _ = run(algorithm)
    expected = oracle()
    assert np.ptp(expected, axis=0).min() > 0.05  # something happened, in every coordinate
    np.testing.assert_allclose(models, expected, atol=1e-5)


@pytest.mark.ci
def test_dp_ftrl_is_follow_the_regularized_leader_on_noised_running_sums():
    private = {
        "strategy": privacy.honaker_tree(8),
        "clip_norm": 0.2,
        "noise_multiplier": 0.3,
        "cohort_size": 3,
    }
    # Clients without a gradient send zeros: the model is the noise on the running sums over 3.
    still = algorithms.dp_ftrl(lambda w, batch, key: 0.0 * jnp.sum(w), **private, **local)
    noise = 3 * run(still)[0].astype(np.float64)
    assert np.std(np.diff(noise, axis=0)) > 0.03
    algorithm = algorithms.dp_ftrl(loss_fn, **private, **local, server_lr=0.8, momentum=0.7)
    expected = oracle_dp_ftrl(noise, 0.2, 3, 0.8, 0.7)
    np.testing.assert_allclose(run(algorithm)[0], expected, atol=5e-5)


def test_dp_fedavg_clipped_some_and_not_all():
    """Else the oracle above would not tell clipping from its absence."""
    norms = [np.linalg.norm(local_epochs(i, np.zeros(D))) for i in range(CLIENTS)]
    assert min(norms) < 0.2 < max(norms)


@pytest.mark.ci
def test_scaffold_is_its_algorithm_box():
    algorithm = algorithms.scaffold(loss_fn, num_clients=CLIENTS, **local, server_lr=0.8)
    models, state, table = run(algorithm)
    expected, c, c_i = oracle_scaffold(0.8)
    np.testing.assert_allclose(models, expected, atol=1e-5)
    np.testing.assert_allclose(state.server.control, c, atol=1e-5)
    np.testing.assert_allclose(table.client, c_i, atol=1e-5)
    # Line 17's invariant, under dropouts and padding: c is the mean of all clients' c_i.
    np.testing.assert_allclose(state.server.control, np.mean(table.client, axis=0), atol=1e-6)


@pytest.mark.ci
def test_mini_batches_in_the_order_that_was_drawn():
    """ClientUpdate of FedAvg with B = 2: batches are runs of a permutation drawn afresh each epoch."""
    client = clients.local_sgd(loss_fn, optax.sgd(LR), epochs=EPOCHS, batch_size=2)
    update = jax.jit(client.update)
    ordered = jax.jit(lambda order, epoch, n: permute_by(reshuffle(order, epoch), jnp.arange(7), n))
    windows = DATASET.examples(jnp.arange(CLIENTS))
    for i, (x, y) in enumerate(REGRESSION):
        key = jax.random.fold_in(jax.random.key(5), i)
        window = Examples(windows.arrays, windows.offset[i], windows.size[i])
        message, _, _ = update(key, jnp.ones(D), (), window, Turn())

        order = shuffle(jax.random.split(jax.random.clone(key))[0])
        w = np.ones(D)
        for epoch in range(EPOCHS):
            drawn = ordered(order, jnp.int32(epoch), len(y))
            for batch in np.split(np.asarray(drawn)[: len(y)], range(2, len(y), 2)):
                w = w - LR * x[batch].T @ (x[batch] @ w - y[batch]) / len(batch)
        np.testing.assert_allclose(message, w - np.ones(D), atol=1e-5)


# --------------------------------------------------------------------------------------------------
# Quadratics f_i(x) = x'A_i x / 2 - b_i'x, whose optimum and FedAvg's fixed point are known.
# --------------------------------------------------------------------------------------------------

STEPS = 5


@functools.cache
def quadratics(n=10, d=20):
    rng = np.random.default_rng(3)
    a = []
    for _ in range(n):
        q = np.linalg.qr(rng.normal(size=(d, d)))[0]
        a.append(q * np.exp(rng.uniform(0, np.log(10), d)) @ q.T)
    a, b = np.array(a), 3 * rng.normal(size=(n, d))
    optimum = np.linalg.solve(a.sum(0), b.sum(0))
    lr = 1 / (10 * max(np.linalg.eigvalsh(one).max() for one in a))
    return a, b, optimum, lr


def quadratic_loss(x, batch, key):
    return jnp.mean(jnp.einsum("i,kij,j->k", x, batch["a"], x) / 2 - batch["b"] @ x)


RECIPES_ON_QUADRATICS = {
    "fedavg": algorithms.fedavg,
    "scaffold": functools.partial(algorithms.scaffold, num_clients=10),
}


@functools.cache
def converge(name, rounds=250):
    """The model after full participation; one example a client, so an epoch is a full gradient."""
    a, b, _, lr = quadratics()
    dataset = data.from_clients(
        [
            {"a": p[None].astype(np.float32), "b": q[None].astype(np.float32)}
            for p, q in zip(a, b, strict=True)
        ]
    )
    algorithm = RECIPES_ON_QUADRATICS[name](
        quadratic_loss, client_lr=lr, batch_size=1, epochs=STEPS
    )
    p = simulation.program(algorithm, dataset, sampler=samplers.full(), evaluate_every=rounds)
    state, _ = p.run(jax.random.key(0), p.init(jnp.zeros(b.shape[1])), rounds)
    return np.asarray(state.params, np.float64)


@pytest.mark.slow
def test_fedavg_stops_at_its_closed_form_fixed_point():
    """Where H gradient steps average to no move: sum_i (I - (I - eta A_i)^H)(x - A_i^{-1} b_i) = 0."""
    a, b, optimum, lr = quadratics()
    moved = np.array([np.eye(20) - np.linalg.matrix_power(np.eye(20) - lr * p, STEPS) for p in a])
    rhs = sum(m @ np.linalg.solve(p, q) for m, p, q in zip(moved, a, b, strict=True))
    fixed_point = np.linalg.solve(moved.sum(0), rhs)
    assert np.linalg.norm(fixed_point - optimum) > 0.08  # so it is not the optimum that is found
    x = converge("fedavg")
    assert np.linalg.norm(x - fixed_point) < 1e-5


@pytest.mark.slow
def test_scaffold_reaches_the_optimum_that_fedavg_misses():
    """Distances to x*: FedAvg 0.091, that of its fixed point; SCAFFOLD 7e-7, float32's rounding."""
    _, _, optimum, _ = quadratics()
    fedavg = np.linalg.norm(converge("fedavg") - optimum)
    scaffold = np.linalg.norm(converge("scaffold") - optimum)
    assert scaffold < 1e-5
    assert fedavg > 0.08
