"""Codecs on one long vector, as multiples of the time of a fresh copy ``x * 1.5 + 1`` of it.

    python -m benchmarks.kernels --peers ../peers

Each kernel takes turns with the copy, so that what slows the memory of the machine slows both, and the
table shows the median over the turns.  Every library runs in a process of its own with the same
settings of the allocator, and its figures are multiples of the copy that it makes itself, with its own
means.  Compiling is not in them.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import records
from benchmarks.round import ROOT, environment

SIZE, COHORT, SHORT = 10_000_000, 32, 300_000

TARGETS = {
    "quantise to 1 bit, packed": 5,
    "quantise to 2 bits, packed": 5,
    "quantise to 4 bits, packed": 5,
    "quantise to 8 bits, packed": 5,
    "unpack 1 bit": 2,
    "unpack 2 bits": 2,
    "unpack 4 bits": 2,
    "unpack 8 bits": 2,
    "sign, packed": 1,
    "EDEN 1 bit, encode": 26,
    "EDEN 1 bit, decode": 26,
    "EDEN 1 bit in blocks, encode": 14,
    "EDEN 1 bit in blocks, decode": 14,
    "top-k 1 %": 16,
    "rand-k 1 %": 8,
    "count-sketch": 12,
    "PowerSGD rank 2": 12,
}
"""Multiples of a copy, at most; under ``vmap`` at most 1.3 times those of one vector, by the float."""

VMAP_TARGET = 1.3

Kernel = tuple[str, Callable[[Any], Any], Any]
"""A name, a function that returns when its result is there, and its argument."""


def target(name: str, measured: dict[str, dict[str, float]]) -> float | None:
    """What is wanted of fjx: of many vectors, at most 1.3 times what one took, by the float."""
    single, of, _ = name.partition(f", of {COHORT} clients")
    if not of:
        return TARGETS.get(name)
    alone = (
        measured.get(single) or measured.get(f"{single}, encode") or measured[f"{single}, packed"]
    )
    return VMAP_TARGET * COHORT * SHORT / SIZE * alone["fjx"]


def turns(
    copy: Callable[[], Any], kernel: Callable[[], Any], repetitions: int
) -> tuple[list[float], float]:
    """The seconds of a kernel over those of the copy, turn by turn, and the copy's in the median."""

    def typical(function: Callable[[], Any], calls: int) -> float:
        return statistics.median(_seconds(function) for _ in range(calls))

    kernel(), copy()
    pairs = [(typical(kernel, 3), typical(copy, 9)) for _ in range(repetitions)]
    return [own / copied for own, copied in pairs], statistics.median(pair[1] for pair in pairs)


def _seconds(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def work(kernels: Iterable[Kernel], copy: Kernel, repetitions: int) -> None:
    """What the process of a library does: times its kernels, a JSON line each."""
    _, again, x = copy
    for name, function, argument in kernels:
        ratios, copy_s = turns(lambda: again(x), lambda f=function, a=argument: f(a), repetitions)
        print(json.dumps({"kernel": name, "ratios": ratios, "copy_s": copy_s}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=pathlib.Path, help="the folder of benchmarks/make_peers.py")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    records.add_out(parser)
    options = parser.parse_args()
    write = records.writer(options.out, echo=False)
    measured: dict[str, dict[str, float]] = {}
    libraries = {"fjx": sys.executable, "numpy": sys.executable}
    for peer in ("torch", "fedjax") if options.peers else ():
        libraries[peer] = str(options.peers / peer / "bin" / "python")
    print(
        f"{'times a copy of ' + format(SIZE, ','):36}{'median':>8}{'from':>8}{'to':>8}{'target':>8}"
    )
    for library, python in libraries.items():
        module = (
            "benchmarks.fjx_kernels" if library == "fjx" else f"benchmarks.peers.{library}_kernels"
        )
        command = [python, "-m", module, str(options.repetitions)]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(options.threads), stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            sys.exit(f"{library}: {' '.join(command)} failed")
        for line in filter(lambda line: line.startswith("{"), done.stdout.splitlines()):
            record = json.loads(line)
            write(kind="kernel", library=library, **record)
            ratios, name = record["ratios"], record["kernel"]
            measured.setdefault(name, {})[library] = statistics.median(ratios)
            wanted = target(name, measured) if library == "fjx" else None
            print(
                f"{library + ': ' + name:42}{statistics.median(ratios):8.2f}{min(ratios):8.2f}"
                f"{max(ratios):8.2f}" + (f"{wanted:8.2f}" if wanted else ""),
                flush=True,
            )


if __name__ == "__main__":
    main()
