"""Every compressed method of fjx on networks: mini-batches, ten clients a round, best of six steps."""

import argparse
import inspect
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import phone_har

from fjx import algorithms as a
from fjx import compressors as c
from fjx import data, models, samplers, simulation, wire

R, SIZES = 0.1, 4.0 ** np.arange(-4, 2)
TOP, RAND, BITS = ({"codec": codec} for codec in (c.top_k(R), c.rand_k(R), c.quantize(bits=8)))
LAM, CHANGES = RAND | {"lam": R}, {"differences": c.rand_k(R), "p": R}
METHODS = [
    (a.compressed_gd, {"codec": c.identity()}), (a.compressed_gd, RAND), (a.ef14, TOP), (a.ef21, TOP),
    (a.ef21_bc, TOP), (a.ef21_sgdm, TOP | {"eta": 0.2}), (a.clag, TOP | {"zeta": 1}), (a.sign_sgd, {}),
    (a.double_squeeze, TOP), (a.choco_sgd, TOP | {"step_size": 0.2}), (a.ef_bv, LAM | {"nu": 0.5}),
    (a.diana, LAM), (a.mcm, LAM), (a.artemis, LAM), (a.dasha, RAND | {"momentum": R / (2 - R)}),
    (a.marina, CHANGES), (a.pp_marina, CHANGES | {"participants": 9}), (a.compressed_scaffnew, {}),
    (a.onebit_adam, {"warmup": 20, "eps": 1e-3}), (a.power_sgd, {"rank": 2, "momentum": 0.9}),
    (a.fetch_sgd, {"ratio": 0.008, "rows": 5, "momentum": 0.0}), (a.fedpaq, BITS),
    (a.fedcom, BITS | {"server_lr": 1.5}), (a.fedcomgate, BITS), (a.scaffnew, {}), (a.tamuna, {}),
    (a.fedcomloc, {"uplink": c.top_k(0.3)}), (a.fedlin, {"uplink": c.error_feedback(c.top_k(R))}),
]  # fmt: skip


def race(recipe, options, params, model, d, batch, parts):
    """Accuracies and kB that a slot of the cohort sent, with the best step size, and that step size."""
    rounds, n, takes = -(-args.rounds // parts), d.num_clients, inspect.signature(recipe).parameters
    everybody = {a.compressed_scaffnew, a.choco_sgd, a.dasha, a.marina, a.pp_marina}
    cohort = n if recipe in everybody else 10  # the methods above know no absentees
    ring = sum(jnp.roll(jnp.eye(n), i, axis=0) for i in (-1, 0, 1)) / 3
    known = {"num_clients": n, "clients_per_round": cohort, "mixing": ring, "owners": 4, "p": 0.2,
             "steps": 5, "columns": wire.bits(params) // 384,
             "batch_size": batch // 4 if "steps" in takes else batch, **options}  # fmt: skip

    def build(size):
        told = known | {"client_lr": size, "learning_rate": size}
        one = a.stochastic(recipe(model.loss, **{k: told[k] for k in told if k in takes}), batch)
        return one, simulation.program(
            one, d, sampler=samplers.uniform(cohort), evaluate_every=-(-args.rounds // 40),
            evaluate=simulation.evaluation(model.evaluate, d.test))  # fmt: skip

    play = jax.jit(lambda size, state: build(size)[1].run(jax.random.key(1), state, rounds))
    tried = [play(size, build(1.0)[1].init(params)) for size in SIZES]
    best = np.argmax([history.evaluations["accuracy"][-1] for _, history in tried])
    run = [tried[best]]
    while len(run) < parts:
        run.append(play(SIZES[best], run[-1][0]))
    history = jax.tree.map(lambda *x: np.concatenate(x), *(history for _, history in run))
    v = simulation.curve(history, build(1.0)[0].traffic(params), "accuracy")
    return v.score, v.bits / cohort / 8e3, SIZES[best]


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rounds", type=int, default=100)
parser.add_argument("--methods", nargs="+", default=[recipe.__name__ for recipe, _ in METHODS])
args, mlp = parser.parse_args(), models.mlp(features=64, hidden=(32,), classes=10)
tasks = {"digits": (mlp, data.digits(num_clients=20), 64, 1)}  # every step to the end
if (file := pathlib.Path(os.environ.get("FJX_DATA", ""), "phone_har.npz")).is_file():
    train, later, _ = phone_har.load(file)
    people = [train.client(i) for i in range(train.num_clients)]
    # Of four parts of the rounds the first decides on the step.
    tasks["phones"] = models.sensor_cnn(), data.from_clients(people, test=later.arrays), 32, 4
for task, row in tasks.items():
    params = row[0].init(jax.random.key(0))
    print(f"\n{task}: % right after uplink of 1, 3, 10 models and at last, kB, step size")
    for recipe, options in (m for m in METHODS if m[0].__name__ in args.methods):
        score, sent, size = race(recipe, options, params, *row)
        seen = (score[sent <= b * wire.bits(params) / 8e3] for b in (1, 3, 10, np.inf))
        numbers = "".join(f"{100 * x[-1]:7.1f}" if x.size else f"{'-':>7}" for x in seen)
        print(f"{recipe.__name__:19}{numbers}{sent[-1]:9.1f}{size:7.2g}", flush=True)
