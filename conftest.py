"""The habits of every test: strict dtypes and ranks, warnings are errors, two CPU devices."""

import collections
import gc
import itertools
import os
from importlib import metadata
from pathlib import Path

JAXLIB = metadata.version("jaxlib")

# Read when a backend starts.  Compiling is what tests take their time for, and jaxlib 0.10 has emitters
# that take half as long.
flags = ["--xla_force_host_platform_device_count=2", "--xla_cpu_parallel_codegen_split_count=1"]
if JAXLIB.startswith("0.10."):
    flags.append("--xla_cpu_use_fusion_emitters=false")
given = os.environ.get("XLA_FLAGS", "").split()  # a worker is given what its parent has set
os.environ["XLA_FLAGS"] = " ".join([*(flag for flag in flags if flag not in given), *given])

# Compiled programs outlive the run: the next one only traces.  JAX finds a program by what it computes
# and by every flag, so that a stale one is never used; the folder may be deleted at any time.
caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(caches / "fjx-tests" / f"jaxlib-{JAXLIB}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402 (reads the environment)
import pytest  # noqa: E402

# Fixtures of a module are made before a test has its habits.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A law checks that every public factory uses each key once.  JAX_DEBUG_KEY_REUSE=1 checks it in all
# tests, which then take half as long again.
KEYS_CHECKED = jax.config.jax_debug_key_reuse

gc.set_threshold(50_000)  # tracing makes many objects that live, and few circles


@pytest.hookimpl(tryfirst=True)  # before rows are chosen by -m
def pytest_collection_modifyitems(items):
    """Of a test marked ``few(n)``, n rows, evenly spread, stay; the others are slow."""
    tests = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("few") and not item.get_closest_marker("slow"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for rows in tests.values():
        (n,) = rows[0].get_closest_marker("few").args
        chosen = {i * len(rows) // n for i in range(n)}
        for i, row in enumerate(rows):
            if i not in chosen:
                row.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def habits(request):
    """Each test has the same, whatever another one changed."""
    optimized = request.node.get_closest_marker("optimized") is not None
    jax.config.update("jax_disable_most_optimizations", not optimized)
    jax.config.update("jax_debug_key_reuse", KEYS_CHECKED)
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])


@pytest.fixture
def getkey():
    """A fresh typed key at each call, the same sequence in every test."""
    counter = itertools.count()
    return lambda: jax.random.fold_in(jax.random.key(20260101), next(counter))
