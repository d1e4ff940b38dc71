"""What theory says of compressed methods, in float64: to rounding, and far below float32's floor.

The problem is that of ``test_compressed``: n = 10 clients, d = 20, quadratics with eigenvalues in
[1, 10], and codecs of 4 coordinates, omega = 4, delta = 1/5.  Each method is run once, as one program,
with the step size that its theorem allows; its tests share the run.  x64 is on inside of ``run`` alone.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import aggregators, algorithms, clients, compressors, data, theory
from fjx.algorithms._corrected.scaffnew import steps_of

with jax.enable_x64(True):
    PROBLEM = data.quadratic_problem(jax.random.key(0))
A, B = (np.asarray(PROBLEM.dataset.arrays[name]) for name in ("A", "b"))
N, D = B.shape
K, SEEDS = 4, 20
OMEGA, DELTA = D / K - 1, K / D
TOP, RAND = compressors.top_k(DELTA), compressors.rand_k(DELTA)
OPTIMAL = np.einsum("nij,j->ni", A, PROBLEM.optimum) - B  # gradients at x*, per client
SIGMA2 = np.square(OPTIMAL).sum(1).mean()

EF21 = theory.ef21(L=PROBLEM.L, L_tilde=PROBLEM.L_tilde, mu=PROBLEM.mu, delta=DELTA)
DIANA = theory.diana(L_max=PROBLEM.L_max, mu=PROBLEM.mu, omega=OMEGA, n=N)
EF_BV = theory.ef_bv(L=PROBLEM.L, L_tilde=PROBLEM.L_tilde, mu=PROBLEM.mu, omega=OMEGA, n=N)
MARINA = theory.marina(L=PROBLEM.L, L_hat=PROBLEM.L_hat, mu=PROBLEM.mu, omega=OMEGA, n=N, p=DELTA)
DASHA = theory.dasha(L=PROBLEM.L, L_hat=PROBLEM.L_hat, mu=PROBLEM.mu, omega=OMEGA, n=N)
DCGD = theory.compressed_gd(L=PROBLEM.L, L_max=PROBLEM.L_max, mu=PROBLEM.mu, omega=OMEGA, n=N)
SCAFFNEW = theory.scaffnew(L_max=PROBLEM.L_max, mu=float(PROBLEM.mu_clients.min()))


def gap(x):
    """f(x) - f* of each row, without cancellation: half the squared distance in the norm of f."""
    y = x - PROBLEM.optimum
    return np.einsum("...i,ij,...j", y, A.mean(0), y) / 2


def distance(x):
    return np.square(x - PROBLEM.optimum).sum(-1)


def gradients(x):
    """``[..., n, d]``: of each client, at each row."""
    return np.einsum("nij,...j->...ni", A, x) - B


def run(make, rounds, *, watch=None, present=None, seeds=None, dataset=PROBLEM.dataset):
    """``(xs, watched)`` with ``xs`` of ``f64[rounds + 1, d]``, or ``[seeds, ...]``.

    ``make(seed)`` is an algorithm, ``watch(state, rows)`` what is kept of each round, and ``present``
    a ``bool[rounds, n]``.
    """
    with jax.enable_x64(True):
        weights = jnp.ones((rounds, N), jnp.float32)
        weights = weights if present is None else jnp.asarray(present, jnp.float32)
        cohort = dataset.cohort(jnp.arange(N, dtype=jnp.int32))

        def trajectory(seed):
            algorithm = make(seed)
            state = algorithm.init(jnp.zeros(D))
            rows = jax.vmap(lambda _: algorithm.init_client(jnp.zeros(D)))(cohort.ids)

            def step(carry, inputs):
                t, weights = inputs
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), seed), t)
                state, rows, _ = algorithm.round(key, *carry, cohort._replace(weights=weights))
                return (state, rows), (state.params, watch and watch(state, rows))

            return jax.lax.scan(step, (state, rows), (jnp.arange(rounds), weights))[1]

        over = trajectory if seeds is None else jax.vmap(trajectory)
        xs, watched = jax.jit(over)(0 if seeds is None else jnp.arange(seeds))
        xs, watched = jax.tree.map(np.asarray, (xs, watched))
    assert xs.dtype == np.float64
    return np.concatenate([np.zeros((*xs.shape[:-2], 1, D)), xs], axis=-2), watched


def recipe(name, codec=None, **more):
    """The algorithm of a name on the problem, as a function of the seed that ignores it."""
    arguments = () if codec is None else (codec,)
    return lambda seed: getattr(algorithms, name)(PROBLEM.loss, *arguments, batch_size=1, **more)


def half(rounds, seed=0):
    return np.random.default_rng(seed).random((rounds, N)) < 0.5


def uplink(state, rows):
    return rows.uplink


# ------------------------------------------------------------------------------- biased codecs


@functools.cache
def ef21():
    return run(recipe("ef21", TOP, num_clients=N, learning_rate=EF21.step_size), 1500, watch=uplink)


@pytest.mark.slow
def test_ef21_contracts_in_every_round_down_to_rounding():
    """Psi = f - f* + (gamma / theta) mean ||h_i - grad f_i||^2 by 1 - gamma mu, surely."""
    xs, row = ef21()
    theta = 1 - np.sqrt(1 - DELTA)
    error = np.square(-row.memory - gradients(xs[:-1])).sum(-1).mean(-1)
    psi = gap(xs[:-1]) + EF21.step_size / theta * error
    above = psi[:-1] > 1e-24 * psi[0]
    assert above.sum() > 900
    assert np.max((psi[1:] / psi[:-1])[above]) <= EF21.rate
    assert np.sqrt(distance(xs[-1])) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["partial", pytest.param("downlink", marks=pytest.mark.slow)])
def test_ef21_converges_with_half_of_the_clients_and_with_a_compressed_downlink(name):
    """EF21-PP and EF21-P, to 1e-12, with smaller steps."""
    rounds = 5000
    if name == "partial":
        make, present = {"learning_rate": EF21.step_size / 4}, half(rounds)
    else:
        make, present = (
            {"learning_rate": EF21.step_size / 2, "downlink": compressors.shifted(TOP)},
            None,
        )
    xs, _ = run(recipe("ef21", TOP, num_clients=N, **make), rounds, present=present)
    assert np.sqrt(distance(xs[-1])) < 1e-12


def ef14(gamma, rounds, present=None):
    return run(recipe("ef14", TOP, learning_rate=gamma), rounds, watch=uplink, present=present)


@functools.cache
def ef14_far():
    return ef14(1 / (10 * PROBLEM.L), 400)


@pytest.mark.slow
def test_the_virtual_iterate_of_error_feedback_is_gradient_descent_to_rounding():
    """x~ = x - gamma mean e_i moves by -gamma grad f(x)."""
    gamma = 1 / (10 * PROBLEM.L)
    xs, row = ef14_far()
    virtual = xs[1:] + gamma * row.residual.mean(1)
    moved = virtual[1:] - virtual[:-1]
    np.testing.assert_allclose(moved, -gamma * gradients(xs[1:-1]).mean(1), atol=1e-14)


@pytest.mark.slow
def test_error_feedback_rests_at_a_distance_of_its_step_and_of_who_is_missing():
    """A tenth of the step, 8 to 10 times nearer; with half of the clients a round, far off."""

    def rests(xs):
        return np.sqrt(distance(xs[-20:]).mean())

    far, near = rests(ef14_far()[0]), rests(ef14(1 / (100 * PROBLEM.L), 4000)[0])
    missing = rests(ef14(1 / (100 * PROBLEM.L), 4000, half(4000))[0])
    assert 8 < far / near < 11
    assert missing > 5 * near


@pytest.mark.slow
def test_double_squeeze_with_both_residuals_is_gradient_descent_to_rounding():
    """X - gamma mean e_i moves by -gamma grad f(w), w what clients have: the server's x less its own."""
    gamma = 0.02
    xs, (row, w) = run(
        recipe("double_squeeze", TOP, learning_rate=gamma), 50,
        watch=lambda state, rows: (rows.uplink, state.downlink.memory),
    )  # fmt: skip
    virtual = xs[1:] + gamma * row.residual.mean(1)
    # In round t the broadcast is w_t, which is what the downlink remembers after it.
    moved = virtual[1:] - virtual[:-1]
    np.testing.assert_allclose(moved, -gamma * gradients(w[1:]).mean(1), atol=1e-14)


