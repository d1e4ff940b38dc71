"""What a round costs, on paper, and how well the paper does on this machine.

    python -m benchmarks.model

:func:`seconds` is the model.  This script measures rounds of a two-layer perceptron over numbers of
clients, parameters and host devices, fits the constants of the machine to a few of the points, and
predicts the others.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks import records

ROOT = pathlib.Path(__file__).parents[1]
INPUTS, CLASSES, STEPS, CHUNK = 32, 8, 5, 10
BYTES = 4 * (INPUTS + 1)
"""Of an example."""


class Point(NamedTuple):
    """A round that is measured: about so many parameters, and examples in a batch."""

    clients: int
    parameters: int
    batch: int = 20
    devices: int = 1


FITTED = [Point(10, 1_000), Point(1000, 1_000), Point(100, 100_000), Point(100, 100_000, 200)]
SIZES = [(m, p) for m in (10, 100, 1000) for p in (1_000, 100_000, 1_000_000) if m * p <= 10**8]
GRID = [
    *(Point(*size, devices=d) for d in (1, 2) for size in SIZES),
    *(Point(m, 100_000, 200, d) for d in (1, 2) for m in (10, 100)),
]


class Round(NamedTuple):
    """A round.

    Attributes:
        clients: in the cohort.
        steps: local steps of each.
        flops: of a client's step.
        parameters: of the model.
        bytes_read: of a client's examples.
        devices: that share the cohort.
        chunk: clients that a device trains side by side.
        sharing: devices that have one memory between them, such as the cores of a processor.
    """

    clients: int
    steps: float
    flops: float
    parameters: int
    bytes_read: float
    devices: int = 1
    chunk: int = 1
    sharing: int = 1


class Machine(NamedTuple):
    """The constants of a machine.

    Attributes:
        flops: a second, of a device at the products that a step is made of.
        bandwidth: bytes a second, of a memory.
        step: seconds that a local step of a chunk takes at least.
        overhead: seconds of a round, whatever its size.
        link: bytes a second between devices.
    """

    flops: float
    bandwidth: float
    step: float
    overhead: float
    link: float = math.inf


PASSES = 4
"""Times that a step goes over a client's parameters: reads twice, writes the gradient and the sum."""


def counts(round: Round) -> np.ndarray:
    """What each constant is paid for: ``[operations, bytes, steps, rounds, bytes between devices]``."""
    clients = math.ceil(round.clients / round.devices)
    chunks = math.ceil(clients / round.chunk)
    moved = round.bytes_read + PASSES * 4 * round.parameters * round.steps
    reduced = 2 * 4 * round.parameters * (round.devices - 1) / round.devices
    return np.array(
        [
            clients * round.steps * round.flops,
            clients * moved * min(round.sharing, round.devices),
            chunks * round.steps,
            1.0,
            reduced,
        ]
    )


def seconds(round: Round, machine: Machine) -> float:
    """The seconds of a round: compute, memory, the start of steps, all-reduce, and the rest.

    With m clients, D devices and chunks of k, each of s steps of F operations on P parameters::

        ceil(m / D) s F / flops + ceil(m / D) (read + 16 P s) c / bandwidth
            + ceil(ceil(m / D) / k) s step + 8 P (D - 1) / (D link) + overhead

    where c devices share a memory.  Nothing overlaps in it, and every device has as many clients of
    the same size: it tells what a round is made of, and how it grows.
    """
    rates = [1 / machine.flops, 1 / machine.bandwidth, machine.step, machine.overhead]
    return float(counts(round) @ [*rates, 1 / machine.link])


def fit(rounds: Sequence[Round], measured: Sequence[float]) -> Machine:
    """The constants for which predictions of some rounds err the least, relatively.

    Constants are not negative; what a few points cannot tell is zero time.
    """
    from scipy.optimize import nnls

    times = np.asarray(measured)
    design = np.array([counts(round) for round in rounds]) / times[:, None]
    scale = np.maximum(design.max(axis=0), 1e-300)
    flops, bandwidth, step, overhead, link = nnls(design / scale, np.ones(len(times)))[0] / scale
    with np.errstate(divide="ignore"):
        return Machine(1 / flops, 1 / bandwidth, step, overhead, 1 / link)


