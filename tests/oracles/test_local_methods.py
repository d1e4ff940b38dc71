"""Local training with corrections and compression against the boxes of its papers, and its theorems.

The problem is that of the compressed methods: n = 10 clients, d = 20, f_i = x^T A_i x / 2 - b_i^T x with
eigenvalues of A_i in [1, 10].  Boxes are transcribed in NumPy; masks and coins, which the clients of a
round share, are drawn as the round draws them.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import aggregators, algorithms, compressors, data, samplers, simulation, theory
from fjx.aggregators._assigned import owned
from fjx.algorithms._corrected.scaffnew import steps_of

PROBLEM = data.quadratic_problem(jax.random.key(0))
A, B = (np.asarray(PROBLEM.dataset.arrays[k], np.float64) for k in ("A", "b"))
N, D = B.shape
K, P, GAMMA = 4, 0.3, 0.05
TOP = compressors.top_k(K / D)
MU = float(PROBLEM.mu_clients.min())

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Plan(NamedTuple):
    """Who is invited to each round, ``i32[rounds, m]``, and who of them comes, ``bool[rounds, m]``."""

    ids: Any
    comes: Any


def all_of_them(rounds, share=1.0, seed=0):
    """Everybody is invited, and each comes with a probability."""
    comes = np.random.default_rng(seed).random((rounds, N)) < share
    return Plan(np.tile(np.arange(N, dtype=np.int32), (rounds, 1)), comes)


def some_of_them(rounds, size, share=1.0, seed=0):
    """A random cohort of a fixed size, in random order, of whom each comes with a probability."""
    rng = np.random.default_rng(seed)
    ids = np.array([rng.permutation(N)[:size] for _ in range(rounds)], np.int32)
    return Plan(ids, rng.random(ids.shape) < share)


def round_key(seed, t):
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(7), seed), t)


def history(recipe, plan, seeds=1):
    """Models ``f64[seeds, rounds + 1, d]`` and client states ``f64[seeds, rounds + 1, n, d]``."""

    def run(seed):
        algorithm = recipe(seed)
        state = algorithm.init(jnp.zeros(D))
        table = simulation.make_table(algorithm.init_client(jnp.zeros(D)), N)

        def step(carry, inputs):
            (state, table), (t, ids, comes) = carry, inputs
            cohort = PROBLEM.dataset.cohort(ids, comes)
            rows = simulation.gather(table, ids)
            state, rows, _ = algorithm.round(round_key(seed, t), state, rows, cohort)
            table = simulation.scatter(table, ids, rows)
            return (state, table), (state.params, table.client)

        rounds = jnp.arange(len(plan.ids))
        _, seen = jax.lax.scan(step, (state, table), (rounds, *map(jnp.asarray, plan)))
        first = state.params, table.client
        return jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), first, seen)

    seen = jit(jax.vmap(run))(jnp.arange(seeds))
    return jax.tree.map(lambda x: np.asarray(x, np.float64), seen)


def gradient(i, x):
    return A[i] @ x - B[i]


def distance(x):
    return np.square(x - PROBLEM.optimum).sum(-1)


def top(x):
    """The K largest in magnitude."""
    out, kept = np.zeros_like(x), np.argsort(-np.abs(x))[:K]
    out[kept] = x[kept]
    return out


@functools.partial(jax.jit, static_argnums=(0, 1))
def coins(rounds, p=P, seed=0):
    """``i32[rounds]``: the local steps of each round."""
    return jax.vmap(lambda t: steps_of(seed, t, p))(jnp.arange(rounds))


@functools.partial(jax.jit, static_argnums=(1, 2))
def masks(ids, clients, owners, seed=0):
    """``bool[rounds, m, d]`` of the clients invited, ranked by their ids."""

    def of_round(t, invited):
        key = jax.random.split(round_key(seed, t), 4)[1]

        def one(rank):
            public = fjx.Public((), key, rank, jnp.int32(len(invited)))
            return owned(jnp.zeros(D), public, clients=clients, owners=owners)

        return jax.vmap(one)(jnp.searchsorted(jnp.sort(invited), invited))

    return jax.vmap(of_round)(jnp.arange(len(ids)), ids)


def scaffnew(seed, **more):
    return algorithms.scaffnew(
        PROBLEM.loss, **{"p": P, "learning_rate": GAMMA, "batch_size": 1, "seed": seed, **more}
    )


def tamuna(seed, clients=N, owners=2, **more):
    return algorithms.tamuna(
        PROBLEM.loss, num_clients=N, clients_per_round=clients, owners=owners,
        **{"p": P, "learning_rate": GAMMA, "batch_size": 1, "seed": seed, **more},
    )  # fmt: skip


def fedcomloc(seed, **more):
    return algorithms.fedcomloc(
        PROBLEM.loss, p=P, learning_rate=GAMMA, batch_size=1, seed=seed, **more
    )


def fedcomgate(seed, codec, **more):
    return algorithms.fedcomgate(PROBLEM.loss, codec, client_lr=0.02, batch_size=1, **more)


# ------------------------------------------------------------------------------------- boxes


@pytest.mark.ci
@pytest.mark.parametrize(
    ("c", "s"),
    [slow(N, N, id="scaffnew"), slow(N, 3, id="all"), pytest.param(5, 2, id="some")],
)
def test_tamuna_is_the_box_of_its_paper(c, s):
    """25 rounds of cohorts of c, of whom a fifth drop out, against NumPy: models and all h_i."""
    plan, eta = some_of_them(25, c, 0.8), P * N * (s - 1) / (s * (N - 1))
    recipe = scaffnew if c == s else functools.partial(tamuna, clients=c, owners=s)
    xs, hs = history(recipe, plan)
    x, h = np.zeros(D), np.zeros((N, D))
    shared, steps = np.asarray(masks(plan.ids, c, s)), np.asarray(coins(25))
    for t, (ids, comes) in enumerate(zip(*plan, strict=True)):
        q = shared[t] & comes[:, None]
        ends = np.tile(x, (c, 1))
        for slot, i in enumerate(ids):
            for _ in range(steps[t]):
                ends[slot] -= GAMMA * (gradient(i, ends[slot]) - h[i])
        came = q.sum(0)
        x = np.where(came > 0, (q * ends).sum(0) / np.maximum(came, 1), x)
        for slot, i in enumerate(ids):
            h[i] += eta / GAMMA * q[slot] * (x - ends[slot])
        np.testing.assert_allclose(xs[0, t + 1], x, atol=1e-5)
        np.testing.assert_allclose(hs[0, t + 1], h, atol=1e-4)
    assert np.abs(h).max() > 1


@pytest.mark.ci
def test_fedcomgate_is_the_box_of_its_paper():
    """Top-k is deterministic: 25 rounds of random halves against NumPy, with tau = 4 and gamma = 0.7."""
    plan, eta, tau, gamma = all_of_them(25, 0.5), 0.02, 4, 0.7
    recipe = functools.partial(fedcomgate, codec=TOP, steps=tau, server_lr=gamma)
    xs, deltas = history(recipe, plan)
    x, delta = np.zeros(D), np.zeros((N, D))
    for t, comes in enumerate(plan.comes):
        sent = {}
        for i in np.flatnonzero(comes):
            end = x.copy()
            for _ in range(tau):
                end -= eta * (gradient(i, end) - delta[i])
            sent[i] = top((x - end) / eta)
        mean = np.mean(list(sent.values()), axis=0)
        for i, own in sent.items():
            delta[i] += (own - mean) / tau
        x = x - eta * gamma * mean
        np.testing.assert_allclose(xs[0, t + 1], x, atol=1e-4)
        np.testing.assert_allclose(deltas[0, t + 1], delta, atol=1e-3)


@pytest.mark.ci
@pytest.mark.parametrize(
    "slots", [slow(("uplink",)), slow(("local",)), ("uplink", "local", "downlink")]
)
def test_fedcomloc_is_the_box_of_its_paper(slots):
    """With Top-k in each of the slots: 25 rounds of random halves of the clients against NumPy."""
    plan = all_of_them(25, 0.5)
    xs, hs = history(functools.partial(fedcomloc, **dict.fromkeys(slots, TOP)), plan)
    up, at, down = (top if name in slots else np.copy for name in ("uplink", "local", "downlink"))
    x, h, steps = np.zeros(D), np.zeros((N, D)), np.asarray(coins(25))
    for t, comes in enumerate(plan.comes):
        first, sent = down(x), {}
        for i in np.flatnonzero(comes):
            end = first.copy()
            for _ in range(steps[t]):
                end = end - GAMMA * (gradient(i, at(end)) - h[i])
            sent[i] = up(end)
        mean = np.mean(list(sent.values()), axis=0)
        for i, own in sent.items():
            h[i] += P / GAMMA * (mean - own)
        x = x + mean - first
        np.testing.assert_allclose(xs[0, t + 1], x, atol=1e-4)
        np.testing.assert_allclose(hs[0, t + 1], h, atol=1e-3)


@pytest.mark.slow
def test_fedcom_with_one_step_is_sgd_and_with_more_it_rests_where_local_descent_does():
    plan, exact = all_of_them(400), compressors.identity()

    def recipe(seed, **more):
        return algorithms.fedcom(PROBLEM.loss, exact, batch_size=1, **more)

    xs, _ = history(functools.partial(recipe, client_lr=0.05, steps=1, server_lr=0.5), plan)
    x = np.zeros(D)
    for t in range(30):
        x = x - 0.05 * 0.5 * np.mean([gradient(i, x) for i in range(N)], axis=0)
        np.testing.assert_allclose(xs[0, t + 1], x, atol=1e-5)
    xs, _ = history(functools.partial(recipe, client_lr=0.02, steps=5, server_lr=0.8), plan)
    rest = data.local_gd_fixed_point(PROBLEM, step_size=0.02, local_steps=5)
    np.testing.assert_allclose(xs[0, -1], rest, atol=1e-5)
    assert distance(rest) > 1e-3


@pytest.mark.slow
def test_fedpaq_moves_as_far_as_local_descent_in_the_mean():
    """The quantiser is unbiased: the mean over 400 seeds of a first round, to 6 standard errors."""

    def recipe(seed):
        codec = compressors.qsgd(levels=2)
        return algorithms.fedpaq(PROBLEM.loss, codec, client_lr=0.02, steps=3, batch_size=1)

    first, ends = history(recipe, all_of_them(1), seeds=400)[0][:, 1], np.zeros((N, D))
    for i in range(N):
        for _ in range(3):
            ends[i] -= 0.02 * gradient(i, ends[i])
    error = first - ends.mean(0)
    assert (np.abs(error.mean(0)) < 6 * error.std(0) / np.sqrt(400)).all()
    assert error.std(0).min() > 0


# -------------------------------------------------------------------------------- identities


@pytest.mark.slow
def test_s_equal_to_n_is_scaffnew_bit_for_bit():
    plan = all_of_them(15, 0.7)
    for x, y in zip(history(functools.partial(tamuna, owners=N), plan), history(scaffnew, plan),
                    strict=True):  # fmt: skip
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_fedcomloc_without_compression_is_scaffnew_bit_for_bit():
    plan = all_of_them(15, 0.7)
    for x, y in zip(history(fedcomloc, plan), history(scaffnew, plan), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_fedcomgate_is_scaffnew_whose_rounds_have_all_the_same_length():
    """With p = 1 every round is one step: with tau = 1 and no codec both are one algorithm."""
    plan = all_of_them(15, 0.7)
    one = functools.partial(fedcomgate, codec=compressors.identity(), steps=1)
    other = functools.partial(scaffnew, p=1.0, learning_rate=0.02)
    for x, y in zip(history(one, plan), history(other, plan), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)


# -------------------------------------------------------------------------------- invariants


def halves_and_worse(rounds, size):
    """Random halves; among the rounds some of one client, and some of nobody."""
    plan = some_of_them(rounds, size, 0.5)
    plan.comes[5:10], plan.comes[10:12] = False, False
    plan.comes[5:10, 1] = True
    return plan


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "size"),
    [
        slow(scaffnew, N, id="scaffnew"),
        slow(tamuna, N, id="compressed_scaffnew"),
        pytest.param(functools.partial(tamuna, clients=6, owners=3), 6, id="tamuna"),
        slow(functools.partial(fedcomloc, uplink=TOP), N, id="fedcomloc"),
        slow(
            functools.partial(fedcomgate, codec=compressors.rand_k(0.5), steps=3, server_lr=0.5),
            N,
            id="fedcomgate",
        ),
    ],
)
def test_the_corrections_of_all_clients_sum_to_zero_whoever_comes(recipe, size):
    """60 rounds, 4 seeds of coins, masks and codecs; who is idle keeps its correction to the bit."""
    plan = halves_and_worse(60, size)
    xs, hs = history(recipe, plan, seeds=4)
    assert np.abs(hs.sum(2)).max() < 1e-5 * np.abs(hs).max() * N
    assert np.abs(hs[:, -1]).mean() > 0.1
    for t, (ids, comes) in enumerate(zip(*plan, strict=True)):
        idle = np.setdiff1d(np.arange(N), ids[comes])
        np.testing.assert_array_equal(hs[:, t + 1, idle], hs[:, t, idle])
    np.testing.assert_array_equal(xs[:, 12], xs[:, 11])  # nobody came
    np.testing.assert_allclose(hs[:, 10], hs[:, 5], atol=1e-5)  # its message was the mean


@pytest.mark.slow
def test_corrections_of_a_bf16_model_are_kept_in_float32():
    """They sum to zero to float32's rounding, where bf16 would lose a hundredth part a round."""

    def loss(w, x, key):
        return jnp.sum((w.astype(jnp.float32)[None] - x) ** 2) / 2

    algorithm = algorithms.scaffnew(loss, p=0.5, learning_rate=0.1, batch_size=1)
    model = jnp.zeros(3, jnp.bfloat16)
    dataset = data.from_clients([np.full((1, 3), x, np.float32) for x in (1.0, 2.3, -0.7)])
    cohort = dataset.cohort(jnp.arange(3))
    rows = jax.vmap(lambda _: algorithm.init_client(model))(cohort.ids)

    def step(carry, key):
        state, rows = carry
        state, rows, _ = algorithm.round(key, state, rows, cohort)
        return (state, rows), rows.client

    keys = jax.random.split(jax.random.key(0), 12)
    (state, _), control = jit(lambda keys: jax.lax.scan(step, (algorithm.init(model), rows), keys))(
        keys
    )
    assert (state.params.dtype, control.dtype) == (jnp.bfloat16, jnp.float32)
    control = np.asarray(control, np.float64)
    assert np.abs(control[-1]).max() > 0.5
    assert np.abs(control.sum(1)).max() < 1e-5


