"""Rounds grow with the root of the condition number, and what is sent with less than the dimension.

Quadratics f_i(x) = sum_j a_ij x_j^2 / 2 - b_ij x_j with eigenvalues from 1 to kappa in the same places
of every f_i, and spread differently over the others; the b_i sum to zero, so that the optimum is zero,
where float32 is fine enough for any accuracy.  (Random rotations, as in ``quadratic_problem``, would
average to a mean that is well conditioned whatever its parts.)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import algorithms, data, simulation, theory

KAPPAS = (1e2, 1e3, 1e4)
LIMIT = 10**6  # of rounds
ACCURACY = 1e-6  # of ||x - x*||^2, relative to the first

pytestmark = pytest.mark.slow


def problem(n, d, kappa):
    rng = np.random.default_rng(0)
    place = rng.random((n, d))
    place[:, 0], place[:, 1] = 0, 1
    a, b = kappa**place, rng.normal(size=(n, d))
    b -= b.mean(0)
    return data.from_clients(
        [{"a": a[i : i + 1].astype(np.float32), "b": b[i : i + 1].astype(np.float32)}
         for i in range(n)],
        weights=np.ones(n),
    )  # fmt: skip


def loss(x, batch, key):
    return jnp.mean(jnp.sum(batch["a"] * x[None] ** 2 / 2 - batch["b"] * x[None], axis=1))


def reaches(recipe, d, cohort=None):
    """A program: from clients, gamma and p to the rounds until the accuracy, and the last distance.

    Everybody comes, or a random cohort of a size.
    """

    @jax.jit
    def run(dataset, gamma, p):
        algorithm, n = recipe(gamma, p), dataset.num_clients
        table = simulation.make_table(algorithm.init_client(jnp.ones(d)), n)

        def far(carry):
            state, _, t = carry
            return (jnp.sum(state.params**2) > ACCURACY * d) & (t < LIMIT)

        def step(carry):
            state, table, t = carry
            key_round, key_ids = jax.random.split(jax.random.fold_in(jax.random.key(1), t))
            ids = jnp.arange(n)
            if cohort is not None:
                ids = jax.random.permutation(key_ids, n)[:cohort]
            rows = simulation.gather(table, ids)
            state, rows, _ = algorithm.round(key_round, state, rows, dataset.cohort(ids))
            return state, simulation.scatter(table, ids, rows), t + 1

        start = algorithm.init(jnp.ones(d)), table, jnp.int32(0)
        state, _, t = jax.lax.while_loop(far, step, start)
        return t, jnp.sum(state.params**2) / d

    return run


def gradient_descent(gamma, p):
    return algorithms.fedsgd(loss, learning_rate=gamma, batch_size=1)


def scaffnew(gamma, p):
    return algorithms.scaffnew(loss, p=p, learning_rate=gamma, batch_size=1)


def tamuna(gamma, p, clients=100):
    return algorithms.tamuna(
        loss, num_clients=100, clients_per_round=clients, owners=2, p=p, learning_rate=gamma,
        batch_size=1,
    )  # fmt: skip


def slope(rounds):
    return np.polyfit(np.log(KAPPAS), np.log(rounds), 1)[0]


def test_rounds_grow_with_kappa_and_with_its_root():
    n, d, plain, local = 10, 30, [], []
    descent, corrected = (reaches(recipe, d) for recipe in (gradient_descent, scaffnew))
    for kappa in KAPPAS:
        bound, clients = theory.scaffnew(L_max=kappa, mu=1.0), problem(n, d, kappa)
        for program, rounds in ((descent, plain), (corrected, local)):
            t, reached = program(clients, bound.step_size, bound.memory)
            assert float(reached) <= ACCURACY
            rounds.append(int(t))
        assert local[-1] * 2 < plain[-1]
    assert abs(slope(plain) - 1) < 0.1
    assert abs(slope(local) - 0.5) < 0.1


@pytest.mark.parametrize(("kappa", "saved"), [(1e2, 1.5), (1e3, 4.0), (1e4, 8.0)])
def test_compression_saves_more_than_half_of_what_is_sent(kappa, saved):
    """With d = 300, and two of n = 100 clients for each coordinate: the more, the worse conditioned.

    What all clients send in all, by Scaffnew and by two of its compressions: that of all clients, in
    messages of 6 floats, and that of cohorts of 20, in messages of 30.
    """
    n, d = 100, 300
    clients, floats = problem(n, d, kappa), []
    bound = theory.scaffnew(L_max=kappa, mu=1.0)
    bounds = [bound, *2 * [theory.tamuna(L_max=kappa, mu=1.0, n=n, owners=2)]]
    recipes = scaffnew, tamuna, functools.partial(tamuna, clients=20)
    for recipe, bound, size in zip(recipes, bounds, (n, n, 20), strict=True):
        program = reaches(recipe, d, None if size == n else size)
        t, reached = program(clients, bound.step_size, bound.memory)
        assert float(reached) <= ACCURACY
        traffic = recipe(bound.step_size, bound.memory).traffic(jnp.ones(d))
        floats.append(int(t) * size * traffic.uplink / 32)
    assert max(floats[1:]) * saved < floats[0]
