"""A dozen codecs in the uplink of FedAvg: what accuracy costs in bytes.

On scikit-learn's digits, and on phones' sensors (Matey-Sanz, Casteleyn, Granell, *Data in Brief* 2023,
109809; CC BY 4.0) where FJX_DATA names their folder.  Prints tables, and draws accuracy against bytes.

    FJX_DATA=folder/of/phone_har.npz python examples/accuracy_against_bits.py --rounds 100
"""

import argparse
import os
import pathlib

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

import fjx
from fjx import clients, data, models, samplers, simulation
from fjx import compressors as c

UPLINKS = {
    "full precision": c.identity(),
    "int8, blocks of 64": c.flatten(c.blockwise(c.absmax(bits=8), size=64)),
    "2 levels": c.flatten(c.k_level(levels=2)),
    "2 levels, rotated": c.flatten(c.rotated(c.k_level(levels=2), block=2048)),
    "EDEN, 1 bit": c.flatten(c.eden(bits=1, block=2048)),
    "EDEN, 0.1 bit": c.flatten(c.eden(bits=0.1)),
    "rand-k, 1 %": c.flatten(c.rand_k(0.01)),
    "top-k, 1 %, fed back": c.error_feedback(c.flatten(c.top_k(0.01))),
    "STC, 1 %, fed back": c.error_feedback(c.flatten(c.entropy(c.stc(0.01), "golomb"))),
    "PowerSGD, rank 2, fed back": c.error_feedback(c.power_sgd(2)),
}


def phones(folder: str) -> tuple:
    """28 people, all of them every round; the last fifth of each one's windows is held out."""
    with np.load(pathlib.Path(folder, "phone_har.npz")) as file:
        x, y, subject = file["x"].astype(np.float32), file["y"], file["subject"]
    x = (x - x.mean(axis=(0, 1))) / x.std(axis=(0, 1))
    people = [np.flatnonzero(subject == name) for name in np.unique(subject)]
    cuts = [4 * len(rows) // 5 for rows in people]
    train = [{"x": x[r[: n - 1]], "y": y[r[: n - 1]]} for r, n in zip(people, cuts, strict=True)]
    later = np.concatenate([rows[n:] for rows, n in zip(people, cuts, strict=True)])
    test = {"x": x[later], "y": y[later]}
    return data.from_clients(train), test, models.sensor_cnn(), samplers.full()


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rounds", type=int, default=100)
parser.add_argument("--out", default="accuracy_against_bits.png")
args = parser.parse_args()
digits = data.digits(num_clients=100, alpha=0.3)
mlp = models.mlp(features=64, hidden=(128,), classes=10)
tasks = {"digits": (digits, digits.test, mlp, samplers.uniform(10))}
if "FJX_DATA" in os.environ:
    tasks["phone sensors"] = phones(os.environ["FJX_DATA"])
figure = Figure(figsize=(6 * len(tasks) + 3, 5), layout="constrained")
panels = figure.subplots(1, len(tasks), squeeze=False)[0]
for axes, (name, (dataset, test, model, sampler)) in zip(panels, tasks.items(), strict=True):
    params = model.init(jax.random.key(0))
    evaluate = simulation.evaluation(model.evaluate, test)
    client = clients.local_sgd(model.loss, optax.sgd(0.1), epochs=1, batch_size=20)
    print(f"{name:28}{'accuracy':>9}{'up, kB a client':>17}{'ratio':>8}")
    for uplink, codec in UPLINKS.items():
        algorithm = fjx.compose(client=client, uplink=codec)
        result = fjx.simulate(
            jax.random.key(1), algorithm, params, dataset, sampler=sampler, rounds=args.rounds,
            evaluate=evaluate, evaluate_every=max(1, args.rounds // 20),
        )  # fmt: skip
        history, ledger = result.history, result.ledger
        accuracy, sent = history.evaluations["accuracy"], ledger.cumulative_uplink
        each, dense = sent[-1] / ledger.delivered.sum(), fjx.wire.bits(params)
        print(f"{uplink:28}{accuracy[-1]:9.1%}{each / 8e3:17.2f}{dense / each:8.1f}")
        axes.semilogx(sent[history.evaluated_at - 1] / 8e6, accuracy, label=uplink)
    axes.set(title=name, xlabel="uplink of all clients, MB", ylabel="held-out accuracy")
axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
figure.savefig(args.out, dpi=150)
print(f"wrote {args.out}")
