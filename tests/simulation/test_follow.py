"""A run that is followed: callbacks, files, scores of every client, who took part, a summary."""

import csv
import json
import sys
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import algorithms, compressors, data, privacy, samplers, simulation
from fjx.rounds import ClientRow
from fjx.simulation._summary import _number

DATASET = data.from_clients([np.float32(v) for v in ([1, 3], [5], [], [8], [4, 4])])
N = 5
IDS = jnp.array([[0, 3, 1], [2, N, 0], [N, N, N], [4, 1, 2]])
COMES = jnp.array([[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1]], bool)
SAMPLER = samplers.Sampler(
    lambda key, t, n: samplers.Sample(IDS[t], COMES[t], jnp.int32(0)), lambda n: 3, None
)
TOOK_PART = [[0, 3, N], [N, N, 0], [N, N, N], [4, 1, N]]
"""By hand: client 1 drops out of the first round, client 2 has no examples, and nobody comes third."""
ALGORITHM = algorithms.fedavg(
    lambda w, batch, key: jnp.mean((w - batch) ** 2),
    client_lr=0.1,
    batch_size=2,
    uplink=compressors.error_feedback(compressors.cast(jnp.bfloat16)),
)
GAPS = simulation.per_client(lambda w, batch: {"gap": jnp.abs(w - batch)}, DATASET)
START = jnp.float32(0.5)


def evaluate(w):
    return {**GAPS(w), "w": w}


