"""The workloads by fjx, through its public functions alone."""

import argparse
import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import fjx
from benchmarks import worker, workloads
from benchmarks.workloads import Workload
from fjx import aggregators, clients, compressors, data, models, privacy, samplers, simulation


def model_of(name: str) -> models.Model:
    """The fjx model that equals a workload's."""
    if name == "cnn":
        return models.emnist_cnn(dropout=(0.0, 0.0))
    if name == "lstm":
        return models.char_lstm(vocabulary=workloads.VOCABULARY)
    if name == "mlp":
        return models.mlp(features=workloads.PIXELS, hidden=(128,), classes=workloads.CLASSES)
    return models.logistic_regression(features=workloads.PIXELS, classes=workloads.CLASSES)


def dataset_of(workload: Workload, *, hosted: bool = False) -> data.FederatedData:
    """The examples, on the device or on the host."""
    x, y = workloads.examples(workload)
    dataset = data.from_packed({"x": x, "y": y}, workloads.sizes(workload))
    return dataset if hosted else data.on_device(dataset)


def executor_of(text: str) -> fjx.Executor:
    """An executor as one would write it: ``chunked(10)``, ``sharded(lanes(2))``."""
    name, _, inside = text.partition("(")
    inside = inside.removesuffix(")")
    if name == "sharded":
        mesh = jax.make_mesh((jax.device_count(),), ("clients",))
        return simulation.sharded(mesh, executor_of(inside) if inside else None)
    make = getattr(simulation, name)
    return make(int(inside)) if inside else make()


def algorithm_of(
    workload: Workload, *, compressed: bool = False, private: bool = False
) -> fjx.Algorithm:
    """FedAvg; with error-fed-back top 1 % in 8 bits, and with DP-FedAvg's clipping and noise."""
    slots: dict = {}
    if compressed:
        sparse = compressors.chain(compressors.top_k(0.01), compressors.quantize(bits=8))
        slots["uplink"] = compressors.error_feedback(sparse)
    if private:
        mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
        slots["aggregator"] = aggregators.private(mechanism, denominator=workload.clients)
    client = clients.local_sgd(
        model_of(workload.model).loss,
        optax.sgd(workloads.LEARNING_RATE),
        epochs=workload.epochs,
        batch_size=workload.batch_size,
    )
    return fjx.compose(client=client, **slots)


def make(workload: Workload, options: argparse.Namespace) -> worker.Worker:
    algorithm = algorithm_of(workload, compressed=options.compressed, private=options.private)
    params = jax.tree.map(jnp.asarray, workloads.parameters(workload))
    dataset = dataset_of(workload, hosted=options.api == "hosted")
    if options.devices > 1 and options.api != "hosted":
        # On every device once and for all, as simulate does.
        mesh = Mesh(np.array(jax.devices()), ("clients",))
        everywhere = NamedSharding(mesh, PartitionSpec())
        dataset, params = jax.device_put((dataset, params), everywhere)
    about = _about(options)
    if options.executor == "auto":
        sampler = samplers.cyclic(workload.cohorts)
        choice = simulation.fastest(jax.random.key(0), algorithm, params, dataset, sampler=sampler)
        executor, about["executor"] = choice.executor, f"auto: {choice.name}"
    else:
        executor = executor_of(options.executor)
    way = {"program": _by_program, "round": _by_round}.get(options.api, _by_simulate)
    advance, params_of = way(workload, algorithm, params, dataset, executor)
    return worker.Worker(advance, lambda: jax.tree.map(np.asarray, params_of()), about)


def _by_program(workload: Workload, algorithm, params, dataset, executor):
    """All cohorts once, in one compiled program."""
    program = simulation.program(
        algorithm, dataset, sampler=samplers.cyclic(workload.cohorts), executor=executor
    )
    key = jax.random.key(0)
    # Twice in all before anything is timed: a state that lives on a mesh is compiled for anew.
    state, _ = program.run(key, program.init(params), workload.cohorts)

    def advance(rounds: int) -> None:
        nonlocal state
        # As many at a time as there are cohorts, because their number is compiled in.
        for _ in range(0, rounds, workload.cohorts):
            state, _ = program.run(key, state, workload.cohorts)
            jax.block_until_ready(state)

    return advance, lambda: state.params


def _by_round(workload: Workload, algorithm, params, dataset, executor):
    """Round by round, from a loop in Python."""
    cohorts = [dataset.cohort(workloads.cohort(workload, t)) for t in range(workload.cohorts)]
    # Client states by cohort: nobody is in two.
    rows = [jax.vmap(lambda _: algorithm.init_client(params))(c.ids) for c in cohorts]
    play = jax.jit(
        lambda *state: algorithm.round(*state, executor=executor)[:2], donate_argnums=(1, 2)
    )
    key, server, done = jax.random.key(0), algorithm.init(jax.tree.map(jnp.copy, params)), 0

    def advance(rounds: int) -> None:
        nonlocal server, done
        for _ in range(rounds):
            at = done % workload.cohorts
            key_round = jax.random.fold_in(key, done)
            server, rows[at] = play(key_round, server, rows[at], cohorts[at])
            jax.block_until_ready(server)
            done += 1

    return advance, lambda: server.params


def _by_simulate(workload: Workload, algorithm, params, dataset, executor):
    """By the function that most people call."""

    def advance(rounds: int) -> float:
        nonlocal params
        # Compiles anew in each call, so its own clock counts, which tells compiling from running.
        result = fjx.simulate(
            jax.random.key(0),
            algorithm,
            params,
            dataset,
            sampler=samplers.cyclic(workload.cohorts),
            executor=executor,
            rounds=rounds,
        )
        params = result.params
        return result.seconds.running

    return advance, lambda: params


def _about(options: argparse.Namespace) -> dict:
    return {
        "peer": "fjx",
        "fjx": fjx.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "flax": importlib.metadata.version("flax"),
        "executor": options.executor,
        "api": options.api,
        "devices": jax.device_count(),
        "backend": jax.default_backend(),
    }


def main() -> None:
    parser = worker.parser(__doc__)
    parser.add_argument(
        "--executor", default="chunked(10)", help="such as auto, vectorized, sharded(chunked(10))"
    )
    parser.add_argument(
        "--api",
        default="program",
        choices=("program", "round", "simulate", "hosted"),
        help="hosted: simulate, with the examples on the host",
    )
    parser.add_argument(
        "--compressed", action="store_true", help="error-fed-back top 1 %% in 8 bits"
    )
    parser.add_argument("--private", action="store_true", help="clipping and noise")
    parser.add_argument("--devices", type=int, default=1, help="devices that the CPU is split into")
    options = parser.parse_args()
    if options.devices > 1:
        jax.config.update("jax_num_cpu_devices", options.devices)
    worker.main(make, options)


if __name__ == "__main__":
    main()