ZETA = 10.0
CLAG = theory.clag(L=PROBLEM.L, L_tilde=PROBLEM.L_tilde, mu=PROBLEM.mu, delta=DELTA, zeta=ZETA)


def clag_box(gamma, zeta, rounds):
    """CLAG with top-k, as its paper has it: the models, and who sent in each round."""
    x, h, last, xs, who = np.zeros(D), np.zeros((N, D)), np.zeros((N, D)), [np.zeros(D)], []
    for t in range(rounds):
        now = gradients(x)
        change = now - h
        sends = ((change**2).sum(1) > zeta * ((now - last) ** 2).sum(1)) | (t == 0)
        kept = np.argsort(-np.abs(change), axis=1)[:, :K]
        m = np.zeros((N, D))
        np.put_along_axis(m, kept, np.take_along_axis(change, kept, 1), 1)
        h, last = h + m * sends[:, None], now
        x = x - gamma * h.mean(0)
        xs.append(x)
        who.append(sends)
    return np.array(xs), np.array(who)


@pytest.mark.ci
def test_clag_is_the_box_of_its_paper_and_contracts_in_every_round():
    """Psi of EF21 by 1 - gamma mu, surely, with many clients silent; with zeta = 0 it is EF21.

    The first gradient is sent, though it is as far from the memory as from the one before: both zero.
    """

    def make(seed):
        lazy = seed > 0
        return recipe(
            "clag", TOP, num_clients=N, zeta=jnp.where(lazy, ZETA, 0.0),
            learning_rate=jnp.where(lazy, CLAG.step_size, EF21.step_size),
        )(seed)  # fmt: skip

    (plain, xs), row = run(make, 1500, seeds=2, watch=uplink)
    np.testing.assert_allclose(plain[:300], ef21()[0][:300], atol=1e-12)
    box, sends = clag_box(CLAG.step_size, ZETA, 300)
    np.testing.assert_allclose(xs[:301], box, atol=1e-12)
    assert 0.2 < sends.mean() < 0.8
    assert np.abs(xs[1]).max() > 0
    error = np.square(-row.memory[1] - gradients(xs[:-1])).sum(-1).mean(-1)
    psi = gap(xs[:-1]) + CLAG.step_size / (1 - np.sqrt(1 - DELTA)) * error
    above = psi[:-1] > 1e-24 * psi[0]
    assert np.max((psi[1:] / psi[:-1])[above]) <= CLAG.rate
    assert np.sqrt(distance(xs[-1])) < 1e-9


