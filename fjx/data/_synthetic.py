"""Synthetic data: Synthetic(alpha, beta), and problems with known optimum and constants."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Key, Tree
from fjx.data._dataset import FederatedData, from_clients, kept
from fjx.data._partition import generator


def leaf_synthetic(
    key: Key,
    *,
    alpha: float,
    beta: float,
    num_clients: int = 30,
    features: int = 60,
    classes: int = 10,
) -> FederatedData:
    """Synthetic(alpha, beta): each client has its own linear model and its own inputs.

    Client k has W_k, b_k ~ N(u_k, 1) with u_k ~ N(0, alpha).  Its inputs are x ~ N(v_k, Sigma) with
    v_k ~ N(B_k, 1), B_k ~ N(0, beta) and a diagonal Sigma with entries j^-1.2.  Its labels are
    argmax(W_k x + b_k).  It has 50 + exp N(4, 4) examples, rounded down, at most 100 050.

    alpha has no effect, as the set was published.  u_k adds the same number to every logit, so the
    argmax, and with it the data, are those of alpha = 0.  The models always differ by the unit variance
    of W_k; alpha = beta = 0 is therefore not IID.  Vary beta to vary heterogeneity.

    Guarantees:
        - Equal keys and betas give equal data at every alpha, except for ties in rounding.

    Args:
        key: a typed key.
        alpha: variance of u_k, as in the name of the set; without effect, see above.
        beta: variance of B_k, the spread of the clients' inputs.
        num_clients: number of clients, 30 in the paper.
        features: number of features, 60 in the paper.
        classes: number of classes, 10 in the paper.

    Returns:
        A :class:`fjx.data.FederatedData` of ``{"x": f32[n, features], "y": i32[n]}``; each client has
        at least 50 examples.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> import jax
        >>> from fjx import data
        >>> dataset = data.leaf_synthetic(jax.random.key(0), alpha=1.0, beta=1.0)
        >>> dataset.num_clients, dataset.arrays["x"].shape[1], int(dataset.sizes.min()) >= 50
        (30, 60, True)

    References:
        Li et al., *Federated Optimization in Heterogeneous Networks*, MLSys 2020
        (arXiv:1812.06127), section 5.1 and appendix C.1, after Shamir, Srebro, Zhang, ICML 2014.
        Its published code takes alpha and beta for standard deviations.  The synthetic set of LEAF
        (Caldas et al., arXiv:1812.01097) is another one, with clusters of models.
    """
    alpha = _validate.static_number("alpha", alpha, at_least=0)
    beta = _validate.static_number("beta", beta, at_least=0)
    for name, value in (("num_clients", num_clients), ("features", features), ("classes", classes)):
        _validate.static_integer(name, value, at_least=1)
    rng = generator(key)
    spread = np.arange(1, features + 1) ** -0.6  # standard deviations: Sigma_jj = j^-1.2
    clients = []
    for size in rng.lognormal(4, 2, num_clients).clip(max=1e5).astype(int) + 50:
        u, b = np.sqrt(alpha) * rng.standard_normal(), np.sqrt(beta) * rng.standard_normal()
        weights = u + rng.standard_normal((features, classes))
        bias = u + rng.standard_normal(classes)
        x = b + rng.standard_normal(features) + spread * rng.standard_normal((size, features))
        y = np.argmax(x @ weights + bias, axis=1)
        clients.append({"x": x.astype(np.float32), "y": y.astype(np.int32)})
    return from_clients(clients)


class Problem(NamedTuple):
    """Problem min f(x) = (1/n) sum_i f_i(x) over x in R^d, with its optimum and constants.

    Guarantees:
        - mu <= L <= L_hat <= L_tilde <= L_max, up to rounding.

    Attributes:
        dataset: dataset whose client i holds the data of f_i, with weight one.
        loss: ``(x, batch, key) -> f32[]``, a mean over examples; on all examples of client i it is f_i.
        optimum: ``f64[d]``, x*.
        minimum: f(x*).
        L: smoothness of f.
        mu: strong convexity of f.
        L_clients: ``f64[n]``, smoothness L_i of each f_i.
        mu_clients: ``f64[n]``, strong convexity of each f_i.
        L_hat: constant of mean ||grad f_i(x) - grad f_i(y)||^2 <= L_hat^2 ||x - y||^2.  For quadratics
            it is the root of the largest eigenvalue of the mean of the squared Hessians, otherwise the
            bound L_tilde.
    """

    dataset: FederatedData
    loss: Callable[[Tree, Tree, Key], Array]
    optimum: np.ndarray
    minimum: float
    L: float
    mu: float
    L_clients: np.ndarray
    mu_clients: np.ndarray
    L_hat: float

    @property
    def L_max(self) -> float:
        """The largest L_i."""
        return float(self.L_clients.max())

    @property
    def L_tilde(self) -> float:
        """The quadratic mean of the L_i."""
        return float(np.sqrt(np.mean(self.L_clients**2)))


def quadratic_problem(
    key: Key,
    *,
    num_clients: int = 10,
    dim: int = 20,
    condition: float = 10.0,
    heterogeneity: float = 3.0,
) -> Problem:
    """Heterogeneous quadratics f_i(x) = x^T A_i x / 2 - b_i^T x with a known optimum.

    A_i = Q_i diag(exp U[0, ln condition]) Q_i^T with Q_i uniform among orthogonal matrices, and
    b_i ~ N(0, heterogeneity^2 I).

    Each client holds one example ``{"A": f[d, d], "b": f[d]}``, so ``local_sgd(..., batch_size=1)``
    takes full gradient steps.  Optimum and constants are computed in float64 from the data as JAX
    stores them.

    Args:
        key: a typed key.
        num_clients: number of clients n.
        dim: dimension d.
        condition: largest possible condition number of an A_i, at least 1.
        heterogeneity: standard deviation of the clients' linear terms.

    Returns:
        A :class:`Problem`.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> import jax
        >>> from fjx import data
        >>> problem = data.quadratic_problem(jax.random.key(0))
        >>> problem.mu <= problem.L <= problem.L_hat <= problem.L_tilde <= problem.L_max
        True
    """
    num_clients = _validate.static_integer("num_clients", num_clients, at_least=1)
    dim = _validate.static_integer("dim", dim, at_least=1)
    condition = _validate.static_number("condition", condition, at_least=1)
    heterogeneity = _validate.static_number("heterogeneity", heterogeneity, at_least=0)
    rng, real = generator(key), kept(np.dtype(float))
    clients = []
    for _ in range(num_clients):
        q, r = np.linalg.qr(rng.standard_normal((dim, dim)))
        q *= np.sign(np.diag(r))  # makes Q uniform (Haar)
        a = (q * np.exp(rng.uniform(0, np.log(condition), dim))) @ q.T
        b = heterogeneity * rng.standard_normal(dim)
        clients.append({"A": ((a + a.T) / 2).astype(real)[None], "b": b.astype(real)[None]})

    def loss(x: Tree, batch: Tree, key: Key) -> Array:
        quadratic = jnp.einsum("i,nij,j->n", x, batch["A"], x) / 2
        return jnp.mean(quadratic - batch["b"] @ x)

    hessians, b = (np.concatenate([c[k] for c in clients]).astype(np.float64) for k in ("A", "b"))
    mean_hessian, mean_b = hessians.mean(0), b.mean(0)
    optimum = np.linalg.solve(mean_hessian, mean_b)
    each = np.linalg.eigvalsh(hessians)
    whole = np.linalg.eigvalsh(mean_hessian)
    return Problem(
        dataset=from_clients(clients, weights=np.ones(num_clients)),
        loss=loss,
        optimum=optimum,
        minimum=float(-mean_b @ optimum / 2),
        L=float(whole[-1]),
        mu=float(whole[0]),
        L_clients=each[:, -1],
        mu_clients=each[:, 0],
        L_hat=float(np.sqrt(np.linalg.eigvalsh(np.mean(hessians @ hessians, axis=0))[-1])),
    )


def local_gd_fixed_point(problem: Problem, *, step_size: float, local_steps: int) -> np.ndarray:
    """Fixed point of FedAvg with H local gradient steps on a :func:`quadratic_problem`.

    The result solves sum_i (I - (I - eta A_i)^H) (x - A_i^{-1} b_i) = 0.  It is not the optimum, unless
    H = 1 or the clients agree.  The iterates converge to it if eta < 2 / L_max.

    Args:
        problem: a :func:`quadratic_problem`.
        step_size: step size eta, positive.
        local_steps: number of local steps H.

    Returns:
        ``f64[d]``.

    Raises:
        ValueError: a number is out of range, or the problem is not quadratic.

    Examples:
        >>> import jax, numpy as np
        >>> from fjx import data
        >>> problem = data.quadratic_problem(jax.random.key(0))
        >>> one = data.local_gd_fixed_point(problem, step_size=0.01, local_steps=1)
        >>> bool(np.allclose(one, problem.optimum))
        True

    References:
        Malinovsky et al., *From Local SGD to Local Fixed-Point Methods for Federated Learning*,
        ICML 2020 (arXiv:2004.01442).
    """
    step_size = _validate.static_number("step_size", step_size, above=0)
    local_steps = _validate.static_integer("local_steps", local_steps, at_least=1)
    if "A" not in problem.dataset.arrays:
        raise ValueError(
            "problem must be made by data.quadratic_problem; others have no such closed form"
        )
    arrays: Any = jax.tree.map(lambda x: np.asarray(x, np.float64), problem.dataset.arrays)
    identity = np.eye(arrays["A"].shape[-1])
    pulls = identity - np.linalg.matrix_power(identity - step_size * arrays["A"], local_steps)
    targets = np.linalg.solve(arrays["A"], arrays["b"][..., None])
    return np.linalg.solve(pulls.sum(0), (pulls @ targets).sum(0))[:, 0]


def logistic_problem(
    key: Key,
    *,
    num_clients: int = 10,
    dim: int = 20,
    examples_per_client: int = 50,
    l2: float = 0.1,
    heterogeneity: float = 1.0,
) -> Problem:
    """Heterogeneous L2-regularised logistic regression with a known optimum.

    f_i(x) is the mean over client i's (a, y) of log(1 + exp(-y a^T x)), plus l2/2 ||x||^2.  Inputs are
    a ~ N(m_i, I / d) with m_i ~ N(0, heterogeneity^2 I / d).  Labels y in {-1, 1} are drawn from the
    logistic model of a common parameter and of a bias ~ N(0, heterogeneity^2) of the client.

    The optimum is computed by Newton's method in float64 from the data as JAX stores them, to a
    gradient norm of 1e-12 max(1, L).  The smoothness constants are the bounds lambda_max(A^T A / m)
    / 4 + l2, and mu = l2.

    Args:
        key: a typed key.
        num_clients: number of clients n.
        dim: dimension d.
        examples_per_client: number of examples m of every client; means by examples and by clients thus
            agree.
        l2: strength of the regulariser, positive.
        heterogeneity: spread of the clients' inputs and labels; 0 is IID.

    Returns:
        A :class:`Problem` of examples ``{"a": f[d], "y": f[]}``.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> import jax
        >>> from fjx import data
        >>> problem = data.logistic_problem(jax.random.key(0))
        >>> problem.optimum.shape, problem.mu
        ((20,), 0.1)
    """
    for name, value in (("num_clients", num_clients), ("dim", dim)):
        _validate.static_integer(name, value, at_least=1)
    examples_per_client = _validate.static_integer(
        "examples_per_client", examples_per_client, at_least=1
    )
    l2 = _validate.static_number("l2", l2, above=0)
    heterogeneity = _validate.static_number("heterogeneity", heterogeneity, at_least=0)
    rng, real = generator(key), kept(np.dtype(float))
    shape = (num_clients, examples_per_client)
    centres = heterogeneity * rng.standard_normal((num_clients, 1, dim))
    a = ((centres + rng.standard_normal((*shape, dim))) / np.sqrt(dim)).astype(real)
    logits = 3 * a @ rng.standard_normal(dim) + heterogeneity * rng.standard_normal(
        (num_clients, 1)
    )
    y = np.where(rng.random(shape) < _sigmoid(logits), 1, -1).astype(real)
    clients = [{"a": a[i], "y": y[i]} for i in range(num_clients)]

    def loss(x: Tree, batch: Tree, key: Key) -> Array:
        losses = jax.nn.softplus(-batch["y"] * (batch["a"] @ x))
        return jnp.mean(losses) + l2 / 2 * jnp.sum(x**2)

    signed = (a * y[..., None]).reshape(-1, dim).astype(np.float64)
    grams = np.linalg.eigvalsh(np.swapaxes(a, 1, 2).astype(np.float64) @ a / examples_per_client)
    whole = np.linalg.eigvalsh(signed.T @ signed / len(signed))
    each, L = grams[:, -1] / 4 + l2, float(whole[-1] / 4 + l2)
    optimum = _newton(signed, l2, tolerance=1e-12 * max(1.0, L))
    return Problem(
        dataset=from_clients(clients, weights=np.ones(num_clients)),
        loss=loss,
        optimum=optimum,
        minimum=float(np.logaddexp(0, -signed @ optimum).mean() + l2 / 2 * optimum @ optimum),
        L=L,
        mu=float(l2),
        L_clients=each,
        mu_clients=np.full(num_clients, float(l2)),
        L_hat=float(np.sqrt(np.mean(each**2))),
    )


def _newton(signed: np.ndarray, l2: float, *, tolerance: float) -> np.ndarray:
    """Minimiser of mean log(1 + exp(-s^T x)) + l2/2 ||x||^2 over the rows s of ``signed``."""
    count, dim = signed.shape
    x = np.zeros(dim)
    for _ in range(1000):
        wrong = _sigmoid(-signed @ x)
        gradient = -signed.T @ wrong / count + l2 * x
        if np.linalg.norm(gradient) <= tolerance:
            return x
        hessian = (signed.T * (wrong * (1 - wrong))) @ signed / count + l2 * np.eye(dim)
        step = np.linalg.solve(hessian, gradient)
        # A full step may overshoot far from the optimum, so it is damped there.
        far = np.linalg.norm(gradient) > 1e-2
        x = x - step / (1 + np.sqrt(step @ hessian @ step) if far else 1)
    raise RuntimeError(f"Newton's method found no gradient below {tolerance}; raise l2")


def _sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)), without overflow."""
    return (1 + np.tanh(z / 2)) / 2
