"""Every executor computes the same: sums to rounding, integers and stacked outputs exactly."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import Steps, data, samplers, simulate, simulation
from fjx.algorithms import fedavg


def mesh():
    return jax.make_mesh((jax.device_count(),), ("clients",))


def executors():
    return {
        "chunked(1)": simulation.chunked(1),
        "chunked(3)": simulation.chunked(3),
        "chunked(16)": simulation.chunked(16),
        "lanes(1)": simulation.lanes(1),
        "lanes(3)": simulation.lanes(3),
        "sharded": simulation.sharded(mesh()),
        "sharded chunked(2)": simulation.sharded(mesh(), simulation.chunked(2)),
        "sharded lanes(2)": simulation.sharded(mesh(), simulation.lanes(2)),
    }


every = pytest.mark.parametrize("name", executors())


def inputs(slots):
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "x": jax.random.normal(keys[0], (slots, 3)),
        "n": jax.random.bits(keys[1], (slots,), jnp.uint32),
    }


def begin(shared, slot):
    return slot["steps"], {"x": slot["x"], "n": slot["n"]}


def step(shared, slot, t, carry):
    return {"x": carry["x"] * shared + t.astype(jnp.float32), "n": carry["n"] * 3 + 1}


def end(shared, slot, carry):
    # For a slot of zeros the sums must be zero; what is stacked need not be.
    return {"x": carry["x"] ** 2, "n": carry["n"]}, {"x": jnp.sin(carry["x"]), "n": carry["n"] + 1}


CLIENT = Steps(begin, step, end)


def ragged(slots):
    """One giant among clients of nought to three steps; a single slot has nothing to do."""
    steps = np.random.default_rng(0).integers(0, 4, slots)
    steps[0] = 17 if slots > 1 else 0
    return jnp.asarray(steps, jnp.int32)


def function(*inputs):
    return CLIENT(*inputs)


vectorized = jax.jit(simulation.vectorized(), static_argnums=0)
CASES = [(1, CLIENT), (5, CLIENT), (5, function)]
MORE = [(1, function), *((slots, client) for slots in (2, 8) for client in (CLIENT, function))]


@pytest.mark.few(8)
@every
@pytest.mark.parametrize(
    ("slots", "client"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)],
    ids=lambda value: value if isinstance(value, int) else type(value).__name__,
)
def test_an_executor_is_vectorized_in_another_order(name, slots, client):
    """Odd numbers of slots do not divide by chunks or devices; uint32 sums wrap, and must agree."""
    cost, shared = ragged(slots), jnp.float32(0.7)
    given = inputs(slots) | {"steps": cost}
    total, stacked = vectorized(client, shared, given, cost)
    run = jax.jit(executors()[name], static_argnums=0)
    same_total, same_stacked = run(client, shared, given, cost)
    chex.assert_trees_all_close(same_total["x"], total["x"], rtol=1e-6)
    assert int(same_total["n"]) == int(total["n"])
    chex.assert_trees_all_equal(same_stacked["n"], stacked["n"])
    chex.assert_trees_all_close(same_stacked["x"], stacked["x"], rtol=1e-6)


@pytest.mark.few(4)
@every
def test_a_client_s_gradient_is_its_own(name):
    """A model that all clients share must not collect the gradients of other devices' clients.

    With the check of varying axes on, ``shard_map`` would return each gradient summed over devices.
    """
    weights, xs = jnp.array([1.0, -2.0]), jnp.arange(8.0).reshape(4, 2)

    @jax.jit
    def gradients(weights, xs):
        def own(weights, x):
            return (), jax.grad(lambda w: jnp.sum(w * x) ** 2)(weights)

        return executors()[name](own, weights, xs, jnp.ones(4, jnp.int32))[1]

    expected = 2 * (xs @ weights)[:, None] * xs
    chex.assert_trees_all_close(gradients(weights, xs), expected, rtol=1e-6)


def test_sharded_runs_on_every_device():
    """Two devices on the machines that test this: a mesh of one would prove nothing."""
    assert jax.device_count() >= 2

    def device(shared, slot):
        return (), jax.lax.axis_index("clients")

    cost = jnp.arange(8, dtype=jnp.int32)
    execute = jax.jit(simulation.sharded(mesh()), static_argnums=0)
    where = np.asarray(execute(device, (), jnp.zeros(8), cost)[1])
    assert set(where.tolist()) == set(range(jax.device_count()))
    # Dealt back and forth by weight, each device gets about half of the work.
    loads = [sum(i for i in range(8) if where[i] == d) for d in range(2)]
    assert abs(loads[0] - loads[1]) <= 2


@pytest.mark.few(3)
@every
def test_a_gradient_passes_through_a_round(name):
    """d/dw of a sum over clients is the sum of the clients' derivatives, on any number of devices."""
    if "lanes" in name:
        pytest.skip("a loop of unknown length has no reverse mode")
    w, xs = np.float32([1, -2]), np.arange(6, dtype=np.float32).reshape(3, 2)

    @jax.jit
    @jax.grad
    def gradient(w):
        total, stacked = executors()[name](
            lambda w, x: (jnp.sum(w * x) ** 2, w * x), w, jnp.asarray(xs), jnp.ones(3, jnp.int32)
        )
        return total + jnp.sum(stacked**3)

    expected = np.sum(2 * (xs @ w)[:, None] * xs + 3 * (w[None] * xs) ** 2 * xs, axis=0)
    np.testing.assert_allclose(gradient(w), expected, rtol=1e-6)


def test_what_is_placed_on_a_mesh_stays_usable_there():
    """The examples are put on the devices once; a gather from them must not mind the mesh."""
    placed = jax.device_put(jnp.arange(10.0), jax.NamedSharding(mesh(), jax.P()))

    @jax.jit
    def run(shared):
        cost = jnp.ones(4, jnp.int32)
        execute = simulation.sharded(mesh(), simulation.chunked(1))
        return execute(lambda s, i: (s.at[i].get(mode="clip"), ()), shared, jnp.arange(4), cost)[0]

    assert float(run(placed)) == 6.0


def test_lanes_never_wait():
    """The longest lane of a greedy queue: 9 | 5, 4, 1 | 5, 3 in three lanes ends after ten ticks."""
    ticks = []

    def count(shared, slot, t, carry):
        jax.debug.callback(lambda: ticks.append(1))
        return carry

    steps = jnp.array([1, 5, 3, 9, 4, 5], jnp.int32)
    client = Steps(lambda _, n: (n, ()), count, lambda _, n, carry: (n, ()))
    total, _ = jax.jit(simulation.lanes(3), static_argnums=0)(client, (), steps, steps)
    jax.effects_barrier()
    assert int(total) == 27
    assert len(ticks) == 3 * 10


def test_wrong_arguments():
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        simulation.lanes(0)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        simulation.chunked(0)
    with pytest.raises(TypeError, match=r"mesh must be a jax\.sharding\.Mesh"):
        simulation.sharded(2)


@pytest.mark.ci
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

    chex.assert_trees_all_close(
        run(simulation.sharded(mesh())), run(simulation.vectorized()), rtol=1e-6
    )
