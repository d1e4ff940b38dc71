"""Records everything that the documentation shows, and writes its tables and plot.

    python -m benchmarks.record --peers ../peers

It takes 15 to 20 minutes on two cores, which must have nothing else to do.  What an earlier recording
left is replaced, stage by stage.  ``--only`` chooses stages, and what follows ``--`` goes to
:mod:`benchmarks.round`, so that a short provisional recording is

    python -m benchmarks.record --peers ../peers --only rounds -- W2 W3 --against torch fedjax
"""

import argparse
import pathlib
import subprocess
import sys
import time

from benchmarks import records
from benchmarks.records import RESULTS

ROOT = pathlib.Path(__file__).parents[1]
PEERS = ["torch", "fedjax", "pfl", "flower", "drjax"]

ROUNDS = [
    ["W3", "--variants", "bare", "round", "hosted", "compressed", "private"],
    ["W2", "--variants", "bare", "hosted"],
    ["W1", "--variants", "bare", "hosted", "private"],
    ["W4", "--variants", "bare", "private", "--against", "torch", "fedjax", "pfl"],
]
STAGES = {
    "compile": [["benchmarks.compile", "--repetitions", "3"]],
    "trace": [["benchmarks.trace"]],
    "memory": [["benchmarks.memory"]],
    "scale": [["benchmarks.scale"]],
    "model": [["benchmarks.model"]],
    "kernels": [["benchmarks.kernels"]],
}
"""The stages after the rounds; each writes into a file of its name."""


def main() -> None:
    own, theirs = sys.argv[1:], []
    if "--" in own:
        cut = own.index("--")
        own, theirs = own[:cut], own[cut + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=pathlib.Path, help="the folder of benchmarks/make_peers.py")
    parser.add_argument("--repetitions", type=int, default=3, help="turns of each contender")
    parser.add_argument("--only", nargs="*", default=["rounds", *STAGES], help="which stages")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args(own)
    if unknown := set(options.only) - {"rounds", *STAGES}:
        parser.error(f"no stages called {', '.join(unknown)}")

    common = ["--repetitions", str(options.repetitions), "--seconds", "1"]
    if options.peers:
        common += ["--peers", str(options.peers)]
    rounds = []
    for command in [theirs] if theirs else ROUNDS:
        against = [] if "--against" in command else ["--against", *PEERS]
        rounds.append(["benchmarks.round", *command, *against, *common])
    options.results.mkdir(exist_ok=True)
    print(records.machine())
    failed = False
    for stage, commands in {"rounds": rounds, **STAGES}.items():
        if stage not in options.only:
            continue
        out, began = options.results / f"{stage}.jsonl", time.perf_counter()
        out.unlink(missing_ok=True)
        for command in commands:
            if stage == "kernels" and options.peers:
                command = [*command, "--peers", str(options.peers)]
            command = [sys.executable, "-m", *command, "--out", str(out.absolute())]
            if subprocess.run(command, cwd=ROOT, check=False).returncode:
                failed = True
                print(f"{stage}: {' '.join(command[2:])} failed", file=sys.stderr)
        print(f"{stage}: {time.perf_counter() - began:.0f} s", flush=True)
    report = [sys.executable, "-m", "benchmarks.report", "--results", str(options.results)]
    subprocess.run(report, cwd=ROOT, check=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