@pytest.mark.slow
def test_it_converges_to_the_optimum_however_much_clients_differ_and_whoever_comes():
    """A random half of the clients of each round: 1e-8 of the first distance, and FedCOM stays off."""
    codec = compressors.qsgd(levels=8)
    gate = functools.partial(fedcomgate, codec=codec, steps=5, server_lr=0.5)
    for recipe, size in ((scaffnew, N), (functools.partial(tamuna, clients=6, owners=3), 6),
                         (gate, N)):  # fmt: skip
        xs, _ = history(recipe, some_of_them(700, size, 0.5 if size == N else 1.0))
        assert distance(xs[0, -1]) < 1e-8 * distance(xs[0, 0])
    xs, _ = history(
        lambda seed: algorithms.fedcom(
            PROBLEM.loss, codec, client_lr=0.02, steps=5, batch_size=1, server_lr=0.5
        ),
        all_of_them(300),
    )
    assert distance(xs[0, -1]) > 1e-4 * distance(xs[0, 0])


# -------------------------------------------------------------------------- a model that is not convex

DIGITS = data.digits(num_clients=N)


def classify(params, batch, key):
    """The cross entropy of a network of one hidden layer."""
    hidden = jnp.tanh(batch["x"] @ params["in"])
    logits = jax.nn.log_softmax(hidden @ params["out"])
    return -jnp.mean(jnp.take_along_axis(logits, batch["y"][:, None], axis=1))


