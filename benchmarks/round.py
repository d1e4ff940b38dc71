"""Rounds of fjx against rounds of its peers: ratios within one run, in JSON lines and a table.

    python -m benchmarks.round --peers ../peers W1 W2 W3 W4

Everybody runs in a process of its own, with two threads and the same settings of the allocator, and
is compiled and warm before anything is timed.  Then they take turns, A B C A B C, one at a time, and a
ratio is taken turn by turn, so that what slows the whole machine cancels.  ``others`` in a record is
the share of the processor that other processes had meanwhile: a ratio means nothing unless it is
close to zero.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from benchmarks import records, workloads
from benchmarks.workloads import WORKLOADS, Workload

ROOT = pathlib.Path(__file__).parents[1]

EXECUTOR = "sharded(chunked(1))"
"""How fjx runs a cohort, and its bare twin alike, unless the command line says otherwise."""

PEERS = {
    "torch": "benchmarks.peers.torch_loop",
    "fedjax": "benchmarks.peers.fedjax_round",
    "pfl": "benchmarks.peers.pfl_round",
    "flower": "benchmarks.peers.flower_round",
    "drjax": "benchmarks.peers.drjax_round",
}

VARIANTS = {
    "bare": "benchmarks.bare",
    "round": "benchmarks.fjx_round --api round",
    "hosted": "benchmarks.fjx_round --api hosted",
    "compressed": "benchmarks.fjx_round --compressed",
    "private": "benchmarks.fjx_round --compressed --private",
}
"""fjx itself in other ways: without composing, round by round, examples on the host, and more work."""

SKIPPED = {
    ("drjax", "W1"): "maps by vmap, under which convolutions take minutes",
    ("drjax", "W1-100"): "maps by vmap, under which convolutions take minutes",
    ("drjax", "W4"): "pads every client to the longest, and a round takes over 15 s",
    ("flower", "W2"): "sends a message to each of 1000 nodes, and a round takes about 20 s",
}
"""What is left out unless it is the only peer asked for, and why."""

TARGETS = {
    "torch": {"W1": 1.4, "W2": 8.0, "W3": 6.0, "W4": 1.05},
    "fedjax": {"W1": 2.4, "W2": 5.5, "W3": 4.2, "W4": 2.6},
    "bare": dict.fromkeys(WORKLOADS, 1 / 1.05),
    "hosted": dict.fromkeys(WORKLOADS, 1 / 0.85),
    "private": {"W1": 1.25, "W4": 1.25},
}
"""Seconds of each over seconds of fjx: for peers and for "bare" at least, for the others at most."""

PEAK_TARGETS = {"W1": 0.55, "W2": 0.32, "W3": 0.45, "W4": 0.65}

# Fresh buffers from the kernel cost page faults; all get huge pages, and keep what they freed.
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "67108864",
    "THP_MEM_ALLOC_ENABLE": "1",
}


class Contender(NamedTuple):
    """Somebody who runs rounds, as a command."""

    name: str
    command: list[str]


class Visit(NamedTuple):
    """What a contender did while the others waited."""

    seconds: float
    others: float


class Process:
    """A contender that is warm and waits for numbers of rounds."""

    def __init__(self, command: list[str], threads: int) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._read()

    def _read(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith("{"):  # others may talk while they work
                return json.loads(line)
        raise RuntimeError(f"a contender ended with code {self._process.wait()}")

    def run(self, rounds: int) -> Visit:
        """Runs so many rounds; returns the seconds of one."""
        before, began = self._idle_and_own(), time.perf_counter()
        print(rounds, file=self._process.stdin, flush=True)
        answer = self._read()
        idle, own = (b - a for a, b in zip(before, self._idle_and_own(), strict=True))
        elapsed = (time.perf_counter() - began) * os.cpu_count()
        return Visit(answer["seconds"] / rounds, max(0.0, (elapsed - idle - own) / elapsed))

    def end(self) -> dict[str, Any]:
        """Lets it go; returns its farewell."""
        self._process.stdin.close()
        answer = self._read()
        self._process.wait()
        return answer

    def kill(self) -> None:
        self._process.kill()

    def _idle_and_own(self) -> tuple[float, float]:
        """Seconds that processors idled, and that this process and its children worked, so far."""
        return records.idle(), _worked(self._process.pid) / os.sysconf("SC_CLK_TCK")


def _worked(root: int) -> int:
    """Ticks of a process and of all that it and its children started."""
    parents, ticks = {}, {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # ended since it was listed
            continue
        process = int(path.parent.name)
        parents[process], ticks[process] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {root}
    while grown := {p for p, parent in parents.items() if parent in family} - family:
        family |= grown
    return sum(ticks.get(p, 0) for p in family)


def environment(threads: int) -> dict[str, str]:
    """What every contender is started with."""
    return {
        **os.environ,
        **ALLOCATOR,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONPATH": str(ROOT),
    }


def contenders(options: argparse.Namespace, workload: Workload) -> list[Contender]:
    """Who runs a workload: fjx first."""
    mine = [sys.executable, "-m"]
    name = workload.name
    executor = options.executor or EXECUTOR
    result = []
    for variant in ("fjx", *options.variants):
        module, *rest = VARIANTS.get(variant, "benchmarks.fjx_round").split()
        how = ["--executor", executor]
        if variant == "bare":  # the chunk is the one number inside the executor's words
            digits = "".join(c for c in executor if c.isdigit())
            how = ["--chunk", digits or str(options.bare_chunk)]
        how += ["--devices", str(options.devices)]
        result.append(Contender(variant, [*mine, module, name, *rest, *how]))
    for peer in options.against:
        if (peer, name) in SKIPPED and len(options.against) > 1 and not options.check:
            continue
        python = options.peers / peer / "bin" / "python"
        if not python.exists():
            sys.exit(f"no environment for {peer} in {options.peers}; see benchmarks/make_peers.py")
        command = [str(python.absolute()), "-m", PEERS[peer], name]
        result.append(Contender(peer, [*command, "--threads", str(options.threads)]))
    return result


def compare(
    options: argparse.Namespace, workload: Workload, write: records.Write
) -> dict[str, list[float]]:
    """Seconds of a round by contender, one number for each turn."""
    running: dict[str, Process] = {}
    try:
        for name, command in contenders(options, workload):
            running[name] = Process(command, options.threads)
            write(kind="warm", workload=workload.name, contender=name, **running[name].about)
        rounds = {}
        for name, process in running.items():
            seconds = process.run(workload.cohorts).seconds * workload.cohorts
            rounds[name] = workload.cohorts * max(1, math.ceil(options.seconds / seconds))
        times: dict[str, list[float]] = {name: [] for name in running}
        for turn in range(options.repetitions):
            for name, process in running.items():
                process.run(workload.cohorts)  # memory that was taken from it while it waited
                visit = process.run(rounds[name])
                times[name].append(visit.seconds)
                write(
                    kind="round",
                    workload=workload.name,
                    contender=name,
                    turn=turn,
                    rounds=rounds[name],
                    seconds=visit.seconds,
                    others=visit.others,
                )
        for name, process in running.items():
            write(kind="end", workload=workload.name, contender=name, **process.end())
        return times
    finally:
        for process in running.values():
            process.kill()


def gemm(threads: int) -> float:
    """The measured peak in GFLOP/s."""
    command = [sys.executable, "-m", "benchmarks.gemm"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(threads), check=True, capture_output=True
    )
    return json.loads(done.stdout)["gflops"]


def table(workload: Workload, times: dict[str, list[float]], peak: float) -> Iterable[str]:
    """The terminal's lines on one workload."""
    flops = workloads.flops(workload)
    ours = statistics.median(times["fjx"])
    fraction = flops / ours / peak / 1e9
    wanted = PEAK_TARGETS.get(workload.name)
    target = f"  target {wanted}" if wanted else ""
    yield (
        f"\n{workload.name}: {workload.title}, {flops / 1e9:.3g} GFLOP a round\n"
        f"  {'':14}{'s a round':>10}{'over fjx':>10}{'from':>8}{'to':>8}{'target':>8}"
    )
    yield f"  {'fjx':14}{ours:10.4f}   {fraction:.2f} of {peak:.0f} GFLOP/s{target}"
    for name, seconds in times.items():
        if name == "fjx":
            continue
        ratios = [b / a for a, b in zip(times["fjx"], seconds, strict=True)]
        target = TARGETS.get(name, {}).get(workload.name)
        yield (
            f"  {name:14}{statistics.median(seconds):10.4f}{statistics.median(ratios):10.2f}"
            f"{min(ratios):8.2f}{max(ratios):8.2f}" + (f"{target:8.2f}" if target else "")
        )


