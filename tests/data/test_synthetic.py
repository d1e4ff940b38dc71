"""Problems with a known optimum: the truth they state is the truth."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import clients, data

Q = data.quadratic_problem(jax.random.key(0))
LOGISTIC = data.logistic_problem(jax.random.key(1), num_clients=5, dim=6, examples_per_client=20)


def arrays(problem):
    return {k: np.asarray(v, np.float64) for k, v in problem.dataset.arrays.items()}


@pytest.mark.parametrize("problem", [Q, LOGISTIC], ids=["quadratic", "logistic"])
def test_the_optimum_is_stationary_in_the_library_s_own_loss(problem):
    x = jnp.asarray(problem.optimum, jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(problem.loss))(x, problem.dataset.arrays, None)
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


@pytest.mark.parametrize("problem", [Q, LOGISTIC], ids=["quadratic", "logistic"])
def test_the_constants_are_in_order(problem):
    chain = [problem.mu, problem.L, problem.L_hat, problem.L_tilde, problem.L_max]
    assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(chain))
    assert problem.mu_clients.min() <= problem.mu * (1 + 1e-12)


def test_condition_one_is_the_identity():
    problem = data.quadratic_problem(jax.random.key(0), condition=1.0, dim=5)
    constants = [problem.mu, problem.L, problem.L_hat, problem.L_tilde, problem.L_max]
    np.testing.assert_allclose(constants, 1, rtol=1e-6)


def logistic_gradients(problem, x, l2):
    """Each client's gradient at x, in float64: ``[n, d]``."""
    a, y = (arrays(problem)[k].reshape(5, 20, *shape) for k, shape in (("a", (6,)), ("y", ())))
    wrong = 1 / (1 + np.exp(y * (a @ x)))
    return l2 * x - np.mean((y * wrong)[..., None] * a, axis=1)


@pytest.mark.parametrize(("l2", "heterogeneity"), [(0.1, 1.0), (1e-8, 0.0), (1e-4, 30.0)])
def test_the_logistic_optimum_is_exact_where_newton_is_hard(l2, heterogeneity):
    """Hardly regularised, so far from zero; or with inputs far off centre, so that steps overshoot."""
    problem = data.logistic_problem(
        jax.random.key(2),
        num_clients=5,
        dim=6,
        examples_per_client=20,
        l2=l2,
        heterogeneity=heterogeneity,
    )
    gradient = logistic_gradients(problem, problem.optimum, l2).mean(0)
    assert np.linalg.norm(gradient) <= 2e-12 * max(1, problem.L)
    assert problem.mu == l2


def test_logistic_gradients_change_no_faster_than_l_hat():
    """Over pairs of points near the origin, where sigmoids are steepest."""
    rng = np.random.default_rng(0)
    pairs = rng.standard_normal((200, 2, 6)) / 10
    ratios = [
        np.sum((logistic_gradients(LOGISTIC, x, 0.1) - logistic_gradients(LOGISTIC, y, 0.1)) ** 2)
        / (5 * np.sum((x - y) ** 2))
        for x, y in pairs
    ]
    assert 0.1 * LOGISTIC.L_hat**2 < max(ratios) <= LOGISTIC.L_hat**2


@pytest.mark.few(1)
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


def test_local_sgd_rests_at_the_fixed_point():
    """The library's own rounds, full clients of batch size one, in float32."""
    eta, steps = 0.05, 5
    local = clients.local_sgd(Q.loss, optax.sgd(eta), steps=steps, batch_size=1)

    @jax.jit
    def run(key, dataset):
        everyone = dataset.examples(jnp.arange(10))

        def client(key, x, offset, size):
            return local.update(key, x, (), fjx.Examples(dataset.arrays, offset, size), fjx.Turn())[
                0
            ]

        def round(x, key):
            moves = jax.vmap(client, (0, None, 0, 0))(
                jax.random.split(key, 10), x, everyone.offset, everyone.size
            )
            return x + moves.mean(0), None

        return jax.lax.scan(round, jnp.zeros(20), jax.random.split(key, 100))[0]

    fixed = data.local_gd_fixed_point(Q, step_size=eta, local_steps=steps)
    found = np.asarray(run(jax.random.key(0), Q.dataset))
    np.testing.assert_allclose(found, fixed, atol=1e-5)
    assert np.linalg.norm(fixed - Q.optimum) > 1e-2  # and not at the optimum


def test_losses_are_means_over_examples():
    x = jnp.asarray(np.random.default_rng(0).standard_normal(6), jnp.float32)
    batch, loss = LOGISTIC.dataset.client(0), jax.jit(LOGISTIC.loss)
    each = [
        float(loss(x, jax.tree.map(lambda v, i=i: v[i : i + 1], batch), None)) for i in range(20)
    ]
    np.testing.assert_allclose(loss(x, batch, None), np.mean(each), rtol=1e-5)


def test_without_heterogeneity_linear_terms_vanish():
    same = data.quadratic_problem(jax.random.key(0), heterogeneity=0.0)
    assert np.all(same.optimum == 0)
    assert same.minimum == 0.0


def test_alpha_of_the_published_generator_changes_nothing():
    """The same number added to every logit leaves the argmax; clients' models differ at alpha = 0."""
    one, other = (
        data.leaf_synthetic(jax.random.key(0), alpha=alpha, beta=1.0, num_clients=8)
        for alpha in (0.0, 100.0)
    )
    np.testing.assert_array_equal(one.arrays["x"], other.arrays["x"])
    assert np.mean(np.asarray(one.arrays["y"]) != np.asarray(other.arrays["y"])) < 1e-3
    found = data.statistics(one, one.arrays["y"])
    assert found.label_skew.mean() > 0.3


def test_beta_is_the_variance_of_the_clients_input_means():
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
        lambda: data.local_gd_fixed_point(LOGISTIC, step_size=0.1, local_steps=1),
    ],
)
def test_numbers_out_of_range_are_refused(call):
    with pytest.raises(ValueError, match="must be"):
        call()
