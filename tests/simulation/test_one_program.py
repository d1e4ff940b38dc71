"""A run is one program, whose size depends neither on its cohorts nor on its rounds."""

import functools
from collections import Counter

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import clients, compressors, data, samplers, simulation

DATASET = data.from_clients([np.ones((n % 5, 3), np.float32) for n in range(40)])
EVERY = {
    "vectorized": simulation.vectorized(),
    "chunked": simulation.chunked(2),
    "one by one": simulation.chunked(1),
    "lanes": simulation.lanes(2),
    "sharded": simulation.sharded(jax.make_mesh((2,), ("clients",)), simulation.chunked(2)),
}


def primitives(jaxpr):
    """How often each primitive occurs in a program, at any depth."""
    counts = Counter(equation.primitive.name for equation in jaxpr.eqns)
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: isinstance(x, jex.core.Jaxpr | jex.core.ClosedJaxpr),
        ):
            if isinstance(value, jex.core.ClosedJaxpr):
                counts += primitives(value.jaxpr)
            elif isinstance(value, jex.core.Jaxpr):
                counts += primitives(value)
    return counts


@functools.cache
def trace(executor, cohort, rounds):
    """The program of a run, and how often its loss was traced."""
    traces = []

    def loss_fn(w, x, key):
        traces.append(None)
        return jnp.mean((w[None] - x) ** 2)

    algorithm = fjx.compose(
        client=clients.local_sgd(loss_fn, optax.sgd(0.1), epochs=1, batch_size=2),
        uplink=compressors.error_feedback(compressors.top_k(0.5)),
    )
    run = simulation.program(
        algorithm,
        DATASET,
        sampler=samplers.uniform(cohort),
        executor=executor,
        evaluate=lambda w: {"norm": jnp.sum(w**2)},
        evaluate_every=5,
    )
    state = run.init(jnp.zeros(3))
    program = jax.make_jaxpr(lambda key, state: run.run(key, state, rounds))(
        jax.random.key(0), state
    )
    return primitives(program.jaxpr), len(traces)


every = pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.slow) if x == "one by one" else x for x in EVERY]
)


@pytest.mark.few(1)
@every
def test_the_program_is_as_large_for_many_rounds_of_large_cohorts(name):
    small = trace(EVERY[name], 8, 10)
    assert small == trace(EVERY[name], 8, 1000)
    assert small == trace(EVERY[name], 40, 10)


@every
def test_no_round_asks_the_host_for_anything(name):
    counts, _ = trace(EVERY[name], 8, 10)
    assert counts["scan"] > 0  # so that it is the program that was looked into
    assert not [p for p in counts if "callback" in p or "infeed" in p or "outfeed" in p]


@pytest.mark.ci
def test_a_block_transfers_nothing_by_the_way(monkeypatch):
    from fjx.simulation import _resident

    blocks, play = [], _resident.Resident.__call__

    def guarded(self, state, length):
        blocks.append(length)
        with jax.transfer_guard("disallow"):
            return play(self, state, length)

    monkeypatch.setattr(_resident.Resident, "__call__", guarded)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event)
    )
    algorithm = fjx.algorithms.fedavg(
        lambda w, x, key: jnp.mean((w[None] - x) ** 2), client_lr=0.1, batch_size=2
    )

    def stop(scores):
        compiled.clear()  # what comes after the first block compiles nothing
        return False

    fjx.simulate(
        jax.random.key(0),
        algorithm,
        jnp.zeros(3),
        DATASET,
        sampler=samplers.uniform(6),
        rounds=40,
        evaluate=lambda w: {"norm": jnp.sum(w**2)},
        evaluate_every=10,
        stop=lambda scores: stop(scores) if len(blocks) < 2 else False,
        progress=False,
    )
    assert blocks == [10] * 4
    assert not [event for event in compiled if event.endswith("backend_compile_duration")]
