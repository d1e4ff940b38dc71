"""Seconds and bytes of secure sums, by party.

    python -m benchmarks.secure

All parties run in this process, one after another, so that the CPU time of a party is its own.  A tenth
of the clients leave after they have shared their secrets and before they send their vectors.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fjx import secure

PROTOCOLS = {
    "two servers": secure.two_servers(),
    "Bonawitz et al.": secure.bonawitz(),
    "SecAgg+": secure.secagg_plus(),
    "LightSecAgg": secure.lightsecagg(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--length", type=int, default=1_000_000, help="integers of a vector")
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=["SecAgg+"])
    options = parser.parse_args()
    n, length = options.clients, options.length
    vectors = np.random.default_rng(0).integers(0, 2**20, (n, length), np.uint32)
    print(f"{n} clients, {length:,} integers of 32 bits, {n // 10} dropouts\n")
    print("| protocol | client, CPU s | server, CPU s | up, kB a client | down, kB a client |")
    print("| --- | --- | --- | --- | --- |")
    for name in options.protocols:
        protocol, spent = timed(PROTOCOLS[name])
        leaves = dict.fromkeys(range(0, n, 10), protocol.steps.index("input"))
        bill = secure.play(protocol, vectors, bits=32, leaves=leaves).bill
        up, down = bill.up / n / 1e3, bill.down / n / 1e3
        client, server = spent["client"] / n, spent["server"]
        print(f"| {name} | {client:.3f} | {server:.2f} | {up:.1f} | {down:.1f} |")


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


if __name__ == "__main__":
    main()
