"""How long a program takes to trace, and how large it is, against the cohort and the rounds.

Neither should depend on either: a cohort is one ``vmap``, and rounds are one ``scan``.

    python -m benchmarks.trace
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks import records, workloads
from benchmarks.fjx_round import algorithm_of, dataset_of, executor_of
from benchmarks.workloads import WORKLOADS
from fjx import samplers, simulation


def equations(value: Any) -> int:
    """The number of primitive operations in a program, those of its inner programs included."""
    jaxpr = getattr(value, "jaxpr", value)
    inner = (equations(sub) for each in jaxpr.eqns for sub in _programs(each.params))
    return len(jaxpr.eqns) + sum(inner)


def _programs(params: Any) -> Iterator[Any]:
    leaves = jax.tree.leaves(params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"))
    return (leaf for leaf in leaves if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", default="W3", choices=WORKLOADS)
    parser.add_argument("--executor", default="chunked(10)")
    parser.add_argument("--repetitions", type=int, default=3)
    records.add_out(parser)
    options = parser.parse_args()
    write = records.writer(options.out)
    for clients, rounds in [(10, 1), (100, 1), (1000, 1), (10, 10), (10, 100), (10, 1000)]:
        workload = WORKLOADS[options.workload]._replace(clients=clients, cohorts=1)
        algorithm, dataset = algorithm_of(workload), dataset_of(workload)
        params = jax.tree.map(jax.numpy.asarray, workloads.parameters(workload))
        seconds = []
        for _ in range(options.repetitions):
            # A new program each time, because a trace is remembered by its function.
            program = simulation.program(
                algorithm,
                dataset,
                sampler=samplers.cyclic(1),
                executor=executor_of(options.executor),
                evaluate_every=rounds,
            )
            state = program.init(params)
            began = time.perf_counter()
            traced = jax.make_jaxpr(program.run, static_argnums=2)(jax.random.key(0), state, rounds)
            seconds.append(time.perf_counter() - began)
        write(
            kind="trace",
            workload=options.workload,
            clients=clients,
            rounds=rounds,
            seconds=min(seconds),
            equations=equations(traced),
        )


if __name__ == "__main__":
    main()
