"""Sub-models against models that really have fewer units, and means over holders against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import aggregators, clients, data, samplers, wire

HIDDEN = 6
SIZES = (5, 3, 7, 4)
AXES = {"a": (None, "hidden"), "b": ("hidden",), "c": ("hidden", None), "d": (None,)}


def params(hidden=HIDDEN):
    keys = jax.random.split(jax.random.key(0), 4)
    return {
        "a": jax.random.normal(keys[0], (3, hidden)),
        "b": jax.random.normal(keys[1], (hidden,)),
        "c": jax.random.normal(keys[2], (hidden, 2)),
        "d": jax.random.normal(keys[3], (2,)),
    }


def loss_fn(p, batch, key):
    """A sigmoid is not zero at zero: a unit without weights still acts on what comes after it."""
    return jnp.mean(
        (jax.nn.sigmoid(batch["x"] @ p["a"] + p["b"][None]) @ p["c"] + p["d"][None] - batch["y"])
        ** 2
    )


def local(loss):
    return clients.local_sgd(loss, optax.sgd(0.1, momentum=0.9), epochs=2, batch_size=3)


@functools.cache
def federated():
    rng = np.random.default_rng(0)
    return data.from_clients(
        [
            {
                "x": rng.normal(size=(n, 3)).astype(np.float32),
                "y": rng.normal(size=(n, 2)).astype(np.float32),
            }
            for n in (5, 3, 7, 4)
        ]
    )


def mean_of(units):
    return aggregators.submodel_mean(functools.partial(clients.held_coordinates, AXES, units))


def round_of(algorithm, start, key=1):
    dataset = federated()
    rows = jax.vmap(lambda _: algorithm.init_client(start))(jnp.arange(4))
    cohort = dataset.cohort(jnp.arange(4))
    return jax.jit(algorithm.round)(jax.random.key(key), algorithm.init(start), rows, cohort)


@pytest.mark.ci
@pytest.mark.parametrize("width", [1 / 3, pytest.param(0.5, marks=pytest.mark.slow)])
def test_a_sub_model_trains_like_a_model_that_has_no_other_units(width):
    """The same client on the sliced model: equal updates of the slice, none outside of it."""
    held = round(width * HIDDEN)
    whole = params()
    small = {
        "a": whole["a"][:, :held],
        "b": whole["b"][:held],
        "c": whole["c"][:held],
        "d": whole["d"],
    }
    cohort = federated().cohort(jnp.array([2]))
    examples = fjx.Examples(cohort.examples.arrays, *(x[0] for x in cohort.examples[1:]))
    client = clients.submodel(loss_fn, local, axes=AXES, units=clients.ordered_dropout([width]))
    key = jax.random.key(3)
    message, _, _ = jax.jit(client.update)(jax.random.clone(key), whole, (), examples, fjx.Turn())
    plain = local(loss_fn)
    expected, _, _ = jax.jit(plain.update)(
        jax.random.fold_in(key, 1), small, (), examples, fjx.Turn()
    )
    update = message["update"]
    np.testing.assert_allclose(update["a"][:, :held], expected["a"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(update["b"][:held], expected["b"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(update["c"][:held], expected["c"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(update["d"], expected["d"], rtol=1e-4, atol=1e-6)
    assert not np.asarray(update["a"][:, held:]).any()
    assert not np.asarray(update["b"][held:]).any()
    assert not np.asarray(update["c"][held:]).any()


@pytest.mark.ci
def test_all_units_held_is_fedavg_bit_for_bit():
    units = clients.ordered_dropout([1.0])
    client = clients.submodel(loss_fn, local, axes=AXES, units=units)
    ours, _, _ = round_of(fjx.compose(client=client, aggregator=mean_of(units)), params())

    def same_keys(key, broadcast, state, examples, turn):
        return local(loss_fn).update(jax.random.fold_in(key, 1), broadcast, state, examples, turn)

    plain = local(loss_fn)._replace(update=same_keys)
    theirs, _, _ = round_of(fjx.compose(client=plain), params())
    for x, y in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_mean_is_over_holders_and_nobody_s_coordinates_stay():
    rng = np.random.default_rng(1)
    held = rng.random((5, 40)) < 0.4
    held[:, 7] = False
    update = np.where(held, rng.normal(size=(5, 40)), 0).astype(np.float32)
    weights = np.float32([1, 2, 0, 3, 0.5])
    a = aggregators.submodel_mean(lambda choice, like: choice)  # a choice says each coordinate
    messages = {"update": jnp.asarray(update), "choice": jnp.asarray(held)}
    got = aggregators.aggregate(jax.random.key(0), a, messages, weights=weights)[0]
    weight = (weights[:, None] * held).sum(0)
    expected = (weights[:, None] * update).sum(0) / np.where(weight > 0, weight, 1)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert float(got[7]) == 0


@pytest.mark.slow
def test_the_ledger_counts_what_each_client_held():
    """Widths by the clients' own examples: a narrow phone sends the product of its widths."""
    of = {0: 1.0, 1: 0.5, 2: 0.5, 3: 1 / 3}
    tiers = np.array([0, 1, 1, 2])
    arrays = [
        {"x": np.ones((n, 3), np.float32), "y": np.ones((n, 2), np.float32), "tier": np.full(n, t)}
        for n, t in zip(SIZES, tiers.astype(np.int32), strict=True)
    ]
    dataset = data.from_clients(arrays)

    def tier(key, examples):
        return examples.take(jnp.zeros(1, jnp.int32))["tier"][0]

    units = clients.ordered_dropout([1.0, 0.5, 1 / 3], of=tier)
    client = clients.submodel(loss_fn, local, axes=AXES, units=units)
    algorithm = fjx.compose(client=client, aggregator=mean_of(units))
    result = fjx.simulate(
        jax.random.key(0), algorithm, params(), dataset, sampler=samplers.full(), rounds=2
    )
    held = [round(r * HIDDEN) for r in of.values()]
    floats = [3 * h + h + 2 * h + 2 for h in held]
    assert result.ledger.uplink == 2 * sum(32 * n + 32 + 8 for n in floats)
    most = algorithm.traffic(params()).uplink
    assert most == 32 * (3 * 6 + 6 + 12 + 2) + 32 + 8