# ----------------------------------------------------------------------------- unbiased codecs


RUNS = {
    "diana": (
        recipe("diana", RAND, num_clients=N, learning_rate=DIANA.step_size, lam=DIANA.memory),
        DIANA, 300,
    ),
    "ef_bv": (
        recipe("ef_bv", RAND, num_clients=N, learning_rate=EF_BV.step_size, lam=EF_BV.memory,
               nu=N / (N + OMEGA)),
        EF_BV, 500,
    ),
    "marina": (recipe("marina", RAND, learning_rate=MARINA.step_size, p=DELTA), MARINA, 100),
    "dasha": (
        recipe("dasha", RAND, num_clients=N, learning_rate=DASHA.step_size, momentum=DASHA.memory),
        DASHA, 400,
    ),
}  # fmt: skip


@functools.cache
def over_seeds(name):
    make, _, rounds = RUNS[name]
    return run(make, rounds, seeds=SEEDS, watch=None if name == "marina" else uplink)


def lyapunov(name, xs, row):
    """The function that the theorem bounds, of every round but the last: ``[seeds, rounds]``."""
    x, now = xs[:, :-1], gradients(xs[:, :-1])
    if name == "marina":
        return gap(x)
    if name == "diana":
        # Memories before the round of x: zero at first.
        memory = np.concatenate([np.zeros((SEEDS, 1, N, D)), -row.memory[:, :-1]], axis=1)
        weight = 4 * OMEGA * DIANA.step_size**2 / (DIANA.memory * N)
        return distance(x) + weight * N * np.square(memory - OPTIMAL).sum(-1).mean(-1)
    if name == "ef_bv":
        lam, nu = EF_BV.memory, N / (N + OMEGA)
        r, r_mean = 1 - lam, 1 - nu
        s = np.sqrt((1 + r) / (2 * r)) - 1
        weight = EF_BV.step_size / (2 * s * (1 + s) * r / r_mean)
        memory = np.concatenate([np.zeros((SEEDS, 1, N, D)), -row.memory[:, :-1]], axis=1)
        return gap(x) + weight * np.square(memory - now).sum(-1).mean(-1)
    # DASHA: multiples of gamma (2 omega + 1), at most 1 / (4 mu), of how far off the estimates are.
    estimate = np.concatenate([np.zeros((SEEDS, 1, N, D)), -row.estimate[:, :-1]], axis=1)
    last = np.concatenate([np.zeros((SEEDS, 1, N, D)), -row.last[:, :-1]], axis=1)
    first = np.square(estimate - last).sum(-1).mean(-1) + np.square(last - now).sum(-1).mean(-1)
    return gap(x) + first / PROBLEM.mu


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [m if m == "marina" else pytest.param(m, marks=pytest.mark.slow) for m in RUNS]
)
def test_means_over_seeds_obey_the_theorem_to_the_end(name):
    """20 seeds: E V_t <= rate^t V_0 at every tenth round, and most of the way to rounding."""
    _, bound, rounds = RUNS[name]
    xs, row = over_seeds(name)
    values = lyapunov(name, xs, row).mean(0)
    t = np.arange(0, rounds, 10)
    assert (values[t] <= bound.rate**t * values[0]).all()
    assert (
        values[-1]
        < {"diana": 1e-15, "ef_bv": 1e-12, "marina": 1e-8, "dasha": 1e-9}[name] * (values[0])
    )


