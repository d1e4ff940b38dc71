"""The paper model of a round adds up what it says, and finds the constants that made its data."""

import math

import pytest

from benchmarks import model

MACHINE = model.Machine(flops=2e9, bandwidth=5e9, step=3e-5, overhead=2e-4, link=1e8)
ROUND = model.Round(
    clients=25, steps=4, flops=1e6, parameters=1000, bytes_read=8e4, devices=2, chunk=4
)


def test_a_round_by_hand():
    # 13 clients on the fuller device, in 4 chunks.
    compute = 13 * 4 * 1e6 / 2e9
    memory = 13 * (8e4 + 16 * 1000 * 4) / 5e9
    steps = 4 * 4 * 3e-5
    ring = 2 * (2 - 1) / 2 * 1000 * 4 / 1e8
    assert model.seconds(ROUND, MACHINE) == pytest.approx(compute + memory + steps + ring + 2e-4)


def test_devices_of_one_memory_read_no_faster():
    one = model.Round(clients=24, steps=1, flops=0, parameters=10, bytes_read=1e6)
    machine = model.Machine(flops=math.inf, bandwidth=1e9, step=0, overhead=0)
    alone = model.seconds(one, machine)
    assert model.seconds(one._replace(devices=4), machine) == pytest.approx(alone / 4)
    assert model.seconds(one._replace(devices=4, sharing=4), machine) == pytest.approx(alone)


def test_a_single_device_reduces_nothing():
    alone = ROUND._replace(devices=1)
    assert model.seconds(alone, MACHINE) == model.seconds(alone, MACHINE._replace(link=1.0))


def test_fit_returns_the_machine_that_made_the_times():
    rounds = [
        ROUND,
        ROUND._replace(devices=1),
        ROUND._replace(clients=400, flops=1e7),
        ROUND._replace(parameters=10**6, devices=8),
        ROUND._replace(steps=1, parameters=10),
        ROUND._replace(clients=1, bytes_read=1e8),
    ]
    found = model.fit(rounds, [model.seconds(r, MACHINE) for r in rounds])
    assert found == pytest.approx(MACHINE, rel=1e-6)


def test_what_points_cannot_tell_costs_nothing():
    rounds = [ROUND._replace(clients=m, devices=1) for m in (4, 40, 400)]
    found = model.fit(rounds, [model.seconds(r, MACHINE) for r in rounds])
    assert found.link == math.inf


def test_points_are_fitted_on_what_is_measured():
    assert set(model.FITTED) < set(model.GRID)
    sizes = [model.perceptron(point).parameters for point in model.GRID]
    wanted = [point.parameters for point in model.GRID]
    assert sizes == pytest.approx(wanted, rel=0.02)
