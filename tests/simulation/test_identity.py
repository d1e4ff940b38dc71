"""A checkpoint belongs to the data of its rounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import data, samplers
from fjx.simulation._identity import data_of, difference

ROWS = [np.arange(6.0, dtype=np.float32).reshape(3, 2), np.ones((2, 2), np.float32)]
DATA = data.from_clients([{"x": x} for x in ROWS])
LONG = np.arange(2_000_000, dtype=np.float32)

OTHERS = {
    "a client more": ([*ROWS, ROWS[1]], "2 clients, and this run has 3"),
    "an example more": ([ROWS[0], np.ones((3, 2), np.float32)], "5 examples, and this run has 6"),
    "other sizes": ([ROWS[0][:2], np.ones((3, 2), np.float32)], "other sizes or weights"),
    "wider rows": ([np.ones((3, 3), np.float32), np.ones((2, 3), np.float32)], "columns"),
    "another dtype": ([x.astype(np.int32) for x in ROWS], "columns"),
    "a row that moved": ([ROWS[0][::-1].copy(), ROWS[1]], "other examples"),
    "a number": ([ROWS[0] + np.float32(1e-6), ROWS[1]], "other examples"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_data_are_told_apart(name):
    rows, words = OTHERS[name]
    found, given = data_of(DATA), data_of(data.from_clients([{"x": x} for x in rows]))
    assert found != given
    assert words in difference(found, given)


def test_the_place_of_the_data_does_not_matter():
    assert data_of(data.on_host(DATA)) == data_of(DATA)


def test_another_name_of_a_column_and_other_weights_are_told():
    named = data.from_clients([{"y": x} for x in ROWS])
    weighted = data.from_clients([{"x": x} for x in ROWS], weights=[1.0, 5.0])
    assert data_of(named) != data_of(DATA) != data_of(weighted)


def test_some_rows_of_a_long_column_are_read():
    long = data.from_packed(LONG, [1_000_000] * 2)
    changed = LONG.copy()
    changed[::4] += 1
    assert data_of(long) != data_of(data.from_packed(changed, [1_000_000] * 2))


@pytest.mark.ci
def test_a_run_does_not_go_on_with_other_data(tmp_path):
    def loss(w, batch, key):
        return jnp.mean((w[None] - batch["x"]) ** 2)

    algorithm = fjx.algorithms.fedsgd(loss, learning_rate=0.5, batch_size=2)

    def run(dataset, rounds):
        return fjx.simulate(
            jax.random.key(0), algorithm, jnp.zeros(2), dataset, sampler=samplers.full(),
            rounds=rounds, checkpoint=tmp_path, evaluate_every=1, progress=False,
        )  # fmt: skip

    run(DATA, 1)
    for rows, words in (OTHERS["a number"], OTHERS["other sizes"]):
        with pytest.raises(ValueError, match=f"holds rounds on other data: {words}"):
            run(data.from_clients([{"x": x} for x in rows]), 2)
    assert int(run(data.on_host(DATA), 2).state.round) == 2