WHOLE = {"p": 0.3, "learning_rate": 0.3, "batch_size": 256}
BATCHES = {"client_lr": 0.3, "steps": 4, "batch_size": 16}
CODEC = compressors.qsgd(levels=16)
ON_DIGITS = {
    "scaffnew": algorithms.scaffnew(classify, **WHOLE),
    "tamuna": algorithms.tamuna(
        classify, num_clients=N, clients_per_round=6, owners=3, **WHOLE
    ),
    "fedcomloc": algorithms.fedcomloc(
        classify, p=0.3, learning_rate=0.3, batch_size=16, uplink=compressors.top_k(0.3)
    ),
    "fedcomgate": algorithms.fedcomgate(classify, CODEC, **BATCHES),
    "fedpaq": algorithms.fedpaq(classify, CODEC, **BATCHES),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", list(map(slow, ("tamuna", "scaffnew", "fedcomgate", "fedpaq", "fedcomloc")))
)
def test_the_loss_of_a_network_falls(name):
    """15 rounds of random cohorts of six of the ten clients: on held-out digits, by a third."""
    keys = jax.random.split(jax.random.key(1))
    params = {
        "in": jax.random.normal(keys[0], (64, 16)) / 8,
        "out": jax.random.normal(keys[1], (16, 10)) / 4,
    }
    run = simulation.program(
        ON_DIGITS[name], DIGITS, sampler=samplers.uniform(6), evaluate_every=15
    )
    state, _ = jit(lambda key: run.run(key, run.init(params), 15))(jax.random.key(2))
    test = jax.tree.map(jnp.asarray, DIGITS.test)
    before, after = (
        float(classify(x, test, jax.random.key(0))) for x in (params, state.algorithm.params)
    )
    assert after < 0.67 * before


