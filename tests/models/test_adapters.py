"""Flax modules as models, with and without mutable state."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import fjx
from fjx import Examples, Stateful, Turn, clients, models


class Linen(nn.Module):
    """Dropout by the presence of a stream."""

    @nn.compact
    def __call__(self, x):
        """Logits."""
        x = nn.relu(nn.Dense(8)(x))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not self.has_rng("dropout"))(x))


class Flagged(nn.Module):
    """Dropout by a flag."""

    @nn.compact
    def __call__(self, x, *, train):
        """Logits."""
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))


class Nnx(nnx.Module):
    """The nnx twin of ``Linen``."""

    def __init__(self, rngs):
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        """Logits."""
        return self.last(self.dropout(nnx.relu(self.first(x))))


class Normalised(nn.Module):
    """Two BatchNorms, on features of different rank, and dropout."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        """Logits."""
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(3, (3,))(x)))
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x.reshape(x.shape[0], -1)))
        return nn.Dense(2)(nn.Dropout(self.rate, deterministic=not train)(x))


FLAGGED = {"training": {"train": True}, "inference": {"train": False}}
MODELS = {
    "linen": models.from_linen(Linen(), jax.ShapeDtypeStruct((1, 4), jnp.float32)),
    "linen-flag": models.from_linen(Flagged(), jnp.zeros((1, 4)), **FLAGGED),
    "nnx": models.from_nnx(Nnx),
}
STATEFUL = models.stateful_from_linen(Normalised(), jnp.zeros((1, 5, 2)))
INIT, APPLY, LOSS = (jax.jit(f) for f in (STATEFUL.init, STATEFUL.apply, STATEFUL.loss))


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize("name", MODELS)
def test_adapted_module(name, getkey):
    """Plain parameters; dropout by the key only; gradients under vmap over clients."""
    model = MODELS[name]
    params = jax.jit(jax.vmap(model.init))(jax.random.split(getkey(), 2))
    x = jnp.ones((2, 5, 4))
    assert all(type(node) is dict for node in [params, *params.values()])
    key = getkey()
    apply = jax.jit(jax.vmap(model.apply, in_axes=(0, 0, None)))
    still = jax.jit(jax.vmap(model.apply))(params, x)
    assert still.shape == (2, 5, 3)
    assert not np.allclose(still[0], still[1])
    chex.assert_trees_all_equal(apply(params, x, key), apply(params, x, key))
    assert not np.allclose(apply(params, x, key), apply(params, x, getkey()))
    assert not np.allclose(apply(params, x, key), still)
    batch = {"x": x[0], "y": jnp.array([0, 1, 2, 0, 1])}
    gradient = jax.jit(jax.vmap(jax.grad(lambda p: model.loss(p, batch, key)[0])))(params)
    chex.assert_tree_all_finite(gradient)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, params)


def test_nnx_agrees_with_linen(getkey):
    """Given the same arrays, the two flaxes compute the same logits."""
    linen, other = MODELS["linen"], MODELS["nnx"]
    params, x = jax.jit(linen.init)(getkey()), jax.random.normal(getkey(), (5, 4))
    renamed = {"first": params["Dense_0"], "last": params["Dense_1"]}
    chex.assert_trees_all_close(
        jax.jit(other.apply)(renamed, x), jax.jit(linen.apply)(params, x), rtol=1e-5
    )


def test_another_loss(getkey):
    """Whatever the loss returns beside "loss" are the metrics."""

    def squared(outputs, targets):
        error = outputs[:, 0] - targets
        return {"loss": error**2, "absolute": jnp.abs(error)}

    model = models.from_linen(nn.Dense(1), jnp.zeros((1, 2)), loss=squared)
    params = {"kernel": jnp.array([[1.0], [2.0]]), "bias": jnp.zeros(1)}
    batch = {"x": jnp.array([[1.0, 1.0], [0.0, 1.0]]), "y": jnp.array([0.0, 3.0])}
    loss, metrics = model.loss(params, batch, getkey())
    assert (loss, metrics) == (5.0, {"absolute": 2.0})
    np.testing.assert_array_equal(model.evaluate(params, batch)["loss"], [9.0, 1.0])


@pytest.mark.ci
def test_batch_norm_is_refused_where_it_would_be_wrong(getkey):
    """The error names the collections and the remedy."""
    module = Normalised()
    inference = {"train": False}
    model = models.from_linen(module, jnp.zeros((1, 5, 2)), inference=inference)
    with pytest.raises(ValueError, match=r"'batch_stats'.*stateful_from_linen"):
        model.init(getkey())
    with pytest.raises(ValueError, match="stateful_from_nnx"):
        models.from_nnx(lambda rngs: nnx.BatchNorm(3, rngs=rngs))


def _padded(key, *, garbage):
    """Three examples, and the same three among seven, the others being ``garbage``."""
    small = {"x": np.asarray(jax.random.normal(key, (3, 5, 2))), "y": np.int32([0, 1, 1])}
    large = {"x": np.full((7, 5, 2), garbage, np.float32), "y": np.zeros(7, np.int32)}
    rows, mask = [1, 3, 6], np.zeros(7, np.float32)
    for name, x in small.items():
        large[name][rows] = x
    mask[rows] = 1
    return small, np.ones(3, np.float32), large, mask


@pytest.mark.ci
def test_padding_does_not_enter_batch_statistics(getkey):
    """Loss, metrics, gradient and new state of a padded batch are those without its padding."""
    model = INIT(getkey())
    small, ones, large, mask = _padded(getkey(), garbage=1e3)
    key = getkey()

    @jax.jit
    def outcome(batch, mask):
        def loss(params):
            value, metrics, state = STATEFUL.loss(Stateful(params, model.state), batch, mask, key)
            return value, (value, metrics, state)

        return jax.grad(loss, has_aux=True)(model.params)

    gradient, (value, metrics, state) = outcome(small, ones)
    chex.assert_trees_all_close(
        outcome(large, mask), (gradient, (value, metrics, state)), rtol=1e-4, atol=1e-5
    )
    gradient, (value, metrics, _) = outcome(large, jnp.zeros(7))
    chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, gradient))
    assert (value, metrics["accuracy"]) == (0.0, 0.0)


@pytest.mark.ci
def test_batch_statistics_are_those_of_the_batch(getkey):
    """One step from the start moves the running mean by (1 - 0.99) of the batch's, in NumPy."""
    model = INIT(getkey())
    small, ones, large, mask = _padded(getkey(), garbage=-50.0)
    kernel, bias = (np.asarray(model.params["Conv_0"][name]) for name in ("kernel", "bias"))
    x = np.pad(np.asarray(small["x"]), ((0, 0), (1, 1), (0, 0)))
    windows = np.stack([x[:, t : t + 3] for t in range(5)], axis=1)
    features = np.einsum("btkc,kcf->btf", windows, kernel) + bias
    for batch, weights in [(small, ones), (large, mask)]:
        _, _, state = LOSS(model, batch, weights, getkey())
        statistics = state["batch_stats"]["BatchNorm_0"]
        np.testing.assert_allclose(
            statistics["mean"], 0.01 * features.mean(axis=(0, 1)), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(
            statistics["var"], 0.99 + 0.01 * features.var(axis=(0, 1)), rtol=1e-4
        )


class Twin(nnx.Module):
    """An nnx module with BatchNorms on features of different rank, one of a class of its own."""

    class Own(nnx.BatchNorm):
        """A BatchNorm whose call is overridden."""

        def __call__(self, x):
            """Twice the normalised input."""
            return 2 * super().__call__(x)

    def __init__(self, rngs, rate=0.0):
        self.first = nnx.BatchNorm(2, rngs=rngs)
        self.hidden = nnx.Linear(10, 4, rngs=rngs)
        self.rest = nnx.List([Twin.Own(4, rngs=rngs), nnx.Dropout(rate, rngs=rngs)])
        self.last = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        """Logits."""
        x = nnx.relu(self.hidden(self.first(x).reshape(x.shape[0], -1)))
        for layer in self.rest:
            x = layer(x)
        return self.last(x)


class OfLinen(nn.Module):
    """The linen twin of ``Twin``."""

    @nn.compact
    def __call__(self, x, train):
        """Logits."""
        x = nn.BatchNorm(use_running_average=not train, name="first")(x)
        x = nn.relu(nn.Dense(4, name="hidden")(x.reshape(x.shape[0], -1)))
        x = 2 * nn.BatchNorm(use_running_average=not train, name="own")(x)
        return nn.Dense(2, name="last")(x)


@pytest.mark.ci
def test_nnx_with_statistics_is_linen_with_statistics(getkey):
    """Loss, gradient, next state and inference, of a padded batch and of one of padding alone."""
    ours = models.stateful_from_nnx(Twin)
    twin = models.stateful_from_linen(OfLinen(), jnp.zeros((1, 5, 2)))
    model = ours.init(getkey())
    assert sorted(model.state) == ["first", "rest"]

    def of_linen(tree):
        own = {"own": tree["rest"][0]} if "rest" in tree else {}
        return {k: v for k, v in tree.items() if k != "rest"} | own

    same = Stateful(of_linen(model.params), {"batch_stats": of_linen(model.state)})
    _, _, large, mask = _padded(getkey(), garbage=1e3)
    key = getkey()

    def outcome(stateful, model, mask):
        def loss(params):
            value, _, state = stateful.loss(Stateful(params, model.state), large, mask, key)
            return value, (value, state)

        gradient, (value, state) = jax.grad(loss, has_aux=True)(model.params)
        return value, gradient, state, stateful.apply(Stateful(model.params, state), large["x"])

    @jax.jit
    def both(mask):
        return outcome(ours, model, mask), outcome(twin, same, mask)

    (value, gradient, state, logits), expected = both(mask)
    found = value, of_linen(gradient), {"batch_stats": of_linen(state)}, logits
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(state["first"]["var"], 1.0)
    (value, gradient, state, _), _ = both(jnp.zeros(7))
    chex.assert_trees_all_equal(state, model.state)
    chex.assert_trees_all_equal((value, gradient), jax.tree.map(jnp.zeros_like, (value, gradient)))
    below = jax.tree_util.tree_map_with_path(
        lambda path, x: x - 2.0 if path[-1].key == "var" else x, model.state
    )  # as compressed messages may leave it
    assert np.isfinite(jax.jit(ours.apply)(model._replace(state=below), large["x"])).all()


@pytest.mark.slow
def test_nnx_with_statistics_trains_in_a_round(getkey):
    """Dropout follows the key, and a round averages parameters and statistics."""
    stateful = models.stateful_from_nnx(lambda rngs: Twin(rngs, rate=0.5))
    model, (small, ones, _, _) = stateful.init(getkey()), _padded(getkey(), garbage=0.0)
    loss, key = jax.jit(stateful.loss), getkey()
    first, again, other = (loss(model, small, ones, k)[0] for k in (key, key, getkey()))
    assert first == again
    assert first != other
    result = fjx.simulate(
        getkey(),
        fjx.algorithms.fedavg(clients.whole_batch(stateful.loss), client_lr=0.1, batch_size=2),
        model,
        fjx.data.from_clients([small, small]),
        sampler=fjx.samplers.full(),
        rounds=2,
        evaluate=fjx.simulation.evaluation(stateful.evaluate, small),
    )
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), result.params, model)
    assert all(jax.tree.leaves(moved))
    assert np.isfinite(result.history.evaluations["loss"]).all()


