"""Where compression without memory fails, and what mends it: the counterexamples of the literature."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import algorithms, clients, compressors, data

TOP_1 = compressors.top_k(1 / 3)


def run(algorithm, dataset, start, rounds):
    """``[rounds, ...]``: the model after each round of all clients."""
    n = dataset.num_clients
    rows = jax.vmap(lambda _: algorithm.init_client(start))(jnp.arange(n))
    cohort = dataset.cohort(jnp.arange(n))

    def step(carry, t):
        state, rows, _ = algorithm.round(jax.random.fold_in(jax.random.key(0), t), *carry, cohort)
        return (state, rows), state.params

    history = jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(rounds))[1])
    return np.asarray(history((algorithm.init(start), rows)))


def permuted():
    """f_i = <a_i, x>^2 + |x|^2 / 4 with a = (-3, 2, 2) and its turns."""
    a = np.array([[-3, 2, 2], [2, -3, 2], [2, 2, -3]], np.float32)
    return data.from_clients([{"a": row[None]} for row in a], weights=np.ones(3))


def squared(x, batch, key):
    return jnp.mean((batch["a"] @ x) ** 2) + jnp.sum(x**2) / 4


def test_top_1_of_gradients_runs_away_from_the_optimum():
    """From t (1, 1, 1) each client's largest coordinate points away: x grows by 1 + 11 gamma / 6."""
    gamma = 0.05
    algorithm = algorithms.compressed_gd(squared, TOP_1, learning_rate=gamma, batch_size=1)
    xs = run(algorithm, permuted(), jnp.ones(3), 20)
    expected = (1 + 11 * gamma / 6) ** np.arange(1, 21)
    np.testing.assert_allclose(xs, np.repeat(expected[:, None], 3, 1), rtol=1e-4)


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["ef14", "ef21"])
def test_memory_makes_top_1_converge(name):
    more = {"num_clients": 3} if name == "ef21" else {}
    algorithm = getattr(algorithms, name)(squared, TOP_1, learning_rate=0.01, batch_size=1, **more)
    xs = run(algorithm, permuted(), jnp.ones(3), 2000)
    assert np.abs(xs[-1]).max() < 1e-3


def diagonal(x, batch, key):
    """Eps |x_1 + x_2| + |x_1 - x_2|: its gradient has signs (1, -1) or (-1, 1) wherever it is taken."""
    del key
    return jnp.mean(batch["eps"]) * jnp.abs(x[0] + x[1]) + jnp.abs(x[0] - x[1])


@pytest.mark.slow
def test_signs_never_leave_a_line_that_misses_the_optimum_and_feedback_does():
    """From (1, 1) sign steps keep x_1 + x_2 = 2, so f >= 2 eps; scaled signs fed back reach O(gamma)."""
    eps, gamma = 0.3, 0.004
    dataset = data.from_clients([{"eps": np.full(1, eps, np.float32)}])
    start = jnp.array([1.0, 1.0 + 1e-3])
    signs = algorithms.sign_sgd(diagonal, learning_rate=gamma, batch_size=1)
    xs = run(signs, dataset, start, 1500)
    np.testing.assert_allclose(xs.sum(1), 2.0, atol=2e-3)
    values = eps * np.abs(xs.sum(1)) + np.abs(xs[:, 0] - xs[:, 1])
    assert values.min() >= 2 * eps * 0.999
    fed_back = algorithms.ef14(
        diagonal, compressors.scaled_sign(), learning_rate=gamma, batch_size=1
    )
    xs = run(fed_back, dataset, start, 1500)
    values = eps * np.abs(xs.sum(1)) + np.abs(xs[:, 0] - xs[:, 1])
    assert values[-100:].mean() < 10 * gamma


@pytest.mark.slow
def test_signs_of_skewed_noise_climb_and_what_is_fed_back_descends():
    """Gradients are 4 once in four and else -1: E g = 1/4, E sgn g = -1/2.

    Plain signs raise w by gamma / 2 a round; with feedback all that is not sent is a bounded residual,
    and w falls by gamma / 4.  (Scaled signs of one coordinate are the identity.)  6 standard errors.
    """
    rounds, gamma = 4000, 1e-3
    dataset = data.from_clients([{"g": np.array([4, -1, -1, -1], np.float32)}])

    def loss_fn(w, batch, key):
        return w * jnp.mean(batch["g"])

    sign = fjx.Compressor(
        init=lambda like: (),
        encode=lambda key, x, state: (jnp.where(x < 0, -1.0, 1.0), state),
        decode=lambda payload: payload,
        contract=lambda like: fjx.Contract(),
    )
    one = clients.local_sgd(loss_fn, optax.sgd(1.0), steps=1, batch_size=1)
    for uplink, drift, spread in (
        (sign, 1 / 2, np.sqrt(3) / 2),
        (compressors.error_feedback(sign), -1 / 4, np.sqrt(75) / 4),
    ):
        algorithm = fjx.compose(client=one, uplink=uplink, server=optax.sgd(gamma))
        w = run(algorithm, dataset, jnp.zeros(()), rounds)[-1]
        assert abs(w - gamma * drift * rounds) < 6 * gamma * spread * np.sqrt(rounds)
        assert np.sign(w) == np.sign(drift)


@pytest.mark.slow
def test_a_vote_follows_the_majority_and_not_the_mean():
    """Two clients pull by 1, one by -10: the mean goes down, the vote up."""
    pulls = [1.0, 1.0, -10.0]
    dataset = data.from_clients([{"x": np.full(1, p, np.float32)} for p in pulls])

    def loss_fn(w, batch, key):
        return -w * jnp.mean(batch["x"])

    vote = algorithms.sign_sgd(loss_fn, learning_rate=0.1, batch_size=1)
    mean = algorithms.fedsgd(loss_fn, learning_rate=0.1, batch_size=1)
    assert run(vote, dataset, jnp.zeros(()), 1)[0] == np.float32(0.1)
    assert run(mean, dataset, jnp.zeros(()), 1)[0] < 0
    assert vote.traffic(jnp.zeros(40)).uplink == 64


@pytest.mark.slow
def test_averages_of_gradients_make_ef21_stand_noise():
    """Batches of 1 of 50: with averages of about 20 the model rests nearer to the optimum."""
    problem = data.logistic_problem(jax.random.key(0))

    def rests(rate):
        algorithm = algorithms.ef21_sgdm(
            problem.loss, compressors.top_k(0.2), num_clients=10, learning_rate=0.05,
            batch_size=1, eta=rate,
        )  # fmt: skip
        xs = run(algorithm, problem.dataset, jnp.zeros(20), 1500)
        return np.square(xs[-500:] - problem.optimum).sum(1).mean()

    assert rests(0.05) < 0.6 * rests(1.0)


@pytest.mark.slow
def test_an_average_of_rate_one_is_the_client_itself():
    problem = data.quadratic_problem(jax.random.key(0))
    plain = clients.gradient(problem.loss, batch_size=1)
    results = [
        run(fjx.compose(client=client, server=optax.sgd(0.05)), problem.dataset, jnp.zeros(20), 5)
        for client in (plain, clients.averaged(plain, eta=1.0))
    ]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="eta"):
        clients.averaged(plain, eta=0.0)
