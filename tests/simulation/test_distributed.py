"""Two processes, joined over loopback, run what one process runs."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import clients, compressors, data, samplers, simulation

SIZES = [3, 0, 20, 1, 2, 5, 4, 2, 1]
VALUES = np.random.default_rng(0).normal(size=(sum(SIZES), 3)).astype(np.float32)
DATASET = data.from_packed(VALUES, SIZES)


def loss_fn(w, batch, key):
    return jnp.mean((w[None] - batch) ** 2)


def simulate(dataset, rounds, **options):
    algorithm = fjx.compose(
        client=clients.local_sgd(loss_fn, optax.sgd(0.1), epochs=2, batch_size=2),
        uplink=compressors.error_feedback(compressors.quantize(bits=3)),
        server=optax.sgd(0.5, momentum=0.9),
    )
    return fjx.simulate(
        jax.random.key(0),
        algorithm,
        jnp.zeros(3),
        dataset,
        sampler=samplers.poisson(0.5, cap=5),
        rounds=rounds,
        evaluate=simulation.evaluation(lambda w, x: {"error": (x @ w) ** 2}, VALUES),
        evaluate_every=3,
        progress=False,
        **options,
    )


def one_of_two(process: int, port: str, folder: Path) -> None:
    """Ctrl-C comes to one of them, and ends the run in both; then they go on in another way."""
    import signal

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 2, 1)
    executor = simulation.sharded(jax.make_mesh((2,), ("clients",)))
    options = {"executor": executor, "checkpoint": folder / "run"}

    def press(scores):
        if process == 1:
            signal.raise_signal(signal.SIGINT)
        return False

    first = simulate(data.on_device(DATASET), 7, stop=press, **options)
    assert (first.stopped, int(first.state.round)) == ("interrupted", 3)
    second = simulate(DATASET, 7, table=simulation.mapped_table(folder / "table"), **options)
    assert second.stopped == "finished"
    leaves = jax.tree.leaves((second.state, second.history))
    np.savez(folder / f"{process}.npz", *map(np.asarray, leaves))


@pytest.mark.ci
def test_two_processes_run_what_one_runs(tmp_path):
    """A run on data on the devices, interrupted, and resumed on data and a table on the hosts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    flags = os.environ["XLA_FLAGS"].replace("device_count=2", "device_count=1")
    quickly = {"XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment = {**os.environ, **quickly, "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(process), port, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for process in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)

    alone = simulate(data.on_device(DATASET), 7)
    expected = [np.asarray(x) for x in jax.tree.leaves((alone.state, alone.history))]
    for process in range(2):
        with np.load(tmp_path / f"{process}.npz") as file:
            for actual, leaf in zip(file.values(), expected, strict=True):
                np.testing.assert_allclose(actual, leaf, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    one_of_two(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
