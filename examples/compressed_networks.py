"""Every compressed method of fjx on networks: not convex, mini-batches, ten of the clients a round.

On scikit-learn's digits, and on phones' sensors, of 23 people, from the folder that FJX_DATA names
(Matey-Sanz, Casteleyn, Granell, *Data in Brief* 2023, 109809; CC BY 4.0).  The best of six steps counts.
"""

import argparse
import inspect
import os
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fjx import algorithms as a
from fjx import compressors as c
from fjx import data, models, samplers, simulation, wire

R, FILE = 0.1, pathlib.Path(os.environ.get("FJX_DATA", ""), "phone_har.npz")
TOP, RAND, BITS = ({"codec": codec} for codec in (c.top_k(R), c.rand_k(R), c.quantize(bits=8)))
LAM, DIFFERENCES = RAND | {"lam": R}, {"differences": c.rand_k(R), "p": R}
METHODS = [
    (a.compressed_gd, {"codec": c.identity()}), (a.compressed_gd, RAND), (a.ef14, TOP), (a.ef21, TOP),
    (a.ef21_bc, TOP), (a.ef21_sgdm, TOP | {"rate": 0.2}), (a.clag, TOP | {"zeta": 1.0}),
    (a.double_squeeze, TOP), (a.choco_sgd, TOP | {"step_size": 0.2}), (a.ef_bv, LAM | {"nu": 0.5}),
    (a.diana, LAM), (a.mcm, LAM), (a.artemis, LAM), (a.dasha, RAND | {"momentum": R / (2 - R)}),
    (a.marina, DIFFERENCES), (a.pp_marina, DIFFERENCES | {"participants": 5}), (a.sign_sgd, {}),
    (a.onebit_adam, {"warmup": 20, "eps": 1e-3}), (a.power_sgd, {"rank": 2, "momentum": 0.9}),
    (a.fetch_sgd, {"ratio": 0.02, "rows": 5, "columns": 200, "momentum": 0.0}), (a.fedpaq, BITS),
    (a.fedcom, BITS | {"server_lr": 1.5}), (a.fedcomgate, BITS), (a.scaffnew, {}), (a.tamuna, {}),
    (a.compressed_scaffnew, {}), (a.fedcomloc, {"uplink": c.top_k(R)}),
    (a.fedlin, {"uplink": c.error_feedback(c.top_k(R))}),
]  # fmt: skip


def race(recipe, options, model, d, params):
    """Accuracies and kB that a slot of the cohort sent, with the best step size, and that step size."""
    n, takes, steps = d.num_clients, inspect.signature(recipe).parameters, 4.0 ** jnp.arange(-4, 2)
    cohort = n if recipe in (a.compressed_scaffnew, a.choco_sgd) else 10  # who know no absentees
    ring = sum(jnp.roll(jnp.eye(n), i, axis=0) for i in (-1, 0, 1)) / 3
    known = {"num_clients": n, "clients_per_round": cohort, "mixing": ring, "owners": 4,
             "p": 0.2, "steps": 5, "batch_size": 16 if "steps" in takes else 64, **options}  # fmt: skip
    step = "client_lr" if "client_lr" in takes else "learning_rate"
    make = partial(recipe, model.loss, **{k: v for k, v in known.items() if k in takes})

    def play(size):
        program = simulation.program(
            make(**{step: size}), d, sampler=samplers.uniform(cohort), evaluate_every=every,
            evaluate=simulation.evaluation(model.evaluate, d.test))  # fmt: skip
        return program.run(jax.random.key(1), program.init(params), args.rounds)[1]

    seen, traffic = jax.jit(jax.vmap(play))(steps), make(**{step: 1.0}).traffic(params)
    v = simulation.curve(seen, traffic, "accuracy")
    best = v.score[:, -1].argmax()
    return v.score[best], v.bits[best] / cohort / 8e3, steps[best]


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rounds", type=int, default=200)
parser.add_argument("--methods", nargs="+", default=[recipe.__name__ for recipe, _ in METHODS])
args, mlp = parser.parse_args(), models.mlp(features=64, hidden=(32,), classes=10)
every, tasks = max(1, args.rounds // 40), {"digits": (mlp, data.digits(num_clients=20))}
if FILE.is_file():
    everybody, names = data.from_npz(FILE, client="subject", fields=("x", "y"))
    people = [everybody.client(i) for i in range(len(names))]  # windows overlap: split by time
    train, later = ([jax.tree.map(part, p) for p in people] for part in (
        lambda x: x[: 4 * len(x) // 5 - 1], lambda x: x[4 * len(x) // 5 :]))  # fmt: skip
    test = jax.tree.map(lambda *x: np.concatenate(x), *later)
    tasks["phones"] = models.sensor_cnn(), data.from_clients(train, test=test)
for task, (model, d) in tasks.items():
    params = model.init(jax.random.key(0))
    print(f"\n{task}: % right after uplink of 1, 3, 10 models and at last, kB, step size")
    for recipe, options in (row for row in METHODS if row[0].__name__ in args.methods):
        score, sent, size = race(recipe, options, model, d, params)
        seen = [score[sent <= b * wire.bits(params) / 8e3] for b in (1, 3, 10)]
        numbers = "".join(f"{100 * x[-1]:7.1f}" if x.size else f"{'-':>7}" for x in (*seen, score))
        print(f"{recipe.__name__:19}{numbers}{sent[-1]:9.1f}{size:7.2g}", flush=True)
