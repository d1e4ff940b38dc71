"""The accuracy of FedAvg against the bytes that clients send, with some codecs in the uplink.

    FJX_DATA=folder/of/mnist.npz python -m benchmarks.accuracy

A third of MNIST's training images is dealt to 100 clients, two digits to most of them.  In a round
ten clients take one epoch of SGD.  Accuracy is that of the test set; the bytes are those of the payloads
that were sent.
"""

import argparse
import os
import pathlib

import jax
import numpy as np
import optax

import fjx
from benchmarks import records
from fjx import clients, data, models, samplers, simulation
from fjx import compressors as c

CODECS = {
    "full precision": c.identity(),
    "8 bits": c.flatten(c.blockwise(c.absmax(bits=8), size=64)),
    "EDEN, 1 bit": c.flatten(c.eden(bits=1, block=2048)),
    "top-k, 1 %, with error feedback": c.error_feedback(c.flatten(c.top_k(0.01))),
    "EDEN, 0.1 bit": c.flatten(c.eden(bits=0.1, block=2048)),
}
ROUNDS, EVERY = 100, 4


def mnist(folder: pathlib.Path) -> data.FederatedData:
    """The first 20,000 training images in shards of one digit, two to a client; the whole test set."""
    file = np.load(folder / "mnist.npz")
    train, test = (
        {"x": file[f"x_{part}"].reshape(-1, 784) / np.float32(255), "y": file[f"y_{part}"]}
        for part in ("train", "test")
    )
    train = jax.tree.map(lambda array: array[:20_000], train)
    return data.split(train, data.shards(jax.random.key(0), train["y"], num_clients=100), test=test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--codecs", nargs="*", choices=CODECS, default=[*CODECS])
    records.add_out(parser)
    options = parser.parse_args()
    write = records.writer(options.out)
    dataset = mnist(pathlib.Path(os.environ.get("FJX_DATA", ".")))
    model = models.mlp(features=784, classes=10)
    client = clients.local_sgd(model.loss, optax.sgd(0.1), epochs=1, batch_size=20)
    for name in options.codecs:
        for seed in range(options.seeds):
            result = fjx.simulate(
                jax.random.key(seed),
                fjx.compose(client=client, uplink=CODECS[name]),
                model.init(jax.random.key(100 + seed)),
                dataset,
                sampler=samplers.uniform(10),
                rounds=ROUNDS,
                evaluate_every=EVERY,
                evaluate=simulation.evaluation(model.evaluate, dataset.test),
            )
            sent = result.ledger.cumulative_uplink[result.history.evaluated_at - 1]
            write(
                kind="accuracy",
                codec=name,
                seed=seed,
                rounds=result.history.evaluated_at.tolist(),
                bytes=(sent // 8).tolist(),
                accuracy=result.history.evaluations["accuracy"].round(4).tolist(),
            )


if __name__ == "__main__":
    main()
