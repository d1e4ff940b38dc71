"""Records of benchmarks: JSON lines, of which the first of a run says on what machine it ran."""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Callable, Iterator
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"

Write = Callable[..., None]
"""``(**record)``, prints a record and adds it to a file, if there is one."""


def add_out(parser: argparse.ArgumentParser) -> None:
    """Adds the option that all benchmarks have."""
    parser.add_argument("--out", type=pathlib.Path, help="JSON lines are added to this file")


def writer(out: pathlib.Path | None, *, echo: bool = True) -> Write:
    """What writes records, after it has written the machine's."""

    def write(**record: Any) -> None:
        line = json.dumps(record)
        if echo:
            print(line, flush=True)
        if out:
            with out.open("a") as file:
                print(line, file=file)

    write(kind="machine", **machine())
    return write


def machine() -> dict[str, Any]:
    """The machine in general words, and the versions of what fjx stands on."""
    cpu = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("fjx", "jax", "jaxlib", "numpy")},
        "load": round(os.getloadavg()[0], 2),
    }


def idle() -> float:
    """Seconds that the processors of this machine idled so far, added up."""
    ticks = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(ticks[4]) + int(ticks[5])) / os.sysconf("SC_CLK_TCK")


def read(folder: pathlib.Path) -> Iterator[dict[str, Any]]:
    """All records of a folder, file by file in the order of their names, each with its run's number."""
    run = 0
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            run += record["kind"] == "machine"
            yield {"run": run, **record}
