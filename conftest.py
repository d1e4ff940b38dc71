"""The habits of every test: strict dtypes and ranks, warnings are errors, two CPU devices."""

import itertools
import os
from importlib import metadata

import jax
import pytest

# Read when a backend starts.  Compiling is what tests take their time for, and jaxlib 0.10 has emitters
# that take half as long.
flags = ["--xla_force_host_platform_device_count=2", "--xla_cpu_parallel_codegen_split_count=1"]
if metadata.version("jaxlib").startswith("0.10."):
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")])

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