# ---------------------------------------------------------------------------------- theorems


@pytest.mark.parametrize(("c", "s"), [slow(N, 2), slow(N, 4), slow(5, 2)])
def test_tamuna_obeys_its_theorem(c, s):
    """rate^-t Psi_t is a supermartingale: after T steps its mean over 40 seeds is at most Psi_0."""
    bound = theory.tamuna(L_max=PROBLEM.L_max, mu=MU, n=N, owners=s)
    chi = N * (s - 1) / (s * (N - 1))
    weight = bound.step_size**2 * (N - 1) / (bound.memory**2 * chi * (s - 1))
    optimal = np.array([gradient(i, PROBLEM.optimum) for i in range(N)])
    recipe = functools.partial(
        tamuna, clients=c, owners=s, p=bound.memory, learning_rate=bound.step_size
    )
    seeds, rounds = 40, 120
    xs, hs = history(recipe, some_of_them(rounds, c), seeds=seeds)
    psi = N * distance(xs) + weight * np.square(hs - optimal).sum((2, 3))
    steps = jax.vmap(lambda seed: coins(rounds, bound.memory, seed))(jnp.arange(seeds))
    total = np.concatenate([np.zeros((seeds, 1)), np.cumsum(np.asarray(steps), axis=1)], axis=1)
    for t in (1, 5, 30, 60, rounds):
        assert (psi[:, t] * bound.rate ** -total[:, t]).mean() <= psi[0, 0] * (1 + 1e-6)
    assert psi[:, -1].mean() < 0.1 * psi[0, 0]


