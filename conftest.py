"""The habits of every test: strict dtypes and ranks, warnings are errors, two CPU devices."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)

import itertools

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(autouse=True)
def quickly_compiled(request):
    """With few optimisations, but for ``optimized`` tests: compiling is what takes the time."""
    jax.config.update(
        "jax_disable_most_optimizations", request.node.get_closest_marker("optimized") is None
    )


@pytest.fixture
def getkey():
    """A fresh typed key at each call, the same sequence in every test."""
    counter = itertools.count()
    return lambda: jax.random.fold_in(jax.random.key(20260101), next(counter))
