"""Robust rules inside rounds: codecs, devices, broken clients, derivatives, the server's examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import aggregators, algorithms, clients, compressors, simulation
from tests.support import robust as oracle
from tests.support import tables


def rule(f=1):
    """Mixing ahead of a geometric median, and Krum: most of the room in one program."""
    return aggregators.nearest_neighbour_mixing(aggregators.multi_krum(f), f)


def algorithm(aggregator, **parts):
    client = clients.gradient(tables.squared_error, batch_size=4)
    return fjx.compose(client=client, aggregator=aggregator, server=optax.sgd(1.0), **parts)


def play(algorithm, dataset, executor=None):
    """One round of all clients."""
    state = algorithm.init(tables.weights())
    rows = jax.vmap(lambda _: algorithm.init_client(state.params))(jnp.arange(tables.N))
    cohort = dataset.cohort(jnp.arange(tables.N))
    run = jax.jit(functools.partial(algorithm.round, executor=executor))
    return run(jax.random.key(0), state, rows, cohort)


@pytest.mark.ci
def test_a_rule_is_given_decoded_messages_on_any_number_of_devices():
    """Five of six clients have examples."""
    dataset = tables.federated()
    codec = compressors.chain(compressors.top_k(0.5), compressors.quantize(bits=8))
    ours = algorithm(rule(), uplink=codec)
    alone, _, metrics = play(ours, dataset)
    mesh = jax.make_mesh((2,), ("clients",))
    spread, _, _ = play(ours, dataset, simulation.sharded(mesh, simulation.chunked(2)))
    for a, b in zip(jax.tree.leaves(alone.params), jax.tree.leaves(spread.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert metrics["participants"] == 5
    assert metrics["f_lowered"] == 0


@pytest.mark.ci
def test_a_broken_client_is_left_out_before_the_rule_and_f_is_checked_against_the_others():
    """Of five clients with examples one sends NaN, so four came: f = 2 becomes 1."""
    dataset = tables.federated(broken=1)
    state, _, metrics = play(algorithm(aggregators.trimmed_mean(2)), dataset)
    assert metrics["nonfinite"] == 1
    assert metrics["participants"] == 4
    assert metrics["f_lowered"] == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


@pytest.mark.slow
def test_derivatives_are_those_of_differences():
    """Through the geometric median, which is a root, and through a network that sorts."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 4)).astype(np.float32)
    along = rng.normal(size=x.shape).astype(np.float32)
    towards = jnp.asarray(rng.normal(size=4).astype(np.float32))
    made = [
        aggregators.geometric_median(tolerance=1e-6),
        aggregators.trimmed_mean(1),
        aggregators.centered_clipping(1.0),
    ]

    def value(x):
        key = jax.random.key(0)
        found = [aggregators.aggregate(jax.random.clone(key), a, x)[0] for a in made]
        return jnp.stack(found) @ towards

    slopes = jnp.sum(jax.jit(jax.jacrev(value))(x) * along[None], axis=(1, 2))
    step = 1e-2
    values = jax.jit(jax.vmap(value))(jnp.stack([x + step * along, x - step * along]))
    np.testing.assert_allclose(slopes, (values[0] - values[1]) / (2 * step), rtol=0.02, atol=0.01)


@pytest.mark.ci
def test_derivatives_at_equal_messages_are_finite():
    x = jnp.ones((5, 3))
    found = jax.grad(
        lambda x: jnp.sum(
            aggregators.aggregate(jax.random.key(0), aggregators.centered_clipping(1.0), x)[0]
        )
    )(x)
    assert np.isfinite(found).all()


@pytest.mark.slow
def test_buckets_part_those_who_came():
    """Six messages in buckets of two: the mean of their means is the mean of all."""
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    weights = jnp.ones(7).at[2].set(0)
    mean = aggregators.bucketing(aggregators.mean(), 2)
    found, _, _ = aggregators.aggregate(jax.random.key(0), mean, jnp.asarray(x), weights=weights)
    np.testing.assert_allclose(found, np.delete(x, 2, axis=0).mean(0), rtol=1e-5)
    one = aggregators.bucketing(aggregators.median(), 7)
    found, _, _ = aggregators.aggregate(jax.random.key(0), one, jnp.asarray(x), weights=weights)
    np.testing.assert_allclose(found, np.delete(x, 2, axis=0).mean(0), rtol=1e-5)


def test_memory_of_clipping_goes_on():
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    a = aggregators.centered_clipping(0.5)
    _, state, _ = aggregators.aggregate(jax.random.key(0), a, jnp.asarray(x))
    message, after, _ = aggregators.aggregate(jax.random.key(0), a, jnp.asarray(x), state=state)
    first = oracle.centered_clipping(x, 0.5, 1, np.zeros(3))
    np.testing.assert_allclose(state, first, rtol=1e-5)
    np.testing.assert_allclose(message, oracle.centered_clipping(x, 0.5, 1, first), rtol=1e-5)
    nobody, kept, _ = aggregators.aggregate(
        jax.random.key(0), a, jnp.asarray(x), weights=jnp.zeros(5), state=after
    )
    np.testing.assert_array_equal(kept, after)
    assert not nobody.any()


@pytest.mark.slow
def test_fltrust_follows_the_server_and_stays_where_all_clients_turn_against_it():
    def loss(w, x, key):
        return jnp.mean((w - x) ** 2) / 2

    def moved(value, server):
        ours = algorithms.fltrust(
            loss, server_examples=jnp.full(4, server), client_lr=0.5, batch_size=4
        )
        dataset = fjx.data.from_clients([jnp.full(4, v) for v in value])
        result = fjx.simulate(
            jax.random.key(0), ours, jnp.array(0.0), dataset,
            sampler=fjx.samplers.full(), rounds=1,
        )  # fmt: skip
        return float(result.params)

    # Clients' messages count by direction; their length is that of the server's, 0.5.
    assert moved([3.0, 9.0, -50.0], 1.0) == pytest.approx(0.5)
    assert moved([-3.0, -9.0, -50.0], 1.0) == 0
    assert moved([3.0, 9.0, 1.0], np.nan) == 0


def test_fltrust_needs_examples_of_the_server():
    for wrong in (jnp.zeros((0, 2)), {"x": jnp.ones(3), "y": jnp.ones(2)}, ()):
        with pytest.raises(ValueError, match="server_examples"):
            algorithms.fltrust(
                tables.squared_error, server_examples=wrong, client_lr=0.1, batch_size=2
            )
