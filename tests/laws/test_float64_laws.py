"""With x64 on, float64 stays float64 in every round and codec, and float32 costs what it did."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from fjx import _tree, algorithms, compressors, simulation, wire
from tests.support import tables

N = len(tables.SIZES)
DATASET = tables.federated()
TOP = compressors.top_k(0.5)


def cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype) if _tree.is_float(x) else x, tree)


def described(tree):
    return jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)


def a_round(algorithm, params, dataset):
    """The state and the table before a round and after it, and its metrics: by tracing alone."""
    before = (
        jax.eval_shape(algorithm.init, params),
        jax.eval_shape(lambda p: simulation.make_table(algorithm.init_client(p), N), params),
    )
    cohort = dataset.cohort(jnp.arange(N, dtype=jnp.int32))
    *after, metrics = jax.eval_shape(algorithm.round, jax.random.key(0), *before, cohort)
    return before, tuple(after), metrics


BY_KIND = (
    *("fedavg", "scaffold", "dp_ftrl", "ef21_bc", "choco_sgd", "marina", "onebit_adam", "scaffnew"),
    *("top_k_quantize_with_feedback", "median", "mutable_state", "frozen"),
)


@tables.rows(tables.ALGORITHMS, {"fedavg", "scaffold", "dp_ftrl", "marina"}, BY_KIND)
def test_a_round_keeps_the_dtypes_of_its_state(name):
    """By tracing alone, under strict promotion: what was float64 is, and so is the model."""
    algorithm, params = tables.ALGORITHMS[name], tables.params_of(name)
    with jax.enable_x64(True):
        params = cast(params, jnp.float64)
        dataset = dataclasses.replace(DATASET, arrays=cast(DATASET.arrays, jnp.float64))
        before, after, metrics = a_round(algorithm, params, dataset)
    assert described(after) == described(before)
    assert all(x.dtype != "float32" for x in jax.tree.leaves(after[0].params) if _tree.is_float(x))
    loss = metrics.get("loss", metrics.get("unnoised_loss"))
    assert loss.dtype == jnp.float64


def _squared_error(model, batch, key):
    return jnp.mean((batch["x"] @ model["w"] + model["b"] - batch["y"]) ** 2)


_step = {"learning_rate": 0.1, "batch_size": 2}
DOWN = {  # that send the aggregate message down
    "ef21_bc": algorithms.ef21_bc(_squared_error, TOP, num_clients=N, **_step),
    "artemis": algorithms.artemis(_squared_error, TOP, num_clients=N, lam=0.5, **_step),
    "fedlin": algorithms.fedlin(_squared_error, steps=2, **_step),
    "onebit_adam": algorithms.onebit_adam(_squared_error, warmup=1, **_step),
    "power_sgd": algorithms.power_sgd(_squared_error, rank=1, momentum=0.5, **_step),
    "fetch_sgd": algorithms.fetch_sgd(_squared_error, ratio=0.5, rows=1, columns=8, **_step),
}


@pytest.mark.few(6)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", DOWN)
def test_what_travels_down_is_as_wide_as_the_model(name, dtype):
    """By tracing alone: the first state's payload is like every other, and so is the state."""
    algorithm, params = DOWN[name], tables.weights() | {"matrix": jnp.ones((6, 6))}
    with jax.enable_x64(True):
        params = cast(params, dtype)
        dataset = dataclasses.replace(DATASET, arrays=cast(DATASET.arrays, dtype))
        before, after, _ = a_round(algorithm, params, dataset)
    assert described(after) == described(before)
    assert {x.dtype for x in jax.tree.leaves(after[0].params)} == {jnp.dtype(dtype)}


FAST = ("top_k", "rand_k", "quantize_8", "error_feedback")


@pytest.mark.ci
@tables.rows(tables.COMPRESSORS, FAST)
def test_a_codec_keeps_dtypes_and_prices(name):
    """What it decodes is like the message; float32 costs as many bits with x64 on as without."""
    codec = tables.COMPRESSORS[name]

    def both(key, message, state):
        payload, after = codec.encode(key, message, state)
        return payload, codec.decode(payload), after

    def traced(dtype):
        message = cast(tables.message(), dtype)
        state = codec.init(message)
        payload, decoded, after = jax.eval_shape(both, jax.random.key(0), message, state)
        assert described((decoded, after)) == described((message, state))
        return wire.bits(payload)

    plain = traced(jnp.float32)
    with jax.enable_x64(True):
        assert traced(jnp.float32) == plain
        assert traced(jnp.float64) >= plain
