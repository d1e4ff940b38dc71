"""With x64 on, float64 stays float64 in every round and codec, and float32 costs what it did."""

import dataclasses
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import pytest

from fjx import _tree, simulation, wire

_spec = importlib.util.spec_from_file_location(
    "float64_law_tables", pathlib.Path(__file__).with_name("tables.py")
)
tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)

N = len(tables.SIZES)
DATASET = tables.federated()


def cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype) if _tree.is_float(x) else x, tree)


def described(tree):
    return jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)


@pytest.mark.parametrize("name", tables.ALGORITHMS)
def test_a_round_keeps_the_dtypes_of_its_state(name):
    """By tracing alone, under strict promotion: what was float64 is, and so is the model."""
    algorithm, params = tables.ALGORITHMS[name]
    with jax.enable_x64(True):
        params = cast(params, jnp.float64)
        dataset = dataclasses.replace(DATASET, arrays=cast(DATASET.arrays, jnp.float64))
        before = (
            algorithm.init(params),
            simulation.make_table(algorithm.init_client(params), N),
        )
        cohort = dataset.cohort(jnp.arange(N, dtype=jnp.int32))
        *after, metrics = jax.eval_shape(algorithm.round, jax.random.key(0), *before, cohort)
    assert described(tuple(after)) == described(before)
    assert all(x.dtype != "float32" for x in jax.tree.leaves(after[0].params) if _tree.is_float(x))
    assert metrics["loss"].dtype == jnp.float64


FAST = ("top_k", "rand_k", "bernoulli", "quantize_8", "natural", "error_feedback")


@pytest.mark.parametrize(
    "name",
    [m if m in FAST else pytest.param(m, marks=pytest.mark.slow) for m in tables.COMPRESSORS],
)
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