def test_the_theory_of_tamuna_with_all_owners_is_that_of_scaffnew():
    for p in (0.2, 0.5):
        bound = theory.compressed_scaffnew(L_max=10.0, mu=1.0, n=7, owners=7, p=p)
        assert np.isclose(bound.rate, max((1 - 2 / 11) ** 2, 1 - p**2))
    with pytest.raises(ValueError, match="owners"):
        theory.tamuna(L_max=1.0, mu=0.1, n=3, owners=1)
    with pytest.raises(ValueError, match="p must"):
        theory.tamuna(L_max=1.0, mu=0.1, n=3, owners=2, p=1.5)


# -------------------------------------------------------------------------------------- bits


def test_what_is_sent_and_what_is_heard():
    params, whole = jnp.zeros(D), 32 * D
    for c, s in ((N, 2), (6, 3), (7, 2)):
        traffic = tamuna(0, clients=c, owners=s).traffic(params)
        assert traffic == (32 * -(-D * s // c), 2 * whole)
    assert scaffnew(0).traffic(params) == (whole, 2 * whole)
    sparse = K * (32 + 5)  # a value and a place below 2^5
    local = fedcomloc(0, uplink=TOP, downlink=TOP).traffic(params)
    assert local == (sparse + 4, sparse + 4 + whole)
    assert fedcomgate(0, TOP, steps=2).traffic(params) == (sparse + 4, 2 * whole)


def test_arguments():
    with pytest.raises(ValueError, match="owners"):
        tamuna(0, owners=1)
    with pytest.raises(ValueError, match="clients_per_round"):
        tamuna(0, clients=N + 1)
    with pytest.raises(ValueError, match="p must"):
        scaffnew(0, p=1.5)
    with pytest.raises(TypeError, match="floating parameters"):
        scaffnew(0).init_client({"w": jnp.zeros(3), "n": jnp.int32(1)})
    with pytest.raises(ValueError, match="steps"):
        fedcomgate(0, TOP, steps=0)
    with pytest.raises(TypeError, match="fedcomloc"):
        fedcomloc(0, local=aggregators.mean())
    with pytest.raises(ValueError, match="without a state"):
        history(functools.partial(fedcomloc, local=compressors.error_feedback(TOP)), all_of_them(1))
