"""A program is compiled once for an algorithm, and is gone with it."""

import copy
import gc
import pickle
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import data, samplers, simulation
from fjx.simulation._compile import _latest

DATASET = data.from_clients([np.full((2, 2), n, np.float32) for n in range(6)])


def score(params, batch):
    return {"error": jnp.sum((params[None] - batch) ** 2, axis=-1)}


def algorithm_of(loss_fn):
    return fjx.algorithms.fedavg(loss_fn, client_lr=0.1, batch_size=2)


def mean_square(params, batch, key):
    return jnp.mean((params[None] - batch) ** 2)


def run(algorithm, key=0, rounds=4, dataset=DATASET, **options):
    """A call as users write it: sampler, executor and evaluation are made in place."""
    options = {"sampler": samplers.uniform(3), "evaluate_every": 3, **options}
    evaluate = simulation.evaluation(score, DATASET.arrays)
    return fjx.simulate(
        jax.random.key(key), algorithm, jnp.zeros(2), dataset, rounds=rounds, evaluate=evaluate,
        executor=simulation.chunked(2), progress=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    "place", [data.on_device, pytest.param(data.on_host, marks=pytest.mark.ci)]
)
def test_a_second_run_compiles_nothing(place):
    algorithm, dataset = algorithm_of(mean_square), place(DATASET)
    first = run(algorithm, dataset=dataset, evaluate_first=True)
    assert "rounds" in first.compiled
    assert run(algorithm, dataset=dataset, evaluate_first=True).compiled == ()
    again = run(algorithm, dataset=dataset, key=1, rounds=5, evaluate_first=True)
    assert again.compiled == ()  # another key, and other lengths of blocks
    np.testing.assert_array_equal(again.history.evaluated_at, [0, 3, 5])
    assert len(again.history.rounds["finite"]) == 5
    expected = run(algorithm_of(mean_square), dataset=dataset, key=1, rounds=5)
    assert expected.compiled != ()  # another algorithm
    np.testing.assert_array_equal(again.params, expected.params)
    assert run(algorithm, dataset=dataset, sampler=samplers.uniform(4)).compiled != ()


@pytest.mark.ci
def test_blocks_of_any_length_are_the_rounds_of_one_program():
    """The last block has one round of the three for which its program has room."""
    algorithm = algorithm_of(mean_square)
    result = run(algorithm, rounds=4)
    program = simulation.program(
        algorithm, DATASET, sampler=samplers.uniform(3), executor=simulation.chunked(2)
    )
    state, history = program.run(jax.random.key(0), program.init(jnp.zeros(2)), 4)
    np.testing.assert_array_equal(result.params, state.params)
    assert set(result.history.rounds) == set(history.rounds)
    for name, values in history.rounds.items():
        np.testing.assert_array_equal(result.history.rounds[name], values)


@pytest.mark.ci
def test_other_settings_of_jax_are_another_program():
    algorithm = algorithm_of(mean_square)
    run(algorithm)
    with jax.default_matmul_precision("highest"):
        assert run(algorithm).compiled == ("rounds", "evaluation")
    assert run(algorithm).compiled == ()


@pytest.mark.ci
def test_a_loss_that_is_refused_once_is_refused_again():
    """Although the second call traces nothing."""
    algorithm = algorithm_of(lambda params, batch, key: jnp.sum((params[None] - batch) ** 2))
    for _ in range(2):
        with pytest.raises(ValueError, match="not a mean over the examples"):
            run(algorithm)


@pytest.mark.ci
def test_programs_go_with_their_algorithm():
    algorithm = algorithm_of(mean_square)
    run(algorithm)
    alive = weakref.ref(algorithm.round)
    del algorithm
    gc.collect()
    assert alive() is None


class Norm:
    """An evaluation of the user's with a state of its own."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, params):
        return {"norm": self.scale * jnp.sum(params**2)}


@pytest.mark.ci
def test_an_object_that_evaluates_can_be_copied_and_pickled_after_a_run():
    one, algorithm = Norm(2.0), algorithm_of(mean_square)

    def norm(evaluate):
        result = fjx.simulate(
            jax.random.key(0), algorithm, jnp.zeros(2), DATASET, sampler=samplers.full(), rounds=1,
            evaluate=evaluate, progress=False,
        )  # fmt: skip
        return result.history.evaluations["norm"][0]

    expected = norm(one)
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one)), copy.copy(one)):
        other.scale = 6.0
        np.testing.assert_allclose(norm(other), 3 * expected, rtol=1e-6)
    assert norm(one) == expected


class Emptied(dict):
    """Programs that other threads drop at once."""

    def __setitem__(self, name, value):
        pass


def test_a_program_is_found_though_other_threads_drop_it():
    assert _latest(Emptied(), "name", lambda: "program") == "program"


def test_equal_arguments_give_one_sampler_and_one_executor():
    assert samplers.poisson(0.5, cap=4) is samplers.poisson(0.5, cap=4)
    assert samplers.dropout(samplers.full(), 0.25) is samplers.dropout(samplers.full(), 0.25)
    assert samplers.uniform(3) is not samplers.uniform(4)
    assert simulation.chunked(2) is simulation.chunked(2)
    rates = jnp.float32(0.25)  # an array has no hash
    assert samplers.dropout(samplers.full(), rates) is not samplers.dropout(samplers.full(), rates)
    with pytest.raises(TypeError, match="size"):
        samplers.uniform([3])


@pytest.mark.ci
def test_the_evaluation_runs_on_one_device_and_apart_from_the_rounds():
    """On a mesh every device would evaluate everything."""
    devices = []

    def evaluate(params):
        jax.debug.inspect_array_sharding(params, callback=lambda on: devices.append(on.num_devices))
        return {"norm": jnp.sum(params**2)}

    mesh = jax.make_mesh((jax.device_count(),), ("clients",))
    algorithm, sampler = algorithm_of(mean_square), samplers.uniform(3)
    result = fjx.simulate(
        jax.random.key(0), algorithm, jnp.zeros(2), DATASET, sampler=sampler, rounds=2,
        evaluate=evaluate, executor=simulation.sharded(mesh), progress=False,
    )  # fmt: skip
    assert devices == [1]
    assert jax.device_count() > 1
    np.testing.assert_allclose(result.history.evaluations["norm"][-1], jnp.sum(result.params**2))
