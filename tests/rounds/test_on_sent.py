"""What clients remember of a round: ``on_sent`` and ``on_aggregate``."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import (
    ClientUpdate,
    Compressor,
    Steps,
    aggregators,
    clients,
    compressors,
    data,
    rounds,
    samplers,
    simulation,
)

N, SLOTS = 5, 7
DATASET = data.from_clients([np.full(i + 1, i, np.float32) for i in range(N)])

FRESH = {
    "own": jnp.zeros(2),
    "received": jnp.zeros(2),
    "settled": {"rank": jnp.int32(-1), "size": jnp.int32(-1), "shared": jnp.float32(0)},
    "heard": {"rank": jnp.int32(-1), "size": jnp.int32(-1), "shared": jnp.float32(0)},
    "mean": jnp.zeros(2),
}


def known(public):
    return {"rank": public.rank, "size": public.size, "shared": jax.random.normal(public.key)}


def begin(key, broadcast, state, examples, turn):
    return examples.size, (key, jnp.zeros(2))


def step(key, broadcast, state, examples, turn, t, carry):
    batch, mask = examples.batch(t, 1)
    return carry[0], carry[1] + jnp.concatenate([batch, mask.astype(jnp.float32)])


def end(key, broadcast, state, examples, turn, carry):
    message = carry[1] + jax.random.normal(jax.random.fold_in(carry[0], 9))
    return message, {**state, "own": message}, {}


def on_sent(received, state, public):
    return {**state, "received": received, "settled": known(public)}


def on_aggregate(aggregate, state, public):
    return {**state, "mean": aggregate + 0 * state["received"], "heard": known(public)}


CLIENT = ClientUpdate(
    lambda params: FRESH,
    Steps(begin, step, end),
    lambda params: jax.ShapeDtypeStruct((2,), jnp.float32),
    on_sent,
    on_aggregate,
)
THIRDS = Compressor(  # loses something, so that what is decoded is not what was sent
    lambda like: (),
    lambda key, message, state: (jnp.round(3 * message), state),
    lambda payload: payload / 3,
    lambda like: None,
)
ALGORITHM = fjx.compose(
    client=CLIENT, uplink=THIRDS, aggregator=aggregators.uniform(aggregators.mean())
)


def marked(count):
    """Rows that nothing in a round could have written."""
    rows = simulation.make_table(ALGORITHM.init_client(jnp.zeros(2)), count)
    return jax.tree.map(lambda x: x - 7, rows)


@functools.partial(jax.jit, static_argnums=(2, 3))
def round_of(ids, comes, algorithm, executor, dataset):
    state, rows = algorithm.init(jnp.zeros(2)), marked(SLOTS)
    cohort = dataset.cohort(ids, comes)
    state, rows, metrics = algorithm.round(
        jax.random.key(5), state, rows, cohort, executor=executor
    )
    return rows.client, state.params, metrics


def run(ids, comes=None, *, algorithm=ALGORITHM, executor=None, dataset=DATASET):
    """The rows of the slots given, the model, the metrics; there is always padding behind."""
    ids = np.asarray(ids, np.int32)
    behind = SLOTS - len(ids)
    comes = np.ones(len(ids), bool) if comes is None else np.asarray(comes)
    slots = np.pad(ids, (0, behind), constant_values=N), np.pad(comes, (0, behind))
    rows, params, metrics = round_of(*slots, algorithm, executor, dataset)
    return jax.tree.map(lambda x: x[: len(ids)], rows), params, metrics


@pytest.mark.ci
def test_a_client_sees_what_the_server_decodes_and_then_what_became_of_it():
    rows, params, _ = run(range(N))
    np.testing.assert_allclose(rows["received"], np.round(3 * rows["own"]) / 3, atol=1e-6)
    assert (rows["received"] != rows["own"]).all()
    np.testing.assert_allclose(rows["mean"], np.tile(rows["received"].mean(0), (N, 1)), atol=1e-6)
    np.testing.assert_allclose(params, rows["mean"][0], atol=1e-6)


def test_all_know_the_same_but_for_their_rank_before_and_after():
    rows, _, _ = run(range(N))
    chex.assert_trees_all_equal(rows["settled"], rows["heard"])
    assert len(np.unique(rows["settled"]["shared"])) == 1
    assert rows["settled"]["size"].tolist() == [N] * N


@pytest.mark.parametrize("when", ["settled", "heard"])
def test_ranks_go_by_id_under_permutation_and_padding(when):
    """Who drops out counts, padding does not; padding writes nowhere."""
    rows, _, _ = run([4, N, 1, 3, N], [True, True, False, True, True])
    assert rows[when]["rank"].tolist() == [2, -8, -8, 1, -8]
    assert rows[when]["size"].tolist() == [3, -8, -8, 3, -8]
    rows, _, _ = run([3, 0, 4, 2, 1])
    assert rows[when]["rank"].tolist() == [3, 0, 4, 2, 1]


def test_permutation_and_padding_change_nothing_else():
    straight, _, _ = run(range(N))
    ids = np.array([3, N, 0, 4, 2, 1])
    mixed, _, _ = run(ids)
    order = np.argsort(ids)[:N]
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[order], mixed), straight, atol=1e-6)


@pytest.mark.few(1)
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_who_drops_out_or_is_not_finite_keeps_its_row_bit_for_bit(value):
    """Client 2's message is not finite, or what is decoded of it; client 3 does not come."""
    values = [np.full(i + 1, value if i == 2 else i, np.float32) for i in range(N)]
    rows, _, metrics = run(range(N), np.arange(N) != 3, dataset=data.from_clients(values))
    before, absent = marked(N).client, np.array([2, 3])
    chex.assert_trees_all_equal(*(jax.tree.map(lambda x: x[absent], t) for t in (rows, before)))
    assert int(metrics["nonfinite"]) == 1
    present = np.array([0, 1, 4])
    assert rows["heard"]["rank"][present].tolist() == [0, 1, 4]
    np.testing.assert_allclose(
        rows["mean"][present], np.tile(rows["received"][present].mean(0), (3, 1)), atol=1e-6
    )


