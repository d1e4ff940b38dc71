"""Problems with a known optimum: the truth they state is the truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import data

Q = data.quadratic_problem(jax.random.key(0))
LOGISTIC = data.logistic_problem(jax.random.key(1), num_clients=5, dim=6, examples_per_client=20)


def arrays(problem):
    return {k: np.asarray(v, np.float64) for k, v in problem.dataset.arrays.items()}


@pytest.mark.parametrize("problem", [Q, LOGISTIC], ids=["quadratic", "logistic"])
def test_the_optimum_is_stationary_in_the_library_s_own_loss(problem):
    x = jnp.asarray(problem.optimum, jnp.float32)
    value, gradient = jax.value_and_grad(problem.loss)(x, problem.dataset.arrays, None)
    assert np.linalg.norm(gradient) < 1e-5 * problem.L * (1 + np.linalg.norm(problem.optimum))
    np.testing.assert_allclose(value, problem.minimum, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("problem", [Q, LOGISTIC], ids=["quadratic", "logistic"])
def test_curvature_lies_between_mu_and_l(problem):
    """v^T H v over 200 random points and directions; one client's Hessian against its own bounds."""
    rng = np.random.default_rng(0)
    dim = len(problem.optimum)

    def curvature(x, v, batch):
        def slope(y):
            return jnp.vdot(jax.grad(problem.loss)(y, batch, None), v)

        return jnp.vdot(jax.grad(slope)(x), v)

    points = jnp.asarray(rng.standard_normal((200, dim)), jnp.float32)
    directions = rng.standard_normal((200, dim))
    directions = jnp.asarray(directions / np.linalg.norm(directions, axis=1)[:, None], jnp.float32)
    run = jax.jit(jax.vmap(curvature, (0, 0, None)))
    whole = np.asarray(run(points, directions, problem.dataset.arrays))
    assert whole.min() >= problem.mu * (1 - 1e-4)
    assert whole.max() <= problem.L * (1 + 1e-4)
    own = np.asarray(run(points, directions, problem.dataset.client(2)))
    assert own.min() >= problem.mu_clients[2] * (1 - 1e-4)
    assert own.max() <= problem.L_clients[2] * (1 + 1e-4)


def test_the_constants_of_quadratics_are_attained():
    a = arrays(Q)["A"]
    np.testing.assert_allclose(Q.L, np.linalg.norm(a.mean(0), 2), rtol=1e-10)
    np.testing.assert_allclose(Q.mu, 1 / np.linalg.norm(np.linalg.inv(a.mean(0)), 2), rtol=1e-10)
    np.testing.assert_allclose(Q.L_clients, [np.linalg.norm(m, 2) for m in a], rtol=1e-10)
    # L_hat^2 is the largest mean of ||A_i v||^2 over unit v.
    v = np.linalg.eigh(np.mean([m @ m for m in a], axis=0))[1][:, -1]
    np.testing.assert_allclose(
        Q.L_hat, np.sqrt(np.mean([np.sum((m @ v) ** 2) for m in a])), rtol=1e-10
    )
    assert Q.mu_clients.min() >= 1 - 1e-5
    assert Q.L_max <= 10 + 1e-4


@pytest.mark.parametrize(("eta", "steps"), [(0.01, 1), (0.02, 5), (0.05, 20)])
def test_the_fixed_point_is_where_local_gradient_descent_rests(eta, steps):
    a, b = arrays(Q)["A"], arrays(Q)["b"]
    x = np.zeros(20)
    for _ in range(3000):
        local = np.tile(x, (10, 1))
        for _ in range(steps):
            local -= eta * (np.einsum("nij,nj->ni", a, local) - b)
        x = local.mean(0)
    fixed = data.local_gd_fixed_point(Q, step_size=eta, local_steps=steps)
    np.testing.assert_allclose(x, fixed, atol=1e-10)
    assert (np.linalg.norm(fixed - Q.optimum) < 1e-8) == (steps == 1)


def test_losses_are_means_over_examples():
    x = jnp.asarray(np.random.default_rng(0).standard_normal(6), jnp.float32)
    batch = LOGISTIC.dataset.client(0)
    each = [
        float(LOGISTIC.loss(x, jax.tree.map(lambda v, i=i: v[i : i + 1], batch), None))
        for i in range(20)
    ]
    np.testing.assert_allclose(LOGISTIC.loss(x, batch, None), np.mean(each), rtol=1e-5)


def test_without_heterogeneity_linear_terms_vanish():
    same = data.quadratic_problem(jax.random.key(0), heterogeneity=0.0)
    assert np.all(same.optimum == 0)
    assert same.minimum == 0.0


def test_leaf_synthetic_is_what_alpha_and_beta_say():
    """Beta is the variance of clients' input means; alpha = beta = 0 still has models of their own."""
    sets = {
        beta: data.leaf_synthetic(jax.random.key(0), alpha=0.0, beta=beta, num_clients=100)
        for beta in (0.0, 4.0)
    }
    means = {
        beta: np.array([np.asarray(d.client(i)["x"]).mean() for i in range(100)])
        for beta, d in sets.items()
    }
    # A client's mean over 60 features of v_k ~ N(B_k, 1) has variance beta + 1/60, nearly.
    for beta, found in means.items():
        variance = beta + 1 / 60
        assert abs(found.var() / variance - 1) < 6 * np.sqrt(2 / 100)
    assert set(np.unique(sets[0.0].arrays["y"])) <= set(range(10))
    assert int(sets[0.0].sizes.min()) >= 50


@pytest.mark.parametrize(
    "call",
    [
        lambda: data.quadratic_problem(jax.random.key(0), condition=0.5),
        lambda: data.logistic_problem(jax.random.key(0), l2=0.0),
        lambda: data.leaf_synthetic(jax.random.key(0), alpha=-1.0, beta=1.0),
        lambda: data.local_gd_fixed_point(Q, step_size=0.1, local_steps=0),
    ],
)
def test_numbers_out_of_range_are_refused(call):
    with pytest.raises(ValueError, match="must be"):
        call()
