"""Examples and tables on the host: the same run, bit for bit, prepared while the device computes."""

import importlib
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import algorithms, clients, compressors, data, samplers, simulation

stream = importlib.import_module("fjx.simulation._stream")

SIZES = [3, 0, 200, 1, 2, 5, 4, 2, 1]  # one giant among them, and one without examples
N = len(SIZES)
VALUES = np.random.default_rng(0).normal(size=(sum(SIZES), 3)).astype(np.float32)
HOST = data.from_packed({"x": VALUES, "n": np.arange(len(VALUES), dtype=np.int8)}, SIZES)
DEVICE = data.on_device(HOST)


def loss_fn(w, batch, key):
    return jnp.mean((w[None] - batch["x"]) ** 2) + 1e-3 * jnp.mean(batch["n"].astype(jnp.float32))


ALGORITHM = fjx.compose(
    client=clients.local_sgd(loss_fn, optax.sgd(0.1), epochs=2, batch_size=2),
    uplink=compressors.error_feedback(compressors.quantize(bits=3)),
    server=optax.sgd(0.5, momentum=0.9),
)
"""A random codec with memory: whatever a round draws or forgets, the next ones tell."""

POISSON = samplers.dropout(samplers.poisson(0.4, cap=5), 0.3)


def simulate(dataset=HOST, seed=0, **options):
    options = {
        "sampler": POISSON,
        "rounds": 7,
        "evaluate": lambda w: {"w": w[0]},
        "evaluate_every": 3,
        "evaluate_first": True,
        "participant_ids": True,
        "progress": False,
        **options,
    }
    return fjx.simulate(jax.random.key(seed), ALGORITHM, jnp.zeros(3), dataset, **options)


@pytest.fixture(scope="module")
def resident():
    return simulate(DEVICE)


def assert_same(actual, expected):
    chex.assert_trees_all_equal(actual.state, expected.state)
    chex.assert_trees_all_equal(actual.history, expected.history)
    chex.assert_trees_all_equal_dtypes(actual.history, expected.history)
    assert actual.ledger.uplink == expected.ledger.uplink


@pytest.mark.ci
def test_the_run_has_what_could_go_wrong(resident):
    """Rounds with and without the giant, clients in two rounds in a row, drop-outs, padding."""
    rounds = resident.history.rounds
    assert resident.history.evaluated_at.tolist() == [0, 3, 6, 7]
    assert len(set(rounds["invited"].tolist())) > 1
    assert (rounds["participants"] < rounds["invited"]).any()
    steps = rounds["steps"]
    assert steps.max() > 20 * steps.min()
    residuals = jax.tree.leaves(resident.state.clients)[0]
    assert 2 < np.any(residuals != 0, axis=1).sum() < N


TABLES = {"device": jax.Array, "host": np.ndarray, "map": np.memmap}


def table_in(place, folder):
    mapped = simulation.mapped_table(folder / "table")
    return {"device": simulation.make_table, "host": simulation.host_table, "map": mapped}[place]


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("dataset", "table"),
    [("host", "device"), pytest.param("device", "host", marks=pytest.mark.slow), ("map", "map")],
)
def test_a_run_is_the_same_wherever_its_data_live(resident, tmp_path, dataset, table):
    """To the bit."""
    data.save(HOST, tmp_path / "data")
    datasets = {"device": DEVICE, "host": HOST, "map": data.open(tmp_path / "data")}
    actual = simulate(datasets[dataset], table=table_in(table, tmp_path))
    assert_same(actual, resident)
    for ids in (0, np.array([7, 2])):
        chex.assert_trees_all_equal(actual.state.client(ids), resident.state.client(ids))
    assert all(isinstance(x, TABLES[table]) for x in jax.tree.leaves(actual.state.clients))


