"""A dozen codecs in the uplink of FedAvg: what accuracy costs in bytes.

Ten clients a round train a small network with FedAvg.  The runs differ only in the codec of what
the clients send.  For each codec the script prints the held-out accuracy at the end, the kilobytes
that a client sends in a round, and how many times less that is than the model itself.  It draws
accuracy against megabytes into accuracy_against_bits.png.

There are three tasks:

- digits: scikit-learn's handwritten digits, dealt to 100 clients by Dirichlet(0.3) over labels;
- phones: the sensors of 23 people's phones (Matey-Sanz, Casteleyn, Granell, *Data in Brief* 2023,
  109809; CC BY 4.0), from the folder that FJX_DATA names;
- mnist: a third of MNIST by 100 clients of two digits each, from the same folder.

    FJX_DATA=folder/of/mnist.npz python examples/accuracy_against_bits.py --task mnist
"""

import argparse
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import fjx
from fjx import clients, data, models, samplers, simulation
from fjx import compressors as c

FOLDER = pathlib.Path(os.environ.get("FJX_DATA", "."))

UPLINKS = {
    "full precision": c.identity(),
    "bfloat16": c.cast(jnp.bfloat16),
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


def digits():
    """100 clients that see few of the digits each."""
    return data.digits(num_clients=100, alpha=0.3), models.mlp(features=64, classes=10)


def phones():
    """23 people; the last fifth of each one's windows is held out, and the one at the border dropped."""
    everybody, names = data.from_npz(FOLDER / "phone_har.npz", client="subject", fields=("x", "y"))
    train, held_out = [], []
    for i in range(len(names)):
        person = everybody.client(i)
        cut = 4 * len(person["y"]) // 5
        train.append({name: values[: cut - 1] for name, values in person.items()})
        held_out.append({name: values[cut:] for name, values in person.items()})
    test = jax.tree.map(lambda *parts: np.concatenate(parts), *held_out)
    return data.from_clients(train, test=test), models.sensor_cnn()


def mnist():
    """A third of the training images, by 100 clients of two digits each; the whole test set."""
    file = np.load(FOLDER / "mnist.npz")

    def images(part):
        x = file[f"x_{part}"][:20_000].reshape(-1, 784) / np.float32(255)
        return {"x": x, "y": file[f"y_{part}"][:20_000]}

    train, test = images("train"), images("test")
    shards = data.shards(jax.random.key(0), train["y"], num_clients=100)
    return data.split(train, shards, test=test), models.mlp(features=784, classes=10)


TASKS = {"digits": digits, "phones": phones, "mnist": mnist}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--task", choices=TASKS, default="digits")
    parser.add_argument(
        "--codecs", nargs="+", metavar="CODEC", choices=UPLINKS, default=list(UPLINKS)
    )
    args = parser.parse_args()

    dataset, model = TASKS[args.task]()
    params = model.init(jax.random.key(0))
    dense_bits = fjx.wire.bits(params)
    client = clients.local_sgd(model.loss, optax.sgd(0.1), epochs=1, batch_size=20)
    evaluate = simulation.evaluation(model.evaluate, dataset.test)

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="MB", ylabel="accuracy")
    print(f"{args.task:28}{'accuracy':>9}{'up, kB a client':>17}{'ratio':>8}")
    for name in args.codecs:
        result = fjx.simulate(
            jax.random.key(1),
            fjx.compose(client=client, uplink=UPLINKS[name]),
            params,
            dataset,
            sampler=samplers.uniform(10),
            rounds=args.rounds,
            evaluate_every=max(1, args.rounds // 20),
            evaluate=evaluate,
        )
        accuracy = result.history.evaluations["accuracy"]
        sent = result.ledger.cumulative_uplink  # bits of all clients, after each round
        bits_a_message = sent[-1] / result.ledger.delivered.sum()
        print(
            f"{name:28}{accuracy[-1]:9.1%}{bits_a_message / 8e3:17.2f}"
            f"{dense_bits / bits_a_message:8.1f}"
        )
        axes.semilogx(sent[result.history.evaluated_at - 1] / 8e6, accuracy, label=name)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig("accuracy_against_bits.png", dpi=150)


if __name__ == "__main__":
    main()