EXECUTORS = {
    "one": simulation.chunked(1),
    "chunks": simulation.chunked(3),
    "lanes": simulation.lanes(2),
    "devices": simulation.sharded(jax.make_mesh((2,), ("clients",)), simulation.chunked(2)),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("name", EXECUTORS)
def test_every_executor_leaves_the_same(name):
    cohort = [4, N, 1, 3, 0], [True, True, False, True, True]
    expected = run(*cohort)
    actual = run(*cohort, executor=EXECUTORS[name])
    chex.assert_trees_all_close(actual, expected, atol=1e-6)


@pytest.mark.ci
def test_what_is_stacked_is_heard_too():
    algorithm = fjx.compose(client=CLIENT, uplink=THIRDS, aggregator=aggregators.median())
    rows, _, _ = run([2, 0, 4], algorithm=algorithm)
    np.testing.assert_allclose(rows["mean"], np.tile(np.median(rows["received"], 0), (3, 1)))
    assert algorithm.traffic(jnp.zeros(2)) == (64, 128)


def test_what_is_heard_is_billed():
    assert ALGORITHM.traffic(jnp.zeros(2)) == (64, 128)
    deaf = fjx.compose(client=CLIENT._replace(on_aggregate=None), uplink=THIRDS)
    assert deaf.traffic(jnp.zeros(2)) == (64, 64)


def test_what_is_heard_is_measured_with_a_broadcast_of_varying_length():
    """The broadcast sends all or nothing, which is counted; what is heard comes to that."""
    sometimes = fjx.compose(client=CLIENT, uplink=THIRDS, downlink=compressors.bernoulli(0.5))

    @jax.jit
    @jax.vmap
    def bytes_down(seed):
        start = sometimes.init(jnp.zeros(2))
        rows = simulation.make_table(sometimes.init_client(jnp.zeros(2)), 3)
        cohort = DATASET.cohort(np.arange(3))
        return sometimes.round(jax.random.key(seed), start, rows, cohort)[2]["downlink_bytes"]

    assert set(bytes_down(jnp.arange(6)).tolist()) == {3 * (1 + 8), 3 * (1 + 8 + 8)}


@pytest.mark.parametrize(
    ("ids", "comes", "bytes_down"),
    [
        ([0, 1, 2], [1, 1, 1], 3 * (8 + 8)),
        ([0, 1, 2], [1, 0, 1], 3 * 8 + 2 * 8),  # who is away hears nothing of the round
        ([0, 1, N], [0, 0, 0], 2 * 8),  # a round in which nobody comes
        ([N, N, N], [0, 0, 0], 0),  # a round of nobody
    ],
)
def test_only_messages_that_exist_are_billed(ids, comes, bytes_down):
    """The broadcast goes to those invited, and the aggregate to those who came."""
    ids = np.array(ids, np.int32)
    algorithm, state = ALGORITHM, ALGORITHM.init(jnp.zeros(2))
    rows = simulation.make_table(algorithm.init_client(jnp.zeros(2)), len(ids))
    cohort = DATASET.cohort(ids, np.array(comes, bool))
    play = jax.jit(algorithm.round)
    _, _, metrics = play(jax.random.key(0), state, rows, cohort)
    rounds = jax.tree.map(lambda x: np.asarray(x)[None], metrics)
    ledger = simulation.Ledger.of(algorithm.traffic(jnp.zeros(2)), rounds)
    assert (ledger.downlink, ledger.uplink) == (8 * bytes_down, 64 * sum(comes))


@pytest.mark.ci
def test_before_the_first_round_no_aggregate_travels_down():
    """Replicas are sent the message of the round before: of three rounds, two."""
    codec = compressors.top_k(0.5)
    algorithm = fjx.compose(
        client=CLIENT._replace(on_aggregate=None),
        **rounds.replicated(codec, aggregator=aggregators.mean(), server=optax.sgd(1.0)),
    )
    result = fjx.simulate(
        jax.random.key(0), algorithm, jnp.zeros(2), DATASET, sampler=samplers.full(), rounds=3
    )
    price = algorithm.traffic(jnp.zeros(2)).downlink
    assert result.ledger.heard.tolist() == [0, N * price, N * price]


def test_what_is_heard_of_a_payload_is_the_message():
    """To replicas travels half of the mean: they hear that, and not its places and values."""
    slots = rounds.replicated(
        compressors.top_k(0.5), server=optax.sgd(1.0),
        aggregator=aggregators.uniform(aggregators.mean()),
    )  # fmt: skip
    algorithm = fjx.compose(client=CLIENT, uplink=THIRDS, **slots)
    rows, _, _ = run([2, 0, 4], algorithm=algorithm)
    plain, _, _ = run([2, 0, 4])
    mean = np.asarray(plain["mean"])
    larger = np.abs(mean) == np.abs(mean).max(1, keepdims=True)
    np.testing.assert_allclose(rows["mean"], np.where(larger, mean, 0), rtol=1e-6)
    deaf = fjx.compose(client=CLIENT._replace(on_aggregate=None), uplink=THIRDS, **slots)
    price = deaf.traffic(jnp.zeros(2)).downlink
    assert algorithm.traffic(jnp.zeros(2)).downlink == 2 * price  # again at the end of the round


def test_a_wrapper_that_would_forget_refuses():
    with pytest.raises(ValueError, match="on_sent"):
        clients.averaged(CLIENT, eta=0.5)