def width(parameters: int) -> int:
    """The hidden units that make about so many parameters."""
    return round(parameters / (INPUTS + CLASSES + 1))


def perceptron(point: Point) -> Round:
    """What is measured, in the words of the model."""
    hidden = width(point.parameters)
    return Round(
        clients=point.clients,
        steps=STEPS,
        flops=point.batch * hidden * (4 * INPUTS + 6 * CLASSES),
        parameters=hidden * (INPUTS + CLASSES + 1) + CLASSES,
        bytes_read=STEPS * point.batch * BYTES,
        devices=point.devices,
        chunk=CHUNK,
        sharing=point.devices,
    )


def measure(points: Sequence[Point], budget: float) -> list[tuple[float, float]]:
    """The seconds of rounds, all on the devices that this process has, and the share of others."""
    import jax
    import jax.numpy as jnp

    from benchmarks.fjx_round import executor_of
    from fjx import algorithms, data, models, samplers, simulation

    devices = points[0].devices
    jax.config.update("jax_num_cpu_devices", devices)
    executor = executor_of(f"sharded(chunked({CHUNK}))" if devices > 1 else f"chunked({CHUNK})")
    found = []
    for point in points:
        sizes = [STEPS * point.batch] * point.clients
        rng = np.random.default_rng(0)
        examples = {
            "x": rng.standard_normal((sum(sizes), INPUTS), np.float32),
            "y": rng.integers(CLASSES, size=sum(sizes), dtype=np.int32),
        }
        model = models.mlp(features=INPUTS, hidden=(width(point.parameters),), classes=CLASSES)
        program = simulation.program(
            algorithms.fedavg(model.loss, client_lr=0.1, batch_size=point.batch),
            data.on_device(data.from_packed(examples, sizes)),
            sampler=samplers.full(),
            executor=executor,
        )
        state = program.init(jax.tree.map(jnp.asarray, model.init(jax.random.key(0))))

        def run(program=program, state=state) -> float:
            began = time.perf_counter()
            jax.block_until_ready(program.run(jax.random.key(1), state, 1))
            return time.perf_counter() - began

        run()
        idle, own, began = records.idle(), time.process_time(), time.perf_counter()
        first = run()
        best = min(first, *(run() for _ in range(max(2, min(20, int(budget / first))))))
        elapsed = (time.perf_counter() - began) * (os.cpu_count() or 1)
        busy = elapsed - (records.idle() - idle) - (time.process_time() - own)
        found.append((best, max(0.0, busy / elapsed)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each point, about")
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)
    records.add_out(parser)
    options = parser.parse_args()
    if options.only:
        points = [Point(*point) for point in json.load(sys.stdin)]
        print(json.dumps(measure(points, options.seconds)))
        return
    write = records.writer(options.out)
    measured: dict[Point, tuple[float, float]] = {}
    for devices in sorted({point.devices for point in GRID}):
        points = [point for point in GRID if point.devices == devices]
        command = [sys.executable, "-m", "benchmarks.model", "--only"]
        command += ["--seconds", str(options.seconds)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            input=json.dumps(points),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        measured |= zip(points, json.loads(done.stdout.splitlines()[-1]), strict=True)
    machine = fit([perceptron(point) for point in FITTED], [measured[point][0] for point in FITTED])
    write(kind="constants", **{k: v for k, v in machine._asdict().items() if math.isfinite(v)})
    for point, (value, others) in measured.items():
        predicted = seconds(perceptron(point), machine)
        write(
            kind="prediction",
            **point._asdict(),
            measured=value,
            predicted=predicted,
            others=others,
            fitted=point in FITTED,
        )


if __name__ == "__main__":
    main()
