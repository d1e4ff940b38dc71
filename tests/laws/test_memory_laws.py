"""What every method with a memory on each client and their mean on the server promises.

A method joins by a row of ``METHODS``: the algorithm, and where the memories of clients and server are.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import algorithms, compressors, samplers, simulation
from tests.support import tables

N = len(tables.SIZES)
EMPTY = tables.SIZES.index(0)
DATASET = tables.federated()
OWNER = np.repeat(np.arange(N), tables.SIZES)
TOP, RAND = compressors.top_k(0.5), compressors.rand_k(0.5)


class Method(NamedTuple):
    """An algorithm, and where its memories are.

    Attributes:
        algorithm: for the linear model of the tables.
        client: of the table of all clients, their memories: a tree of ``[N, ...]``.
        server: of the server's state, what should be their mean.
    """

    algorithm: fjx.Algorithm
    client: Callable = lambda rows: rows.uplink.memory
    server: Callable = lambda state: state.aggregator


def _of(recipe, codec, **more):
    return recipe(
        tables.squared_error, codec, num_clients=N, learning_rate=0.05, batch_size=2, **more
    )


METHODS = {
    "ef21": Method(_of(algorithms.ef21, TOP)),
    "ef_bv": Method(_of(algorithms.ef_bv, RAND, lam=0.3, nu=0.7)),
    "diana": Method(_of(algorithms.diana, compressors.quantize(bits=3), lam=0.5)),
    "ef21_sgdm": Method(_of(algorithms.ef21_sgdm, TOP, eta=0.5)),
    "mcm": Method(_of(algorithms.mcm, RAND, lam=0.4)),
    "dasha": Method(
        _of(algorithms.dasha, RAND, momentum=0.3), client=lambda rows: rows.uplink.estimate
    ),
    "clag": Method(_of(algorithms.clag, TOP, zeta=0.5)),
    "scaffold": Method(
        algorithms.scaffold(
            tables.squared_error, num_clients=N, client_lr=0.05, batch_size=2, epochs=1
        ),
        client=lambda rows: rows.client,
        server=lambda state: state.server.control,
    ),
}
"""Every method of the family; of the server's memory nothing is sent twice, so it must not drift."""

NOBODY = -1
ROUNDS = [  # who is asked, who of them drops out, and whose data are broken
    (range(N), (), NOBODY),
    (range(N), (1, 4), NOBODY),
    ((3,), (), NOBODY),
    ((3,), (), NOBODY),
    ((3,), (3,), NOBODY),
    ((), (), NOBODY),
    ((5, 0, 4), (), 0),
    ((0, 1, 5), (5,), 1),
    ((4,), (), 4),
    ((4, 1), (), NOBODY),
    (range(N), (), 3),
    (range(N), (), NOBODY),
]

IDS = np.full((len(ROUNDS), N), N, np.int32)
STAYS = np.zeros((len(ROUNDS), N), bool)
for _ids, _stays, (_asked, _gone, _) in zip(IDS, STAYS, ROUNDS, strict=True):
    _ids[: len(_asked)] = _asked
    _stays[: len(_asked)] = [i not in _gone for i in _asked]
BROKEN = np.array([broken for _, _, broken in ROUNDS])
MOVED = np.array([
    [i in asked and i not in gone and i not in (broken, EMPTY) for i in range(N)]
    for asked, gone, broken in ROUNDS
])  # fmt: skip


@functools.cache
def history(name):
    """The server's state and the table of all clients, before the first round and after each."""
    algorithm = METHODS[name].algorithm
    params = tables.weights()
    start = algorithm.init(params), simulation.make_table(algorithm.init_client(params), N)

    def step(carry, inputs):
        (state, table), (t, ids, stays, broken) = carry, inputs
        cohort = DATASET.cohort(ids, stays)
        x = jnp.where((jnp.asarray(OWNER) == broken)[:, None], jnp.nan, DATASET.arrays["x"])
        examples = cohort.examples._replace(arrays={**DATASET.arrays, "x": x})
        state, rows, metrics = algorithm.round(
            jax.random.fold_in(jax.random.key(5), t),
            state,
            simulation.gather(table, ids),
            cohort._replace(examples=examples),
        )
        after = state, simulation.scatter(table, ids, rows)
        return after, (after, metrics["participants"])

    inputs = (jnp.arange(len(ROUNDS)), IDS, STAYS, BROKEN)
    scan = jax.jit(
        lambda start: jax.lax.scan(step, start, inputs)[1],
        compiler_options={"xla_backend_optimization_level": 0},
    )
    after, participants = scan(start)
    whole = jax.tree.map(lambda a, b: np.concatenate([np.asarray(a)[None], b]), start, after)
    return *whole, np.asarray(participants)


every = tables.rows(
    METHODS, {"ef21"}, METHODS.keys() - {"ef_bv", "diana", "ef21_sgdm", "mcm", "clag"}
)


@every
def test_the_server_has_the_mean_of_all_memories_after_every_round(name):
    """Whoever dropped out, came alone or twice in a row, or sent what is not finite."""
    state, table, participants = history(name)
    np.testing.assert_array_equal(participants, MOVED.sum(1))
    theirs, ours = METHODS[name].client(table), METHODS[name].server(state)
    for each, mean in zip(jax.tree.leaves(theirs), jax.tree.leaves(ours), strict=True):
        expected = np.asarray(each, np.float64).mean(1)  # [rounds, N, ...]
        np.testing.assert_allclose(mean, expected, atol=2e-6 * np.abs(each).max())
        assert np.abs(mean[1:]).max() > 1e-3


@every
def test_rows_of_clients_that_do_not_count_stay_to_the_bit_and_others_move(name):
    _, table, _ = history(name)
    same = np.ones((len(ROUNDS), N), bool)
    for leaf in jax.tree.leaves(table):
        bits = np.ascontiguousarray(leaf).reshape(len(ROUNDS) + 1, N, -1).view(np.uint8)
        same &= (bits[1:] == bits[:-1]).reshape(len(ROUNDS), N, -1).all(-1)
    np.testing.assert_array_equal(same, ~MOVED)


@pytest.mark.slow
@every
def test_the_memories_of_a_resumed_run_are_those_of_one_without_interruption(name, tmp_path):
    """And still each other's mean: 3 rounds, a checkpoint, 3 more, of random halves who may drop out."""
    sampler = samplers.dropout(samplers.uniform(4), 0.3)

    def simulated(rounds, checkpoint=None):
        return fjx.simulate(
            jax.random.key(2), METHODS[name].algorithm, tables.weights(), DATASET, sampler=sampler,
            rounds=rounds, evaluate_every=3, checkpoint=checkpoint, executor=simulation.vectorized(),
        ).state  # fmt: skip

    simulated(3, tmp_path)
    resumed, whole = simulated(6, tmp_path), simulated(6)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    theirs = METHODS[name].client(resumed.clients)
    ours = METHODS[name].server(resumed.algorithm)
    for each, mean in zip(jax.tree.leaves(theirs), jax.tree.leaves(ours), strict=True):
        np.testing.assert_allclose(mean, np.mean(each, 0), atol=2e-6 * np.abs(each).max())