def test_padding_alone_leaves_the_state_alone(getkey):
    """No real example: the state is kept bit for bit, and nothing is NaN."""
    model = INIT(getkey())
    _, _, large, _ = _padded(getkey(), garbage=3.0)
    _, _, state = LOSS(model, large, jnp.zeros(7, bool), getkey())
    chex.assert_trees_all_equal(state, model.state)


@pytest.mark.slow
def test_stateful_inference_uses_running_statistics(getkey):
    """An example's logits do not depend on the others; evaluate agrees with apply."""
    model = INIT(getkey())
    small, ones, _, _ = _padded(getkey(), garbage=0.0)
    for _ in range(3):
        _, _, state = LOSS(model, small, ones, getkey())
        model = Stateful(model.params, state)
    alone = APPLY(model, small["x"][:1])
    chex.assert_trees_all_close(APPLY(model, small["x"])[:1], alone, rtol=1e-5)
    scores = jax.jit(STATEFUL.evaluate)(model, small)
    expected = models.cross_entropy(APPLY(model, small["x"]), small["y"])
    chex.assert_trees_all_close(scores, expected, rtol=1e-6)
    assert scores["loss"].shape == (3,)


@pytest.mark.slow
def test_stateful_dropout_follows_the_key(getkey):
    """A module may have dropout beside BatchNorm."""
    stateful = models.stateful_from_linen(Normalised(rate=0.5), jnp.zeros((1, 5, 2)))
    model, key = jax.jit(stateful.init)(getkey()), getkey()
    small, ones, _, _ = _padded(getkey(), garbage=0.0)
    loss = jax.jit(stateful.loss)
    first, again, other = (loss(model, small, ones, k)[0] for k in (key, key, getkey()))
    assert first == again
    assert first != other


