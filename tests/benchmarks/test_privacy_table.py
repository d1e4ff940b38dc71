"""The table of privacy claims: its file has the rows of the command, and unknown figures stay empty."""

from benchmarks import privacy as benchmark
from benchmarks.records import RESULTS


def test_the_recorded_table_has_the_rows_of_the_command():
    _, rule, *lines = (RESULTS / "privacy.md").read_text().splitlines()
    assert rule.startswith("| --- | ---: |")
    recorded = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [what for what, *_ in recorded] == [row.what for row in benchmark.rows()]
    for what, ours, *theirs in recorded:
        lower = not what.startswith("audit")
        for other in filter(None, theirs):
            # Capacities and estimates apart, no other library claims less, nor finds more.
            assert (
                float(ours) <= 1.03 * float(other) if lower else float(ours) >= 0.97 * float(other)
            )


def test_what_a_library_does_not_claim_is_empty():
    row = benchmark.Row("a claim", lambda: 1.0, None, lambda: 2.0)
    head, _, line = benchmark.table([row])
    assert head.startswith("| claim | fjx | dp-accounting ")
    assert line.startswith("| a claim | 1.000 |  |")
