"""The tables over which laws are run.  A new codec, aggregator or recipe adds a row here."""

import jax
import jax.numpy as jnp

from fjx import aggregators, compressors

c = compressors

COMPRESSORS = {
    "identity": c.identity(),
    "bfloat16": c.cast(jnp.bfloat16),
    "float16": c.cast(jnp.float16),
    "float8_e4m3fn": c.cast(jnp.float8_e4m3fn),
    "float8_e5m2": c.cast(jnp.float8_e5m2),
    "quantize_2": c.quantize(bits=2),
    "quantize_5": c.quantize(bits=5),
    "quantize_8": c.quantize(bits=8),
    "quantize_12": c.quantize(bits=12),
    "top_k": c.top_k(0.25),
    "rand_k": c.rand_k(0.25),
    "chain_top_k_quantize": c.chain(c.top_k(0.25), c.quantize(bits=8)),
    "chain_rand_k_quantize": c.chain(c.rand_k(0.5), c.quantize(bits=4)),
    "chain_top_k_bfloat16": c.chain(c.top_k(0.25), c.cast(jnp.bfloat16)),
    "chain_quantize_twice": c.chain(c.quantize(bits=4), c.quantize(bits=4)),
    "chain_top_k_twice": c.chain(c.top_k(0.5), c.top_k(0.5)),
    "chain_of_nothing": c.chain(),
    "flatten_top_k": c.flatten(c.top_k(0.25)),
    "per_leaf_flatten": c.per_leaf(c.flatten(c.quantize(bits=8))),
    "on_matrix": c.on("matrix", c.quantize(bits=8)),
    "chain_on_flatten": c.chain(c.on("matrix", c.top_k(0.5)), c.flatten(c.quantize(bits=8))),
    "error_feedback": c.error_feedback(c.chain(c.top_k(0.25), c.quantize(bits=8))),
}
"""Every public compressor, and the compositions in which something could go wrong."""


def message(seed: int = 0, dtype: jnp.dtype = jnp.float32) -> dict:
    """A message with every kind of leaf: matrix, vector, one element, empty, integer, nested."""
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "matrix": jax.random.normal(keys[0], (8, 6)).astype(dtype),
        "nested": {
            "vector": jax.random.normal(keys[1], (13,)).astype(dtype),
            "one": jax.random.normal(keys[2], (1,)).astype(dtype),
        },
        "scalar": jax.random.normal(keys[3], ()).astype(dtype),
        "empty": jnp.zeros((0, 3), dtype),
        "count": jnp.array([3, -4], jnp.int32),
    }


AGGREGATORS = {
    "mean": aggregators.mean(),
    "uniform_mean": aggregators.uniform(aggregators.mean()),
    "total": aggregators.total(7.0),
    "median": aggregators.median(),
    "per_field": aggregators.per_field(
        a=aggregators.mean(), b=aggregators.uniform(aggregators.mean())
    ),
}
"""Every public aggregator; the message of the laws is a dict of the fields a and b."""
