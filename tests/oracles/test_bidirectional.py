"""Both directions compressed, steps of two rounds, and some clients only: boxes, rates, invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import aggregators, algorithms, clients, compressors, rounds, theory, wire
from fjx._kernels.permutation import permute
from fjx.algorithms._compressed.marina import _drawn
from tests.support import quadratics as q

PROBLEM, N, D, K = q.PROBLEM, q.N, q.D, q.K
EF21 = theory.ef21(L=PROBLEM.L, L_tilde=PROBLEM.L_tilde, mu=PROBLEM.mu, delta=q.DELTA)
ARTEMIS = theory.artemis(
    L_max=PROBLEM.L_max, mu=PROBLEM.mu, omega=q.OMEGA, server_omega=q.OMEGA, n=N
)


def ef21_bc(gamma, **more):
    return algorithms.ef21_bc(
        PROBLEM.loss, q.TOP, num_clients=N, learning_rate=gamma, batch_size=1, **more
    )


def artemis(gamma, lam, **more):
    return algorithms.artemis(
        PROBLEM.loss, q.RAND, num_clients=N, learning_rate=gamma, batch_size=1, lam=lam, **more
    )


# ------------------------------------------------------------------------------ replicated


@pytest.mark.ci
@pytest.mark.parametrize("share", [pytest.param(1.0, marks=pytest.mark.slow), 0.5])
def test_ef21_bc_is_the_box_of_its_paper(share):
    """Top-k is deterministic: 40 rounds against NumPy, of all clients and of random halves."""
    present = q.some(40, share) if share < 1 else np.ones((40, N), bool)
    states, rows, _ = q.trajectory(ef21_bc(0.01), 40, present=present)
    xs = q.models_of(states)
    x, h, g = np.zeros(D), np.zeros((N, D)), np.zeros(D)
    for t in range(40):
        h[present[t]] += q.top(q.gradients(x) - h)[present[t]]
        g = g + q.top(h.mean(0) - g)
        x = x - 0.01 * g
        np.testing.assert_allclose(xs[t + 1], x, atol=2e-4)
    np.testing.assert_allclose(-np.asarray(rows.uplink.memory[-1]), h, atol=2e-3)
    np.testing.assert_allclose(-np.asarray(states.aggregator.inner[-1]), h.mean(0), atol=2e-3)
    np.testing.assert_allclose(-np.asarray(states.aggregator.codec.memory[-1]), g, atol=2e-3)


@pytest.mark.slow
def test_ef21_bc_contracts_in_every_round_and_converges():
    """Psi shrinks by 1 - gamma mu, surely; and at a third of EF21's step it reaches the optimum."""
    bound = theory.ef21_bc(
        L=PROBLEM.L, L_tilde=PROBLEM.L_tilde, mu=PROBLEM.mu, delta=q.DELTA, server_delta=q.DELTA
    )
    gamma = bound.step_size
    states, rows, _ = q.trajectory(ef21_bc(gamma), 400)
    h, g = -q.float64(rows.uplink.memory), -q.float64(states.aggregator.codec.memory)
    x = q.models_of(states)[:-1]  # h_i after the round of x is compared with the gradient at x
    theta = 1 - np.sqrt(1 - q.DELTA)
    spread = 4 * (2 - theta) ** 2 * (1 - q.DELTA) / theta**2
    b, a = 2 * gamma / theta, 2 * gamma / theta * (1 + spread)
    psi = q.gap(x) + a * np.square(h - q.gradients(x)).sum(-1).mean(-1)
    psi += b * np.square(g - h.mean(1)).sum(-1)
    assert np.max(psi[1:] / psi[:-1]) <= bound.rate
    far = q.models_of(q.trajectory(ef21_bc(EF21.step_size / 3), 1500)[0])
    assert q.gap(far[-1]) < 1e-9 * q.gap(far[0])


