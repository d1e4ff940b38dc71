"""Robust aggregation of 100 messages of 1,000,000 numbers, beside ByzFL.

    python -m benchmarks.robust --peers ../peers

fjx and ByzFL run in processes of their own, on the same numbers and with the same number of threads,
and take turns: a turn of each rule follows a turn of the other library's.  ByzFL is timed on NumPy
arrays and on PyTorch tensors.  Compiling is not in the figures.  A process reports the seconds of a
call, the seconds of all processors that it took, and its peak of memory so far.

ByzFL's geometric median makes 3 of Weiszfeld's steps, whatever is left; fjx iterates until the gradient
is at most 1e-5.  Rules that try all subsets are left out at this size.  ByzFL has no Bulyan.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.round import ROOT, environment

CLIENTS, SIZE, BYZANTINE = 100, 1_000_000, 10

RULES = [
    "krum",
    "multi_krum",
    "geometric_median",
    "median",
    "trimmed_mean",
    "mean_around_median",
    "centered_clipping",
    "caf",
    "nearest_neighbour_mixing",
]
GOAL = {"krum": 10.0, "geometric_median": 10.0}
"""How many times as fast as ByzFL fjx should be."""


def messages(clients: int, size: int) -> np.ndarray:
    """The messages: those of the Byzantine clients are the mean of the others, turned around."""
    x = np.random.default_rng(0).standard_normal((clients, size), np.float32)
    x[:BYZANTINE] = -4 * x[BYZANTINE:].mean(0)
    return x


def serve(make: Callable[[str], Callable[[], Any]]) -> None:
    """The process of a library: reads the name of a rule, calls it, and prints what it took."""
    made: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        rule = line.strip()
        if rule not in made:
            made.clear()  # the results of other rules are freed
            made[rule] = make(rule)
            made[rule]()
        began, cpu = time.perf_counter(), time.process_time()
        made[rule]()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "cpu_s": cpu, "peak_mib": peak}), flush=True)


def fjx(clients: int, size: int) -> None:
    """The process of fjx."""
    import jax

    from fjx import aggregators as a

    x = jax.block_until_ready(jax.numpy.asarray(messages(clients, size)))
    f = BYZANTINE
    rules = {
        "krum": a.krum(f),
        "multi_krum": a.multi_krum(f),
        "geometric_median": a.geometric_median(),
        "median": a.median(),
        "trimmed_mean": a.trimmed_mean(f),
        "mean_around_median": a.mean_around_median(f),
        "centered_clipping": a.centered_clipping(),
        "caf": a.caf(f),
        "nearest_neighbour_mixing": a.nearest_neighbour_mixing(a.mean(), f),
    }

    def make(rule: str) -> Callable[[], Any]:
        run = jax.jit(lambda x: a.aggregate(jax.random.key(0), rules[rule], x)[0])
        return lambda: jax.block_until_ready(run(x))

    serve(make)


class Library:
    """The process of a library, which waits for the name of a rule."""

    def __init__(self, python: str, module: str, *arguments: str, threads: int) -> None:
        self.process = subprocess.Popen(
            [python, "-m", module, *arguments],
            cwd=ROOT,
            env=environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def turn(self, rule: str) -> dict[str, float]:
        """One call of a rule."""
        assert self.process.stdin
        assert self.process.stdout
        print(rule, file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        sys.exit(f"{self.process.args} ended without an answer")

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def libraries(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """By name: the command of each process."""
    shape = [str(options.clients), str(options.size)]
    yield "fjx", [sys.executable, "benchmarks.robust", "--serve", *shape]
    if options.peers:
        python = str(options.peers / "byzfl" / "bin" / "python")
        for kind in ("numpy", "torch"):
            yield f"byzfl {kind}", [python, "benchmarks.peers.byzfl_robust", kind, *shape]


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        fjx(*map(int, sys.argv[2:]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rules", nargs="*", default=RULES, help="rules; all by default")
    parser.add_argument("--peers", type=pathlib.Path, help="the folder of benchmarks/make_peers.py")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--threads", type=int, default=2)
    records.add_out(parser)
    options = parser.parse_args()
    write = records.writer(options.out, echo=False)
    processes = {
        name: Library(*command, threads=options.threads) for name, command in libraries(options)
    }
    print(
        f"{'rule':28}{'library':>14}{'s':>9}{'CPU s':>9}{'peak MiB':>10}{'times fjx':>11}{'goal':>6}"
    )
    for rule in options.rules or RULES:
        turns = [
            {name: process.turn(rule) for name, process in processes.items()}
            for _ in range(options.repetitions)
        ]
        for name in processes:
            typical = {
                key: statistics.median(turn[name][key] for turn in turns)
                for key in ("seconds", "cpu_s", "peak_mib")
            }
            ratio = {
                key: statistics.median(turn[name][key] / turn["fjx"][key] for turn in turns)
                for key in ("seconds", "cpu_s")
            }
            write(
                kind="robust", rule=rule, library=name, clients=options.clients, size=options.size,
                **typical, ratio=ratio["seconds"], cpu_ratio=ratio["cpu_s"],
            )  # fmt: skip
            goal = "" if name == "fjx" else f"{GOAL.get(rule, ''):>6}"
            print(
                f"{rule:28}{name:>14}{typical['seconds']:9.3f}{typical['cpu_s']:9.2f}"
                f"{typical['peak_mib']:10.0f}{ratio['seconds']:11.1f}{goal}",
                flush=True,
            )
    for process in processes.values():
        process.end()


if __name__ == "__main__":
    main()
