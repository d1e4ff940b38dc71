"""A dozen codecs in the uplink of FedAvg: what accuracy costs in bytes.

On scikit-learn's digits; or, from the folder that FJX_DATA names, on phones' sensors (Matey-Sanz,
Casteleyn, Granell, *Data in Brief* 2023, 109809; CC BY 4.0) or MNIST.

    FJX_DATA=folder/of/mnist.npz python examples/accuracy_against_bits.py --task mnist
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

FOLDER = pathlib.Path(os.environ.get("FJX_DATA", "."))
UPLINKS = {
    "full precision": c.identity(),
    "bfloat16": c.cast(jax.numpy.bfloat16),
    "int8, blocks of 64": c.flatten(c.blockwise(c.absmax(bits=8), size=64)),
    "256 levels": c.flatten(c.k_level(levels=256)),
    "2 levels": c.flatten(c.k_level(levels=2)),
    "2 levels, rotated": c.flatten(c.rotated(c.k_level(levels=2), block=2048)),
    "EDEN, 1 bit": c.flatten(c.eden(bits=1, block=2048)),
    "EDEN, 0.1 bit": c.flatten(c.eden(bits=0.1)),
    "rand-k, 1 %": c.flatten(c.rand_k(0.01)),
    "top-k, 1 %, fed back": c.error_feedback(c.flatten(c.top_k(0.01))),
    "STC, 1 %, fed back": c.error_feedback(c.flatten(c.entropy(c.stc(0.01), "golomb"))),
    "PowerSGD, rank 2, fed back": c.error_feedback(c.power_sgd(2)),
}


def phones() -> tuple:
    """23 people; the last fifth of each one's windows is held out."""
    everybody, names = data.from_npz(FOLDER / "phone_har.npz", client="subject", fields=("x", "y"))
    people = [everybody.client(i) for i in range(len(names))]
    train, later = ([jax.tree.map(part, p) for p in people] for part in (
        lambda a: a[: 4 * len(a) // 5 - 1], lambda a: a[4 * len(a) // 5 :]))  # fmt: skip
    test = jax.tree.map(lambda *a: np.concatenate(a), *later)
    return data.from_clients(train, test=test), models.sensor_cnn()


def mnist() -> tuple:
    """A third of the training images, by 100 clients of two digits each; the whole test set."""
    file = np.load(FOLDER / "mnist.npz")
    train, test = ({"x": file[f"x_{k}"][:20_000].reshape(-1, 784) / np.float32(255),
                    "y": file[f"y_{k}"][:20_000]} for k in ("train", "test"))  # fmt: skip
    parts = data.shards(jax.random.key(0), train["y"], num_clients=100)
    return data.split(train, parts, test=test), models.mlp(features=784, classes=10)


digits = data.digits(num_clients=100, alpha=0.3), models.mlp(features=64, classes=10)
tasks = {"digits": lambda: digits, "phones": phones, "mnist": mnist}
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rounds", type=int, default=100)
parser.add_argument("--task", choices=tasks, default="digits")
args = parser.parse_args()
dataset, model = tasks[args.task]()
params = model.init(jax.random.key(0))
axes = Figure(figsize=(9, 5), layout="constrained").add_subplot(xlabel="MB", ylabel="accuracy")
client = clients.local_sgd(model.loss, optax.sgd(0.1), epochs=1, batch_size=20)
print(f"{args.task:28}{'accuracy':>9}{'up, kB a client':>17}{'ratio':>8}")
for name, codec in UPLINKS.items():
    result = fjx.simulate(
        jax.random.key(1), fjx.compose(client=client, uplink=codec), params, dataset,
        sampler=samplers.uniform(10), rounds=args.rounds, evaluate_every=max(1, args.rounds // 20),
        evaluate=simulation.evaluation(model.evaluate, dataset.test))  # fmt: skip
    accuracy, sent = result.history.evaluations["accuracy"], result.ledger.cumulative_uplink
    each = sent[-1] / result.ledger.delivered.sum()
    print(f"{name:28}{accuracy[-1]:9.1%}{each / 8e3:17.2f}{fjx.wire.bits(params) / each:8.1f}")
    axes.semilogx(sent[result.history.evaluated_at - 1] / 8e6, accuracy, label=name)
axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
axes.figure.savefig("accuracy_against_bits.png", dpi=150)
