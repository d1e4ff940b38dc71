"""Structured updates against SGD on masked gradients and against the algebra of one step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import aggregators, clients, data, samplers, wire

PARAMS = {
    "w": jax.random.normal(jax.random.key(0), (12, 3)),
    "b": jnp.zeros(3),
}
COUNTED = {**PARAMS, "steps": jnp.int32(7)}


def loss_fn(p, batch, key):
    return jnp.mean((jnp.tanh(batch["x"] @ p["w"]) + p["b"][None] - batch["y"]) ** 2)


@functools.cache
def dataset(clients_=3, size=4):
    rng = np.random.default_rng(0)
    return data.from_clients(
        [
            {
                "x": rng.normal(size=(size, 12)).astype(np.float32),
                "y": rng.normal(size=(size, 3)).astype(np.float32),
            }
            for _ in range(clients_)
        ]
    )


def local(steps, rate=0.1):
    return lambda loss: clients.local_sgd(loss, optax.sgd(rate), steps=steps, batch_size=4)


def message_of(client, key=0, params=PARAMS):
    cohort = dataset().cohort(jnp.array([1]))
    examples = fjx.Examples(cohort.examples.arrays, *(x[0] for x in cohort.examples[1:]))
    return jax.jit(client.update)(jax.random.key(key), params, (), examples, fjx.Turn())[
        0
    ], examples


@jax.jit
def gradient(params, examples):
    batch = jax.tree.map(lambda x: x[4:8], examples.arrays)
    return jax.grad(loss_fn)({k: params[k] for k in "wb"}, batch, None)


MASK = {"w": np.arange(36).reshape(12, 3) % 5 == 1, "b": np.ones(3, bool)}


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize(
    "subspace", [clients.fixed_mask({**MASK, "steps": np.bool_(False)}), clients.random_mask(0.3)]
)
def test_a_mask_is_sgd_on_masked_gradients(subspace):
    """Five steps on the whole data, against the same with gradients that are zero elsewhere."""
    client = clients.structured(loss_fn, local(5), subspace=subspace)
    message, examples = message_of(client, params=COUNTED)
    ones = jax.tree.map(jnp.ones_like, message["coordinates"])
    mask = jax.jit(subspace.expand)(message["choice"], ones, COUNTED)
    params = COUNTED
    for _ in range(5):
        g = gradient(params, examples)
        params = {
            **params,
            **{
                k: np.asarray(params[k]) - 0.1 * np.asarray(mask[k], np.float32) * np.asarray(g[k])
                for k in "wb"
            },
        }
    for k in "wb":
        moved = params[k] - np.asarray(PARAMS[k])
        np.testing.assert_allclose(message["update"][k], moved, atol=1e-6)
        assert not np.asarray(message["update"][k])[np.asarray(mask[k]) == 0].any()
    assert int(message["update"]["steps"]) == 0
    assert int(sum(x.size for x in message["coordinates"])) == sum(
        int(np.count_nonzero(mask[k])) for k in "wb"
    )


@pytest.mark.slow
def test_one_step_of_low_rank_is_a_a_transposed_times_the_gradient():
    subspace = clients.random_low_rank(2)
    client = clients.structured(loss_fn, local(1), subspace=subspace)
    message, examples = message_of(client)

    # The columns of A are the updates of unit coordinates: the rows of z in turn.
    @jax.jit
    def column(r):
        unit = (jnp.zeros(3), jnp.zeros((2, 3)).at[r, 0].set(1.0))
        return subspace.expand(message["choice"], unit, PARAMS)["w"][:, 0]

    a = np.stack([column(0), column(1)], axis=1)
    g = jax.tree.map(np.asarray, gradient(PARAMS, examples))
    np.testing.assert_allclose(message["update"]["w"], -0.1 * a @ (a.T @ g["w"]), atol=1e-6)
    np.testing.assert_allclose(message["update"]["b"], -0.1 * g["b"], atol=1e-6)
    assert np.linalg.matrix_rank(np.asarray(message["update"]["w"])) == 2


def test_random_matrices_are_nearly_orthonormal():
    """E A^T A = I: of 400 matrices of 12 rows the mean is within 6 standard errors of it."""
    subspace = clients.random_low_rank(2)
    unit = (jnp.zeros(3), jnp.eye(2, 3))

    def gram(key):
        a = subspace.expand(subspace.choose(key), unit, PARAMS)["w"][:, :2]
        return a.T @ a

    grams = np.asarray(jax.jit(jax.vmap(gram))(jax.random.split(jax.random.key(1), 400)))
    assert np.abs(grams.mean(0) - np.eye(2)).max() < 6 * np.sqrt(2 / 12 / 400)


@pytest.mark.ci
def test_all_coordinates_are_plain_training():
    whole = jax.tree.map(lambda x: np.ones(x.shape, bool), PARAMS)
    client = clients.structured(loss_fn, local(3), subspace=clients.fixed_mask(whole))
    message, examples = message_of(client)
    key = jax.random.fold_in(jax.random.key(0), 1)
    expected = jax.jit(local(3)(loss_fn).update)(key, PARAMS, (), examples, fjx.Turn())[0]
    for x, y in zip(jax.tree.leaves(message["update"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


SUBSPACES = {
    "mask": (clients.random_mask(0.3), 32 * (11 + 1) + 64),
    "low rank": (clients.random_low_rank(2), 32 * (2 * 3 + 3) + 64),
    "fixed": (clients.fixed_mask(MASK), 32 * (7 + 3)),
}


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize("name", SUBSPACES)
def test_the_bytes_are_all_that_the_server_needs(name):
    subspace, bits = SUBSPACES[name]
    client = clients.structured(loss_fn, local(2), subspace=subspace)
    aggregator = aggregators.structured_mean(subspace.expand)
    message, _ = message_of(client)
    public = fjx.Public.first(aggregator, message, jax.random.key(0))
    sent = wire.from_bytes(wire.to_bytes(aggregator.encode(None, message, public)))
    rebuilt = jax.jit(subspace.expand)(sent["choice"], sent["coordinates"], PARAMS)
    for x, y in zip(jax.tree.leaves(rebuilt), jax.tree.leaves(message["update"]), strict=True):
        np.testing.assert_array_equal(x, y)
    assert fjx.compose(client=client, aggregator=aggregator).traffic(PARAMS).uplink == bits


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.slow) if x == "fixed" else x for x in SUBSPACES]
)
def test_they_are_billed_in_a_run_that_trains(name):
    subspace, bits = SUBSPACES[name]
    algorithm = fjx.compose(
        client=clients.structured(loss_fn, local(2), subspace=subspace),
        aggregator=aggregators.structured_mean(subspace.expand),
    )
    result = fjx.simulate(
        jax.random.key(0), algorithm, PARAMS, dataset(), sampler=samplers.full(), rounds=2
    )
    assert result.ledger.uplink == 2 * 3 * bits
    assert np.isfinite(np.asarray(result.params["w"])).all()
    assert not np.array_equal(result.params["w"], PARAMS["w"])


def test_clients_and_rounds_have_subspaces_of_their_own():
    subspace = clients.random_mask(0.3)
    ones = jax.tree.map(lambda z: jnp.ones(z.shape), subspace.coordinates(PARAMS))
    mask = jax.jit(lambda key: subspace.expand(subspace.choose(key), ones, PARAMS)["w"])
    masks = [np.asarray(mask(jax.random.key(i))) for i in range(3)]
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[1], masks[2])


def test_arguments():
    with pytest.raises(TypeError, match="mask must be of bool"):
        clients.fixed_mask({"w": np.zeros(3)})
    with pytest.raises(ValueError, match="like the parameters"):
        clients.fixed_mask({"w": np.zeros(3, bool)}).coordinates({"w": jnp.zeros(4)})
    with pytest.raises(ValueError, match="structured_mean needs the messages"):
        aggregators.structured_mean(clients.fixed_mask(MASK).expand).init(PARAMS)
    with pytest.raises(ValueError, match="ratio"):
        clients.random_mask(0.0)
    client = clients.structured(loss_fn, local(1), subspace=clients.random_mask(0.5))
    with pytest.raises(TypeError, match="Stateful"):
        client.update(jax.random.key(0), fjx.Stateful({}, {}), (), None, fjx.Turn())
