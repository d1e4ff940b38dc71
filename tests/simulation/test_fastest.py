"""Choosing an executor: by shapes, or by trying; neither may change what is computed."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import data, samplers, simulation
from fjx.simulation import _fastest

SIZES = [3, 0, 20, 1, 2, 5, 4, 2, 1, 7]
VALUES = np.random.default_rng(0).normal(size=(sum(SIZES), 3)).astype(np.float32)
DATASET = data.from_packed(VALUES, SIZES)
ALGORITHM = fjx.algorithms.fedavg(
    lambda w, x, key: jnp.mean((w[None] - x) ** 2), client_lr=0.1, batch_size=2
)
KEY, ZEROS = jax.random.key(0), jnp.zeros(3)


def simulate(params=ZEROS, dataset=DATASET, algorithm=ALGORITHM, **options):
    options = {"sampler": samplers.uniform(7), "rounds": 3, "progress": False, **options}
    return fjx.simulate(KEY, algorithm, params, dataset, **options)


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize("place", [data.on_device, data.on_host])
def test_auto_computes_what_vectorized_computes(place):
    expected = simulate(executor=simulation.vectorized())
    found = simulate(dataset=place(DATASET), executor="auto")
    chex.assert_trees_all_close(found.params, expected.params, rtol=1e-5)
    chex.assert_trees_all_close(found.history.rounds, expected.history.rounds, rtol=1e-5)
    assert expected.choice is None
    assert str(found.choice).startswith(found.choice.name)
    assert found.choice.seconds[found.choice.name] == min(found.choice.seconds.values())


@pytest.mark.slow
def test_a_choice_is_remembered_until_shapes_change():
    def choose(slots):
        sampler = samplers.uniform(slots)
        return simulation.fastest(KEY, ALGORITHM, ZEROS, DATASET, sampler=sampler)

    assert choose(7) is choose(7)
    assert choose(6) is not choose(7)


@pytest.mark.ci
def test_large_cohorts_are_spread_over_all_devices_and_small_ones_are_not():
    large = jnp.zeros(2**16)  # ten models of a quarter of a megabyte
    algorithm = fjx.algorithms.fedsgd(
        lambda w, x, key: jnp.mean((jnp.sum(w) - x) ** 2), learning_rate=1e-6
    )
    devices = []

    def note(_, state, __):
        devices.append(len(state.params.sharding.device_set))

    expected = simulate(
        large, algorithm=algorithm, executor=simulation.vectorized(), callbacks=[note]
    )
    found = simulate(large, algorithm=algorithm, callbacks=[note])
    simulate(callbacks=[note])
    chex.assert_trees_all_close(found.params, expected.params, rtol=1e-5)
    assert (devices[0], devices[-1]) == (1, 1)
    assert set(devices[1:-1]) == {jax.device_count()}
    assert len(found.params.sharding.device_set) == 1  # the caller's programs run once


@pytest.mark.ci
@pytest.mark.parametrize("place", [data.on_device, data.on_host])
def test_copies_of_the_examples_must_fit_where_devices_hold_all_of_them(place, monkeypatch):
    """With a byte of free memory one device is left; examples on the host are not copied whole."""
    monkeypatch.setattr(simulation._fastest, "available", lambda: 1)
    devices = []

    def note(_, state, __):
        devices.append(len(state.params.sharding.device_set))

    algorithm = fjx.algorithms.fedsgd(
        lambda w, x, key: jnp.mean((jnp.sum(w) - x) ** 2), learning_rate=1e-6
    )
    simulate(jnp.zeros(2**16), dataset=place(DATASET), algorithm=algorithm, callbacks=[note])
    assert set(devices) == {1 if place is data.on_device else jax.device_count()}


def test_a_device_without_a_client_is_left_out():
    large, run = (
        jnp.zeros(2**20),
        [simulation._fastest.usual(jnp.zeros(2**20), n, ()) for n in (1, 9)],
    )
    assert run[0] is simulation.chunked(1)
    assert run[1] is simulation._fastest.spread(simulation.chunked(1))
    assert run[1] is simulation._fastest.usual(large, 9, jnp.zeros(3))


def test_choosing_is_refused_where_nothing_can_be_timed():
    def run(key):
        return simulation.fastest(key, ALGORITHM, ZEROS, DATASET, sampler=samplers.full()).executor(
            lambda _, x: (x, x), (), jnp.ones(2), jnp.ones(2, jnp.int32)
        )

    with pytest.raises(TypeError, match=r"inside jit, vmap or scan; choose with"):
        jax.jit(run)(KEY)
    with pytest.raises(ValueError, match=r'"auto", got \'fast\''):
        simulate(executor="fast")


# --------------------------------------------------------------------------------------------------
# The search, under a clock that is made up
# --------------------------------------------------------------------------------------------------


def search(table, clients=64):
    """What is chosen, and who was played, if a round took as many seconds as the table says."""
    played = []

    def player(name):
        if table[name] is MemoryError:
            raise MemoryError

        def play(fraction, some):
            played.append((name, some))
            return table[name] * fraction * some / clients

        return play

    ladders = (
        [(f"chunked({k})",) * 2 for k in (1, 8, 32)],
        [(f"lanes({k})",) * 2 for k in (2, 4, 8)],
    )
    return _fastest._search(ladders, player, clients), played


def test_ladders_are_climbed_as_long_as_they_help():
    table = {"chunked(1)": 4.0, "chunked(8)": 2.0, "chunked(32)": 3.0, "lanes(2)": 1.0}
    choice, _ = search({**table, "lanes(4)": 1.5})
    assert choice.name == "lanes(2)"
    assert list(choice.seconds) == [*table, "lanes(4)"]


def test_what_is_hopeless_at_a_glance_is_not_played_again():
    table = {"chunked(1)": 8.0, "chunked(8)": 8000.0, "lanes(2)": 9.0}
    choice, played = search(table)
    assert choice.name == "chunked(1)"
    assert choice.seconds["chunked(8)"] == math.inf
    assert [clients for name, clients in played if name == "chunked(8)"] == [8]
    assert "given up: chunked(8)" in str(choice)


def test_what_does_not_fit_in_memory_is_passed_over():
    table = {"chunked(1)": 8.0, "chunked(8)": MemoryError, "lanes(2)": 9.0}
    assert search(table)[0].name == "chunked(1)"
    with pytest.raises(MemoryError, match=r"not even chunked\(1\) fits"):
        search(dict.fromkeys(table, MemoryError))
