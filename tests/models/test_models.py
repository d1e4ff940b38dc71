"""Every model of the field: its size, its loss, and what fjx relies on."""

from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from fjx import models

TOKENS = 7


class Row(NamedTuple):
    """A model small enough to compile in a second, and the inputs that it takes."""

    model: models.Model
    shape: tuple[int, ...]
    classes: int

    def batch(self, key, size=5):
        """Random examples; sequences of tokens carry padding of different lengths."""
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        if self.classes != TOKENS:
            x = rng.normal(size=(size, *self.shape)).astype(np.float32)
            return {"x": x, "y": rng.integers(0, self.classes, size, np.int32)}
        x, y = rng.integers(0, TOKENS, (2, size, *self.shape), np.int32)
        real = rng.integers(1, self.shape[0] + 1, (size, 1))
        return {"x": x, "y": np.where(np.arange(self.shape[0]) < real, y, np.int32(-1))}


def _emnist(dropout):
    return models.emnist_cnn(classes=4, shape=(8, 8, 1), channels=(2, 3), hidden=6, dropout=dropout)


def _transformer(dropout):
    return models.transformer(
        vocabulary=TOKENS, layers=1, width=8, heads=2, length=6, dropout=dropout
    )


ROWS = {
    "logistic_regression": Row(models.logistic_regression(features=6, classes=4), (6,), 4),
    "mlp": Row(models.mlp(features=6, hidden=(5,), classes=4), (2, 3), 4),
    "cnn": Row(models.cnn(classes=4, shape=(8, 8, 1), channels=(2, 3), hidden=6), (8, 8, 1), 4),
    "emnist_cnn": Row(_emnist((0.0, 0.0)), (8, 8, 1), 4),
    "resnet18": Row(
        models.resnet18(classes=4, shape=(12, 12, 3), widths=(2, 4), strides=(1, 2), blocks=1),
        (12, 12, 3),
        4,
    ),
    "char_lstm": Row(models.char_lstm(vocabulary=TOKENS, embedding=3, hidden=4), (6,), TOKENS),
    "transformer": Row(_transformer(0.0), (6,), TOKENS),
    "sensor_cnn": Row(models.sensor_cnn(length=16, widths=(4, 8)), (16, 6), 5),
}
DROPOUT = {
    "emnist_cnn": ROWS["emnist_cnn"]._replace(model=_emnist((0.25, 0.5))),
    "transformer": ROWS["transformer"]._replace(model=_transformer(0.5)),
}


INIT = {name: jax.jit(row.model.init) for name, row in ROWS.items()}
APPLY = {name: jax.jit(row.model.apply) for name, row in ROWS.items()}
every_model = pytest.mark.parametrize("name", ROWS)


def parameters(model):
    """How many numbers ``init`` makes, without making them."""
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))


@pytest.mark.few(6)
@pytest.mark.parametrize(
    ("model", "count"),
    [
        pytest.param(models.logistic_regression(features=784, classes=10), 7_850, id="logistic"),
        pytest.param(models.mlp(features=784, classes=10), 199_210, id="2nn"),  # McMahan et al.
        pytest.param(models.cnn(), 1_663_370, id="cnn"),  # McMahan et al.
        pytest.param(models.emnist_cnn(), 1_206_590, id="emnist"),
        pytest.param(models.emnist_cnn(classes=10), 1_199_882, id="emnist-digits"),
        pytest.param(models.char_lstm(), 820_522, id="lstm"),  # TensorFlow Federated
        pytest.param(models.char_lstm(vocabulary=80), 817_872, id="lstm-leaf"),
        pytest.param(models.resnet18(classes=100), 11_227_812, id="resnet18"),
        pytest.param(
            models.resnet18(classes=10, shape=(32, 32, 3)),
            11_181_642,
            id="resnet18-10",
            marks=pytest.mark.slow,
        ),
        pytest.param(models.sensor_cnn(), 32_485, id="sensors"),
        pytest.param(
            models.transformer(vocabulary=10, layers=2, width=16, heads=2, length=12),
            10 * 16 + 12 * 16 + 2 * (12 * 16**2 + 13 * 16) + 2 * 16 + 17 * 10,
            id="transformer",
        ),
    ],
)
def test_parameter_count(model, count):
    """The counts of the papers, or of their published code."""
    assert parameters(model) == count


