"""Compressed algorithms against their papers' boxes, and what theory predicts of them on quadratics.

The problem: n = 10 clients, d = 20, f_i = x^T A_i x / 2 - b_i^T x with eigenvalues of A_i in [1, 10],
and codecs of 4 coordinates: omega = 4, delta = 1/5.  Runs are in float32, whose floor is far below
what is claimed; constants are computed in float64.  What ``test_float64.py`` shows of every round, to
rounding, is repeated here among the slow tests.
"""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import aggregators, algorithms, compressors, data, rounds, theory, wire
from fjx.algorithms._corrected.scaffnew import steps_of

PROBLEM = data.quadratic_problem(jax.random.key(0))
A, B = (np.asarray(PROBLEM.dataset.arrays[k], np.float64) for k in ("A", "b"))
N, D = B.shape
K = 4
OMEGA, DELTA = D / K - 1, K / D
L_TILDE = float(np.sqrt(np.mean(PROBLEM.L_clients**2)))
TOP, RAND = compressors.top_k(K / D), compressors.rand_k(K / D)
SEEDS = 20


def gap(x):
    """f(x) - f* of each row."""
    return np.einsum("...i,ij,...j", x, A.mean(0), x) / 2 - x @ B.mean(0) - PROBLEM.minimum


def gradients(x):
    """``[..., n, d]``: of each client, at each row."""
    return np.einsum("nij,...j->...ni", A, x) - B


def distance(x):
    return np.square(x - PROBLEM.optimum).sum(-1)


def trajectory(algorithm, rounds, *, seeds=None, takes_part=None, start=None):
    """``f64[rounds + 1, d]`` (or ``[seeds, ...]``) and the client rows after each round.

    ``takes_part`` is ``bool[rounds, n]``; everybody by default.
    """
    present = jnp.ones((rounds, N)) if takes_part is None else jnp.asarray(takes_part, jnp.float32)
    first = jnp.zeros(D) if start is None else jnp.asarray(start, jnp.float32)

    def run(seed):
        state = algorithm.init(first)
        rows = jax.vmap(lambda _: algorithm.init_client(first))(jnp.arange(N))
        cohort = PROBLEM.dataset.cohort(jnp.arange(N))

        def step(carry, inputs):
            t, weights = inputs
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), seed), t)
            state, rows, _ = algorithm.round(key, *carry, cohort._replace(weights=weights))
            return (state, rows), (state.params, rows, state.aggregator)

        _, history = jax.lax.scan(step, (state, rows), (jnp.arange(rounds), present))
        return history

    if seeds is None:
        xs, rows, memory = jax.jit(run)(0)
        xs = np.concatenate([np.asarray(first)[None], xs])
        return xs.astype(np.float64), rows, memory
    xs = jax.jit(jax.vmap(lambda seed: run(seed)[0]))(jnp.arange(seeds))
    return np.concatenate([np.zeros((seeds, 1, D)), xs], axis=1).astype(np.float64), None, None


def make(name, gamma, **more):
    recipe, codec = {
        "ef14": (algorithms.ef14, TOP),
        "ef21": (algorithms.ef21, TOP),
        "diana": (algorithms.diana, RAND),
        "ef_bv": (algorithms.ef_bv, RAND),
        "dasha": (algorithms.dasha, RAND),
        "marina": (algorithms.marina, RAND),
        "compressed_gd": (algorithms.compressed_gd, RAND),
    }[name]
    return recipe(PROBLEM.loss, codec, learning_rate=gamma, batch_size=1, **more)


# ------------------------------------------------------------------------------------ EF-BV


def half_at_random(rounds, seed=0):
    return np.random.default_rng(seed).random((rounds, N)) < 0.5