@pytest.mark.ci
def test_a_payload_and_the_choice_are_all_that_the_server_needs():
    units = clients.federated_dropout(0.5)
    client = clients.submodel(loss_fn, local, axes=AXES, units=units)
    cohort = federated().cohort(jnp.array([0]))
    examples = fjx.Examples(cohort.examples.arrays, *(x[0] for x in cohort.examples[1:]))
    message, _, _ = jax.jit(client.update)(jax.random.key(5), params(), (), examples, fjx.Turn())
    public = fjx.Public.first(mean_of(units), message, jax.random.key(0))
    sent = wire.to_bytes(mean_of(units).encode(None, message, public))
    got = wire.from_bytes(sent)
    held = clients.held_coordinates(AXES, units, got.choice, params())
    assert int(got.count) == sum(int(h.sum()) for h in jax.tree.leaves(held)) == 20
    flat = np.concatenate([np.asarray(h).reshape(-1) for h in jax.tree.leaves(held)])
    rebuilt = np.zeros(flat.size, np.float32)
    rebuilt[flat] = np.asarray(got.values)[:20]
    update = np.concatenate([np.asarray(x).reshape(-1) for x in jax.tree.leaves(message["update"])])
    np.testing.assert_array_equal(rebuilt, update)


def test_random_units_are_as_many_as_asked_and_all_alike():
    """Of 2000 choices of 2 in 6 each unit is in a third, within 6 standard errors."""
    units = clients.federated_dropout(1 / 3)
    keys = jax.random.split(jax.random.key(0), 2000)
    held = np.asarray(
        jax.jit(jax.vmap(lambda key: units.masks(units.choose(key, None), {"h": 6})["h"]))(keys)
    )
    assert (held.sum(1) == 2).all()
    assert np.abs(held.mean(0) - 1 / 3).max() < 6 * np.sqrt(2 / 9 / 2000)


def test_arguments():
    units = clients.ordered_dropout([0.5])
    with pytest.raises(ValueError, match="6 units and 2"):
        clients.held_coordinates({**AXES, "d": ("hidden",)}, units, jnp.uint8(0), params())
    with pytest.raises(ValueError, match="axes must name each axis"):
        clients.held_coordinates({**AXES, "d": ()}, units, jnp.uint8(0), params())
    with pytest.raises(ValueError, match="tree like the parameters"):
        clients.held_coordinates({"a": (None, None)}, units, jnp.uint8(0), params())
    with pytest.raises(ValueError, match="widths must be"):
        clients.ordered_dropout([])
    with pytest.raises(ValueError, match="submodel_mean needs the messages"):
        mean_of(units).init(params())