@pytest.mark.slow
def test_ef21_bc_with_an_exact_server_is_ef21():
    """To rounding: the aggregate is cut into the memory and the change to it."""
    plain = algorithms.ef21(PROBLEM.loss, q.TOP, num_clients=N, learning_rate=0.01, batch_size=1)
    one, _, _ = q.trajectory(plain, 30)
    other, _, _ = q.trajectory(ef21_bc(0.01, server_codec=compressors.identity()), 30)
    np.testing.assert_allclose(one.params, other.params, atol=1e-5)


@pytest.mark.slow
def test_artemis_obeys_its_theorem_and_needs_its_memory():
    """20 seeds: E V is below rate^t V_0; without the memory it comes to rest far from the optimum."""
    gamma, a = ARTEMIS.step_size, ARTEMIS.memory
    states, rows, _ = q.trajectory(artemis(gamma, a), 800, seeds=20)
    xs, h = q.models_of(states)[:, 1:], -q.float64(rows.uplink.memory)
    weight = 4 * q.OMEGA * (1 + q.OMEGA) * gamma**2 / (a * N)
    optimal = q.gradients(PROBLEM.optimum)
    value = q.distance(xs) + weight * np.square(h - optimal).sum(-1).mean(-1)
    first = q.distance(np.zeros(D)) + weight * np.square(optimal).sum(-1).mean()
    t = np.arange(1, 801)
    assert (value.mean(0) <= ARTEMIS.rate**t * first)[::20].all()
    assert q.distance(xs[:, -1]).mean() < 1e-4 * q.distance(np.zeros(D))
    none = q.models_of(q.trajectory(artemis(gamma, 0.0), 800, seeds=20)[0])
    assert q.distance(none[:, -200:]).mean() > 1e-2 * q.distance(np.zeros(D))


@pytest.mark.slow
def test_artemis_reaches_the_optimum():
    """In 800 rounds at twice the step that is proved, both directions at a fifth of the coordinates."""
    states, _, _ = q.trajectory(artemis(2 * ARTEMIS.step_size, ARTEMIS.memory), 800)
    assert q.distance(q.models_of(states)[-1]) < 1e-9 * q.distance(np.zeros(D))


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("ef21_bc", marks=pytest.mark.slow), "artemis"])
def test_replicas_hear_the_payload_and_follow(name):
    """What is decoded of the downlink, from the state before and the payload's bytes, is the model."""
    algorithm = ef21_bc(0.01) if name == "ef21_bc" else artemis(0.01, 0.2)
    bits = q.TOP_BITS if name == "ef21_bc" else K * 32 + 64
    assert algorithm.traffic(jnp.zeros(D)) == (bits, bits)
    down = rounds.replicated(
        compressors.shifted(q.TOP) if name == "ef21_bc" else q.RAND,
        aggregator=aggregators.mean(), server=optax.sgd(0.01),
    )["downlink"]  # fmt: skip
    states, _, _ = q.trajectory(algorithm, 5)
    for t in range(5):
        server = jax.tree.map(lambda x, t=t: x[t], states.server)
        sent, _ = down.encode(jax.random.key(0), server, ())
        assert wire.bits(sent) == bits
        np.testing.assert_allclose(down.decode(sent), server.params, atol=1e-6)
        assert not np.allclose(server.before.params, server.params)


def test_a_replica_needs_a_template():
    slots = rounds.replicated(
        q.TOP, aggregator=aggregators.mean(), server=optax.sgd(1.0),
        message=lambda params: {"other": params},
    )  # fmt: skip
    client = clients.gradient(PROBLEM.loss, batch_size=1)
    with pytest.raises(ValueError, match="must have the structure"):
        q.trajectory(fjx.compose(client=client, **slots), 1)


@pytest.mark.slow
def test_dropped_clients_change_no_memory():
    """Of EF21-BC the server's memory is the mean of the clients', whoever comes; absentees rest."""
    present = q.some(60)
    states, rows, _ = q.trajectory(ef21_bc(0.003), 60, present=present)
    memory = np.asarray(rows.uplink.memory)
    scale = np.abs(memory).max()
    np.testing.assert_allclose(memory.mean(1), states.aggregator.inner, atol=2e-6 * scale)
    for t in range(1, 60):
        np.testing.assert_array_equal(memory[t][~present[t]], memory[t - 1][~present[t]])


