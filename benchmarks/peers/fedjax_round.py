"""FedAvg by fedjax's own ``federated_averaging``, with its default backend.

fedjax 0.0.17 was written for a JAX that had ``jax.tree_map``, which is put back.  It fills a short
last batch with examples of the next pass, so that its batches all have one shape.
"""

import argparse
import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np

jax.tree_map = jax.tree_util.tree_map

import fedjax  # noqa: E402  # after what it misses in jax
from fedjax.algorithms import fed_avg  # noqa: E402
from fedjax.core import client_datasets  # noqa: E402

from benchmarks import worker, workloads  # noqa: E402
from benchmarks.peers.plain_jax import loss_of  # noqa: E402
from benchmarks.workloads import Workload  # noqa: E402


def make(workload: Workload, options: argparse.Namespace) -> worker.Worker:
    loss = loss_of(workload.model)
    algorithm = fed_avg.federated_averaging(
        grad_fn=lambda params, batch, key: jax.grad(loss)(params, batch["x"], batch["y"]),
        client_optimizer=fedjax.optimizers.sgd(workloads.LEARNING_RATE),
        server_optimizer=fedjax.optimizers.sgd(1.0),
        client_batch_hparams=client_datasets.ShuffleRepeatBatchHParams(
            batch_size=workload.batch_size, num_epochs=workload.epochs, drop_remainder=False
        ),
    )
    clients = [
        client_datasets.ClientDataset({"x": x, "y": y}) for x, y in workloads.by_client(workload)
    ]
    state = algorithm.init(jax.tree_util.tree_map(jnp.asarray, workloads.parameters(workload)))
    key, done = jax.random.PRNGKey(0), 0

    def one_round(round: int) -> None:
        nonlocal state
        ids = workloads.cohort(workload, round).tolist()
        keys = jax.random.split(jax.random.fold_in(key, round), len(ids))
        cohort = [(i, clients[i], k) for i, k in zip(ids, keys, strict=True)]
        state, _ = algorithm.apply(state, cohort)

    def advance(rounds: int) -> None:
        nonlocal done
        for _ in range(rounds):
            one_round(done)
            done += 1
            jax.block_until_ready(state.params)

    about = {
        "peer": "fedjax",
        "fedjax": importlib.metadata.version("fedjax"),
        "jax": jax.__version__,
    }
    return worker.Worker(advance, lambda: jax.tree_util.tree_map(np.asarray, state.params), about)


if __name__ == "__main__":
    worker.main(make, worker.parser(__doc__).parse_args())
