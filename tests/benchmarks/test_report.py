"""The figures that the documentation shows are those of the records."""

import argparse
import json

import pytest

from benchmarks import records, report, round


def _write(path, *lines):
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")


def _turn(contender, turn, seconds):
    found = {"kind": "round", "workload": "W3", "rounds": 3, "others": 0.0}
    return {**found, "contender": contender, "turn": turn, "seconds": seconds}


@pytest.fixture
def found(tmp_path):
    """Two runs of one workload; the first was interrupted in its second turn."""
    machine = {"kind": "machine", "cpu": "CPU", "cores": 2, "memory_gib": 8, "system": "Linux"}
    machine |= {"python": "3", "fjx": "0", "jax": "0", "jaxlib": "0", "numpy": "0", "load": 0.0}
    about = {"kind": "warm", "workload": "W3", "building": 1.0, "first": 2.0}
    both = [{**about, "contender": "fjx"}, {**about, "contender": "torch", "torch": "9"}]
    peak = {"kind": "peak", "workload": "W3", "gflops": 100.0, "flops": 5e9}
    first = [_turn("fjx", 0, 1.0), _turn("torch", 0, 3.0), _turn("fjx", 1, 1.0)]
    second = [_turn("fjx", 0, 2.0), _turn("torch", 0, 10.0)]
    _write(tmp_path / "a.jsonl", machine, peak, *both, *first)
    _write(tmp_path / "b.jsonl", machine, peak, *both, *second)
    return list(records.read(tmp_path))


def test_ratios_are_taken_within_a_turn_of_a_run(found):
    assert report.ratios(report.times(found, "W3"), "torch") == [3.0, 5.0]


def test_the_table_shows_medians_and_the_range(found):
    row = next(line for line in report.rounds(found) if line.startswith("| torch"))
    assert [cell.strip() for cell in row.split("|")[2:5]] == ["6.5", "4", "3 to 5"]


def test_the_headline_shows_peers_as_multiples_of_fjx(found):
    header, _, row, _ = report.headline(found)
    assert header == "|  | fjx, seconds | torch |"
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["1", "4"]


def test_accuracy_is_the_mean_of_the_seeds(tmp_path):
    machine = {"kind": "machine"}
    runs = [
        {"kind": "accuracy", "codec": codec, "bytes": [1, sent], "accuracy": [0.1, last]}
        for codec, sent, last in [("whole", 8e6, 0.9), ("whole", 8e6, 0.8), ("half", 4e6, 0.7)]
    ]
    _write(tmp_path / "accuracy.jsonl", machine, *runs)
    rows = [*report.accuracy([*records.read(tmp_path)])][2:4]
    assert rows == ["| whole | 85.0% | 8 | 1 |", "| half | 70.0% | 4 | 2 |"]


def test_what_is_not_reached_is_said(found):
    goal = round.TARGETS["torch"]["W3"]
    assert goal > 4
    row = next(line for line in report.goals(found) if "torch" in line)
    assert row.endswith("**no** |")


def test_the_pages_are_those_of_the_committed_records():
    pages = report.pages(list(records.read(records.RESULTS)))
    for name, page in pages.items():
        assert (records.RESULTS / name).read_text() == page, "run python -m benchmarks.report"


def test_records_name_no_host_and_no_path():
    lines = [p.read_text() for p in records.RESULTS.glob("*.jsonl")]
    assert lines
    for text in lines:
        assert "/" not in text.replace("GFLOP/s", "")
        assert "node" not in json.loads(text.splitlines()[0])


def test_every_run_of_records_begins_with_its_machine(tmp_path):
    out = tmp_path / "x.jsonl"
    for value in (1, 2):
        records.writer(out, echo=False)(kind="trial", value=value)
    runs = [(r["run"], r["kind"]) for r in records.read(tmp_path)]
    assert runs == [(1, "machine"), (1, "trial"), (2, "machine"), (2, "trial")]


def test_a_peer_is_left_out_only_beside_others(tmp_path):
    for peer in ("drjax", "torch"):
        (tmp_path / peer / "bin").mkdir(parents=True)
        (tmp_path / peer / "bin" / "python").touch()
    options = argparse.Namespace(
        executor=None, variants=[], bare_chunk=1, devices=1, peers=tmp_path, threads=1, check=False
    )
    workload = round.WORKLOADS["W1"]
    for against, expected in [
        (["drjax", "torch"], ["fjx", "torch"]),
        (["drjax"], ["fjx", "drjax"]),
    ]:
        options.against = against
        assert [c.name for c in round.contenders(options, workload)] == expected
