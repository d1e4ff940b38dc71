"""FedAvg in drjax: broadcast, map local training over the clients, reduce a weighted mean.

drjax maps a function of arrays of one shape, so that clients are padded to the longest of all cohorts
and their padding is masked.  Examples lie on the device; NumPy draws the shuffles of a round.
"""

import argparse
import importlib.metadata

import drjax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import worker, workloads
from benchmarks.peers.plain_jax import losses_of
from benchmarks.workloads import Workload


def make(workload: Workload, options: argparse.Namespace) -> worker.Worker:
    losses = losses_of(workload.model)

    def masked_loss(params: dict, x: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.sum(losses(params, x, y), where=mask) / jnp.maximum(mask.sum(), 1)

    @jax.jit
    @drjax.program(placements={"clients": workload.clients})
    def play(params: dict, examples: tuple, rows: jax.Array, sizes: jax.Array) -> dict:
        x, y = examples

        def train(params: dict, rows: jax.Array, size: jax.Array) -> dict:
            def step(params: dict, inputs: tuple) -> tuple:
                rows, places = inputs
                grads = jax.grad(masked_loss)(params, x[rows], y[rows], places < size)
                rate = workloads.LEARNING_RATE
                return jax.tree.map(lambda p, g: p - rate * g, params, grads), None

            places = jnp.arange(rows.size).reshape(rows.shape)
            for _ in range(workload.epochs):
                params, _ = jax.lax.scan(step, params, (rows, places))
            return params

        trained = drjax.map_fn(train, (drjax.broadcast(params), rows, sizes))
        weights = jax.tree.map(lambda _: sizes.astype(jnp.float32), params)
        return drjax.reduce_weighted_mean(trained, weights)

    each = workloads.sizes(workload)
    starts = np.concatenate([[0], np.cumsum(each)[:-1]])
    steps = -(-int(each.max()) // workload.batch_size)
    rng = np.random.default_rng(0)

    def plan(client: int) -> np.ndarray:
        rows = np.zeros(steps * workload.batch_size, np.int32)
        rows[: each[client]] = starts[client] + rng.permutation(each[client])
        return rows.reshape(steps, workload.batch_size)

    examples = tuple(map(jnp.asarray, workloads.examples(workload)))
    params, done = jax.tree.map(jnp.asarray, workloads.parameters(workload)), 0

    def advance(rounds: int) -> None:
        nonlocal params, done
        for _ in range(rounds):
            clients = workloads.cohort(workload, done)
            rows = np.stack([plan(client) for client in clients])
            params = play(params, examples, rows, each[clients].astype(np.int32))
            jax.block_until_ready(params)
            done += 1

    about = {
        "peer": "drjax",
        "drjax": importlib.metadata.version("drjax"),
        "jax": jax.__version__,
    }
    return worker.Worker(advance, lambda: jax.tree.map(np.asarray, params), about)


if __name__ == "__main__":
    worker.main(make, worker.parser(__doc__).parse_args())
