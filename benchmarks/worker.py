"""What every timed process does: build, warm up, then run rounds when told to.

It prints one JSON line when it is warm, and one for every line that it reads from standard input,
which says how many rounds to run.  At the end of its input it exits.  By hand:

    echo 3 | python -m benchmarks.fjx_round W3 --executor 'chunked(10)'
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.workloads import WORKLOADS, Workload, deterministic


class Worker(NamedTuple):
    """An implementation of a workload.

    Attributes:
        advance: ``(rounds)``, runs so many further rounds and returns when the new parameters exist,
            or returns the seconds that the rounds took, if it knows better than the clock outside.
        params: ``()``, the current parameters as :func:`benchmarks.workloads.parameters` has them.
        about: versions and settings.
        close: ``()``, ends what would outlive the last round.
    """

    advance: Callable[[int], float | None]
    params: Callable[[], dict]
    about: dict[str, Any]
    close: Callable[[], None] = lambda: None


def parser(description: str) -> argparse.ArgumentParser:
    """The options that all workers have."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("workload", choices=WORKLOADS)
    result.add_argument("--threads", type=int, default=2)
    result.add_argument(
        "--check", metavar="FILE", help="run a round without chance and save its parameters"
    )
    return result


def main(make: Callable[[Workload, argparse.Namespace], Worker], options: Any) -> None:
    """Runs a worker with parsed ``options``."""
    workload = WORKLOADS[options.workload]
    if options.check:
        worker = make(deterministic(workload), options)
        worker.advance(1)
        np.savez(options.check, **flatten(worker.params()))
        worker.close()
        return
    began = time.perf_counter()
    worker = make(workload, options)
    built = time.perf_counter()
    worker.advance(workload.cohorts)
    warm = time.perf_counter()
    say(event="warm", building=built - began, first=warm - built, **worker.about)
    for line in sys.stdin:
        rounds = int(line)
        began = time.perf_counter()
        seconds = worker.advance(rounds)
        elapsed = time.perf_counter() - began
        say(event="rounds", rounds=rounds, seconds=elapsed if seconds is None else seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(event="end", peak_mib=peak)
    worker.close()


def say(**record: Any) -> None:
    """Prints one JSON line."""
    print(json.dumps(record), flush=True)


def flatten(params: dict, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dicts as one, with paths for keys."""
    flat = {}
    for name, value in params.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = np.asarray(value)
    return flat
