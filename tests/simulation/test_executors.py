"""Every executor computes the same: sums to rounding, integers and stacked outputs exactly."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import data, samplers, simulate, simulation
from fjx.algorithms import fedavg


def mesh():
    return jax.make_mesh((jax.device_count(),), ("clients",))


def executors():
    return {
        "chunked(1)": simulation.chunked(1),
        "chunked(3)": simulation.chunked(3),
        "chunked(16)": simulation.chunked(16),
        "sharded": simulation.sharded(mesh()),
        "sharded chunked(2)": simulation.sharded(mesh(), simulation.chunked(2)),
    }


every = pytest.mark.parametrize("name", executors())


def inputs(slots):
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "x": jax.random.normal(keys[0], (slots, 3)),
        "n": jax.random.bits(keys[1], (slots,), jnp.uint32),
    }


def client(slot):
    return {"x": slot["x"] ** 2, "n": slot["n"]}, {"x": jnp.sin(slot["x"]), "n": slot["n"] + 1}


@every
@pytest.mark.parametrize("slots", [1, 2, 5, 8])
def test_an_executor_is_vectorized_in_another_order(name, slots):
    """Odd numbers of slots do not divide by chunks or devices; uint32 sums wrap, and must agree."""
    cost = jnp.asarray(np.random.default_rng(0).integers(0, 4, slots), jnp.int32)
    total, stacked = simulation.vectorized()(client, inputs(slots), cost)
    same_total, same_stacked = executors()[name](client, inputs(slots), cost)
    chex.assert_trees_all_close(same_total["x"], total["x"], rtol=1e-6)
    assert int(same_total["n"]) == int(total["n"])
    chex.assert_trees_all_equal(same_stacked["n"], stacked["n"])
    chex.assert_trees_all_close(same_stacked["x"], stacked["x"], rtol=1e-6)


@every
def test_a_client_s_gradient_is_its_own(name):
    """A model that all clients close over must not collect the gradients of other devices' clients.

    With the check of varying axes on, ``shard_map`` would return each gradient summed over devices.
    """
    weights, xs = jnp.array([1.0, -2.0]), jnp.arange(8.0).reshape(4, 2)

    @jax.jit
    def gradients(weights, xs):
        def own(x):
            return (), jax.grad(lambda w: jnp.sum(w * x) ** 2)(weights)

        return executors()[name](own, xs, jnp.ones(4, jnp.int32))[1]

    expected = 2 * (xs @ weights)[:, None] * xs
    chex.assert_trees_all_close(gradients(weights, xs), expected, rtol=1e-6)


def test_sharded_runs_on_every_device():
    """Two devices on the machines that test this: a mesh of one would prove nothing."""
    assert jax.device_count() >= 2

    def device(_):
        return (), jax.lax.axis_index("clients")

    _, where = simulation.sharded(mesh())(device, jnp.zeros(8), jnp.arange(8, dtype=jnp.int32))
    assert set(where.tolist()) == set(range(jax.device_count()))
    # Dealt back and forth by weight, each device gets about half of the work.
    loads = [sum(i for i in range(8) if where[i] == d) for d in range(2)]
    assert abs(loads[0] - loads[1]) <= 2


def test_wrong_arguments():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        simulation.chunked(0)
    with pytest.raises(TypeError, match=r"mesh must be a jax\.sharding\.Mesh"):
        simulation.sharded(2)


def test_a_whole_run_on_two_devices():
    dataset = data.from_clients([np.full((n, 2), n, np.float32) for n in (3, 1, 2, 4, 2)])
    algorithm = fedavg(lambda w, x, key: jnp.mean((w[None] - x) ** 2), client_lr=0.1, batch_size=2)

    def run(executor):
        return simulate(
            jax.random.key(0),
            algorithm,
            jnp.zeros(2),
            dataset,
            sampler=samplers.uniform(3),
            rounds=4,
            executor=executor,
        ).params

    chex.assert_trees_all_close(run(simulation.sharded(mesh())), run(None), rtol=1e-6)