def follow(**options):
    options = {"rounds": 4, "evaluate": evaluate, "evaluate_every": 2, "progress": False, **options}
    return fjx.simulate(jax.random.key(0), ALGORITHM, START, DATASET, sampler=SAMPLER, **options)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A run, what its callbacks were given, and the files that they wrote."""
    folder = tmp_path_factory.mktemp("followed")
    calls = types.SimpleNamespace(called=[], asked=[])
    result = follow(
        evaluate_first=True,
        participant_ids=True,
        stop=lambda scores: calls.asked.append((scores["w"], scores["gap"])),
        callbacks=[
            lambda round, state, block: calls.called.append(
                (round, int(state.round), float(state.params), block)
            ),
            simulation.csv_writer(folder / "new" / "run.csv"),
            simulation.jsonl_writer(folder / "run.jsonl"),
        ],
    )
    return result, calls, folder


@pytest.mark.ci
def test_scores_of_every_client_are_kept_at_each_evaluation(followed):
    """Those of the initial model too; a client without examples has a gap in each."""
    history = followed[0].history
    assert history.evaluated_at.tolist() == [0, 2, 4]
    models = history.evaluations["w"]
    assert models[0] == START
    assert models[-1] == followed[0].params
    assert history.evaluations["gap"].shape == (3, N)
    for w, gaps in zip(models, history.evaluations["gap"], strict=True):
        expected = [np.abs(w - np.float32(v)).mean() for v in ([1, 3], [5], [np.nan], [8], [4, 4])]
        np.testing.assert_allclose(gaps, expected, rtol=1e-6)


def test_the_history_says_who_took_part(followed):
    history = followed[0].history
    ids = history.rounds["participant_ids"]
    assert ids.tolist() == TOOK_PART
    np.testing.assert_array_equal((ids < N).sum(axis=1), followed[0].ledger.delivered)
    assert history.participation(N).tolist() == [2, 1, 0, 1, 1]
    with pytest.raises(ValueError, match=r"simulate\(participant_ids=True\)"):
        history._replace(rounds={"loss": np.zeros(4)}).participation(N)
    with pytest.raises(ValueError, match=r"has axes \[2\] in front"):
        history._replace(evaluated_at=np.zeros((2, 3), np.int32)).participation(N)


def test_ids_beside_a_noised_aggregate_are_called_unnoised():
    """Sampling amplifies privacy only if nobody knows who took part."""
    algorithm = algorithms.dp_fedavg(
        lambda w, batch, key: jnp.mean((w - batch) ** 2), client_lr=0.1, batch_size=2,
        clip_norm=1.0, noise_multiplier=1.0, cohort_size=2,
    )  # fmt: skip
    p = simulation.program(algorithm, DATASET, sampler=SAMPLER, participant_ids=True)
    history = jax.eval_shape(lambda key: p.run(key, p.init(START), 2)[1], jax.random.key(0))
    ids = history.rounds["unnoised_participant_ids"]
    assert (ids.shape, ids.dtype) == ((2, 3), jnp.int32)
    assert "participant_ids" not in history.rounds
    named = simulation.History({"unnoised_participant_ids": np.array(TOOK_PART)}, {}, np.array([4]))
    assert named.participation(N).tolist() == [2, 1, 0, 1, 1]


def test_callbacks_are_given_the_round_the_state_and_the_block(followed):
    result, calls, _ = followed
    assert [call[:2] for call in calls.called] == [(0, 0), (2, 2), (4, 4)]
    for _, _, w, block in calls.called:
        assert block.evaluations["w"].tolist() == [w]
    assert [len(block.rounds["loss"]) for *_, block in calls.called] == [0, 2, 2]
    parts = [block for *_, block in calls.called]
    joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    jax.tree.map(np.testing.assert_array_equal, joined, result.history)


def number(text):
    return {"True": 1.0, "False": 0.0}.get(text) if text in ("True", "False") else float(text)


def test_files_hold_the_rows_of_the_history(followed):
    result, _, folder = followed
    rows = result.history.rows()
    assert [row["round"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row.get("eval/w") for row in rows] == [
        0.5,
        None,
        rows[2]["eval/w"],
        None,
        result.params,
    ]
    assert rows[1]["loss"] == result.history.rounds["loss"][0]

    with open(folder / "new" / "run.csv", encoding="utf-8", newline="") as file:
        columns, *lines = csv.reader(file)
    assert columns == ["round", *sorted(set(rows[1]) - {"round", "participant_ids"}), "eval/w"]
    for row, line in zip(rows, lines, strict=True):
        for name, text in zip(columns, line, strict=True):
            if name in row:
                np.testing.assert_equal(number(text), row[name])
            else:
                assert text == ""

    lines = (folder / "run.jsonl").read_text().splitlines()
    for row, line in zip(rows, lines, strict=True):
        found = json.loads(line, parse_constant=pytest.fail)  # NaN is no JSON
        assert list(found) == list(row)
        for name, value in row.items():
            there = np.asarray(found[name], float)  # null is NaN
            np.testing.assert_array_equal(there, np.asarray(value, float))


def test_a_round_without_anybody_is_a_gap_in_the_files(followed):
    """The loss of the third round, to which nobody came."""
    _, _, folder = followed
    assert json.loads((folder / "run.jsonl").read_text().splitlines()[3])["loss"] is None


def part(first, last, seed=0):
    """Made-up reports of rounds ``first`` to ``last``, with an evaluation after the last."""
    values = np.random.default_rng(seed).normal(size=100)
    rounds = {"loss": values[first : last + 1], "finite": np.ones(last + 1 - first, bool)}
    return simulation.History(rounds, {"score": values[[last]] + 1}, np.array([last]))


BEGUN = part(1, 0)._replace(evaluated_at=np.array([0]), evaluations={"score": np.ones(1)})
"""The evaluation of an initial model."""

WRITERS = {"csv": simulation.csv_writer, "jsonl": simulation.jsonl_writer}


def written(path, *parts, writer=None, kind="csv"):
    writer = writer or WRITERS[kind](path)
    for history in parts:
        writer(int(history.evaluated_at[-1]), None, history)
    return path.read_bytes()


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_of_a_resumed_run_is_that_of_one_run(tmp_path, kind):
    """Wherever the process ended: after a block, before its checkpoint, or in the midst of a line."""
    path = tmp_path / "run"
    parts = [BEGUN, part(1, 4), part(5, 9), part(10, 12)]
    whole = written(path, *parts, kind=kind)
    lines = whole.splitlines(keepends=True)
    header = kind == "csv"
    assert len(lines) == 13 + header
    for done in (2, 3):  # blocks of which there is a checkpoint
        for more in range(4 - done + 1):  # blocks of which there is none
            written(path, *parts[: done + more], kind=kind)
            assert written(path, *parts[done:], kind=kind) == whole
        first = header + {2: 5, 3: 10}[done]
        for torn in range(len(lines[first])):
            path.write_bytes(b"".join(lines[:first]) + lines[first][:torn])
            assert written(path, *parts[done:], kind=kind) == whole


@pytest.mark.parametrize("kind", WRITERS)
def test_a_run_from_the_beginning_overwrites_its_file(tmp_path, kind):
    """Also by a writer that is used again, and whatever the file held."""
    path = tmp_path / "run"
    new = written(tmp_path / "new", part(1, 3, seed=1), kind=kind)
    writer = WRITERS[kind](path)
    written(path, BEGUN, part(1, 3), part(4, 6), writer=writer)
    assert written(path, part(1, 3, seed=1), writer=writer) == new
    for content in (b"something\nelse\n", written(path, BEGUN, part(1, 3), kind=kind)):
        path.write_bytes(content)
        assert written(path, part(1, 3, seed=1), kind=kind) == new


def test_files_of_others_are_not_cut(tmp_path):
    path = tmp_path / "run.csv"
    path.write_text("round,accuracy\n1,0.5\n2,0.6\n")
    with pytest.raises(ValueError, match=r"run\.csv was written by a run with other columns"):
        written(path, part(3, 4))
    assert path.read_text() == "round,accuracy\n1,0.5\n2,0.6\n"
    path = tmp_path / "run.jsonl"
    path.write_text('{"accuracy": 0.5}\n')
    with pytest.raises(ValueError, match=r"run\.jsonl has a line that is no report of a round"):
        written(path, part(3, 4), kind="jsonl")
    assert path.read_text() == '{"accuracy": 0.5}\n'


def test_only_the_first_of_several_processes_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    for kind, make in WRITERS.items():
        make(tmp_path / kind)(3, None, part(1, 3))
        assert not (tmp_path / kind).exists()


class Recorder:
    """What tensorboardX would write."""

    made: typing.ClassVar[list] = []

    def __init__(self, folder, purge_step, filename_suffix):
        self.purge_step, self.events, self.flushed, self.closed = purge_step, [], 0, False
        Recorder.made.append(self)

    def add_scalar(self, name, value, step):
        assert isinstance(value, float)
        self.events.append((step, name, value))

    def flush(self):
        self.flushed = len(self.events)

    def close(self):
        self.closed = True


def test_tensorboard_is_given_each_scalar_at_its_round(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Recorder))
    monkeypatch.setattr(Recorder, "made", [])
    write = simulation.tensorboard_writer(tmp_path)
    gaps = {"gap": np.ones((1, 5))}
    first = part(1, 2)._replace(evaluations={**part(1, 2).evaluations, **gaps})
    write(2, None, first)
    write(4, None, part(3, 4))
    (recorder,) = Recorder.made
    assert recorder.purge_step == 0
    assert recorder.flushed == len(recorder.events)
    assert recorder.events == [
        (row["round"], name, float(row[name]))
        for history in (first, part(3, 4))
        for row in history.rows()
        for name in row
        if name not in ("round", "eval/gap")
    ]
    simulation.tensorboard_writer(tmp_path)(6, None, part(5, 6))  # as of a run that is resumed
    assert Recorder.made[1].purge_step == 5
    assert Recorder.made[1].closed  # because nobody holds the callback any more
    assert not recorder.closed


def test_tensorboard_is_asked_for_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'fjx\[tensorboard\]'"):
        simulation.tensorboard_writer("runs")


def test_events_can_be_read_by_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    simulation.tensorboard_writer(tmp_path)(2, None, part(1, 2))  # and lets go of the callback
    (path,) = tmp_path.iterdir()
    found, rest = set(), path.read_bytes()
    while rest:  # a record: its length, a checksum, the event, a checksum
        size = int.from_bytes(rest[:8], "little")
        event, rest = Event.FromString(rest[12 : 12 + size]), rest[16 + size :]
        found |= {(event.step, v.tag, v.simple_value) for v in event.summary.value}
    expected = {
        (row["round"], name, float(np.float32(row[name])))
        for row in part(1, 2).rows()
        for name in row
        if name != "round"
    }
    assert found == expected


def test_a_client_s_own_state_is_found_by_its_id(tmp_path):
    """Wherever the table is; it is a copy."""
    row = ClientRow(client={"c": np.zeros(2, np.float32)}, uplink=np.int32(0))
    for make in (
        simulation.make_table,
        simulation.host_table,
        simulation.mapped_table(tmp_path / "table"),
    ):
        table = jax.tree.map(lambda x: x + np.arange(5, dtype=x.dtype)[(..., *[None] * (x.ndim - 1))],
                             make(row, 5))  # fmt: skip
        state = simulation.SimulationState(jnp.int32(0), None, table)
        assert state.client(3).client["c"].tolist() == [3.0, 3.0]
        assert state.client(jnp.array([4, 0])).uplink.tolist() == [4, 0]
        for id in (-1, 5, np.array([0, 7])):
            with pytest.raises(ValueError, match="ids must be from 0 to 4"):
                state.client(id)
        with pytest.raises(TypeError, match="ids must be integers, got float"):
            state.client(1.0)
        found = state.client(2).client["c"]
        if isinstance(found, np.ndarray):
            assert not isinstance(found, np.memmap)
            assert not np.shares_memory(found, table.client["c"])


def test_a_result_prints_its_summary(followed):
    result, _, _ = followed
    text = str(result)
    assert text.startswith("run         finished after 4 rounds;")
    gaps = result.history.evaluations["gap"][-1]
    there = gaps[~np.isnan(gaps)]
    spread = f"{there.min():.4g} to {there.max():.4g} (median {np.median(there):.4g} of 4)"
    assert f"gap {spread}, w {float(result.params):.4g}" in text
    loss = result.history.rounds["loss"][-1]
    assert f"loss {loss:.4g}, steps 1; 2 of 3 clients took part\n" in text
    assert "traffic     10 bytes up, 32 bytes down" in text  # 5 messages of 2 bytes, 8 of 4
    assert "privacy" not in text

    claim = privacy.Epsilon(
        3.0, delta=1e-3, unit="client", relation="add_or_remove_one", sampling="Poisson rate 0.4",
        rounds=4, method="rdp", caveats=("Covers the models of all rounds, and not the losses",),
    )  # fmt: skip
    private = result._replace(stopped="diverged", diverged_at=3, privacy=claim)
    text = str(private)
    assert "diverged after 4 rounds, not finite after round 3;" in text
    assert " ".join(text.split()).endswith(" ".join(f"privacy {claim}".split()))
    assert max(map(len, text.splitlines())) <= 100
    assert "stopped early after 4 rounds;" in str(result._replace(stopped="early"))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, np.int32, bool])
def test_scores_of_every_type_have_their_spread(dtype):
    assert _number(np.array([1, 0, 1], dtype)) == "0 to 1 (median 1 of 3)"
    if jnp.issubdtype(dtype, jnp.floating):
        assert _number(np.array([1, np.nan, 3], dtype)) == "1 to 3 (median 2 of 2)"


def test_a_curve_begins_at_no_cost(followed):
    history = followed[0].history
    curve = simulation.curve(history, followed[0].ledger.traffic, "w")
    assert curve.rounds.tolist() == [0, 2, 4]
    assert curve.bits.tolist() == [0, 3 * 16, 5 * 16]
    with pytest.raises(ValueError, match=r"'gap' has shape \[3, 5\]"):
        simulation.curve(history, followed[0].ledger.traffic, "gap")


def test_stop_is_given_numbers_and_arrays(followed):
    """And is not asked about the initial model."""
    result, calls, _ = followed
    assert [w for w, _ in calls.asked] == result.history.evaluations["w"][1:].tolist()
    assert all(isinstance(w, float) for w, _ in calls.asked)
    np.testing.assert_array_equal(
        [gaps for _, gaps in calls.asked], result.history.evaluations["gap"][1:]
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_files_go_on_with_the_checkpoint(tmp_path, kind):
    """A run in two parts, and one that begins anew in the same file."""

    def run(name, **options):
        return follow(
            evaluate_first=True,
            participant_ids=True,
            callbacks=[WRITERS[kind](tmp_path / name)],
            **options,
        )

    run("whole")
    run("parts", rounds=2, checkpoint=tmp_path / "checkpoint")
    result = run("parts", rounds=4, checkpoint=tmp_path / "checkpoint")
    assert result.history.evaluated_at.tolist() == [0, 2, 4]
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    run("parts", checkpoint=tmp_path / "another")
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    run("short", rounds=2, checkpoint=tmp_path / "third")
    with pytest.raises(ValueError, match="other evaluations or metrics"):  # without the ids
        follow(checkpoint=tmp_path / "third")
