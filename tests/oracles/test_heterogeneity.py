"""Recipes for clients that differ, against slow float64 transcriptions of the papers' algorithm boxes.

Ten rounds of ragged clients, with padding and drop-outs.  Local epochs are full-batch, or the examples
of a client are copies of one, so that the order of batches does not matter.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fjx import algorithms, clients, data, simulation
from fjx.algorithms._averaging.normalised import way

SIZES, D, ROUNDS, EPOCHS, LR = (3, 5, 1, 7, 2), 4, 10, 3, 0.05
CLIENTS = len(SIZES)


def regression_clients(copies):
    rng = np.random.default_rng(0)
    centre = rng.normal(size=D)
    for size in SIZES:
        x = np.repeat(rng.normal(size=(1, D)), size, 0) if copies else rng.normal(size=(size, D))
        w = centre + rng.normal(size=D)
        yield x, x @ w + (0 if copies else 0.1 * rng.normal(size=size))


EXAMPLES = {copies: list(regression_clients(copies)) for copies in (False, True)}
DATASETS = {
    copies: data.from_clients(
        [{"x": x.astype(np.float32), "y": y.astype(np.float32)} for x, y in examples]
    )
    for copies, examples in EXAMPLES.items()
}


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


def loss_fn(w, batch, key):
    return jnp.mean((batch["x"] @ w - batch["y"]) ** 2) / 2


def features(w, batch):
    return batch["x"] * w[None]


def loss(i, w, copies=False):
    x, y = EXAMPLES[copies][i]
    return np.mean((x @ w - y) ** 2) / 2


def gradient(i, w, copies=False):
    x, y = EXAMPLES[copies][i]
    return x.T @ (x @ w - y) / len(y)


def run(algorithm, copies=False):
    """The model after each round, and the state and table at the end, by fjx."""
    dataset = DATASETS[copies]

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def rounds(key, state, table):
        def one(carry, slot):
            state, table = carry
            t, ids, taking_part = slot
            cohort = dataset.cohort(ids, taking_part)
            rows = simulation.gather(table, cohort.ids)
            state, rows, _ = algorithm.round(jax.random.fold_in(key, t), state, rows, cohort)
            return (state, simulation.scatter(table, cohort.ids, rows)), state.params

        return jax.lax.scan(one, (state, table), (jnp.arange(ROUNDS), IDS, TAKING_PART))

    w = jnp.zeros(D)
    table = simulation.make_table(algorithm.init_client(w), CLIENTS)
    (state, table), models = rounds(jax.random.key(0), algorithm.init(w), table)
    return np.asarray(models), state, table


def by_examples(cohort):
    sizes = np.array([SIZES[i] for i in cohort], np.float64)
    return sizes / sizes.sum()


def mean_by(weights, values):
    return sum(p * v for p, v in zip(weights, values, strict=True))


def epochs(w, direction, steps=EPOCHS, lr=LR):
    """``steps`` steps from w along a direction."""
    y = w.copy()
    for _ in range(steps):
        y = y - lr * direction(y)
    return y


def every_cohort(step):
    w, models = np.zeros(D), []
    for cohort in COHORTS:
        w = step(cohort, w)
        models.append(w)
    return np.array(models)


def update(i, w):
    return epochs(w, lambda y: gradient(i, y)) - w


# ------------------------------------------------------------------------------------------- boxes


def oracle_fednova(momentum):
    """Wang et al. 2020, equations 7 to 9, with the a_i of local momentum."""

    def step(cohort, x):
        directions, lengths = [], []
        for i in cohort:
            y, m, tau = x.copy(), np.zeros(D), EPOCHS * SIZES[i]
            for _ in range(tau):
                m = momentum * m + gradient(i, y, copies=True)
                y = y - LR * m
            a = sum((1 - momentum ** (tau - k)) / (1 - momentum) for k in range(tau))
            directions.append((x - y) / (LR * a))
            lengths.append(a)
        p = by_examples(cohort)
        return x - mean_by(p, lengths) * LR * mean_by(p, directions)

    return every_cohort(step)


def oracle_fedshuffle():
    """Horvath et al. 2022, algorithm 1: step size eta / K_i, weights n_i / n."""

    def step(cohort, x):
        ends = []
        for i in cohort:
            steps = EPOCHS * SIZES[i]
            ends.append(epochs(x, lambda y, i=i: gradient(i, y, True), steps, 0.6 / steps))
        return mean_by(by_examples(cohort), ends)

    return every_cohort(step)


def oracle_fedexp(epsilon):
    """Jhunjhunwala et al. 2023, algorithm 1, with weights."""

    def step(cohort, w):
        p, deltas = by_examples(cohort), [update(i, w) for i in cohort]
        mean = mean_by(p, deltas)
        eta = mean_by(p, [d @ d for d in deltas]) / (2 * (mean @ mean + epsilon))
        return w + max(1.0, eta) * mean

    return every_cohort(step)


def oracle_fedsam(rho):
    """Qu et al. 2022, algorithm 1."""

    def sharp(i, y):
        g = gradient(i, y)
        return gradient(i, y + rho * g / np.linalg.norm(g))

    return every_cohort(
        lambda cohort, w: mean_by(
            by_examples(cohort), [epochs(w, lambda y, i=i: sharp(i, y)) for i in cohort]
        )
    )


def oracle_fedprox_adaptive(mu, change, patience):
    """Li et al. 2020, appendix C.3.3."""
    last, falls = np.inf, 0

    def step(cohort, w):
        nonlocal mu, last, falls
        p = by_examples(cohort)
        now = mean_by(p, [loss(i, w) for i in cohort])
        ends = [epochs(w, lambda y, i=i: gradient(i, y) + mu * (y - w)) for i in cohort]
        falls = falls + 1 if now < last else 0
        if now > last:
            mu += change
        elif falls == patience:
            mu, falls = max(mu - change, 0.0), 0
        last = now
        return mean_by(p, ends)

    return every_cohort(step)


def oracle_feddyn(alpha):
    """Acar et al. 2021, algorithm 1, with gradient steps in place of the exact minimum."""
    g, h = np.zeros((CLIENTS, D)), np.zeros(D)

    def step(cohort, theta):
        nonlocal h
        ends = []
        for i in cohort:
            end = epochs(theta, lambda y, i=i: gradient(i, y) - g[i] + alpha * (y - theta))
            g[i] = g[i] - alpha * (end - theta)
            ends.append(end)
        h = h - alpha / CLIENTS * sum(end - theta for end in ends)
        return np.mean(ends, axis=0) - h / alpha

    return every_cohort(step)


def oracle_fedadmm(rho, eta):
    """Gong et al. 2022, algorithm 1, local work from the global model."""
    w, y = np.zeros((CLIENTS, D)), np.zeros((CLIENTS, D))

    def step(cohort, theta):
        deltas = []
        for i in cohort:
            before = w[i] + y[i] / rho
            w[i] = epochs(theta, lambda v, i=i: gradient(i, v) + y[i] + rho * (v - theta))
            y[i] = y[i] + rho * (w[i] - theta)
            deltas.append(w[i] + y[i] / rho - before)
        return theta + eta * np.mean(deltas, axis=0)

    return every_cohort(step)


def oracle_moon(mu, tau):
    """Li, He, Song 2021, algorithm 1, with the representation x * w."""
    last = np.zeros((CLIENTS, D))

    def cosine(x, w, v):
        """The cosine of x * w and x * v, and its derivative in w."""
        z, fixed = x * w, x * v
        n, m = np.linalg.norm(z), np.linalg.norm(fixed)
        if n * m == 0:
            return 0.0, np.zeros(D)
        c = z @ fixed / (n * m)
        return c, x * (fixed / (n * m) - c * z / n**2)

    def contrast(i, w, near, far):
        out = np.zeros(D)
        for x in EXAMPLES[False][i][0]:
            (a, da), (b, db) = cosine(x, w, near), cosine(x, w, far)
            out += (db - da) / tau / (1 + np.exp((a - b) / tau))
        return out / SIZES[i]

    def step(cohort, w):
        ends = []
        for i in cohort:
            far = last[i].copy()
            end = epochs(w, lambda y, i=i, far=far: gradient(i, y) + mu * contrast(i, y, w, far))
            last[i] = end
            ends.append(end)
        return mean_by(by_examples(cohort), ends)

    return every_cohort(step)


def oracle_mimelite(beta):
    """Karimireddy et al. 2021, algorithm 1, MimeLite with heavy-ball momentum."""
    m = np.zeros(D)

    def step(cohort, x):
        nonlocal m
        ends = [epochs(x, lambda y, i=i: gradient(i, y) + beta * m) for i in cohort]
        m = np.mean([gradient(i, x) for i in cohort], axis=0) + beta * m
        return np.mean(ends, axis=0)

    return every_cohort(step)


def oracle_mime(beta):
    """The same, Mime: the gradient in even rounds, the steps in odd ones."""
    m, c, first = np.zeros(D), np.zeros(D), True

    def step(cohort, x):
        nonlocal m, c, first
        if first:
            c, first = np.mean([gradient(i, x) for i in cohort], axis=0), False
            return x
        ends = [
            epochs(x, lambda y, i=i: gradient(i, y) - gradient(i, x) + c + beta * m) for i in cohort
        ]
        m, first = c + beta * m, True
        return np.mean(ends, axis=0)

    return every_cohort(step)


def oracle_qffl(q):
    """Li et al. 2020, algorithm 2, q-FedAvg with L = 1 / eta."""

    def step(cohort, w):
        deltas, hs = [], []
        for i in cohort:
            f, dw = loss(i, w), -update(i, w) / LR
            deltas.append(f**q * dw)
            hs.append(q * f ** (q - 1) * (dw @ dw) + f**q / LR)
        return w - sum(deltas) / sum(hs)

    return every_cohort(step)


def oracle_term(t):
    """Li et al. 2021, lemma 1: the weights p_k exp(t F_k)."""

    def step(cohort, w):
        p = by_examples(cohort) * np.exp(t * np.array([loss(i, w) for i in cohort]))
        return w + mean_by(p / p.sum(), [update(i, w) for i in cohort])

    return every_cohort(step)


def oracle_superquantile(fraction):
    """The mean over the largest losses that make up a fraction of the weight."""

    def step(cohort, w):
        p = by_examples(cohort)
        left, kept = fraction, np.zeros(len(cohort))
        for k in np.argsort([-loss(i, w) for i in cohort]):
            kept[k] = min(p[k], left)
            left -= kept[k]
        return w + mean_by(kept / fraction, [update(i, w) for i in cohort])

    return every_cohort(step)


def oracle_afl(gamma):
    """Mohri et al. 2019, figure 2, on the clients that come."""
    weights = np.full(CLIENTS, 1 / CLIENTS)

    def onto_simplex(v):
        low, high = v.min() - 1, v.max()
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if np.maximum(v - middle, 0).sum() > 1 else (low, middle)
        return np.maximum(v - low, 0)

    def step(cohort, w):
        nonlocal weights
        own = weights[cohort]
        moved = mean_by(own / max(own.sum(), 1e-30), [update(i, w) for i in cohort])
        ascent = weights.copy()
        ascent[cohort] += gamma * np.array([loss(i, w) for i in cohort])
        weights = onto_simplex(ascent)
        return w + moved

    return every_cohort(step)


def oracle_fedmgda(epsilon, eta):
    """Hu et al. 2022, algorithm 1; the quadratic programme by Frank-Wolfe with pairwise steps."""

    def solve(gram):
        m = len(gram)
        low, high = max(1 / m - epsilon, 0.0), min(1 / m + epsilon, 1.0)
        lam = np.full(m, 1 / m)
        for _ in range(20_000):
            g = gram @ lam
            up = np.argmin(np.where(lam < high - 1e-15, g, np.inf))
            down = np.argmax(np.where(lam > low + 1e-15, g, -np.inf))
            curvature = gram[up, up] + gram[down, down] - 2 * gram[up, down]
            if g[down] - g[up] < 1e-14 or curvature <= 0:
                break
            t = min((g[down] - g[up]) / curvature, high - lam[up], lam[down] - low)
            lam[up], lam[down] = lam[up] + t, lam[down] - t
        return lam

    def step(cohort, w):
        d = np.array([update(i, w) for i in cohort])
        d /= np.linalg.norm(d, axis=1, keepdims=True)
        return w + eta * solve(d @ d.T) @ d

    return every_cohort(step)


def oracle_power_of_choice(size):
    """Cho et al. 2022, pow-d: of the candidates those with the largest losses."""

    def step(cohort, w):
        chosen = sorted(cohort, key=lambda i: -loss(i, w))[:size]
        return w + mean_by(by_examples(chosen), [update(i, w) for i in chosen])

    return every_cohort(step)


local = {"client_lr": LR, "batch_size": max(SIZES), "epochs": EPOCHS}
one_by_one = {"batch_size": 1, "epochs": EPOCHS}
momentum = functools.partial(optax.sgd, momentum=0.8)
prox = functools.partial(algorithms.fedprox_adaptive, mu=0.5, change=0.3, patience=2)
new, part, a = functools.partial, functools.partial, algorithms

BOXES = {
    "fedexp": (new(a.fedexp, epsilon=1e-3), part(oracle_fedexp, 1e-3)),
    "fedsam": (new(a.fedsam, rho=0.5), part(oracle_fedsam, 0.5)),
    "fedprox_adaptive": (prox, part(oracle_fedprox_adaptive, 0.5, 0.3, 2)),
    "feddyn": (new(a.feddyn, num_clients=CLIENTS, alpha=2.0), part(oracle_feddyn, 2.0)),
    "fedadmm": (new(a.fedadmm, rho=2.0, server_lr=0.6), part(oracle_fedadmm, 2.0, 0.6)),
    "moon": (new(a.moon, features=features, mu=2.0), part(oracle_moon, 2.0, 0.5)),
    "mimelite": (new(a.mimelite, optimizer=momentum), part(oracle_mimelite, 0.8)),
    "mime": (new(a.mime, optimizer=momentum), part(oracle_mime, 0.8)),
    "qffl": (new(a.qffl, q=1.5), part(oracle_qffl, 1.5)),
    "term": (new(a.term, tilt=0.7), part(oracle_term, 0.7)),
    "superquantile": (new(a.superquantile, fraction=0.6), part(oracle_superquantile, 0.6)),
    "afl": (new(a.afl, num_clients=CLIENTS, weights_lr=0.05), part(oracle_afl, 0.05)),
    "fedmgda": (new(a.fedmgda, epsilon=0.15, server_lr=0.2), part(oracle_fedmgda, 0.15, 0.2)),
    "power_of_choice": (new(a.power_of_choice, cohort_size=2), part(oracle_power_of_choice, 2)),
}

COPIES = {
    "fednova": (
        new(a.fednova, client_lr=LR, optimizer=momentum, **one_by_one),
        part(oracle_fednova, 0.8),
    ),
    "fedshuffle": (new(a.fedshuffle, client_lr=0.6, **one_by_one), oracle_fedshuffle),
}


def test_the_schedule_has_what_makes_rounds_hard():
    assert min(map(len, COHORTS)) >= 1  # the oracles' means need somebody
    assert (IDS == CLIENTS).any()
    assert (~TAKING_PART & (IDS < CLIENTS)).any()
    assert {i for cohort in COHORTS for i in cohort} == set(range(CLIENTS))


@pytest.mark.ci
@pytest.mark.few(5)
@pytest.mark.parametrize("name", BOXES)
def test_a_recipe_is_its_algorithm_box(name):
    recipe, oracle = BOXES[name]
    models, _, _ = run(recipe(loss_fn, **local))
    expected = oracle()
    assert np.ptp(expected, axis=0).min() > 0.05  # something happened, in every coordinate
    np.testing.assert_allclose(models, expected, atol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("name", COPIES)
def test_clients_of_unequal_steps(name):
    recipe, oracle = COPIES[name]
    models, _, _ = run(recipe(loss_fn), copies=True)
    np.testing.assert_allclose(models, oracle(), atol=1e-5)


def test_lengths_are_those_of_the_paper():
    """FedNova's ||a||_1: tau for SGD, and the closed forms for momentum and the proximal term."""
    tau, eta, rho, mu = 7, 0.1, 0.9, 0.5
    steps = jnp.float32(tau)
    assert float(way(optax.sgd(eta), steps)) == pytest.approx(eta * tau)
    heavy = (tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho)
    assert float(way(optax.sgd(eta, momentum=rho), steps)) == pytest.approx(eta * heavy)
    near = (1 - (1 - eta * mu) ** tau) / mu
    proximal = optax.chain(clients.proximal(mu), optax.sgd(eta))
    assert float(way(proximal, steps)) == pytest.approx(near, rel=1e-6)
    assert float(way(optax.sgd(eta), jnp.float32(0))) == 0


def test_afl_has_a_weight_for_every_client():
    algorithm = algorithms.afl(loss_fn, num_clients=CLIENTS - 1, weights_lr=0.1, **local)
    with pytest.raises(ValueError, match=f"number of all clients, {CLIENTS}; got {CLIENTS - 1}"):
        run(algorithm)