@pytest.mark.ci
def test_stateful_model_trains_on_a_client(getkey):
    """Through ``clients.whole_batch``: the message moves parameters and statistics alike.

    Three examples in batches of five, then in one of three: padding changes nothing.
    """
    model = INIT(getkey())
    small, _, _, _ = _padded(getkey(), garbage=0.0)
    examples = Examples(jax.tree.map(jnp.asarray, small), jnp.int32(0), jnp.int32(3))
    messages = []
    for batch_size in (3, 5):
        client = clients.local_sgd(
            clients.whole_batch(STATEFUL.loss), optax.sgd(0.1), epochs=2, batch_size=batch_size
        )
        messages.append(jax.jit(client.update)(getkey(), model, (), examples, Turn())[0])
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(messages[0].state))
    chex.assert_trees_all_close(*messages, rtol=1e-4, atol=1e-5)


@pytest.mark.ci
def test_a_variance_below_zero_counts_as_zero():
    """As compressed messages may leave it; its root would be NaN in every output."""
    start = STATEFUL.init(jax.random.key(0))

    def shifted(path, x):
        return x - 2.0 if path[-1].key == "var" else x

    below = start._replace(state=jax.tree_util.tree_map_with_path(shifted, start.state))
    zero = start._replace(
        state=jax.tree_util.tree_map_with_path(
            lambda path, x: 0 * x if path[-1].key == "var" else x, start.state
        )
    )
    x = jnp.ones((2, 5, 2))
    chex.assert_trees_all_equal(STATEFUL.apply(below, x), STATEFUL.apply(zero, x))
    assert np.isfinite(STATEFUL.apply(below, x)).all()
