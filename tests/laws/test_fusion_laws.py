"""Vmapped at sizes of real layers, programs give what they give without a compiler's fusions.

XLA:CPU of JAX 0.10.2 to 0.11 fuses a sum of products, of which one factor is shared, with a product that
takes it, and gives wrong values at some sizes: ``vmap(lambda s, x: sum(s * x) * s, (None, 0))``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import clients, compressors, data, models, privacy, samplers
from fjx._kernels import inner
from fjx.simulation._compile import Compiler, Once
from tests.support import tables

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="a fault of XLA:CPU")

MANY = 16
_random = np.random.default_rng(0).standard_normal
MESSAGES = {
    "matrix": _random((MANY, 64, 62)).astype(np.float32),
    "vector": _random((MANY, 4096)).astype(np.float32),
}
KEYS = jax.random.split(jax.random.key(0), MANY)

ONE = compressors.random_projection(1 / 4096)
CODECS = {
    **{n: codec for n, codec in tables.COMPRESSORS.items() if n != "random_projection"},
    "random_projection": ONE,
    "error_feedback_of_a_projection": compressors.error_feedback(compressors.scaled(ONE, 1e-4)),
    "power_sgd_3": compressors.power_sgd(3),
    "local_gaussian": privacy.local_gaussian(clip_norm=1.0, noise_multiplier=1.0).codec,
    "priv_unit": compressors.flatten(privacy.priv_unit(epsilon=4.0, clip_norm=1.0).codec),
}

SHARED = {"a key": (None, 0), "a message": (0, None), "both, in turn": None}


def vmapped(function, axes):
    """``function`` of (a, b) for many of both; ``axes`` None: for all pairs."""
    if axes is None:
        return jax.vmap(jax.vmap(function, (None, 0)), (0, None))
    return jax.vmap(function, axes)


def differ(program, *args):
    """The largest share, over arrays, of numbers that differ with and without fusions."""
    plain = jax.jit(program, compiler_options={"xla_cpu_experimental_ynn_fusion_type": ""})
    jitted = jax.jit(program)

    def share(found, expected):
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        size = np.abs(expected).max(initial=0)
        return 1 - np.isclose(found, expected, rtol=0, atol=1e-4 * size, equal_nan=True).mean()

    return max(jax.tree.leaves(jax.tree.map(share, jitted(*args), plain(*args))))


@pytest.mark.slow
@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("name", CODECS)
def test_codecs(name, shared):
    """A rounding may turn over in few coordinates."""
    codec, axes = CODECS[name], SHARED[shared]

    def send(key, message):
        payload, state = codec.encode(key, message, codec.init(message))
        return codec.decode(payload), state

    some = {None: (KEYS[:4], 4), (None, 0): (KEYS[0], MANY), (0, None): (KEYS, None)}[axes]
    keys, count = some
    messages = jax.tree.map(lambda x: x[0] if count is None else x[:count], MESSAGES)
    assert differ(vmapped(send, axes), keys, messages) < 0.01


def test_a_projection_with_one_key():
    """It takes a sum of products, and a product with that."""

    def send(message):
        return ONE.decode(ONE.encode(KEYS[0], message, ())[0])

    assert differ(jax.vmap(send), MESSAGES["vector"]) < 0.01


MODELS = {
    "mlp": (models.mlp(features=784, hidden=(128,), classes=62), (32, 784), 62),
    "cnn": (models.emnist_cnn(), (8, 28, 28), 62),
    "sensor_cnn": (models.sensor_cnn(), (16, 128, 6), 5),
    "logistic": (models.logistic_regression(features=784, classes=62), (64, 784), 62),
}


@pytest.mark.slow
@pytest.mark.parametrize("shared", ["a model", "a batch"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_models(name, shared):
    model, shape, classes = MODELS[name]
    seeds = jax.random.split(jax.random.key(1), 3)
    batches = {
        "x": np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32),
        "y": np.random.default_rng(1).integers(0, classes, (3, shape[0])),
    }

    def gradient(params, batch):
        return jax.grad(lambda params: model.loss(params, batch, jax.random.key(0))[0])(params)

    if shared == "a model":
        args = model.init(seeds[0]), batches
        assert differ(jax.vmap(gradient, (None, 0)), *args) < 0.01
    else:
        args = jax.vmap(model.init)(seeds), jax.tree.map(lambda x: x[0], batches)
        assert differ(jax.vmap(gradient, (0, None)), *args) < 0.01


def test_programs_of_users_are_right_in_simulate():
    """An evaluation of the faulty form, which by itself is wrong by a third on JAX 0.10.2."""
    x = np.random.default_rng(2).standard_normal((64, 4096)).astype(np.float32)
    model = np.random.default_rng(3).standard_normal(4096).astype(np.float32)

    def evaluate(model):
        parts = jax.vmap(lambda s, x: jnp.sum(s * x) * s, (None, 0))(model, x)
        return {"size": jnp.sum(jnp.abs(parts))}

    def loss(model, batch, key):
        return jnp.sum(0 * model)

    client = clients.local_sgd(loss, optax.sgd(0.1), epochs=1, batch_size=2)
    result = fjx.simulate(
        jax.random.key(0), fjx.compose(client=client), model, data.from_clients([np.ones(2)] * 2),
        sampler=samplers.full(), rounds=1, evaluate=evaluate, evaluate_every=1,
    )  # fmt: skip
    expected = np.abs((x.astype(np.float64) @ model)[:, None] * model).sum()
    np.testing.assert_allclose(result.history.evaluations["size"], expected, rtol=1e-4)


@pytest.mark.slow
def test_programs_of_users_are_right_in_a_sweep():
    """The same evaluation in a program: over seeds by vmap; and runs in a jit or a jvp."""
    x = np.random.default_rng(2).standard_normal((64, 4096)).astype(np.float32)
    model = np.random.default_rng(3).standard_normal(4096).astype(np.float32)

    def evaluate(model):
        parts = jax.vmap(lambda s, x: jnp.sum(s * x) * s, (None, 0))(model, x)
        return {"size": jnp.sum(jnp.abs(parts))}

    def run(key, scale=0.0):
        client = clients.local_sgd(
            lambda model, batch, key: jnp.sum(scale * model), optax.sgd(0.1), epochs=1, batch_size=2
        )
        program = fjx.simulation.program(
            fjx.compose(client=client), data.from_clients([np.ones(2)] * 2),
            sampler=samplers.full(), evaluate=evaluate,
        )  # fmt: skip
        state, history = program.run(key, program.init(model), 1)
        return jnp.sum(state.params), history.evaluations["size"]

    expected = np.abs((x.astype(np.float64) @ model)[:, None] * model).sum()
    np.testing.assert_allclose(jax.vmap(run)(KEYS[:2])[1], expected, rtol=1e-4)
    np.testing.assert_allclose(run(KEYS[0])[1], expected, rtol=1e-4)
    total, slope = jax.jvp(lambda scale: run(KEYS[0], scale)[0], (0.0,), (1.0,))
    jitted = jax.jit(jax.vmap(run))(KEYS[:2])[0]
    np.testing.assert_allclose(jitted, total, rtol=1e-4)
    np.testing.assert_allclose(slope, -0.1 * 4096, rtol=1e-4)


@pytest.mark.ci
@pytest.mark.optimized
def test_simulate_compiles_again_only_what_goes_on_after_a_sum():
    """Of the same sum of products: used by a product it would be wrong, and alone it is right."""
    shared, rows = MESSAGES["vector"][0], MESSAGES["vector"]
    for used, function in ((True, lambda s, x: jnp.sum(s * x) * s), (False, lambda s, x: s @ x)):
        jitted = jax.jit(jax.vmap(function, (None, 0)))
        text = jitted.lower(shared, rows).compile().as_text()
        assert used or not inner.goes_on_after_a_sum(text)
        compiled, _ = Compiler()("rows", Once(jitted), shared, rows)
        exact = rows.astype(np.float64) @ shared.astype(np.float64)
        exact = exact[:, None] * shared if used else exact
        atol = 1e-5 * np.abs(exact).max()
        np.testing.assert_allclose(compiled(shared, rows), exact, rtol=0, atol=atol)