@pytest.mark.slow
def test_marina_needs_fewer_bits_than_diana_where_omega_is_small_and_more_where_it_is_large():
    """To 1e-9 of the first gap, in the mean over seeds, by theory's steps: omega = 1/4, and 4."""

    def bits(xs, each):
        return each * np.argmax(gap(xs).mean(0) < 1e-9 * gap(np.zeros(D)))

    def spent(kept, diana, marina):
        small = 32 * kept + 64
        whole = (kept * 32 * D + (D - kept) * small) / D  # with probability p = k / d
        return bits(diana, small), bits(marina, whole)

    omega, most = 1 / 4, compressors.rand_k(16 / D)
    near = theory.diana(L_max=PROBLEM.L_max, mu=PROBLEM.mu, omega=omega, n=N)
    step = theory.marina(
        L=PROBLEM.L, L_hat=PROBLEM.L_hat, mu=PROBLEM.mu, omega=omega, n=N, p=16 / D
    ).step_size
    diana, _ = run(
        recipe("diana", most, num_clients=N, learning_rate=near.step_size, lam=near.memory),
        80, seeds=SEEDS,
    )  # fmt: skip
    marina, _ = run(recipe("marina", most, learning_rate=step, p=16 / D), 80, seeds=SEEDS)
    by_diana, by_marina = spent(16, diana, marina)
    assert 0 < by_marina < 0.8 * by_diana
    by_diana, by_marina = spent(K, over_seeds("diana")[0], over_seeds("marina")[0])
    assert 0 < by_diana < 0.9 * by_marina


