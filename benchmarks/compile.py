"""What one waits for before the first round: imports, tracing, lowering and compiling.

Every figure is of a process of its own, and compiled programs are not kept between them.

    python -m benchmarks.compile
"""

import argparse
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from benchmarks import records

ROOT = pathlib.Path(__file__).parents[1]


def first_round(workload_name: str, executor: str) -> dict[str, float]:
    """The stages of the first round of a workload, in a process that has done nothing yet."""
    import jax

    from benchmarks import workloads
    from benchmarks.fjx_round import algorithm_of, dataset_of, executor_of

    workload = workloads.WORKLOADS[workload_name]._replace(cohorts=1)
    dataset, algorithm = dataset_of(workload), algorithm_of(workload)
    params = jax.tree.map(jax.numpy.asarray, workloads.parameters(workload))
    cohort = dataset.cohort(workloads.cohort(workload, 0))
    rows = jax.vmap(lambda _: algorithm.init_client(params))(cohort.ids)
    execute = executor_of(executor)
    play = jax.jit(lambda *args: algorithm.round(*args, executor=execute))
    args = (jax.random.key(0), algorithm.init(params), rows, cohort)
    jax.block_until_ready(args)

    times = [time.perf_counter()]
    traced = play.trace(*args)
    times.append(time.perf_counter())
    lowered = traced.lower()
    times.append(time.perf_counter())
    compiled = lowered.compile()
    times.append(time.perf_counter())
    jax.block_until_ready(compiled(*args))
    times.append(time.perf_counter())
    stages = [b - a for a, b in itertools.pairwise(times)]
    return dict(zip(("trace", "lower", "compile", "run"), stages, strict=True))


def imports() -> dict[str, float]:
    """Seconds to import what fjx stands on, and fjx after it."""
    began = time.perf_counter()
    import jax  # noqa: F401
    import optax  # noqa: F401

    between = time.perf_counter()
    import fjx  # noqa: F401

    return {"jax_optax": between - began, "fjx": time.perf_counter() - between}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", default="W1")
    parser.add_argument("--executor", default="chunked(1)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", choices=("imports", "first_round"), help=argparse.SUPPRESS)
    records.add_out(parser)
    options = parser.parse_args()
    if options.only == "imports":
        print(json.dumps(imports()))
    elif options.only == "first_round":
        print(json.dumps(first_round(options.workload, options.executor)))
    else:
        write = records.writer(options.out)
        for only in ("imports", "first_round"):
            found = [_fresh(options, only) for _ in range(options.repetitions)]
            median = {name: statistics.median(x[name] for x in found) for name in found[0]}
            if only == "first_round":
                median |= {"workload": options.workload, "executor": options.executor}
            write(kind=only, **median)


def _fresh(options: argparse.Namespace, only: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.compile", "--only", only]
    command += ["--workload", options.workload, "--executor", options.executor]
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