@pytest.mark.slow
def test_partial_cohorts_and_compressed_models_compose():
    """EF21-PP with EF21-BC, and with EF21-P: both converge on half of the clients a round."""
    present = q.some(4000)
    both = ef21_bc(EF21.step_size / 5)
    primal = algorithms.ef21(
        PROBLEM.loss, q.TOP, num_clients=N, learning_rate=EF21.step_size / 5, batch_size=1,
        downlink=compressors.shifted(q.TOP),
    )  # fmt: skip
    for algorithm in (both, primal):
        xs = q.models_of(q.trajectory(algorithm, 4000, present=present)[0])
        assert q.gap(xs[-1]) < 1e-8 * q.gap(xs[0])


# ------------------------------------------------------------------------------ two phases


def fedlin(eta, steps, **more):
    return algorithms.fedlin(PROBLEM.loss, learning_rate=eta, steps=steps, batch_size=1, **more)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 10])
def test_fedlin_contracts_in_every_step(steps):
    """The gap shrinks by 1 - 3 mu / (4 L_max) in each pair of rounds, surely, to float32's floor."""
    bound = theory.fedlin(L_max=PROBLEM.L_max, mu=PROBLEM.mu, steps=steps)
    states, _, _ = q.trajectory(fedlin(bound.step_size, steps), 80)
    gaps = q.gap(q.models_of(states)[::2])
    above = gaps[1:] > 1e-5
    assert above.sum() > 5
    assert (gaps[1:] <= bound.rate * gaps[:-1])[above].all()
    assert q.distance(q.models_of(states)[-1]) < 1e-10 * q.distance(np.zeros(D))