SHARDED = simulation.sharded(jax.make_mesh((jax.device_count(),), ("clients",)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "table"),
    [
        pytest.param(simulation.chunked(2), simulation.make_table, marks=pytest.mark.slow),
        (SHARDED, simulation.host_table),
    ],
    ids=["chunked", "sharded"],
)
def test_every_executor_streams(resident, executor, table):
    """To rounding, over blocks and devices."""
    actual = simulate(executor=executor, table=table)
    chex.assert_trees_all_close(actual.state, resident.state, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(actual.history, resident.history, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_clients_without_a_state_are_streamed_too():
    def run(dataset, **options):
        return fjx.simulate(
            jax.random.key(3),
            algorithms.fedavg(loss_fn, client_lr=0.1, batch_size=4),
            jnp.zeros(3),
            dataset,
            sampler=samplers.uniform(4),
            rounds=3,
            **options,
        )

    expected = run(DEVICE)
    assert_same(run(HOST), expected)
    assert_same(run(HOST, table=simulation.host_table), expected)


@pytest.mark.slow
def test_a_run_longer_than_a_batch_of_draws(resident, monkeypatch):
    monkeypatch.setattr(stream, "_DRAWN", 3)
    assert_same(simulate(), resident)


@pytest.mark.slow
def test_impossible_ids_of_a_sampler_are_padding_and_counted():
    """Once given twice, once out of range; and a round of nothing but padding comes first."""
    ids = jnp.array([[N, N, N], [2, 2, 0], [4, N + 1, -1]])
    sampler = samplers.Sampler(
        lambda key, t, n: samplers.Sample(ids[t], jnp.ones(3, bool), jnp.int32(0)),
        lambda n: 3,
        None,
    )
    actual = simulate(sampler=sampler, rounds=3)
    assert actual.history.rounds["rejected"].tolist() == [0, 1, 2]
    assert actual.history.rounds["invited"].tolist() == [0, 2, 1]
    assert_same(actual, simulate(DEVICE, sampler=sampler, rounds=3))


# --------------------------------------------------------------------------------------------------
# Ends before the end
# --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [("host", "map"), pytest.param("map", "device", marks=pytest.mark.slow)],
)
def test_resuming_is_bitwise_the_run_without_interruption(resident, tmp_path, before, after):
    """In another place too: a checkpoint does not know where its table lived."""
    first = simulate(rounds=4, table=table_in(before, tmp_path), checkpoint=tmp_path / "run")
    assert first.history.evaluated_at.tolist() == [0, 3, 4]
    second = simulate(table=table_in(after, tmp_path), checkpoint=tmp_path / "run")
    third = simulate(table=table_in(before, tmp_path), checkpoint=tmp_path / "run")  # is done
    for place, result in ((after, second), (before, third)):
        chex.assert_trees_all_equal(result.state, resident.state)
        chex.assert_trees_all_equal(result.history.rounds, resident.history.rounds)
        assert all(isinstance(x, TABLES[place]) for x in jax.tree.leaves(result.state.clients))


@pytest.mark.slow
def test_ctrl_c_ends_the_run_after_the_block(resident):
    def press(scores):
        signal.raise_signal(signal.SIGINT)
        return False

    before = signal.getsignal(signal.SIGINT)
    result = simulate(stop=press, table=simulation.host_table)
    assert signal.getsignal(signal.SIGINT) is before
    assert result.stopped == "interrupted"
    assert result.history.evaluated_at.tolist() == [0, 3]
    first = jax.tree.map(lambda x: x[:3], resident.history.rounds)
    chex.assert_trees_all_equal(result.history.rounds, first)


@pytest.mark.slow
def test_wrong_evaluations_are_refused_before_the_first_round():
    with pytest.raises(ValueError, match="must return a dict of arrays"):
        simulate(evaluate=lambda w: [w])


# --------------------------------------------------------------------------------------------------
# What the host does meanwhile
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def compiled():
    """The names of the programs that are compiled in a test."""
    names = []

    def listen(event, seconds, **about):
        if event.endswith("backend_compile_duration"):
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.slow
def test_a_run_compiles_one_program_for_its_rounds(resident, compiled):
    """Whatever the sizes of cohorts and blocks.

    Others are for draws, the premise of the loss, and the scores of a block and of the first model.
    """
    simulate()
    assert compiled == ["jit(drawer)", "jit(step)", "jit(_score)", "jit(_sides)", "jit(score)"]


@pytest.mark.ci
def test_a_block_neither_waits_nor_reads_back(monkeypatch):
    """All that goes to the device is sent in so many words; nothing comes back before the end."""
    run = stream.Stream.__call__

    def guarded(self, state, length):
        get = jax.device_get
        with monkeypatch.context() as patch:
            patch.setattr(jax, "device_get", lambda x: fetched.append(1) or get(x))
            with jax.transfer_guard("disallow"):
                return run(self, state, length)

    fetched = []
    monkeypatch.setattr(stream.Stream, "__call__", guarded)
    simulate(rounds=30, evaluate_every=30)
    assert len(fetched) == 1  # the history; a batch of draws was there before