@pytest.mark.few(2)
@every_model
def test_parameters_are_plain_dicts(name, getkey):
    """Nested dicts of arrays, not flax's own containers."""

    def check(node):
        if isinstance(node, dict):
            assert type(node) is dict
            for child in node.values():
                check(child)
        else:
            assert isinstance(node, jax.Array)

    check(INIT[name](getkey()))


def test_cross_entropy_of_classes(getkey):
    """Against NumPy in float64."""
    logits = 3 * jax.random.normal(getkey(), (6, 4))
    labels = np.array([0, 3, 1, 1, 2, 0])
    z = np.asarray(logits, np.float64)
    probabilities = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    scores = models.cross_entropy(logits, jnp.asarray(labels, jnp.uint8))
    np.testing.assert_allclose(scores["loss"], -np.log(probabilities[range(6), labels]), rtol=1e-5)
    np.testing.assert_array_equal(scores["accuracy"], z.argmax(axis=1) == labels)


def test_cross_entropy_of_sequences(getkey):
    """Token by token in NumPy; padding counts nowhere, and a sequence of padding counts zero."""
    logits = jax.random.normal(getkey(), (3, 4, 5))
    labels = np.array([[1, 4, -1, -1], [0, 2, 3, 1], [-1, -1, -1, -1]])
    expected = []
    for z, y in zip(np.asarray(logits, np.float64), labels, strict=True):
        terms = [np.log(np.exp(z[t]).sum()) - z[t, y[t]] for t in range(4) if y[t] >= 0]
        expected.append(sum(terms) / max(len(terms), 1))
    scores = models.cross_entropy(logits, jnp.asarray(labels))
    np.testing.assert_allclose(scores["loss"], expected, rtol=1e-5)
    assert scores["accuracy"][2] == 0.0


def test_cross_entropy_refuses_bad_labels():
    """Float labels, labels of another shape; a label past the last class is NaN."""
    logits = jnp.zeros((2, 3))
    with pytest.raises(TypeError, match="labels must be integers, got float32"):
        models.cross_entropy(logits, jnp.zeros(2))
    with pytest.raises(ValueError, match="labels must have the shape"):
        models.cross_entropy(logits, jnp.zeros((2, 1), jnp.int32))
    assert jnp.isnan(models.cross_entropy(logits, jnp.array([0, 3]))["loss"])[1]


@pytest.mark.few(2)
@every_model
def test_loss_is_the_mean_over_examples(name, getkey):
    """A batch's loss and metrics are the plain means of those of its single examples."""
    row, key = ROWS[name], getkey()
    params, batch = INIT[name](getkey()), row.batch(getkey())
    if name == "logistic_regression":  # zero parameters would make every loss log(classes)
        params["Dense_0"]["kernel"] = jax.random.normal(getkey(), (6, 4))

    @jax.jit
    def both(params, batch):
        whole = row.model.loss(params, batch, key)
        singles = jax.vmap(lambda one: row.model.loss(params, one, key))(
            jax.tree.map(lambda x: x[:, None], batch)
        )
        return whole, singles, row.model.evaluate(params, batch)

    (loss, metrics), (losses, each), scores = both(params, batch)
    assert np.ptp(losses) > 1e-3
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scores["loss"], losses, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(each["accuracy"]), rtol=1e-6)
    np.testing.assert_array_equal(scores["accuracy"], each["accuracy"])


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(m, marks=pytest.mark.slow) if m in ("emnist_cnn", "transformer") else m
        for m in ROWS
    ],
)
def test_learns_with_parameters_of_many_clients(name, getkey):
    """Under vmap over clients: finite gradients, and a step lowers each client's loss."""
    row = ROWS[name]
    params = jax.tree.map(lambda *x: np.stack(x), *(INIT[name](getkey()) for _ in range(2)))
    batches = jax.tree.map(lambda *x: np.stack(x), *(row.batch(getkey()) for _ in range(2)))
    keys = jax.random.split(getkey(), 2)

    def step(params, batch, key):
        optimizer = optax.sgd(0.01)
        objective = jax.value_and_grad(row.model.loss, has_aux=True)
        (before, _), gradients = objective(params, batch, key)
        updates, _ = optimizer.update(gradients, optimizer.init(params))
        after, _ = row.model.loss(optax.apply_updates(params, updates), batch, key)
        return before, after, gradients

    before, after, gradients = jax.jit(jax.vmap(step))(params, batches, keys)
    assert before.shape == (2,)
    chex.assert_tree_all_finite(gradients)
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(gradients))
    assert np.all(np.asarray(after) < np.asarray(before))


