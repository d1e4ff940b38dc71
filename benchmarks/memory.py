"""Peak memory of a round of W3 with 1,000 and with 10,000 clients of the same 10,000.

A cohort is run in chunks, so only what is kept for each client may grow: ids, weights, offsets.  The
examples, 3 GB, lie in memory in both cases; ``beyond`` is the peak above what was there before the
first round.

    python -m benchmarks.memory
"""

import argparse
import ctypes
import gc
import json
import pathlib
import re
import subprocess
import sys

from benchmarks import records

ROOT = pathlib.Path(__file__).parents[1]


def status(field: str) -> float:
    """A line of the kernel's account of this process, in MiB."""
    found = re.search(rf"{field}:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def measure(clients: int, population: int, executor: str) -> dict[str, float]:
    """One round, in a process that has done nothing yet."""
    import jax

    from benchmarks import workloads
    from benchmarks.fjx_round import algorithm_of, dataset_of, executor_of
    from fjx import samplers, simulation

    workload = workloads.WORKLOADS["W3"]._replace(clients=population, cohorts=1)
    program = simulation.program(
        algorithm_of(workload),
        dataset_of(workload),
        sampler=samplers.uniform(clients),
        executor=executor_of(executor),
        evaluate_every=1,
    )
    params = jax.tree.map(jax.numpy.asarray, workloads.parameters(workload))
    state = jax.block_until_ready(program.init(params))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory goes back, and is not there to be used again
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = status("VmRSS")
    jax.block_until_ready(program.run(jax.random.key(0), state, 1))
    peak = status("VmHWM")
    return {"before_mib": before, "peak_mib": peak, "beyond_mib": peak - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executor", default="chunked(10)")
    parser.add_argument("--population", type=int, default=10_000)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    records.add_out(parser)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.population, options.executor)))
        return
    write = records.writer(options.out)
    for clients in (options.population // 10, options.population):
        command = [sys.executable, "-m", "benchmarks.memory", "--only", str(clients)]
        command += ["--executor", options.executor, "--population", str(options.population)]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        found = json.loads(done.stdout)
        write(kind="memory", clients=clients, executor=options.executor, **found)


if __name__ == "__main__":
    main()