def check(options: argparse.Namespace, workload: Workload) -> None:
    """Prints how far everybody's parameters are from fjx's after one round without chance."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, command in contenders(options, workload):
            path = f"{folder}/{name}.npz"
            command = [*command, "--check", path]
            subprocess.run(command, cwd=ROOT, env=environment(options.threads), check=True)
            with np.load(path) as file:
                found[name] = dict(file)
    ours = found.pop("fjx")
    start = np.concatenate([x.ravel() for x in _leaves(workloads.parameters(workload))])
    moved = np.abs(np.concatenate([ours[k].ravel() for k in ours]) - start).max()
    print(f"{workload.name}: a round moves parameters by up to {moved:.2g}; farthest from fjx's:")
    for name, params in found.items():
        far = max(np.abs(params[k] - ours[k]).max() for k in ours)
        print(f"  {name:14}{far:.1e}")


def _leaves(tree: dict) -> Iterable[np.ndarray]:
    for value in tree.values():
        yield from _leaves(value) if isinstance(value, dict) else [value]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "workloads", nargs="*", default=["W1", "W2", "W3", "W4"], metavar="WORKLOAD"
    )
    parser.add_argument("--peers", type=pathlib.Path, help="the folder of benchmarks/make_peers.py")
    parser.add_argument(
        "--against", nargs="*", default=["torch", "fedjax"], choices=PEERS, help="which peers"
    )
    parser.add_argument("--variants", nargs="*", default=["bare"], choices=VARIANTS)
    parser.add_argument("--executor", help="how fjx runs a cohort, such as auto or chunked(10)")
    parser.add_argument("--bare-chunk", type=int, default=1, help="where the executor names none")
    parser.add_argument(
        "--devices", type=int, default=os.cpu_count(), help="devices that the CPU is split into"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="at least, for each turn")
    records.add_out(parser)
    parser.add_argument("--check", action="store_true", help="compare parameters, not times")
    options = parser.parse_args()
    if unknown := set(options.workloads) - set(WORKLOADS):
        parser.error(f"no workloads called {', '.join(unknown)}")
    if options.peers is None:
        options.against = []
    chosen = [WORKLOADS[name] for name in options.workloads]
    if options.check:
        for workload in chosen:
            check(options, workload)
        return

    print(", ".join(f"{k}: {v}" for k, v in records.machine().items()))
    write = records.writer(options.out, echo=False)
    for workload in chosen:
        peak = gemm(options.threads)
        flops = workloads.flops(workload)
        write(kind="peak", workload=workload.name, gflops=peak, flops=flops)
        times = compare(options, workload, write)
        print(*table(workload, times, peak), sep="\n", flush=True)


if __name__ == "__main__":
    main()