@pytest.mark.slow
def test_mcm_converges_with_both_directions_compressed():
    make = recipe("mcm", RAND, num_clients=N, learning_rate=DIANA.step_size / 4, lam=DIANA.memory)
    xs, _ = run(make, 2500)
    assert np.sqrt(distance(xs[-1])) < 1e-12


@pytest.mark.slow
def test_the_plateau_of_compressed_gradients_halves_with_the_step():
    """And lies below 2 gamma omega sigma*^2 / (mu n); it is no plateau of rounding."""

    def make(seed):  # half of the seeds have half of the step
        gamma = jnp.where(seed < SEEDS, DCGD.step_size, DCGD.step_size / 2)
        return recipe("compressed_gd", RAND, learning_rate=gamma)(seed)

    xs, _ = run(make, 300, seeds=2 * SEEDS)
    whole, other = (distance(part)[:, 150:].mean() for part in np.split(xs, 2))
    assert whole < DCGD.noise * SIGMA2
    assert 0.35 < other / whole < 0.65
    assert other > 1e-2


@pytest.mark.slow
def test_marina_with_a_permutation_on_equal_hessians_is_gradient_descent_to_rounding():
    same = dataclasses.replace(
        PROBLEM.dataset,
        arrays={
            "A": np.broadcast_to(A.mean(0), A.shape).copy(),
            "b": B,
        },
    )
    make = recipe("marina", aggregators.perm_k(N), p=0.05, learning_rate=0.05)
    xs, _ = run(make, 100, dataset=same)
    x = np.zeros(D)
    for t in range(100):
        x = x - 0.05 * (A.mean(0) @ x - B.mean(0))
        np.testing.assert_allclose(xs[t + 1], x, atol=1e-13)


# ------------------------------------------------------------------------------- local training


@pytest.mark.slow
def test_scaffnew_obeys_its_theorem_and_its_controls_sum_to_zero_to_rounding():
    """(1 - zeta)^-T Psi_T is a supermartingale, T the steps of 60 rounds: its mean is at most Psi_0."""
    gamma, p = SCAFFNEW.step_size, SCAFFNEW.memory

    def make(seed):
        return algorithms.scaffnew(PROBLEM.loss, p=p, learning_rate=gamma, batch_size=1, seed=seed)

    xs, control = run(make, 60, seeds=SEEDS, watch=lambda state, rows: rows.client)
    with jax.enable_x64(True):
        steps = jax.vmap(
            lambda seed: jnp.sum(
                jax.vmap(lambda t: steps_of(seed, t, p))(jnp.arange(60, dtype=jnp.int32))
            )
        )
        steps = np.asarray(steps(jnp.arange(SEEDS)))  # fmt: skip
    x, factor = xs[:, -1], (gamma / p) ** 2
    psi = N * distance(x) + factor * np.square(control[:, -1] - OPTIMAL).sum((1, 2))
    first = N * distance(np.zeros(D)) + factor * np.square(OPTIMAL).sum()
    assert (psi * SCAFFNEW.rate ** -steps.astype(float)).mean() <= first
    assert np.abs(control.sum(2)).max() < 1e-11
    assert distance(x).mean() < 1e-9 * distance(np.zeros(D))


@pytest.mark.slow
def test_fedavg_comes_to_rest_at_its_fixed_point_and_not_at_the_optimum():
    """Sum (I - (I - eta A_i)^5) (x - A_i^-1 b_i) = 0."""
    eta = 1 / (10 * PROBLEM.L_max)
    local = fjx.compose(
        client=clients.local_sgd(PROBLEM.loss, optax.sgd(eta), steps=5, batch_size=1),
    )
    xs, _ = run(lambda seed: local, 1200)
    point = data.local_gd_fixed_point(PROBLEM, step_size=eta, local_steps=5)
    np.testing.assert_allclose(xs[-1], point, atol=1e-12)
    assert np.sqrt(distance(point)) > 1e-2