@pytest.mark.few(2)
@every_model
def test_computes_in_the_dtype_of_the_parameters(name, getkey):
    """Outputs have the dtype of the parameters, whatever that of the inputs."""
    row = ROWS[name]
    params, x = INIT[name](getkey()), row.batch(getkey())["x"]
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    for inputs in [x, x.astype(jnp.float16 if x.dtype == jnp.float32 else jnp.uint8)]:
        for model in [params, half]:
            logits = jax.eval_shape(row.model.apply, model, inputs)
            assert logits.dtype == jax.tree.leaves(model)[0].dtype
            assert logits.shape[-1] == row.classes


def test_inputs_of_float16_are_computed_with_in_float32(getkey):
    """The cast loses nothing: logits equal those of the same values in float32."""
    params, batch = INIT["sensor_cnn"](getkey()), ROWS["sensor_cnn"].batch(getkey())
    x, apply = batch["x"].astype(np.float16), APPLY["sensor_cnn"]
    chex.assert_trees_all_equal(apply(params, x), apply(params, x.astype(np.float32)))


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize("name", DROPOUT)
def test_dropout_follows_the_key(name, getkey):
    """One key, one outcome; two keys, two outcomes; no key, no dropout."""
    row = DROPOUT[name]
    params, x = INIT[name](getkey()), row.batch(getkey())["x"]
    apply = jax.jit(row.model.apply)
    key, other = getkey(), getkey()
    chex.assert_trees_all_equal(apply(params, x, key), apply(params, x, key))
    assert not np.allclose(apply(params, x, key), apply(params, x, other))
    assert not np.allclose(apply(params, x, key), apply(params, x))
    chex.assert_trees_all_equal(apply(params, x), APPLY[name](params, x))
    alike = apply(params, np.repeat(x[:1], x.shape[0], axis=0), other)
    assert not np.allclose(alike[0], alike[1])  # equal examples lose different units


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["char_lstm", "transformer"])
def test_causal(name, getkey):
    """A later token changes nothing before it, and something from its own position on."""
    params, x, apply = INIT[name](getkey()), ROWS[name].batch(getkey())["x"], APPLY[name]
    other = x.copy()
    other[:, 3] = (x[:, 3] + 1) % TOKENS
    before, after = (np.asarray(apply(params, tokens)) for tokens in (x, other))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert not np.allclose(before[:, 3], after[:, 3])
    assert not np.allclose(before[:, 5], after[:, 5])


def test_lstm_against_numpy(getkey):
    """One layer, gate by gate, with the sigmoid and the order of the gates of Keras."""
    model = models.char_lstm(vocabulary=TOKENS, embedding=3, hidden=4, layers=1)
    params, x = jax.jit(model.init)(getkey()), jnp.array([[2, 5, 0]])
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    kernel, bias = p["_Lstm_0"]["Dense_0"]["kernel"], p["_Lstm_0"]["Dense_0"]["bias"]
    np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], 4))
    h, c, expected = np.zeros(4), np.zeros(4), []
    for token in [2, 5, 0]:
        z = p["Embed_0"]["embedding"][token] @ kernel + bias
        z = z + h @ p["_Lstm_0"]["recurrent_kernel"]
        i, f, o = (1 / (1 + np.exp(-z[gate * 4 : gate * 4 + 4])) for gate in (0, 1, 3))
        c = f * c + i * np.tanh(z[8:12])
        h = o * np.tanh(c)
        expected.append(h @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])
    np.testing.assert_allclose(jax.jit(model.apply)(params, x)[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.ci
def test_lstm_of_leaf_is_a_choice_of_labels(getkey):
    """With y negative but in the last column, the loss is that of the last character alone."""
    row = ROWS["char_lstm"]
    params, batch = INIT["char_lstm"](getkey()), row.batch(getkey())
    labels = jnp.array([0, 1, 2, 3, 4])
    last = models.cross_entropy(APPLY["char_lstm"](params, batch["x"])[:, -1], labels)
    masked = {"x": batch["x"], "y": np.full((5, 6), -1, np.int32)}
    masked["y"][:, -1] = labels
    chex.assert_trees_all_close(jax.jit(row.model.evaluate)(params, masked), last, rtol=1e-6)


@pytest.mark.slow
def test_lstm_under_shard_map(getkey):
    """The scan's carry varies over devices as its inputs do."""
    row = ROWS["char_lstm"]
    params, batch = INIT["char_lstm"](getkey()), row.batch(getkey(), size=4)
    mesh = jax.make_mesh((2,), ("clients",), axis_types=(AxisType.Auto,))
    evaluate = jax.shard_map(
        row.model.evaluate,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("clients")),
        out_specs=PartitionSpec("clients"),
    )
    chex.assert_trees_all_close(
        jax.jit(evaluate)(params, batch), jax.jit(row.model.evaluate)(params, batch), rtol=1e-5
    )


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["mlp", "cnn", "emnist_cnn", "resnet18", "sensor_cnn"])
def test_flattened_inputs(name, getkey):
    """Flattened examples are the same examples, and so are images without a channel axis."""
    params, x, apply = INIT[name](getkey()), ROWS[name].batch(getkey())["x"], APPLY[name]
    chex.assert_trees_all_equal(apply(params, x.reshape(5, -1)), apply(params, x))
    if x.shape[-1] == 1:
        chex.assert_trees_all_equal(apply(params, x[..., 0]), apply(params, x))


