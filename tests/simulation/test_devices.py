"""Devices of a CPU, and what is saved of compilations, in processes of their own."""

import json
import os
import subprocess
import sys

import jax
import pytest

from fjx.simulation import _devices

PROGRAM = """
import json, sys
import fjx
from fjx import data, samplers, simulation

simulation.use_cpu_devices(8)
simulation.cache_compilations(sys.argv[1])

import chex, jax, jax.numpy as jnp, numpy as np, optax

hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.rsplit("/")[-1]))
values = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
dataset = data.from_packed(values, [3, 0, 20, 1, 2, 5, 4, 2, 1, 1, 1])
client = fjx.clients.local_sgd(
    lambda w, x, key: jnp.mean((w[None] - x) ** 2), optax.sgd(0.1), epochs=2, batch_size=2)
uplink = fjx.compressors.error_feedback(fjx.compressors.quantize(bits=3))
algorithm = fjx.compose(client=client, uplink=uplink)

ran_on = []

def play(executor):
    result = fjx.simulate(
        jax.random.key(0), algorithm, jnp.zeros(3), dataset, sampler=samplers.uniform(6), rounds=3,
        executor=executor, progress=False,
        callbacks=[lambda _, state, __: ran_on.append(len(state.params.sharding.device_set))])
    assert len(result.params.sharding.device_set) == 1
    return result.params, result.state.clients

expected = play(simulation.vectorized())
for devices in (1, 2, 4, 8):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("clients",))
    for inner in (simulation.vectorized(), simulation.chunked(2)):
        found = play(simulation.sharded(mesh, inner))
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)
        assert ran_on[-1] == devices
try:
    simulation.use_cpu_devices(3)
except RuntimeError as error:
    print(json.dumps({"late": str(error), "hits": hits.count("cache_hits"),
        "misses": hits.count("cache_misses")}))
"""


def run(*arguments, **environment):
    flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=2", "")
    quickly = {"XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment = {**os.environ, **quickly, **environment}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    done = [run("-c", PROGRAM, folder) for _ in range(2)]
    assert [x.returncode for x in done] == [0, 0], done[0].stderr + done[1].stderr
    return [json.loads(x.stdout.splitlines()[-1]) for x in done]


@pytest.mark.ci
def test_one_two_four_and_eight_devices_compute_the_same_and_later_is_too_late(twice):
    assert "8 CPU devices, too late for 3" in twice[0]["late"]
    assert "JAX_NUM_CPU_DEVICES=3" in twice[0]["late"]


@pytest.mark.ci
def test_a_second_process_compiles_nothing(twice):
    first, second = twice
    assert first["misses"] > 0
    assert second["misses"] == 0
    assert second["hits"] == first["misses"] + first["hits"]


@pytest.mark.ci
def test_importing_makes_a_device_of_each_core_unless_somebody_chose():
    count = "import fjx, jax; print(jax.device_count())"
    assert run("-c", count, FJX_CPU_DEVICES="3").stdout == "3\n"
    every = str(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    assert run("-c", count, FJX_CPU_DEVICES="all").stdout == every + "\n"
    assert run("-c", count, FJX_CPU_DEVICES="").stdout == every + "\n"  # as if it were not set
    begun = f"import jax; jax.devices(); {count}"
    assert run("-c", begun).stdout == "1\n"  # too late
    assert run("-c", begun, JAX_NUM_CPU_DEVICES="3").stdout == "3\n"  # as the warning says
    wrong = run("-c", count, FJX_CPU_DEVICES="two")
    assert wrong.returncode != 0
    assert "FJX_CPU_DEVICES must be a positive number or \"all\", got 'two'" in wrong.stderr


def test_a_run_on_one_of_several_cores_says_what_would_help(monkeypatch):
    monkeypatch.delenv("FJX_CPU_DEVICES", raising=False)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(_devices, "_processors", lambda: 4)
    monkeypatch.setattr(_devices, "_chosen", lambda: False)
    with pytest.warns(UserWarning, match="import fjx first, or set JAX_NUM_CPU_DEVICES=4"):
        _devices.tell_of_idle_cores.__wrapped__()
