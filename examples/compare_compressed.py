"""Compressed methods against each other: who gets farthest on how many bits of uplink.

On quadratics, logistic regression and digits; all step sizes and seeds of a method are one program.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fjx import algorithms as a
from fjx import compressors as c
from fjx import data, models, wire

STEPS, SEEDS, BUDGETS = 2.0 ** jnp.arange(-6, 3), jnp.arange(2), (1, 3, 10, 30)
CLIENTS, RATIO = 10, 0.1
TOP, RAND = c.top_k(RATIO), c.rand_k(RATIO)
every = {"num_clients": CLIENTS}
METHODS = {
    "gradient descent": partial(a.compressed_gd, codec=c.identity()),
    "rand-k": partial(a.compressed_gd, codec=RAND),
    "1 bit, rotated": partial(a.compressed_gd, codec=c.flatten(c.drive())),
    "top-k, EF14": partial(a.ef14, codec=TOP),
    "top-k, DoubleSqueeze": partial(a.double_squeeze, codec=TOP),
    "top-k, EF21": partial(a.ef21, codec=TOP, **every),
    "top-k, EF21 and EF21-P": partial(a.ef21, codec=TOP, downlink=c.tracked(TOP), **every),
    "rand-k, DIANA": partial(a.diana, codec=RAND, lam=RATIO, **every),
    "4 bits, DIANA": partial(a.diana, codec=c.quantize(bits=4), lam=0.5, **every),
    "rand-k, EF-BV": partial(a.ef_bv, codec=RAND, lam=RATIO, nu=RATIO * 5, **every),
    "rand-k, MARINA": partial(a.marina, differences=RAND, p=RATIO),
    "rand-k, DASHA": partial(a.dasha, codec=RAND, momentum=RATIO / (2 - RATIO), **every),
    "Scaffnew": partial(a.scaffnew, p=0.2),
}


def race(method, loss, dataset, params, objective, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """What a client has sent, in whole gradients, and the objective: ``[steps, seeds, rounds]``."""
    cohort = dataset.cohort(jnp.arange(CLIENTS))

    def run(step_size, seed):
        algorithm = method(loss, learning_rate=step_size, batch_size=256)
        rows = jax.vmap(lambda _: algorithm.init_client(params))(cohort.ids)
        fixed = jnp.uint32(CLIENTS * algorithm.traffic(params).uplink // 8)

        def one(carry, t):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), seed), t)
            state, rows, metrics = algorithm.round(key, *carry, cohort)
            return (state, rows), (metrics.get("uplink_bytes", fixed), objective(state.params))

        return jax.lax.scan(one, (algorithm.init(params), rows), jnp.arange(rounds))[1]

    runs = jax.vmap(jax.vmap(run, in_axes=(None, 0)), in_axes=(0, None))
    sent, values = map(np.asarray, jax.jit(runs)(STEPS, SEEDS))
    return 8 * np.cumsum(sent, axis=-1, dtype=float) / CLIENTS / wire.bits(params), values


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rounds", type=int, default=300)
rounds = parser.parse_args().rounds
mlp, digits = models.mlp(features=64, hidden=(32,), classes=10), data.digits(num_clients=CLIENTS)
mean_loss = partial(lambda m, d, w: m.loss(w, d.arrays, jax.random.key(0))[0], mlp, digits)
tasks = {"digits": (mlp.loss, digits, mlp.init(jax.random.key(0)), mean_loss)}
for name, make in (("quadratics", data.quadratic_problem), ("logistic", data.logistic_problem)):
    problem = make(jax.random.key(0), num_clients=CLIENTS)
    gap = partial(lambda p, x: p.loss(x, p.dataset.arrays, None) - p.minimum, problem)
    tasks[name] = problem.loss, problem.dataset, jnp.zeros(20), gap
for name, task in tasks.items():
    print(f"\n{name + ', after gradients of':32}" + "".join(f"{b:>12}" for b in BUDGETS))
    reached = {}
    for method, recipe in METHODS.items():
        sent, values = race(recipe, *task, rounds)
        within = np.maximum((sent[..., None] <= np.array(BUDGETS)).sum(-2) - 1, 0)
        each = np.nan_to_num(np.take_along_axis(values, within, -1).mean(1), nan=np.inf)
        reached[method] = best = np.maximum(each.min(0), 1e-6)  # below is rounding
        print(f"{method:32}" + "".join(f"{v:12.2g}" for v in best))
    first = [list(METHODS)[i] for i in np.argmin(list(reached.values()), axis=0)]
    print("first: " + "; ".join(map("{}: {}".format, BUDGETS, first)))