def test_resnet_strides(getkey):
    """The published code strides in the stem only; He et al. halve the image in each stage."""

    def size(**strides):
        model = models.resnet18(classes=2, widths=(2, 4), blocks=1, shape=(32, 32, 3), **strides)
        text = (
            jax.jit(model.apply)
            .lower(
                jax.eval_shape(model.init, jax.random.key(0)),
                jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),
            )
            .as_text()
        )
        return "tensor<1x8x8x4xf32>" in text, "tensor<1x4x4x4xf32>" in text

    assert size(strides=(1, 1)) == (True, False)
    assert size(strides=(1, 2)) == (False, True)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: models.logistic_regression(features=0, classes=2), "features must be at least 1"),
        (lambda: models.mlp(features=2, hidden=(3, 0), classes=2), "hidden must be at least 1"),
        (lambda: models.cnn(classes=0), "classes must be at least 1"),
        (lambda: models.emnist_cnn(dropout=(0.0, 1.0)), "dropout must be .* less than 1"),
        (lambda: models.resnet18(classes=2, groups=3), "groups must divide"),
        (lambda: models.resnet18(classes=2, strides=(1, 2)), "strides must have one entry"),
        (lambda: models.sensor_cnn(length=4), "length must be at least 8"),
        (lambda: models.sensor_cnn(groups=5), "groups must divide"),
        (lambda: models.char_lstm(layers=0), "layers must be at least 1"),
        (
            lambda: models.transformer(vocabulary=2, layers=1, width=6, heads=4, length=3),
            "heads must divide",
        ),
    ],
)
def test_refuses(factory, message):
    """The error names the argument and the bound."""
    with pytest.raises(ValueError, match=message):
        factory()


@pytest.mark.ci
def test_transformer_refuses_a_longer_sequence(getkey):
    """Positions beyond ``length`` have no embedding."""
    model = ROWS["transformer"].model
    with pytest.raises(ValueError, match="at most length=6 tokens, got 7"):
        model.apply(INIT["transformer"](getkey()), jnp.zeros((1, 7), jnp.int32))


@pytest.mark.ci
def test_sensor_cnn_is_a_convolution(getkey):
    """The matrix products and maxima are flax's convolution and pooling, on an odd length too."""

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            for width in (4, 8):
                x = nn.relu(nn.GroupNorm(4)(nn.Conv(width, (5,))(x)))
                x = nn.max_pool(x, (2,), strides=(2,))
            return nn.Dense(5)(jnp.mean(x, axis=1))

    model = models.sensor_cnn(length=15, widths=(4, 8))
    params, x = jax.jit(model.init)(getkey()), jax.random.normal(getkey(), (2, 15, 6))
    plain = {
        "Conv_0": params["Dense_0"] | {"kernel": params["Dense_0"]["kernel"].reshape(5, 6, 4)},
        "Conv_1": params["Dense_1"] | {"kernel": params["Dense_1"]["kernel"].reshape(5, 4, 8)},
        "GroupNorm_0": params["GroupNorm_0"],
        "GroupNorm_1": params["GroupNorm_1"],
        "Dense_0": params["Dense_2"],
    }
    expected = jax.jit(Plain().apply)({"params": plain}, x)
    chex.assert_trees_all_close(jax.jit(model.apply)(params, x), expected, rtol=1e-5, atol=1e-6)
