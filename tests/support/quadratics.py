"""The problem of these tests: ten quadratics in twenty dimensions, and runs of any algorithm on them.

f_i = x^T A_i x / 2 - b_i^T x with eigenvalues of A_i in [1, 10], and codecs of 4 coordinates: omega = 4,
delta = 1/5.  Runs are in float32; constants are computed in float64.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fjx import compressors, data, models

PROBLEM = data.quadratic_problem(jax.random.key(0))
A, B = (np.asarray(PROBLEM.dataset.arrays[k], np.float64) for k in ("A", "b"))
N, D = B.shape
K = 4
OMEGA, DELTA = D / K - 1, K / D
TOP, RAND = compressors.top_k(K / D), compressors.rand_k(K / D)
TOP_BITS = K * (32 + 5) + 4

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def gap(x):
    """f(x) - f* of each row."""
    return np.einsum("...i,ij,...j", x, A.mean(0), x) / 2 - x @ B.mean(0) - PROBLEM.minimum


def gradients(x):
    """``[..., n, d]``: of each client, at each row."""
    return np.einsum("nij,...j->...ni", A, x) - B


def distance(x):
    return np.square(x - PROBLEM.optimum).sum(-1)


def top(x):
    """Top-k of each row, with the ties of ``lax.top_k``."""
    kept = np.argsort(-np.abs(x), axis=-1, kind="stable")[..., :K]
    out = np.zeros_like(x)
    np.put_along_axis(out, kept, np.take_along_axis(x, kept, -1), -1)
    return out


def some(rounds, share=0.5, seed=0):
    """``bool[rounds, n]``: who takes part, at random, and now and then nobody."""
    present = np.random.default_rng(seed).random((rounds, N)) < share
    present[rounds // 3 : rounds // 3 + 2] = False
    return present


def float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def trajectory(algorithm, rounds, *, present=None, seeds=None):
    """After each round: the server's states, all rows and the metrics, stacked; with an axis of seeds
    in front if there are some.
    """
    weights = jnp.ones((rounds, N)) if present is None else jnp.asarray(present, jnp.float32)
    first, cohort = jnp.zeros(D), PROBLEM.dataset.cohort(jnp.arange(N))

    def run(seed):
        rows = jax.vmap(lambda _: algorithm.init_client(first))(jnp.arange(N))

        def step(carry, inputs):
            t, w = inputs
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), seed), t)
            state, rows, metrics = algorithm.round(key, *carry, cohort._replace(weights=w))
            return (state, rows), (state, rows, metrics)

        return jax.lax.scan(step, (algorithm.init(first), rows), (jnp.arange(rounds), weights))[1]

    return jit(run)(0) if seeds is None else jit(jax.vmap(run))(jnp.arange(seeds))


def models_of(states):
    """``f64[..., rounds + 1, d]``, the first of which is zero."""
    xs = np.asarray(states.params, np.float64)
    return np.concatenate([np.zeros_like(xs[..., :1, :]), xs], axis=-2)


# ------------------------------------------------------------------- a model that is not convex

MLP = models.mlp(features=64, hidden=(16,), classes=10)


def digits_losses(algorithm, rounds):
    """The clients' mean loss in each round: ``f[rounds]``, of a small network on digits."""
    cohort = data.digits(num_clients=10, alpha=0.3).cohort(jnp.arange(10))
    weights = MLP.init(jax.random.key(0))
    rows = jax.vmap(lambda _: algorithm.init_client(weights))(jnp.arange(10))

    def step(carry, t):
        state, rows, metrics = algorithm.round(jax.random.key(t), *carry, cohort)
        return (state, rows), metrics["loss"]

    run = jit(lambda: jax.lax.scan(step, (algorithm.init(weights), rows), jnp.arange(rounds))[1])
    return np.asarray(run())
