"""What is proved in ``fjx.theory``: EF14, DoubleSqueeze, EF21-SGDM, MCM, FedCOM and FedCOMGATE.

On n = 4 quadratics of d = 10, in float64.  Where the codec is deterministic the theorem holds in every
round from wherever it begins, and is tested from many states, some made to be hard on top-k.  Where it
is random the theorem is of a mean, here over 64 seeds.  Each method is one program.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import algorithms, compressors, data, theory

with jax.enable_x64(True):
    PROBLEM = data.quadratic_problem(jax.random.key(0), num_clients=4, dim=10)
A, B = (np.asarray(PROBLEM.dataset.arrays[name]) for name in ("A", "b"))
N, D = B.shape
OPTIMAL = np.einsum("nij,j->ni", A, PROBLEM.optimum) - B  # gradients at x*, per client
SIGMA2 = np.square(OPTIMAL).sum(1).mean()
CONVEX = {"L": PROBLEM.L, "L_max": PROBLEM.L_max, "mu": PROBLEM.mu}
PL = {"L": PROBLEM.L, "L_tilde": PROBLEM.L_tilde, "mu": PROBLEM.mu}
DELTA, SEEDS = 0.2, 64
TOP = compressors.top_k(DELTA)
THETA = 1 - np.sqrt(1 - DELTA)
BETA = (1 - DELTA) / THETA

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def gap(x):
    """f(x) - f* of each row."""
    y = x - PROBLEM.optimum
    return np.einsum("...i,ij,...j", y, A.mean(0), y) / 2


def gradients(x):
    """``[..., n, d]``: of each client, at each row."""
    return np.einsum("nij,...j->...ni", A, x) - B


def square(x):
    return np.square(x).sum(-1)


def distance(x):
    return square(x - PROBLEM.optimum)


def run(make, cases, rounds, *, watch=lambda state, rows: (), start=None):
    """Models ``f64[cases, rounds + 1, d]``, and what is watched after each round.

    ``make(case)`` is an algorithm, ``start(case, state, rows)`` how it begins.  A case has a ``seed``,
    and may have an ``x`` to begin at and clients' ``b`` of its own.
    """
    with jax.enable_x64(True):

        def trajectory(case):
            algorithm = make(case)
            first = case.get("x", jnp.zeros(D))
            cohort = PROBLEM.dataset.cohort(jnp.arange(N, dtype=jnp.int32))
            arrays = cohort.examples.arrays | {"b": case.get("b", jnp.asarray(B))}
            cohort = cohort._replace(examples=cohort.examples._replace(arrays=arrays))
            state = algorithm.init(first)
            rows = jax.vmap(lambda _: algorithm.init_client(first))(cohort.ids)
            if start is not None:
                state, rows = start(case, state, rows)

            def step(carry, t):
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), case["seed"]), t)
                state, rows, _ = algorithm.round(key, *carry, cohort)
                return (state, rows), (state.params, watch(state, rows))

            return first, jax.lax.scan(step, (state, rows), jnp.arange(rounds))[1]

        first, (xs, watched) = jit(jax.vmap(trajectory))(jax.tree.map(jnp.asarray, cases))
        first, xs, watched = jax.tree.map(np.asarray, (first, xs, watched))
    assert xs.dtype == np.float64
    return np.concatenate([first[:, None], xs], axis=1), watched


def before(first, after):
    """Of each round but the last, from what was watched after each."""
    return np.concatenate([first[:, None], after[:, :-1]], axis=1)


def hard_cases(gamma, count=48, seed=0):
    """States near and far, and memories small and large, half of them such that top-k sees equal
    coordinates.  Of these half are in the direction of the largest curvature of f and of all clients
    alike, with an x to which the optimum is opposite the virtual iterate.
    """
    rng = np.random.default_rng(seed)
    far, large = 10 ** rng.uniform(-2, 5, (2, count, 1, 1))
    kind = np.arange(count)[:, None, None] % 4
    steep = np.sign(np.linalg.eigh(A.mean(0))[1][:, -1])
    signs = np.where(kind == 0, steep, rng.choice([-1.0, 1.0], (count, 1, D)))
    equal = large * signs * (1 + 1e-6 * rng.standard_normal((count, N, D)))
    away = np.where(kind == 0, gamma / 2 * large * signs, far * rng.standard_normal((count, 1, D)))
    x = PROBLEM.optimum + away[:, 0]
    x[1], x[2] = 0.0, PROBLEM.optimum
    loose = large * rng.standard_normal((count, N, D))
    memory = np.where(kind % 2 == 0, equal - gradients(x), loose)
    memory[1:3] = 0.0  # as the recipe begins
    return {"x": x, "memory": memory, "seed": np.arange(count)}


def never_above(psi, bound):
    """Psi^+ <= rate Psi + (1 - rate) noise, to rounding, in every round of every case."""
    added = (1 - bound.rate) * bound.noise * SIGMA2
    assert (psi[:, 1:] <= (bound.rate * psi[:, :-1] + added) * (1 + 1e-9)).all()


# ------------------------------------------------------------------------------- contractive codecs


@pytest.mark.ci
def test_ef14_obeys_its_theorem_in_every_round_from_anywhere():
    bound = theory.ef14(**CONVEX, delta=DELTA)
    gamma = bound.step_size

    def start(case, state, rows):
        return state, rows._replace(uplink=rows.uplink._replace(residual=-case["memory"]))

    cases = hard_cases(gamma)
    xs, residual = run(
        lambda case: algorithms.ef14(PROBLEM.loss, TOP, learning_rate=gamma, batch_size=1),
        cases, 100, start=start, watch=lambda state, rows: rows.uplink.residual,
    )  # fmt: skip
    e = np.concatenate([cases["memory"][:, None], -residual], axis=1)
    a = 2 * gamma**3 * (4 * PROBLEM.L + PROBLEM.mu) / THETA
    psi = distance(xs - gamma * e.mean(2)) + a * square(e).mean(-1)
    never_above(psi, bound)


@pytest.mark.slow
def test_double_squeeze_obeys_its_theorem_in_every_round_from_anywhere():
    bound = theory.double_squeeze(**CONVEX, delta=DELTA)
    gamma = bound.step_size

    def start(case, state, rows):
        rows = rows._replace(uplink=rows.uplink._replace(residual=-case["memory"]))
        memory = case["x"] - case["behind"]
        return state._replace(downlink=state.downlink._replace(memory=memory)), rows

    cases = hard_cases(gamma)
    behind = np.random.default_rng(1).choice([-1.0, 1.0], (len(cases["x"]), D))
    behind *= 10 ** np.random.default_rng(2).uniform(-3, 1, (len(cases["x"]), 1))
    behind[1:3] = 0.0
    xs, (residual, w) = run(
        lambda case: algorithms.double_squeeze(PROBLEM.loss, TOP, learning_rate=gamma, batch_size=1),
        cases | {"behind": behind}, 100, start=start,
        watch=lambda state, rows: (rows.uplink.residual, state.downlink.memory),
    )  # fmt: skip
    e, x = before(cases["memory"], -residual), xs[:, :-1]
    spread = 4 * (2 - THETA) ** 2 * BETA / THETA
    errors = square(x - w) + gamma**2 * (1 + spread) * square(e).mean(-1)
    psi = distance(x - gamma * e.mean(2))
    psi += 4 * gamma * (4 * PROBLEM.L + PROBLEM.mu) / THETA * errors
    never_above(psi, bound)


@pytest.mark.ci
def test_ef21_sgdm_contracts_in_every_round_from_anywhere():
    eta = 0.3
    bound = theory.ef21_sgdm(**PL, delta=DELTA, eta=eta)
    gamma = bound.step_size

    def start(case, state, rows):
        h, v = -case["memory"], -case["average"]
        rows = rows._replace(
            client=rows.client._replace(average=v), uplink=rows.uplink._replace(memory=h)
        )
        return state._replace(aggregator=h.mean(0)), rows

    cases = hard_cases(gamma)
    average = np.random.default_rng(1).standard_normal(cases["memory"].shape)
    average[1:3] = 0.0
    xs, (h, v) = run(
        lambda case: algorithms.ef21_sgdm(
            PROBLEM.loss, TOP, num_clients=N, learning_rate=gamma, batch_size=1, eta=eta
        ),
        cases | {"average": average}, 100, start=start,
        watch=lambda state, rows: (-rows.uplink.memory, -rows.client.average),
    )  # fmt: skip
    x = xs[:, :-1]
    j = 4 * BETA * eta**2 / THETA
    psi = gap(x) + 2 * gamma / THETA * square(h - v).mean(-1)
    psi += 2 * gamma * (1 + j) / eta * square(v - gradients(x)).mean(-1)
    never_above(psi, bound)


# ---------------------------------------------------------------------------------- unbiased codecs


def below_in_the_mean(psi, bound, noise=SIGMA2):
    """Over the seeds: at most rate^t Psi_0 + (1 - rate^t) noise, soon and at every tenth round."""
    t = np.array([1, 2, 5, *range(10, psi.shape[-1], 10)])
    limit = bound.rate**t * psi.mean(0)[0] + (1 - bound.rate**t) * bound.noise * noise
    assert (psi.mean(0)[t] <= limit * (1 + 1e-9)).all()


def seeds_of(**each):
    """Cases of each value, as many as there are seeds."""
    cases = {name: np.repeat(np.array(value), SEEDS, axis=0) for name, value in each.items()}
    return cases | {"seed": np.arange(len(next(iter(cases.values()))))}


@pytest.mark.slow
def test_mcm_obeys_its_theorem():
    """From afar, and from the optimum, which its clients know nothing of."""
    omega = 1.0
    bound = theory.mcm(**CONVEX, omega=omega, n=N)
    gamma, a = bound.step_size, bound.memory
    xs, (h, memory) = run(
        lambda case: algorithms.mcm(
            PROBLEM.loss, compressors.rand_k(1 / (1 + omega)), num_clients=N,
            learning_rate=gamma, batch_size=1, lam=a,
        ),
        seeds_of(x=[np.zeros(D), PROBLEM.optimum]), 61,
        watch=lambda state, rows: (-rows.uplink.memory, state.downlink.memory),
    )  # fmt: skip
    x = xs[:, :-1]
    behind = square(x - before(x[:, 0], memory))
    spread = square(before(np.zeros((len(x), N, D)), h) - OPTIMAL).mean(-1)
    k = 16 * PROBLEM.L * omega / a**2
    psi = distance(x) + 8 * gamma * PROBLEM.L * omega / a * behind
    psi += 4 * gamma**2 * (1 + gamma * k) * omega / (a * N) * spread
    for part in np.split(psi, 2):
        below_in_the_mean(part, bound)


TAU = 4


@pytest.mark.slow
def test_fedcom_obeys_its_theorem():
    """From afar and from the optimum to a neighbourhood, and to an optimum that clients share."""
    omega, server_lrs = 1.0, (0.5, 3.0, 3.0)
    bounds = [theory.fedcom(**CONVEX, omega=omega, n=N, steps=TAU, server_lr=s) for s in server_lrs]
    shared = np.einsum("nij,j->ni", A, PROBLEM.optimum)
    xs, _ = run(
        lambda case: algorithms.fedcom(
            PROBLEM.loss, compressors.rand_k(1 / (1 + omega)), client_lr=case["eta"], steps=TAU,
            batch_size=1, server_lr=case["server_lr"],
        ),
        seeds_of(
            eta=[b.step_size for b in bounds], server_lr=server_lrs, b=[B, B, shared],
            x=[np.zeros(D), PROBLEM.optimum, np.zeros(D)],
        ), 61,
    )  # fmt: skip
    for bound, far, noise in zip(
        bounds, np.split(distance(xs), 3), (SIGMA2, SIGMA2, 0.0), strict=True
    ):
        below_in_the_mean(far, bound, noise)


@pytest.mark.slow
def test_fedcomgate_obeys_its_theorem():
    """From afar, and from the optimum without its corrections."""
    omega, server_lrs = 0.25, (0.5, 3.0)
    bounds = [
        theory.fedcomgate(**CONVEX, omega=omega, n=N, steps=TAU, server_lr=s) for s in server_lrs
    ]
    xs, delta = run(
        lambda case: algorithms.fedcomgate(
            PROBLEM.loss, compressors.rand_k(1 / (1 + omega)), client_lr=case["eta"], steps=TAU,
            batch_size=1, server_lr=case["server_lr"],
        ),
        seeds_of(
            eta=[b.step_size for b in bounds], server_lr=server_lrs, x=[np.zeros(D), PROBLEM.optimum]
        ), 61, watch=lambda state, rows: rows.client,
    )  # fmt: skip
    x = xs[:, :-1]
    spread = square(before(np.zeros((len(x), N, D)), delta) - OPTIMAL).mean(-1)
    eps = 1 - omega
    shrinks = 1 - (omega + eps / 6) * (1 + eps / 2)
    for bound, s, far, other in zip(
        bounds, server_lrs, np.split(distance(x), 2), np.split(spread, 2), strict=True
    ):
        eta = bound.step_size
        u = eta * PROBLEM.L_max * (TAU - 1) / 2
        q = (eta * PROBLEM.L_max) ** 2 * (TAU - 1) * (2 * TAU - 1) / 6
        v = u * (1 + u) + omega / N
        weight = 4 * s * eta * TAU / shrinks * (q / PROBLEM.L_max + max(s, 1) * eta * TAU * v)
        below_in_the_mean(far + weight * other, bound)