@pytest.mark.few(2)
@pytest.mark.parametrize(("lam", "nu"), [(1.0, 1.0), (0.3, 1.0), (0.5, 0.8)])
def test_difference_is_the_box_of_ef_bv(lam, nu):
    """Top-k is deterministic: 40 rounds of half of the clients against NumPy, memories and all."""
    present = half_at_random(40)
    algorithm = algorithms.ef_bv(
        PROBLEM.loss, TOP, num_clients=N, learning_rate=0.01, batch_size=1, lam=lam, nu=nu
    )
    xs, rows, memory = trajectory(algorithm, 40, takes_part=present)
    x, h = np.zeros(D), np.zeros((N, D))
    for t in range(40):
        change = gradients(x) - h
        kept = np.argsort(-np.abs(change), axis=1)[:, :K]
        m = np.zeros((N, D))
        np.put_along_axis(m, kept, np.take_along_axis(change, kept, 1), 1)
        m[~present[t]] = 0
        g = h.mean(0) + nu * m.mean(0)
        x, h = x - 0.01 * g, h + lam * m
        np.testing.assert_allclose(xs[t + 1], x, atol=2e-4)
    np.testing.assert_allclose(-np.asarray(rows.uplink.memory[-1]), h, atol=2e-3)
    np.testing.assert_allclose(-np.asarray(memory[-1]), h.mean(0), atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ef21", "diana", "dasha"])
def test_the_server_s_memory_is_the_mean_of_the_clients(name):
    """After 60 rounds of random halves of the clients, empty rounds among them."""
    present = half_at_random(60)
    present[10:12] = False
    more = {"diana": {"lam": 0.2}, "dasha": {"momentum": 1 / 9}}.get(name, {})
    algorithm = make(name, 0.003, num_clients=N, **more)
    _, rows, memory = trajectory(algorithm, 60, takes_part=present)
    field = rows.uplink.estimate if name == "dasha" else rows.uplink.memory
    scale = float(np.abs(field).max())
    np.testing.assert_allclose(np.asarray(field).mean(1), memory, atol=2e-6 * scale)


@pytest.mark.slow
def test_diana_without_memory_is_compressed_gradient_descent():
    gamma = 0.01
    diana, _, _ = trajectory(make("diana", gamma, num_clients=N, lam=0.0), 30)
    plain, _, _ = trajectory(make("compressed_gd", gamma), 30)
    np.testing.assert_allclose(diana, plain, atol=1e-5)


@pytest.mark.slow
def test_a_broken_client_changes_no_memory():
    """Its gradient is not finite in one round: nobody's memory hears of it."""
    dataset = data.from_clients([{"x": np.full((1, 3), v, np.float32)} for v in (1.0, 2.0, 3.0)])

    def loss_fn(w, batch, key):
        x, w = batch["x"], w[None]
        return jnp.mean((w - x) ** 2 * jnp.where(x == 2.0, jnp.nan, 1.0))

    algorithm = algorithms.ef21(
        loss_fn, compressors.top_k(1.0), num_clients=3, learning_rate=0.1, batch_size=1
    )
    rows = jax.vmap(lambda _: algorithm.init_client(jnp.zeros(3)))(jnp.arange(3))
    state, after, metrics = jax.jit(algorithm.round)(
        jax.random.key(0), algorithm.init(jnp.zeros(3)), rows, dataset.cohort(jnp.arange(3))
    )
    assert int(metrics["nonfinite"]) == 1
    assert not np.asarray(after.uplink.memory[1]).any()
    np.testing.assert_allclose(np.asarray(after.uplink.memory).mean(0), state.aggregator, rtol=1e-6)


# ------------------------------------------------------------------------------------ rates


def test_ef21_contracts_in_every_round():
    """Psi = f - f* + (gamma / theta) mean ||h_i - grad f_i||^2 by 1 - gamma mu, surely, 300 times."""
    bound = theory.ef21(L=PROBLEM.L, L_tilde=L_TILDE, mu=PROBLEM.mu, delta=DELTA)
    xs, rows, _ = trajectory(make("ef21", bound.step_size, num_clients=N), 300)
    h, theta = -np.asarray(rows.uplink.memory, np.float64), 1 - np.sqrt(1 - DELTA)
    x = xs[:-1]  # h_i after the round of x is compared with the gradient at x
    error = np.square(h - gradients(x)).sum(-1).mean(-1)
    psi = gap(x) + bound.step_size / theta * error
    assert np.max(psi[1:] / psi[:-1]) <= bound.rate
    assert psi[-1] < 1e-6 * psi[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bound", "start", "measure", "rounds", "more"),
    [
        (
            "diana",
            theory.diana(L_max=PROBLEM.L_max, mu=PROBLEM.mu, omega=OMEGA, n=N),
            lambda bound: (
                distance(np.zeros(D))
                + 4
                * OMEGA
                * bound.step_size**2
                / (bound.memory * N)
                * np.square(gradients(PROBLEM.optimum)).sum(-1).mean()
            ),
            distance,
            90,
            lambda bound: {"num_clients": N, "lam": bound.memory},
        ),
        pytest.param(
            "ef_bv",
            theory.ef_bv(L=PROBLEM.L, L_tilde=L_TILDE, mu=PROBLEM.mu, omega=OMEGA, n=N),
            None,
            gap,
            200,
            lambda bound: {"num_clients": N, "lam": bound.memory, "nu": N / (N + OMEGA)},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "marina",
            theory.marina(
                L=PROBLEM.L, L_hat=PROBLEM.L_hat, mu=PROBLEM.mu, omega=OMEGA, n=N, p=DELTA
            ),
            lambda bound: gap(np.zeros(D)),
            gap,
            90,
            lambda bound: {"p": DELTA},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "dasha",
            theory.dasha(L=PROBLEM.L, L_hat=PROBLEM.L_hat, mu=PROBLEM.mu, omega=OMEGA, n=N),
            None,
            gap,
            250,
            lambda bound: {"num_clients": N, "momentum": bound.memory},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["diana", "ef_bv", "marina", "dasha"],
)
def test_means_over_seeds_obey_the_theorem(name, bound, start, measure, rounds, more):
    """20 seeds: the mean is below rate^t times the Lyapunov function at first, at every tenth round.

    Where a theorem's function holds the errors of the first estimates, which start at zero here, these
    enter with their weights: for EF-BV gamma / (2 theta), for DASHA multiples of gamma (2 omega + 1),
    which is 1 / (4 mu) at most.
    """
    xs, _, _ = trajectory(make(name, bound.step_size, **more(bound)), rounds, seeds=SEEDS)
    errors = np.square(gradients(np.zeros(D))).sum(-1).mean()
    if name == "ef_bv":
        r, r_mean = OMEGA / (1 + OMEGA), OMEGA / (N + OMEGA)
        s = np.sqrt((1 + r) / (2 * r)) - 1
        first = gap(np.zeros(D)) + bound.step_size / (2 * s * (1 + s) * r / r_mean) * errors
    elif name == "dasha":
        first = gap(np.zeros(D)) + errors / PROBLEM.mu
    else:
        first = start(bound)
    mean = measure(xs).mean(0)
    t = np.arange(0, rounds + 1, 10)
    assert (mean[t] <= bound.rate**t * first).all()
    assert mean[-1] < 1e-3 * measure(np.zeros(D))


@pytest.mark.slow
def test_compressed_gradient_descent_stays_in_a_neighbourhood_that_shrinks_with_its_step():
    bound = theory.compressed_gd(L=PROBLEM.L, L_max=PROBLEM.L_max, mu=PROBLEM.mu, omega=OMEGA, n=N)
    noise = np.square(gradients(PROBLEM.optimum)).sum(-1).mean()

    def plateau(gamma):
        xs, _, _ = trajectory(make("compressed_gd", gamma), 200, seeds=SEEDS)
        return distance(xs)[:, 100:].mean()

    whole, half = plateau(bound.step_size), plateau(bound.step_size / 2)
    assert whole <= bound.noise * noise
    assert 0.35 < half / whole < 0.65
    assert half > 1e-2  # it does not converge, where DIANA does


@pytest.mark.slow
def test_marina_with_a_permutation_on_equal_hessians_is_gradient_descent():
    """Differences of gradients are then equal, and Perm-K is exact on equal messages."""
    same = np.broadcast_to(A.mean(0), A.shape).astype(np.float32)
    problem = PROBLEM.dataset.arrays | {"A": jnp.asarray(same)}
    dataset = data.from_clients(
        [{k: np.asarray(v[i : i + 1]) for k, v in problem.items()} for i in range(N)],
        weights=np.ones(N),
    )
    algorithm = algorithms.marina(
        PROBLEM.loss, aggregators.perm_k(N), p=0.05, learning_rate=0.05, batch_size=1
    )
    state, rows = algorithm.init(jnp.zeros(D)), algorithm.init_client(jnp.zeros(D))
    rows = jax.tree.map(lambda x: jnp.stack([x] * N), rows)
    step, x = jax.jit(algorithm.round), np.zeros(D)
    for t in range(30):
        state, rows, _ = step(jax.random.key(t), state, rows, dataset.cohort(jnp.arange(N)))
        x = x - 0.05 * (A.mean(0) @ x - B.mean(0))
        np.testing.assert_allclose(state.params, x, atol=2e-5)


@pytest.mark.slow
def test_marina_bills_whole_gradients_with_their_probability():
    algorithm = make("marina", 0.01, p=DELTA)
    _, rows, _ = trajectory(algorithm, 1)
    cohort = PROBLEM.dataset.cohort(jnp.arange(N))
    state = algorithm.init(jnp.zeros(D))
    rows = jax.tree.map(lambda x: x[0], rows)
    sent, step = [], jax.jit(algorithm.round)
    for t in range(60):
        state, rows, metrics = step(jax.random.key(t), state, rows, cohort)
        sent.append(int(metrics["uplink_bytes"]) // N)
    small, whole = K * 4 + 8, D * 4
    assert sent[0] == whole
    assert set(sent) == {small, whole}
    share = np.mean(np.array(sent[1:]) == whole)
    assert abs(share - DELTA) < 6 * np.sqrt(DELTA * (1 - DELTA) / 59)


# --------------------------------------------------------------------------- error feedback


@pytest.mark.slow
def test_the_virtual_iterate_of_error_feedback_is_gradient_descent():
    """x~ = x - gamma mean e_i moves by -gamma grad f(x), exactly, in every round."""
    gamma = 0.02
    xs, rows, _ = trajectory(make("ef14", gamma), 50)
    residual = -np.asarray(rows.uplink.residual, np.float64).mean(1)  # of gradients
    virtual = xs[1:] - gamma * residual
    moved = virtual[1:] - virtual[:-1]
    np.testing.assert_allclose(moved, -gamma * gradients(xs[1:-1]).mean(1), atol=3e-6)


@pytest.mark.slow
def test_error_feedback_stays_beside_the_optimum_and_ef21_does_not():
    """The distance of EF14 falls tenfold with the step; half of the clients a round make it worse."""

    def rests(gamma, rounds, present=None):
        xs, _, _ = trajectory(make("ef14", gamma), rounds, takes_part=present)
        return np.sqrt(distance(xs[-20:]).mean())

    far, near = rests(1 / (10 * PROBLEM.L), 400), rests(1 / (100 * PROBLEM.L), 4000)
    assert 7 < far / near < 13
    half = half_at_random(4000)
    assert rests(1 / (100 * PROBLEM.L), 4000, half) > 2 * near
    bound = theory.ef21(L=PROBLEM.L, L_tilde=L_TILDE, mu=PROBLEM.mu, delta=DELTA)
    partial, _, _ = trajectory(
        make("ef21", bound.step_size / 4, num_clients=N), 4000, takes_part=half
    )
    assert np.sqrt(distance(partial[-1])) < 1e-5


# ---------------------------------------------------------------------- both directions


@pytest.mark.slow
def test_double_squeeze_is_the_box_of_its_paper():
    """Top-k is deterministic: 30 rounds against NumPy, with residuals of clients and server."""
    gamma = 0.02
    algorithm = algorithms.double_squeeze(PROBLEM.loss, TOP, learning_rate=gamma, batch_size=1)

    def top(x):
        kept = np.argsort(-np.abs(x), axis=-1)[..., :K]
        out = np.zeros_like(x)
        np.put_along_axis(out, kept, np.take_along_axis(x, kept, -1), -1)
        return out

    xs, _, _ = trajectory(algorithm, 30)
    w, e, server = np.zeros(D), np.zeros((N, D)), np.zeros(D)
    for t in range(30):
        sent = top(gradients(w) + e)
        e = gradients(w) + e - sent
        wanted = server - gamma * sent.mean(0)  # what x is ahead of w
        np.testing.assert_allclose(xs[t + 1], w + wanted, atol=2e-4)
        moved = top(wanted)
        w, server = w + moved, wanted - moved
    assert algorithm.traffic(jnp.zeros(D)) == (K * (32 + 5) + 4, K * (32 + 5) + 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ef21-p", "mcm"])
def test_a_compressed_downlink_that_remembers_converges_too(name):
    """Both directions of 4 coordinates: 1e-8 of the first gap, where a plain one stays far off."""
    if name == "ef21-p":
        bound = theory.ef21(L=PROBLEM.L, L_tilde=L_TILDE, mu=PROBLEM.mu, delta=DELTA)
        gamma, more, link = bound.step_size / 2, {}, compressors.shifted(TOP)
        algorithm = make("ef21", gamma, num_clients=N, downlink=link)
        plain = make("ef21", gamma, num_clients=N, downlink=TOP)
    else:
        bound = theory.diana(L_max=PROBLEM.L_max, mu=PROBLEM.mu, omega=OMEGA, n=N)
        gamma, more = bound.step_size / 4, {"num_clients": N, "lam": bound.memory}
        algorithm = algorithms.mcm(PROBLEM.loss, RAND, learning_rate=gamma, batch_size=1, **more)
        plain = make("diana", gamma, downlink=RAND, **more)
    xs, _, _ = trajectory(algorithm, 1500)
    assert gap(xs[-1]) < 1e-8 * gap(xs[0])
    assert not gap(trajectory(plain, 1500)[0][-1]) < 1e-2 * gap(xs[0])


def test_receivers_begin_with_the_first_model_and_bytes_need_their_memory():
    start = jnp.linspace(-1.0, 1.0, D)
    algorithm = make("ef21", 0.01, num_clients=N, downlink=compressors.shifted(TOP))
    state = algorithm.init(start)
    np.testing.assert_array_equal(state.downlink.memory, start)
    codec = compressors.shifted(TOP)
    payload, _ = codec.encode(jax.random.key(0), start + 1.0, codec.init(start))
    assert wire.bits(payload) == K * (32 + 5) + 4
    received = wire.from_bytes(wire.to_bytes(payload), like=payload)
    with pytest.raises(ValueError, match="what the receiver remembers"):
        codec.decode(received)
    mine = dataclasses.replace(received, memory=wire.SideInformation(start))
    np.testing.assert_array_equal(codec.decode(mine), codec.decode(payload))


# ------------------------------------------------------------------------------ Scaffnew


@pytest.mark.ci
def test_scaffnew_obeys_its_theorem_and_its_controls_sum_to_zero():
    """(1 - zeta)^-t Psi_t is a supermartingale: at the end of 30 rounds, T steps, its mean over 40
    seeds is at most Psi_0; and clients that differ do not keep it from the optimum.
    """
    bound = theory.scaffnew(L_max=PROBLEM.L_max, mu=float(PROBLEM.mu_clients.min()))
    rounds, optimal = 30, gradients(PROBLEM.optimum)

    @jax.jit
    @jax.vmap
    def run(seed):
        algorithm = algorithms.scaffnew(
            PROBLEM.loss, p=bound.memory, learning_rate=bound.step_size, batch_size=1, seed=seed
        )
        state = algorithm.init(jnp.zeros(D))
        rows = jax.vmap(lambda _: algorithm.init_client(jnp.zeros(D)))(jnp.arange(N))
        cohort = PROBLEM.dataset.cohort(jnp.arange(N))

        def step(carry, t):
            state, rows, _ = algorithm.round(jax.random.key(0), *carry, cohort)
            return (state, rows), steps_of(seed, t, bound.memory)

        (state, rows), steps = jax.lax.scan(step, (state, rows), jnp.arange(rounds))
        return state.params, rows.client, steps.sum()

    x, control, steps = jax.tree.map(lambda a: np.asarray(a, np.float64), run(jnp.arange(40)))
    factor = (bound.step_size / bound.memory) ** 2
    psi = N * distance(x) + factor * np.square(control - optimal).sum((1, 2))
    first = N * distance(np.zeros(D)) + factor * np.square(optimal).sum()
    scaled = psi * bound.rate**-steps
    assert scaled.mean() <= first
    assert np.abs(control.sum(1)).max() < 1e-3
    assert abs(steps.mean() / rounds * bound.memory - 1) < 6 / np.sqrt(40 * rounds)
    assert distance(x).mean() < 1e-3 * distance(np.zeros(D))


@pytest.mark.slow
def test_scaffnew_that_always_averages_is_gradient_descent():
    algorithm = algorithms.scaffnew(PROBLEM.loss, p=1.0, learning_rate=0.05, batch_size=1)
    xs, _, _ = trajectory(algorithm, 20)
    x = np.zeros(D)
    for t in range(20):
        x = x - 0.05 * gradients(x).mean(0)
        np.testing.assert_allclose(xs[t + 1], x, atol=2e-5)


@pytest.mark.slow
def test_the_recipes_are_those_of_their_settings():
    """EF21 and DIANA are EF-BV at their lambda and nu: equal to the bit."""
    for name, lam, more in (("ef21", 1.0, {}), ("diana", 0.2, {"lam": 0.2})):
        codec = TOP if name == "ef21" else RAND
        direct = algorithms.ef_bv(
            PROBLEM.loss, codec, num_clients=N, learning_rate=0.01, batch_size=1, lam=lam, nu=1.0
        )
        one, _, _ = trajectory(make(name, 0.01, num_clients=N, **more), 10)
        other, _, _ = trajectory(direct, 10)
        np.testing.assert_array_equal(one, other)


def test_arguments():
    with pytest.raises(ValueError, match="lam"):
        rounds.difference(TOP, num_clients=3, lam=1.5)
    with pytest.raises(ValueError, match="nu"):
        rounds.difference(TOP, num_clients=3, nu=0.0)
    with pytest.raises(ValueError, match="num_clients"):
        rounds.difference(TOP, num_clients=0)
    with pytest.raises(TypeError, match="marina"):
        algorithms.marina(PROBLEM.loss, 3, p=0.5, learning_rate=0.1, batch_size=1)
    with pytest.raises(
        ValueError, match=r"needs messages side by side \(STACK\): pass one that sums"
    ):
        algorithms.marina(
            PROBLEM.loss, aggregators.median(), p=0.5, learning_rate=0.1, batch_size=1
        )
    with pytest.raises(ValueError, match="p must"):
        make("marina", 0.1, p=0.0)
    algorithm = algorithms.marina(
        PROBLEM.loss, compressors.error_feedback(TOP), p=0.5, learning_rate=0.1, batch_size=1
    )
    with pytest.raises(ValueError, match="codec without a state"):
        algorithm.init(jnp.zeros(D))
    with pytest.raises(ValueError, match="delta"):
        theory.ef21(L=1.0, L_tilde=1.0, mu=0.1, delta=0.0)


@pytest.mark.parametrize("name", ["compressed_gd", "diana", "ef_bv", "marina", "dasha", "artemis"])
def test_theory_is_of_whole_clients(name):
    constants = {
        "L": 1.0, "L_max": 1.0, "L_tilde": 1.0, "L_hat": 1.0, "mu": 0.1, "omega": 1.0, "p": 0.5,
        "server_omega": 1.0,
    }  # fmt: skip
    theorem = getattr(theory, name)
    known = {k: v for k, v in constants.items() if k in inspect.signature(theorem).parameters}
    with pytest.raises(ValueError, match="n must be at least 1"):
        theorem(**known, n=-1)
    with pytest.raises(TypeError, match="n must be an integer"):
        theorem(**known, n=1.5)


def test_theory_counts():
    with pytest.raises(TypeError, match="participants must be an integer"):
        theory.pp_marina(L=1.0, L_hat=1.0, mu=0.1, omega=1.0, participants=1.5, p=0.5)
    with pytest.raises(TypeError, match="steps must be an integer"):
        theory.fedlin(L_max=1.0, mu=0.1, steps=1.5)
    for name, constants in {
        "ef14": {"L": 1.0, "L_max": 1.0, "delta": 0.5},
        "diana": {"L_max": 1.0, "omega": 1.0, "n": 2},
        "fedcom": {"L": 1.0, "L_max": 1.0, "omega": 1.0, "n": 2, "steps": 2},
    }.items():
        with pytest.raises(ValueError, match="mu must be at most L"):
            getattr(theory, name)(mu=1.5, **constants)
