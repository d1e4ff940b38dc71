"""Compressed methods against each other: who gets farthest on how many bits of uplink.

Of the steps, theory's or 1/64, times 1, 2, ..., 256, counts the one with the lowest curve.
"""

import argparse
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fjx import algorithms as a
from fjx import compressors as c
from fjx import data, models, samplers, simulation, theory, wire

SEEDS, BUDGETS, R, TWO = jnp.arange(2), (1, 3, 10, 30), 0.1, {"owners": 2}
TOP, RAND, OMEGA = {"codec": c.top_k(R)}, {"codec": c.rand_k(R)}, {"omega": 1 / R - 1, "n": 10}
METHODS = {  # a recipe, its options, and what its theorem, if it has one, is told besides the problem
    "gradient descent": (a.compressed_gd, {"codec": c.identity()}, {"omega": 0.0, "n": 10}),
    "rand-k": (a.compressed_gd, RAND, OMEGA),
    "top-k, EF14": (a.ef14, TOP, {"delta": R}),
    "top-k, EF21": (a.ef21, TOP, {"delta": R}),
    "top-k, EF21-BC": (a.ef21_bc, TOP, {"delta": R, "server_delta": R}),
    "rand-k, DIANA": (a.diana, {**RAND, "lam": R}, OMEGA),
    "4 bits, DIANA": (a.diana, {"codec": c.quantize(bits=4), "lam": 0.5}, {**OMEGA, "omega": 1.0}),
    "rand-k, Artemis": (a.artemis, {**RAND, "lam": R}, {**OMEGA, "server_omega": 1 / R - 1}),
    "rand-k, MARINA": (a.marina, {"differences": c.rand_k(R), "p": R}, {**OMEGA, "p": R}),
    "rand-k, DASHA": (a.dasha, {**RAND, "momentum": R / (2 - R)}, OMEGA),
    "Scaffnew": (a.scaffnew, {"p": 0.2}, {}),
    "TAMUNA": (a.tamuna, {**TWO, "p": 0.2, "clients_per_round": 10}, {**TWO, "p": 0.2, "n": 10}),
}


def race(recipe, options, told, problem, loss, d, params):  # bits in whole gradients
    first = 1 / 64
    if problem and (theorem := getattr(theory, recipe.__name__, None)):
        asked = inspect.signature(theorem).parameters.keys() - told
        known = {k: getattr(problem, k) for k in asked}
        first = theorem(**known | told).step_size
    n = {"num_clients": d.num_clients} if "num_clients" in str(inspect.signature(recipe)) else {}
    recipe = partial(recipe, loss, batch_size=64, **options, **n)

    def play(times, seed):
        program = simulation.program(
            recipe(learning_rate=first * times), d, sampler=samplers.uniform(10), evaluate_every=1,
            evaluate=lambda x: {"loss": jax.tree.leaves(loss(x, d.arrays, key))[0]})  # fmt: skip
        return program.run(jax.random.key(seed), program.init(params), args.rounds)[1]

    seen = jax.jit(jax.vmap(jax.vmap(play, (None, 0)), (0, None)))(2.0 ** jnp.arange(9), SEEDS)
    v = simulation.curve(seen, recipe(learning_rate=1.0).traffic(params), "loss")
    gap = np.nan_to_num(v.score, nan=np.inf) - getattr(problem, "minimum", 0.0)
    gap = np.maximum(gap, 1e-6)  # below is rounding
    best = np.log(gap).mean((1, 2)).argmin()
    return simulation.Curve(gap[best], v.rounds[best], v.bits[best] / 10 / wire.bits(params))


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rounds", type=int, default=300)
parser.add_argument("--methods", nargs="+", default=list(METHODS))
args, tasks, key = parser.parse_args(), {}, jax.random.key(0)
for p in (data.quadratic_problem(key), data.logistic_problem(key)):
    tasks["logistic" if tasks else "quadratics"] = p, p.loss, p.dataset, jnp.zeros(20)
mlp = models.mlp(features=64, hidden=(32,), classes=10)
tasks["digits"] = None, mlp.loss, data.digits(num_clients=10), mlp.init(key)
for name, task in tasks.items():
    print(f"\n{name + ', after gradients of':32}" + "".join(f"{b:>12}" for b in BUDGETS))
    curves, reached = {}, []
    for method in args.methods:
        curves[method] = v = race(*METHODS[method], *task)
        last = np.maximum((v.bits[..., None] <= np.array(BUDGETS)).sum(1) - 1, 0)
        reached.append(np.take_along_axis(v.score, last, 1).mean(0))
        print(f"{method:32}" + "".join(f"{x:12.2g}" for x in reached[-1]))
    print("first: " + "; ".join(args.methods[i] for i in np.argmin(reached, axis=0)))
    simulation.plot(curves, against=("bits", "rounds"), score=name, log=True).savefig(f"{name}.png")
