"""The number of the round, a client's id and its rank, as everything that runs in a round sees them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import Aggregator, ClientUpdate, ServerUpdate, compressors, data, rounds, simulation

N = 5
DATASET = data.from_clients([np.zeros(n, np.float32) for n in (3, 5, 1, 7, 2)])
IDS, COMES = np.array([4, N, 1, 3]), np.array([True, True, False, True])
EXECUTORS = {
    "vectorized": simulation.vectorized(),
    "one": simulation.chunked(1),
    "chunks": simulation.chunked(3),
    "lanes": simulation.lanes(2),
}


def numbers(*values):
    return jnp.stack([jnp.asarray(v, jnp.float32) for v in values])


def begin(key, broadcast, state, examples, turn):
    return examples.size, jnp.zeros(3)


def step(key, broadcast, state, examples, turn, t, carry):
    return numbers(turn.round, turn.id, turn.rank)  # in every step


def end(key, broadcast, state, examples, turn, carry):
    return jnp.concatenate([carry, numbers(turn.round, turn.id, turn.rank)]), state, {}


def settle(name):
    def function(message, state, public):
        return {**state, name: numbers(public.round, public.rank)}

    return function


CLIENT = ClientUpdate(
    lambda params: {"sent": jnp.full(2, -1.0), "heard": jnp.full(2, -1.0)},
    fjx.Steps(begin, step, end),
    lambda params: jax.ShapeDtypeStruct((6,), jnp.float32),
    settle("sent"),
    settle("heard"),
)


def encode(key, message, public):
    return jnp.concatenate([message, numbers(public.round, public.rank)])


def contribute(payload, weight, public):
    return jnp.concatenate([payload, numbers(public.round, public.rank)])


def finish(key, total, public):
    return {"clients": total, "server": numbers(public.round)}, public.state, {}


class Log(NamedTuple):
    """A server that keeps the aggregate message."""

    params: Any
    seen: Any


ALGORITHM = fjx.compose(
    client=CLIENT,
    aggregator=Aggregator(lambda like: (), contribute, finish, fjx.STACK, encode),
    server=ServerUpdate(
        lambda params: Log(params, None),
        lambda state: state.params,
        lambda state, message: Log(state.params, message),
    ),
)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", EXECUTORS)
def test_everybody_is_told_the_round_and_clients_their_rank(name):
    """Two rounds with padding and an absent client, who counts for the ranks of the others."""
    round = jax.jit(functools.partial(ALGORITHM.round, executor=EXECUTORS[name]))
    rows = simulation.make_table(ALGORITHM.init_client(0.0), len(IDS))
    state, there = ALGORITHM.init(0.0), np.array([0, 3])
    for t in range(2):
        state = state._replace(server=Log(0.0, None))
        state, rows, _ = round(jax.random.key(t), state, rows, DATASET.cohort(IDS, COMES))
        assert int(state.round) == t + 1
        assert state.server.seen["server"].tolist() == [t]
        for slot, rank in zip(there, (2, 1), strict=True):
            turn, public = [t, IDS[slot], rank], [t, rank]
            told = state.server.seen["clients"][slot]
            # A step and the end of local work, encode, contribute.
            assert told.tolist() == [*turn, *turn, *public, *public]
            for part in ("sent", "heard"):
                assert rows.client[part][slot].tolist() == public
        assert (np.asarray(rows.client["sent"])[[1, 2]] == -1).all()  # padding, and who is absent


def message(key, broadcast, state, examples, turn):
    return numbers(turn.round, turn.id, turn.rank), state, {}


PLAIN = ClientUpdate(
    lambda params: (), message, lambda params: jax.ShapeDtypeStruct((3,), jnp.float32)
)


def test_batches_are_no_rounds_of_their_own():
    """Under ``minibatch`` a client is told what it is told without."""
    plain = fjx.compose(client=PLAIN, aggregator=fjx.aggregators.uniform(fjx.aggregators.mean()))
    expected = np.array([0, 3.5, 1.5]), np.array([1, 7, 3])  # the means, and then the sums of both
    for algorithm in (plain, rounds.minibatch(plain, 1)):
        state = algorithm.init(jnp.zeros(3))
        rows = simulation.make_table(algorithm.init_client(jnp.zeros(3)), len(IDS))
        for t in range(2):
            cohort = DATASET.cohort(IDS, COMES)
            state, rows, _ = jax.jit(algorithm.round)(jax.random.key(t), state, rows, cohort)
            np.testing.assert_allclose(state.params, expected[t])


def test_nodes_that_gossip_are_told_as_well():
    """Nobody has a neighbour: each model is the sum of its own messages."""
    algorithm = rounds.choco(PLAIN, compressors.identity(), mixing=np.eye(N), step_size=0.5)
    state = algorithm.init(jnp.zeros(3))
    rows = simulation.make_table(algorithm.init_client(jnp.zeros(3)), len(IDS))
    for t in range(3):
        cohort = DATASET.cohort(IDS, COMES)
        state, rows, _ = jax.jit(algorithm.round)(jax.random.key(t), state, rows, cohort)
    assert int(state.round) == 3
    np.testing.assert_allclose(rows.model[jnp.array([0, 3])], [[3, 12, 6], [3, 9, 3]], atol=1e-5)
