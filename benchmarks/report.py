"""Tables and plots of the recorded figures, for the documentation.

    python -m benchmarks.report

Nothing is measured here: what is written depends on the records alone, and lies beside them.
"""

import argparse
import itertools
import pathlib
import statistics
from collections.abc import Iterable, Iterator
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from benchmarks import kernels as kernel_benchmark
from benchmarks import records
from benchmarks.round import PEAK_TARGETS, SKIPPED, TARGETS, VARIANTS
from benchmarks.workloads import WORKLOADS

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "fjx"

QUIET = 0.1
"""The share of the processor that others may have had for a record to be trusted."""

Record = dict[str, Any]


def of_kind(found: list[Record], kind: str, **fields: Any) -> list[Record]:
    """The records of a kind that have these fields."""
    return [r for r in found if r["kind"] == kind and all(r.get(k) == v for k, v in fields.items())]


def markdown(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """The lines of a table; numbers are written to three digits."""
    header = list(header)
    yield "| " + " | ".join(header) + " |"
    yield "| " + " | ".join(["---", *["---:"] * (len(header) - 1)]) + " |"
    for row in rows:
        yield "| " + " | ".join(text(cell) for cell in row) + " |"
    yield ""


def text(cell: Any) -> str:
    """A cell: numbers to three digits."""
    if cell is None:
        return ""
    if isinstance(cell, bool | str):
        return str(cell)
    if isinstance(cell, int) or abs(cell) >= 999.5:
        return f"{cell:,.0f}"
    return f"{cell:.3g}"


Turns = dict[tuple[int, int], float]
"""Seconds of a round by run and turn."""


def times(found: list[Record], workload: str) -> dict[str, Turns]:
    """Seconds by contender."""
    result: dict[str, Turns] = {}
    for r in of_kind(found, "round", workload=workload):
        result.setdefault(r["contender"], {})[r["run"], r["turn"]] = r["seconds"]
    return result


def typical(turns: Turns) -> float:
    """The median."""
    return statistics.median(turns.values())


def ratios(seconds: dict[str, Turns], contender: str) -> list[float]:
    """Seconds of a contender over seconds of fjx in the same turn of the same run."""
    ours = seconds["fjx"]
    return [value / ours[turn] for turn, value in seconds[contender].items() if turn in ours]


def measured(found: list[Record]) -> list[str]:
    """The workloads that were recorded with fjx, in order."""
    return [name for name in WORKLOADS if "fjx" in times(found, name)]


def machines(found: list[Record]) -> Iterator[str]:
    """On what time was measured."""
    seen = []
    timed = {r["run"] for r in found if r["kind"] not in ("machine", "accuracy")}
    for record in [r for r in of_kind(found, "machine") if r["run"] in timed]:
        versions = ", ".join(f"{k} {record[k]}" for k in ("fjx", "jax", "jaxlib", "numpy"))
        words = (
            f"{record['cpu']}, {record['cores']} cores, {record['memory_gib']} GiB, "
            f"{record['system']}, Python {record['python']}; {versions}."
        )
        if words not in seen:
            seen.append(words)
    yield from (line for words in seen for line in (words, ""))


def versions(found: list[Record]) -> Iterator[str]:
    """What the contenders said of themselves."""
    names = ("torch", "fedjax", "pfl", "flwr", "ray", "drjax", "jax")
    seen = {}
    for record in of_kind(found, "warm"):
        if record["contender"] not in ("fjx", *VARIANTS):
            told = ", ".join(f"{name} {record[name]}" for name in names if name in record)
            seen[record["contender"]] = told
    if seen:
        yield "Peers: " + "; ".join(f"{k} ({v})" for k, v in seen.items()) + "."
        yield ""


def headline(found: list[Record]) -> Iterator[str]:
    """One table: seconds a round of fjx, and of each peer as a multiple of it."""
    names = measured(found)
    seconds = {name: times(found, name) for name in names}
    peers = dict.fromkeys(
        contender
        for name in names
        for contender in seconds[name]
        if contender not in ("fjx", *VARIANTS)
    )
    rows = []
    for name in names:
        over = [
            statistics.median(ratios(seconds[name], peer)) if peer in seconds[name] else "not run"
            for peer in peers
        ]
        rows.append([WORKLOADS[name].title, typical(seconds[name]["fjx"]), *over])
    yield from markdown(("", "fjx, seconds", *peers), rows)


def rounds(found: list[Record]) -> Iterator[str]:
    """A table for each workload."""
    for name in measured(found):
        seconds, workload = times(found, name), WORKLOADS[name]
        peak = of_kind(found, "peak", workload=name)[-1]
        fraction = peak["flops"] / typical(seconds["fjx"]) / peak["gflops"] / 1e9
        yield f"### {name}: {workload.title}"
        yield ""
        yield (
            f"{peak['flops'] / 1e9:.3g} GFLOP a round; fjx reaches {fraction:.0%} of the "
            f"{peak['gflops']:.0f} GFLOP/s of the best matrix product."
        )
        yield ""
        rows = []
        for contender, values in seconds.items():
            about = of_kind(found, "warm", workload=name, contender=contender)[-1]
            end = of_kind(found, "end", workload=name, contender=contender)
            others = [
                r["others"] for r in of_kind(found, "round", workload=name, contender=contender)
            ]
            over = ratios(seconds, contender)
            spread = f"{text(min(over))} to {text(max(over))}" if contender != "fjx" else None
            rows.append(
                [
                    contender,
                    typical(values),
                    statistics.median(over),
                    spread,
                    about["building"] + about["first"],
                    end[-1]["peak_mib"] if end and contender != "flower" else None,
                    f"{statistics.median(others):.0%}",
                ]
            )
        header = ("", "s a round", "over fjx", "range", "ready after s", "peak MiB", "others")
        yield from markdown(header, rows)


def targets(found: list[Record]) -> Iterator[tuple[str, str, float, float, bool]]:
    """``(workload, of what, wanted, measured, reached)``."""
    for name in measured(found):
        seconds = times(found, name)
        for contender, wanted in TARGETS.items():
            if name not in wanted or contender not in seconds:
                continue
            value, goal = statistics.median(ratios(seconds, contender)), wanted[name]
            at_most = contender in VARIANTS and contender != "bare"
            yield (
                name,
                f"{contender} over fjx, {'at most' if at_most else 'at least'}",
                goal,
                value,
                value <= goal if at_most else value >= goal,
            )
        if goal := PEAK_TARGETS.get(name):
            peak = of_kind(found, "peak", workload=name)[-1]
            value = peak["flops"] / typical(seconds["fjx"]) / peak["gflops"] / 1e9
            yield name, "fraction of the best matrix product, at least", goal, value, value >= goal


def kernel_targets(found: list[Record]) -> Iterator[tuple[str, str, float, float, bool]]:
    """The same of the codecs' times."""
    by_name = copies(found)
    for name, row in by_name.items():
        goal = kernel_benchmark.target(name, by_name)
        if goal is not None and "fjx" in row:
            yield name, "copies, at most", goal, row["fjx"], row["fjx"] <= goal


def goals(found: list[Record]) -> Iterator[str]:
    """What was aimed at: for those who work on fjx, and on no page of the documentation."""
    rows = [
        [name, what, goal, value, "yes" if reached else "**no**"]
        for name, what, goal, value, reached in (*targets(found), *kernel_targets(found))
    ]
    yield from markdown(("", "goal", "wanted", "measured", "reached"), rows)


def provisional(found: list[Record]) -> Iterator[str]:
    """Which figures are not to be trusted."""
    loud = {
        (r["workload"], r["contender"])
        for r in of_kind(found, "round")
        if r["others"] > QUIET and r["contender"] != "flower"
    }
    if loud:
        yield (
            f"In {len(loud)} of the recorded series there are turns in which other processes had over "
            f"{QUIET:.0%} of the processor. Read those ratios as provisional."
        )
        yield ""


def missing(found: list[Record]) -> Iterator[str]:
    """What is left out."""
    lines = [f"- {peer} on {name}: {why}." for (peer, name), why in SKIPPED.items()]
    absent = [name for name in WORKLOADS if name not in measured(found)]
    if absent:
        lines.append(f"- Not in this recording: {', '.join(absent)}.")
    yield from [*lines, ""]


def programs(found: list[Record]) -> Iterator[str]:
    """Figures of the smaller benchmarks."""
    if first := of_kind(found, "first_round"):
        yield "### Before the first round"
        yield ""
        keys = ("trace", "lower", "compile", "run")
        rows = [[f"{r['workload']}, {r['executor']}", *(r[k] for k in keys)] for r in first]
        yield from markdown(("seconds to", *keys), rows)
    if imports := of_kind(found, "imports"):
        yield (
            f"Importing jax and optax takes {text(imports[-1]['jax_optax'])} s, "
            f"and fjx after them {text(imports[-1]['fjx'])} s."
        )
        yield ""
    if trace := of_kind(found, "trace"):
        yield "### The size of a program"
        yield ""
        keys = ("clients", "rounds", "equations", "seconds")
        header = ("clients", "rounds", "operations", "s to trace")
        yield from markdown(header, ([r[k] for k in keys] for r in trace))
    if memory := of_kind(found, "memory"):
        yield "### Memory"
        yield ""
        keys = ("clients", "before_mib", "beyond_mib")
        header = ("clients a round", "MiB before it", "MiB beyond")
        yield from markdown(header, ([r[k] for k in keys] for r in memory))
    scale = of_kind(found, "sampling") + of_kind(found, "table")
    if scale:
        yield "### Populations"
        yield ""
        rows = [
            [r.get("sampler", "table: 100 rows"), r["population"], r["microseconds"]] for r in scale
        ]
        yield from markdown(("", "clients", "microseconds"), rows)
    if small := of_kind(found, "quadratics"):
        yield "### Tiny models"
        yield ""
        yield (
            f"FedSGD on 10 quadratics of 20 unknowns runs "
            f"{text(small[-1]['rounds_per_second'])} rounds a second in one scan."
        )
        by_seeds = {r["seeds"]: r["seconds"] for r in of_kind(found, "seeds")}
        if len(by_seeds) > 1:
            few, many = min(by_seeds), max(by_seeds)
            yield (
                f"{many} seeds under `vmap` take {text(by_seeds[many] / by_seeds[few])} times as "
                "long as one."
            )
        yield ""


def copies(found: list[Record]) -> dict[str, dict[str, float]]:
    """Times of codecs as multiples of a copy's, by what was timed and by library."""
    by_name: dict[str, dict[str, float]] = {}
    for r in of_kind(found, "kernel"):
        by_name.setdefault(r["kernel"], {})[r["library"]] = statistics.median(r["ratios"])
    return by_name


def kernels(found: list[Record]) -> Iterator[str]:
    """Codecs on one long vector, and those of many short ones by the float."""
    by_name = copies(found)
    if not by_name:
        return
    libraries = list(dict.fromkeys(r["library"] for r in of_kind(found, "kernel")))
    rows = [[name, *(row.get(library) for library in libraries)] for name, row in by_name.items()]
    yield from markdown(("copies", *libraries), rows)


def by_codec(found: list[Record]) -> dict[str, list[Record]]:
    """The runs of each codec, one for each seed."""
    runs: dict[str, list[Record]] = {}
    for r in of_kind(found, "accuracy"):
        runs.setdefault(r["codec"], []).append(r)
    return runs


def accuracy(found: list[Record]) -> Iterator[str]:
    """What each codec reached, and for how many bytes, in the mean over the seeds."""
    runs = by_codec(found)
    if not runs:
        return
    sent = {name: statistics.mean(r["bytes"][-1] for r in some) for name, some in runs.items()}
    most = max(sent.values())
    rows = [
        [
            name,
            f"{statistics.mean(r['accuracy'][-1] for r in some):.1%}",
            sent[name] / 1e6,
            most / sent[name],
        ]
        for name, some in runs.items()
    ]
    yield from markdown(("uplink", "accuracy", "MB", "times smaller"), rows)


def predictions(found: list[Record]) -> Iterator[str]:
    """The model of a round against what was measured."""
    points = of_kind(found, "prediction")
    if not points:
        return
    if fitted := of_kind(found, "constants"):
        words = {
            "flops": (1e-9, "GFLOP/s"),
            "bandwidth": (1e-9, "GB/s"),
            "step": (1e6, "microseconds for a step of a chunk"),
            "overhead": (1e6, "microseconds for a round"),
        }
        told = [
            f"{text(fitted[-1][k] * by)} {unit}"
            for k, (by, unit) in words.items()
            if k in fitted[-1]
        ]
        yield f"Constants fitted on this machine: {', '.join(told)}."
        yield ""
    keys = ("clients", "parameters", "batch", "devices")
    rows = [
        [
            *(p[k] for k in keys),
            1e3 * p["measured"],
            1e3 * p["predicted"],
            p["predicted"] / p["measured"],
            f"{p['others']:.0%}",
            "fitted" if p["fitted"] else "predicted",
        ]
        for p in points
    ]
    header = (*keys, "ms measured", "ms predicted", "ratio", "others", "")
    yield from markdown(header, rows)
    unseen = [p["predicted"] / p["measured"] for p in points if not p["fitted"]]
    if unseen:
        yield (
            f"The {len(unseen)} points that were not fitted are predicted to within a factor of "
            f"{max(max(r, 1 / r) for r in unseen):.2g}, in the median "
            f"{statistics.median(max(r, 1 / r) for r in unseen):.2g}."
        )
        yield ""


PARTS = {
    "machine": (machines, versions),
    "headline": (headline,),
    "rounds": (rounds, provisional, missing),
    "goals": (goals,),
    "accuracy": (accuracy,),
    "programs": (programs,),
    "kernels": (kernels,),
    "model": (predictions,),
}
"""The files that the pages include, and what stands in each."""


def pages(found: list[Record]) -> dict[str, str]:
    """The files by name."""
    return {
        f"{name}.md": "\n".join(itertools.chain(*(part(found) for part in parts))) + "\n"
        for name, parts in PARTS.items()
    }


def plot_accuracy(found: list[Record], path: pathlib.Path) -> None:
    """Accuracy against the bytes that all clients sent: the mean of the seeds, and their range."""
    figure, axis = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
    for name, runs in by_codec(found).items():
        curves = np.array([r["accuracy"] for r in runs])
        megabytes = np.mean([r["bytes"] for r in runs], axis=0) / 1e6
        (line,) = axis.plot(megabytes, curves.mean(0), label=name)
        axis.plot(megabytes[-1], curves.mean(0)[-1], "o", color=line.get_color(), markersize=4)
        axis.fill_between(
            megabytes, curves.min(0), curves.max(0), color=line.get_color(), alpha=0.2, linewidth=0
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    axis.set_xlabel("MB sent by all clients together")
    axis.set_ylabel("test accuracy")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, fontsize="small", frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def plot_rounds(found: list[Record], path: pathlib.Path) -> None:
    """Seconds of everybody over seconds of fjx, workload by workload."""
    names = measured(found)
    lines = max(1, -(-len(names) // 2))
    figure, axes = plt.subplots(lines, 2, figsize=(6.4, 2.6 * lines), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        seconds = times(found, name)
        over = {k: ratios(seconds, k) for k in seconds if k != "fjx"}
        middle = [statistics.median(r) for r in over.values()]
        low = [m - min(r) for m, r in zip(middle, over.values(), strict=True)]
        high = [max(r) - m for m, r in zip(middle, over.values(), strict=True)]
        colours = ["tab:gray" if k in VARIANTS else "tab:blue" for k in over]
        axis.barh(list(over), middle, xerr=[low, high], color=colours, ecolor="black")
        axis.axvline(1, color="black", linewidth=1)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axis.invert_yaxis()
        axis.set_title(WORKLOADS[name].title, fontsize="medium")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("seconds over fjx's")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=pathlib.Path, default=records.RESULTS)
    options = parser.parse_args()
    found = list(records.read(options.results))
    for name, page in pages(found).items():
        (options.results / name).write_text(page)
    plot_rounds(found, options.results / "rounds.svg")
    plot_accuracy(found, options.results / "accuracy.svg")


if __name__ == "__main__":
    main()
