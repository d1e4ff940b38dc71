"""The same rounds without fjx: what a careful person writes by hand in JAX for FedAvg alone.

Examples lie flat on the device.  NumPy draws the shuffles of a round, sorts the clients by their
number of batches and cuts them into chunks; a chunk runs under ``vmap`` for as many steps as its
longest client has, and the chunks one after another.  Chunks of one run without ``vmap``.  Over
several devices each takes every n-th chunk.  Only models and layers are fjx's, so that a comparison with
``benchmarks.fjx_round`` tells what composing costs, and nothing else.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import worker, workloads
from benchmarks.fjx_round import model_of
from benchmarks.workloads import Workload
from fjx import layers


def plan_of(
    rng: np.random.Generator, workload: Workload, round: int, chunk: int, devices: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Who reads which rows when, for clients in descending order of work.

    Returns:
        ``i32[devices, chunks, chunk, steps, batch]`` rows, ``i32[devices, chunks]`` steps of a chunk,
        and for each client ``i32[devices, chunks, chunk]`` examples and ``f32`` shares of the mean.
    """
    everybody = workloads.sizes(workload)
    starts = np.concatenate([[0], np.cumsum(everybody)[:-1]])
    clients = workloads.cohort(workload, round)
    clients = clients[np.argsort(-everybody[clients], kind="stable")]
    slots = -(-len(clients) // (chunk * devices)) * chunk * devices
    counts = np.zeros(slots, np.int32)
    counts[: len(clients)] = everybody[clients]
    batch = workload.batch_size
    # The most steps of anybody in any cohort: one shape, one compilation.
    steps = -(-everybody.max() // batch)
    rows = np.zeros((slots, workload.epochs, steps * batch), np.int32)
    for slot, client in enumerate(clients):
        n = everybody[client]
        for epoch in range(workload.epochs):
            rows[slot, epoch, :n] = starts[client] + rng.permutation(n)
    rows = rows.reshape(slots, workload.epochs, steps, batch)

    def deal(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(x.reshape(-1, devices, chunk, *x.shape[1:]), 1, 0))

    counts = deal(counts)
    trips = -(-counts.max(axis=2) // batch)
    return deal(rows), trips.astype(np.int32), counts, (counts / counts.sum()).astype(np.float32)


def make(workload: Workload, options: argparse.Namespace) -> worker.Worker:
    evaluate = model_of(workload.model).evaluate
    batch, devices = workload.batch_size, options.devices
    mesh = Mesh(np.array(jax.devices()[:devices]), ("clients",))
    x, y = workloads.examples(workload)
    everywhere = NamedSharding(mesh, PartitionSpec())
    data = jax.device_put({"x": x, "y": y}, everywhere)
    params = jax.device_put(workloads.parameters(workload), everywhere)

    def train(
        params: dict, data: dict, rows: jax.Array, trips: jax.Array, count: jax.Array
    ) -> dict:
        def objective(params: dict, taken: jax.Array, mask: jax.Array) -> jax.Array:
            losses = evaluate(params, jax.tree.map(lambda a: a[taken], data))["loss"]
            return jnp.sum(jnp.where(mask, losses, 0.0)) / jnp.maximum(jnp.sum(mask), 1)

        def step(t: jax.Array, params: dict) -> dict:
            epoch, at = t // jnp.maximum(trips, 1), t % jnp.maximum(trips, 1)
            mask = at * batch + jnp.arange(batch) < count
            gradient = jax.grad(layers.loop_safe(objective))(params, rows[epoch, at], mask)
            return jax.tree.map(lambda p, g: p - workloads.LEARNING_RATE * g, params, gradient)

        return jax.lax.fori_loop(0, trips * workload.epochs, step, params)

    def share(params: dict, data: dict, *plan: jax.Array) -> dict:
        """What one device does."""

        def one_chunk(total: dict, chunk: tuple) -> tuple[dict, None]:
            rows, trips, counts, weights = chunk
            if options.chunk == 1:
                local = train(params, data, rows[0], trips, counts[0])
                return jax.tree.map(lambda s, p: s + weights[0] * p, total, local), None
            local = jax.vmap(train, (None, None, 0, None, 0))(params, data, rows, trips, counts)
            return jax.tree.map(lambda s, p: s + jnp.tensordot(weights, p, 1), total, local), None

        plan = jax.tree.map(lambda a: a[0], plan)
        total = jax.lax.scan(one_chunk, jax.tree.map(jnp.zeros_like, params), plan)[0]
        return jax.lax.psum(total, "clients") if devices > 1 else total

    spread, same = PartitionSpec("clients"), PartitionSpec()
    play = share
    if devices > 1:
        play = jax.shard_map(
            share,
            mesh=mesh,
            in_specs=(same, same, spread, spread, spread, spread),
            out_specs=same,
            check_vma=False,
        )
    play = jax.jit(play, donate_argnums=0)
    placement = NamedSharding(mesh, spread)
    rng, done = np.random.default_rng(0), 0

    def advance(rounds: int) -> None:
        nonlocal params, done
        for _ in range(rounds):
            plan = plan_of(rng, workload, done, options.chunk, devices)
            params = play(params, data, *jax.device_put(plan, placement))
            jax.block_until_ready(params)
            done += 1

    about = {
        "peer": "bare",
        "jax": jax.__version__,
        "chunk": options.chunk,
        "devices": devices,
    }
    return worker.Worker(advance, lambda: jax.tree.map(np.asarray, params), about)


def main() -> None:
    parser = worker.parser(__doc__)
    parser.add_argument("--chunk", type=int, default=10, help="clients at a time")
    parser.add_argument("--devices", type=int, default=1, help="devices that the CPU is split into")
    options = parser.parse_args()
    if options.devices > 1:
        jax.config.update("jax_num_cpu_devices", options.devices)
    worker.main(make, options)


if __name__ == "__main__":
    main()