@pytest.mark.ci
@pytest.mark.parametrize("compressed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_fedlin_is_the_box_of_its_paper(compressed):
    """Five local steps, 12 steps of the method against NumPy, gradients with error feedback or whole."""
    uplink = compressors.error_feedback(q.TOP) if compressed else None
    states, _, _ = q.trajectory(fedlin(0.01, 5, uplink=uplink), 24)
    xs = q.models_of(states)
    x, e = np.zeros(D), np.zeros((N, D))
    for t in range(12):
        at_x = q.gradients(x)
        sent = q.top(at_x + e) if compressed else at_x
        e = at_x + e - sent
        y = np.tile(x, (N, 1))
        for _ in range(5):
            local = np.einsum("nij,nj->ni", q.A, y) - q.B
            y = y - 0.01 * (local - at_x + sent.mean(0))
        np.testing.assert_array_equal(xs[2 * t + 1], xs[2 * t])  # of the first phase
        x = y.mean(0)
        np.testing.assert_allclose(xs[2 * t + 2], x, atol=2e-4)


@pytest.mark.slow
def test_a_phase_costs_what_travels_in_it():
    """Gradients of four coordinates, models whole: measured round by round."""
    algorithm = fedlin(0.01, 5, uplink=compressors.error_feedback(q.TOP))
    assert algorithm.traffic(jnp.zeros(D)) == (32 * D, 32 * D)
    present = q.some(12)
    _, rows, metrics = q.trajectory(algorithm, 12, present=present)
    price = np.where(np.arange(12) % 2 == 0, q.TOP_BITS // 8, 4 * D)
    np.testing.assert_array_equal(metrics["uplink_bytes"], price * present.sum(1))
    np.testing.assert_array_equal(metrics["phase"], np.arange(12) % 2)
    steps = np.where(np.arange(12) % 2, 5, np.nan)
    np.testing.assert_array_equal(metrics["steps"], np.where(present.any(1), steps, np.nan))
    residual = np.asarray(rows.uplink["first"].residual)
    np.testing.assert_array_equal(residual[1::2], residual[::2])  # rests in the second phase
    assert not np.array_equal(residual[2], residual[1])


@pytest.mark.slow
def test_clients_that_miss_a_phase_of_fedlin_do_no_harm():
    """Half of the clients come to each round: it stays near the optimum, and a round of nobody rests."""
    present = q.some(400)
    states, _, _ = q.trajectory(fedlin(0.01, 5), 400, present=present)
    xs = q.models_of(states)
    alone = np.flatnonzero(~present.any(1))
    assert len(alone) == 2
    np.testing.assert_array_equal(xs[alone + 1], xs[alone])
    assert q.distance(xs[200:]).mean() < 0.3 * q.distance(np.zeros(D))


# ------------------------------------------------------------------------------ PowerSGD


def matrices(rank=None, seed=0):
    """Clients whose losses are <G_i, w> for a matrix and |v - c_i|^2 / 2 for a vector."""
    rng = np.random.default_rng(seed)
    if rank is None:
        g = rng.normal(size=(4, 12, 10))
    else:
        g = rng.normal(size=(4, 12, rank)) @ rng.normal(size=(rank, 10))
    c = rng.normal(size=(4, 3))
    parts = [{"G": a[None], "c": b[None]} for a, b in zip(g, c, strict=True)]
    return g, c, fjx.data.from_clients(jax.tree.map(np.float32, parts))


def affine(params, batch, key):
    """Gradients: G_i + w / 4 of the matrix, v - c_i of the vector."""
    linear = jnp.sum(batch["G"][0] * params["w"]) + jnp.sum(params["w"] ** 2) / 8
    return linear + jnp.sum((params["v"] - batch["c"][0]) ** 2) / 2


def power_sgd(dataset, rounds, rank, present=None, **more):
    """The states and rows after each round, the metrics, and the algorithm."""
    algorithm = algorithms.power_sgd(affine, rank=rank, learning_rate=0.1, batch_size=1, **more)
    params = {"w": jnp.zeros((12, 10)), "v": jnp.zeros(3)}
    weights = jnp.ones((rounds, 4)) if present is None else jnp.asarray(present, jnp.float32)
    rows = jax.vmap(lambda _: algorithm.init_client(params))(jnp.arange(4))
    cohort = dataset.cohort(jnp.arange(4))

    def step(carry, inputs):
        t, w = inputs
        out = algorithm.round(jax.random.key(t), *carry, cohort._replace(weights=w))
        return out[:2], out

    run = q.jit(
        lambda: jax.lax.scan(step, (algorithm.init(params), rows), (jnp.arange(rounds), weights))[1]
    )
    return *run(), algorithm


@pytest.mark.ci
@pytest.mark.parametrize("momentum", [pytest.param(None, marks=pytest.mark.slow), 0.5])
def test_power_sgd_is_the_box_of_its_paper(momentum):
    """Ten steps of rank 2 against NumPy, whose clients owe M_i - P Q^T, with Q the mean."""
    g, c, dataset = matrices()
    states, _, _, _ = power_sgd(dataset, 20, 2, momentum=momentum)
    w, v, m_w, m_v = np.zeros((12, 10)), np.zeros(3), 0.0, 0.0
    e, right = np.zeros((4, 12, 10)), np.asarray(jax.random.normal(jax.random.key(0), (10, 2)))
    for t in range(10):
        wanted = g + w / 4 + e
        left, _ = np.linalg.qr((wanted @ right).mean(0))  # of Gram and Schmidt, up to signs
        right = (wanted.transpose(0, 2, 1) @ left).mean(0)
        moved, moved_v = left @ right.T, (v - c).mean(0)
        e = wanted - moved
        m_w, m_v = (momentum or 0) * m_w + moved, (momentum or 0) * m_v + moved_v
        w = w - 0.1 * (moved if momentum is None else moved + m_w)
        v = v - 0.1 * (moved_v if momentum is None else moved_v + m_v)
        np.testing.assert_allclose(states.params["w"][2 * t + 1], w, atol=2e-4)
        np.testing.assert_allclose(states.params["v"][2 * t + 1], v, atol=2e-5)


@pytest.mark.slow
def test_power_sgd_is_exact_at_its_rank_and_warm_starts():
    """Gradients of one column space of rank 2: nothing is owed, and the model moves as by SGD."""
    g, _, dataset = matrices(rank=2)
    states, rows, _, _ = power_sgd(dataset, 10, 2)
    w = np.zeros((12, 10))
    for t in range(5):
        w = w - 0.1 * (g.mean(0) + w / 4)
        np.testing.assert_allclose(states.params["w"][2 * t + 1], w, atol=1e-4)
    assert np.abs(np.asarray(rows.client["w"][-1]).mean(0)).max() < 1e-4
    _, _, dataset = matrices()
    states, _, _, _ = power_sgd(dataset, 60, 2)
    left = np.asarray(states.server.inner.left[0])
    np.testing.assert_allclose(left[-1].T @ left[-1], np.eye(2), atol=1e-5)
    assert not np.allclose(left[0], left[-1], atol=1e-2)


@pytest.mark.slow
def test_what_is_owed_and_what_was_sent_is_what_was_to_be_sent():
    """Clients miss phases at random: residual plus P P^T M_i of the rounds they came to is the sum of
    their gradients, of the rounds they came to; and an absentee's row rests.
    """
    rounds = 24
    present = np.random.default_rng(3).random((rounds, 4)) < 0.6
    g, _, dataset = matrices()
    states, rows, metrics, algorithm = power_sgd(dataset, rounds, 2, present)
    owed, w = np.asarray(rows.client["w"], np.float64), np.asarray(states.params["w"], np.float64)
    left = np.asarray(states.server.inner.left[0], np.float64)
    gathered, sent, before = np.zeros((4, 12, 10)), np.zeros((4, 12, 10)), np.zeros((4, 12, 10))
    for t in range(rounds):
        here = present[t]
        if t % 2 == 0:
            model = w[t - 1] if t else np.zeros((12, 10))
            gathered[here] -= g[here] + model / 4
        else:
            sent[here] += left[t] @ (left[t].T @ before[here])
        before = owed[t]
        np.testing.assert_allclose(before + sent, gathered, atol=1e-3)
        if t:
            np.testing.assert_array_equal(owed[t][~here], owed[t - 1][~here])
    price = np.where(np.arange(rounds) % 2 == 0, 2 * 12 * 4, (2 * 10 + 3) * 4)
    np.testing.assert_array_equal(metrics["uplink_bytes"], price * present.sum(1))
    assert algorithm.traffic(jax.tree.map(lambda x: x[0], states.params)) == (768, 768)
    np.testing.assert_array_equal(
        np.isnan(metrics["loss"]), ~present.any(1) | (np.arange(rounds) % 2 == 1)
    )


# ------------------------------------------------------------------------------ PP-MARINA

PP = theory.pp_marina(
    L=PROBLEM.L, L_hat=PROBLEM.L_hat, mu=PROBLEM.mu, omega=q.OMEGA, participants=3, p=0.1
)


def pp_marina(codec, gamma):
    return algorithms.pp_marina(
        PROBLEM.loss, codec, participants=3, p=0.1, learning_rate=gamma, batch_size=1
    )


def public_of(t):
    """Of round t of :func:`quadratics.trajectory`: whether all is sent, and who is drawn."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 0), t)
    public = jax.random.split(key, 4)[1]
    coin, drawn = (jax.random.fold_in(public, i) for i in (0, 1))
    order = permute(jax.random.fold_in(drawn, 0), jnp.arange(N), N)
    return bool(jax.random.uniform(coin) < 0.1) or t == 0, np.asarray(order) < 3


@pytest.mark.ci
def test_pp_marina_is_the_box_of_its_paper_and_bills_those_who_send():
    """Top-k is deterministic: 40 rounds against NumPy, with the coins and draws of the rounds' keys."""
    states, _, metrics = q.trajectory(pp_marina(q.TOP, 0.01), 40)
    xs, x, before, g, wholes = q.models_of(states), np.zeros(D), np.zeros(D), np.zeros(D), 0
    drawn_ever = np.zeros(N, bool)
    for t in range(40):
        whole, drawn = public_of(t)
        assert drawn.sum() == 3
        drawn_ever |= drawn
        wholes += whole
        change = q.top(q.gradients(x) - q.gradients(before))[drawn].mean(0)
        g = q.gradients(x).mean(0) if whole else g + change
        x, before = x - 0.01 * g, x
        np.testing.assert_allclose(xs[t + 1], x, atol=2e-4)
        assert metrics["uplink_bytes"][t] == (N * 4 * D if whole else 3 * q.TOP_BITS // 8)
    assert 1 < wholes < 12
    assert drawn_ever.all()
    assert pp_marina(q.TOP, 0.01).traffic(jnp.zeros(D)).uplink == 32 * D


@pytest.mark.slow
def test_those_who_are_drawn_are_a_cohort_of_their_own():
    """Perm-k of three equal messages of ten is exact only if the three have three ranks."""
    drawn = _drawn(aggregators.perm_k(3), 3)
    x = jnp.arange(1.0, D + 1)

    def aggregate(seed):
        return aggregators.aggregate(jax.random.key(seed), drawn, jnp.tile(x, (N, 1)))[0]

    np.testing.assert_allclose(
        q.jit(jax.vmap(aggregate))(jnp.arange(20)), np.tile(x, (20, 1)), rtol=1e-6
    )


@pytest.mark.slow
def test_pp_marina_obeys_its_theorem():
    """20 seeds, three of ten clients: the mean of f - f* is below (1 - gamma mu)^t times the first."""
    states, _, _ = q.trajectory(pp_marina(q.RAND, PP.step_size), 400, seeds=20)
    gaps = q.gap(q.models_of(states)).mean(0)
    t = np.arange(0, 401, 10)
    assert (gaps[t] <= PP.rate**t * gaps[0])[gaps[t] > 1e-6].all()
    assert gaps[-1] < 1e-3 * gaps[0]


@pytest.mark.slow
def test_pp_marina_converges():
    states, _, _ = q.trajectory(pp_marina(q.RAND, PP.step_size), 1500)
    assert q.gap(q.models_of(states)[-1]) < 1e-8 * q.gap(np.zeros(D))


@pytest.mark.slow
def test_absentees_of_pp_marina_send_nothing():
    present = q.some(60, 0.8)
    states, _, metrics = q.trajectory(pp_marina(q.TOP, PP.step_size), 60, present=present)
    assert np.isfinite(states.params).all()
    for t in range(60):
        whole, drawn = public_of(t)
        sends = present[t] & (whole | drawn)
        price = 4 * D if whole else q.TOP_BITS // 8
        assert int(metrics["uplink_bytes"][t]) == sends.sum() * price


# ------------------------------------------------------------------- a model that is not convex


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ef21_bc", "power_sgd", "artemis", "fedlin", "pp_marina"])
def test_a_network_learns(name):
    """On digits with a small network: the loss of 30 rounds falls by a fifth at least."""
    loss, common = q.MLP.loss, {"learning_rate": 0.2, "batch_size": 64}
    algorithm = {
        "ef21_bc": lambda: algorithms.ef21_bc(
            loss, compressors.top_k(0.1), num_clients=10, **common
        ),
        "artemis": lambda: algorithms.artemis(
            loss, compressors.quantize(bits=4), num_clients=10, lam=0.5, **common
        ),
        "fedlin": lambda: algorithms.fedlin(
            loss, steps=3, uplink=compressors.error_feedback(compressors.top_k(0.1)), **common
        ),
        "pp_marina": lambda: algorithms.pp_marina(
            loss, compressors.rand_k(0.25), participants=5, p=0.25, **common
        ),
        "power_sgd": lambda: algorithms.power_sgd(loss, rank=2, momentum=0.5, **common),
    }[name]()
    losses = q.digits_losses(algorithm, 30)
    losses = losses[np.isfinite(losses)]
    assert losses[-1] < 0.8 * losses[0]
