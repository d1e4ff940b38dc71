"""CPU seconds and bytes of secure sums, by party, and those of Flower's SecAgg+.

    python -m benchmarks.secure --peers ../peers
    python -m benchmarks.secure --clients 50 100 --length 10000 --dropouts 0 0.1 --peers ../peers

All parties run in one process, one after another, so that the CPU time of a party is its own.  Clients
that drop out leave after they have shared their secrets and before they send their vectors.  With
``--peers``, Flower's own workflow runs on a graph of the same degree and threshold; see
:mod:`benchmarks.peers.flower_secagg` for what it is and what is timed.  Its clients also round floats.
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fjx import secure

ROOT = pathlib.Path(__file__).parents[1]
PROTOCOLS = {
    "two servers": secure.two_servers(),
    "Bonawitz et al.": secure.bonawitz(),
    "SecAgg+": secure.secagg_plus(),
    "LightSecAgg": secure.lightsecagg(),
}
RATES = {"adversary_rate": 0.1, "dropout_rate": 0.1}
"""The rates for which SecAgg+ is made by default, and so Flower's graph."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[100])
    parser.add_argument("--length", type=int, nargs="+", default=[1_000_000], help="integers")
    parser.add_argument(
        "--dropouts", type=float, nargs="+", default=[0.1], help="shares of clients"
    )
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=["SecAgg+"])
    parser.add_argument("--peers", type=pathlib.Path, help="the folder of benchmarks/make_peers.py")
    options = parser.parse_args()
    print("| protocol | clients | integers | dropouts | client, CPU s | server, CPU s |", end="")
    print(" up, kB a client | down, kB a client |")
    print("| --- " * 8 + "|")
    for n, length, rate in itertools.product(options.clients, options.length, options.dropouts):
        gone = round(rate * n)
        for name in options.protocols:
            show(name, n, length, gone, ours(PROTOCOLS[name], n, length, gone))
        if options.peers is not None:
            found = flower(options.peers, n, length, gone)
            show(found["peer"], n, length, gone, found)


def show(name: str, n: int, length: int, gone: int, found: dict[str, float]) -> None:
    cells = f"{found['client']:.3f} | {found['server']:.2f} | {found['up'] / 1e3:,.0f}"
    print(
        f"| {name} | {n} | {length:,} | {gone} | {cells} | {found['down'] / 1e3:,.0f} |", flush=True
    )


def ours(protocol: secure.Protocol, n: int, length: int, gone: int) -> dict[str, float]:
    """CPU seconds of a client and of the servers, and bytes of a client."""
    vectors = np.random.default_rng(0).integers(0, 2**20, (n, length), np.uint32)
    protocol, spent = timed(protocol)
    dropped = range(0, n, n // gone)[:gone] if gone else ()
    leaves = dict.fromkeys(dropped, protocol.steps.index("input"))
    outcome = secure.play(protocol, vectors, bits=32, leaves=leaves)
    staying = [i for i in range(n) if i not in leaves]
    assert np.array_equal(outcome.total, vectors[staying].sum(0, dtype=np.uint32))
    bill = outcome.bill
    return {
        "client": spent["client"] / n,
        "server": spent["server"],
        "up": bill.up / n,
        "down": bill.down / n,
    }


def timed(protocol: secure.Protocol) -> tuple[secure.Protocol, dict[str, float]]:
    """The protocol, and the CPU seconds that its clients and its servers have spent so far."""
    spent = {"client": 0.0, "server": 0.0}

    def of(party: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args)
            finally:
                spent[party] += time.process_time() - began

        return run

    clients = {name: of("client", getattr(protocol, name)) for name in ("client", "send")}
    servers = {name: of("server", getattr(protocol, name)) for name in ("server", "answer")}
    return protocol._replace(**clients, **servers), spent


def flower(peers: pathlib.Path, n: int, length: int, gone: int) -> dict[str, Any]:
    """The same of Flower's workflow, in its own environment."""
    python = peers / "flower_secagg" / "bin" / "python"
    if not python.exists():
        sys.exit(f"no environment flower_secagg in {peers}; see benchmarks/make_peers.py")
    degree, threshold = secure.graph_parameters(n, **RATES)
    numbers = {"clients": n, "length": length, "degree": degree, "threshold": threshold}
    command = [python, "-m", "benchmarks.peers.flower_secagg", "--dropouts", gone]
    command += [word for name, number in numbers.items() for word in (f"--{name}", number)]
    done = subprocess.run([*map(str, command)], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
