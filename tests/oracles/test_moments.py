"""Momentum that is compressed: 1-bit Adam and FetchSGD against their papers' boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import algorithms, compressors, samplers
from tests.support import quadratics as q

N, D = q.N, q.D
WARMUP, ROUNDS = 10, 30


def onebit_adam(**more):
    return algorithms.onebit_adam(
        q.PROBLEM.loss, warmup=WARMUP, learning_rate=0.01, batch_size=1, beta2=0.9, eps=1e-3, **more
    )


def signs(x):
    """Scaled signs of each row, with sgn(0) = 1."""
    return np.abs(x).mean(-1, keepdims=True) * np.where(x < 0, -1, 1)


@pytest.mark.ci
@pytest.mark.parametrize("share", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
def test_onebit_adam_is_the_box_of_its_paper(share):
    """Ten rounds of warm-up and twenty of signs against NumPy; absentees' residuals rest.

    Messages are descent directions, of which a sign of zero would be another: none is zero here.
    """
    present = np.random.default_rng(5).random((ROUNDS, N)) < share if share < 1 else None
    states, rows, metrics = q.trajectory(onebit_adam(), ROUNDS, present=present)
    present = np.ones((ROUNDS, N), bool) if present is None else present
    assert present.any(1).all()
    xs = q.models_of(states)
    x, m, v, e, server = np.zeros(D), np.zeros(D), np.zeros(D), np.zeros((N, D)), np.zeros(D)
    for t in range(ROUNDS):
        here, g = present[t], q.gradients(x)
        if t < WARMUP:
            mean = g[here].mean(0)
            m, v = 0.9 * m + 0.1 * mean, 0.9 * v + 0.1 * mean**2
        else:
            wanted = 0.9 * m + 0.1 * g + e
            sent = signs(wanted)
            e[here] = (wanted - sent)[here]
            wanted = sent[here].mean(0) + server
            m = signs(wanted)
            server = wanted - m
        x = x - 0.01 * m / (np.sqrt(v) + 1e-3)
        np.testing.assert_allclose(xs[t + 1], x, atol=5e-4)
    np.testing.assert_allclose(-np.asarray(rows.uplink["second"].residual[-1]), e, atol=5e-3)
    price = np.where(np.arange(ROUNDS) < WARMUP, 4 * D, (D + 4) // 8 + 4)
    np.testing.assert_array_equal(metrics["uplink_bytes"], price * present.sum(1))


@pytest.mark.slow
def test_a_run_of_onebit_adam_is_billed_what_was_sent():
    """In both directions: gradients whole in the warm-up, a bit a coordinate and a scale after it.

    A round's mean travels down at the beginning of the next, and before the first there is none.
    """
    result = fjx.simulate(
        jax.random.key(0), onebit_adam(), jnp.zeros(D), q.PROBLEM.dataset,
        sampler=samplers.full(), rounds=ROUNDS,
    )  # fmt: skip
    small = 8 * ((D + 4) // 8 + 4)
    assert result.ledger.traffic == (32 * D, 32 * D)
    assert result.ledger.uplink == N * (WARMUP * 32 * D + (ROUNDS - WARMUP) * small)
    down = WARMUP * 32 * D + (ROUNDS - WARMUP - 1) * small
    assert result.ledger.downlink == result.ledger.cumulative_downlink[-1] == N * down


@pytest.mark.slow
def test_onebit_adam_descends_on_quadratics():
    """Three hundred rounds of signs: the gap falls to a twentieth of what the warm-up left."""
    states, _, _ = q.trajectory(onebit_adam(), 300)
    gaps = q.gap(q.models_of(states))
    assert gaps[-20:].mean() < gaps[WARMUP] / 20


@pytest.mark.ci
def test_fetch_sgd_without_collisions_is_top_k_with_momentum_and_feedback():
    """One row and a column for each coordinate: 40 rounds against NumPy, and few coordinates down."""
    algorithm = algorithms.fetch_sgd(
        q.PROBLEM.loss, ratio=q.K / D, rows=1, columns=64, learning_rate=0.01, batch_size=1,
        momentum=0.5,
    )  # fmt: skip
    xs = q.models_of(q.trajectory(algorithm, 40)[0])
    x, m, e = np.zeros(D), np.zeros(D), np.zeros(D)
    for t in range(40):
        m = 0.5 * m + q.gradients(x).mean(0)
        e = e + m
        x, e = x - 0.01 * q.top(e), e - q.top(e)
        np.testing.assert_allclose(xs[t + 1], x, atol=2e-4)
    assert algorithm.traffic(jnp.zeros(D)) == (32 * 64, q.TOP_BITS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onebit_adam", "fetch_sgd"])
def test_a_network_learns(name):
    """On digits with a small network: the loss of 40 rounds falls by a fifth at least."""
    algorithm = {
        "onebit_adam": lambda: algorithms.onebit_adam(
            q.MLP.loss, warmup=10, learning_rate=0.003, batch_size=64, beta2=0.9, eps=1e-3
        ),
        "fetch_sgd": lambda: algorithms.fetch_sgd(
            q.MLP.loss, ratio=0.05, rows=5, columns=600, learning_rate=0.1, batch_size=64
        ),
    }[name]()
    losses = q.digits_losses(algorithm, 40)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_a_round_of_nobody_changes_nothing():
    """Of model, moments and what the server owes: in the warm-up and after it; it is told for free."""
    absent = np.isin(np.arange(ROUNDS), (0, 4, WARMUP, 15))
    present = np.tile(~absent[:, None], (1, N))
    states, _, metrics = q.trajectory(onebit_adam(), ROUNDS, present=present)
    kept = (states.server.inner, states.aggregator.codec)
    for leaf in map(np.asarray, jax.tree.leaves(kept)):
        np.testing.assert_array_equal(leaf[absent][1:], leaf[np.flatnonzero(absent)[1:] - 1])
    np.testing.assert_array_equal(states.params[0], np.zeros(D))
    assert not np.allclose(states.params[1:4], 0)
    told = np.asarray(metrics["downlink_bytes"])[1:]
    np.testing.assert_array_equal(told == 0, absent[:-1])


TINY = {  # with steps that a model of bf16 sees
    "sign_sgd": {"learning_rate": 0.5},
    "ef21_sgdm": {
        "codec": compressors.top_k(0.5), "num_clients": 2, "eta": 1.0, "learning_rate": 500.0,
    },
    "fetch_sgd": {"ratio": 1.0, "rows": 1, "columns": 256, "learning_rate": 500.0},
    "onebit_adam": {"warmup": 1, "learning_rate": 0.5},
    "power_sgd": {"rank": 1, "learning_rate": 500.0},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["onebit_adam", *(pytest.param(m, marks=pytest.mark.slow) for m in TINY if m != "onebit_adam")],
)
def test_gradients_below_the_rounding_of_the_model_are_seen(name):
    """Of 1e-3 at bf16's 1.0, whose neighbours are 2^-8 and 2^-7 away: (x - g) - x would be zero."""

    def loss_fn(w, x, key):
        return jnp.sum(w["w"]).astype(jnp.float32) * jnp.mean(x)

    algorithm = getattr(algorithms, name)(loss_fn, batch_size=2, **TINY[name])
    params = {"w": jnp.ones((12, 12), jnp.bfloat16)}
    cohort = fjx.data.from_clients([np.full(2, 1e-3, np.float32)] * 2).cohort(jnp.arange(2))
    rows = jax.vmap(lambda _: algorithm.init_client(params))(jnp.arange(2))

    def step(carry, t):
        return algorithm.round(jax.random.key(t), *carry, cohort)[:2], ()

    first = algorithm.init(params), rows
    (state, _), _ = q.jit(lambda: jax.lax.scan(step, first, jnp.arange(2)))()
    result = state.params
    assert (np.asarray(result["w"], np.float32) <= 0.75).mean() > 0.4


def test_arguments():
    for more, match in (({"beta1": 1.0}, "beta1"), ({"beta2": -0.1}, "beta2")):
        with pytest.raises(ValueError, match=match):
            algorithms.onebit_adam(
                q.PROBLEM.loss, warmup=1, learning_rate=0.1, batch_size=1, **more
            )
    twice = algorithms.onebit_adam(
        q.PROBLEM.loss, warmup=1, learning_rate=0.1, batch_size=1,
        codec=compressors.error_feedback(compressors.scaled_sign()),
    )  # fmt: skip
    with pytest.raises(ValueError, match="without a state"):
        twice.init(jnp.zeros(D))
    with pytest.raises(ValueError, match="warmup"):
        algorithms.onebit_adam(q.PROBLEM.loss, warmup=0, learning_rate=0.1, batch_size=1)
