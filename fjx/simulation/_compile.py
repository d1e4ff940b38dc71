"""Compiling ahead of time, and placing arguments where a compiled program wants them."""

import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array, Tree
from fjx.simulation._memory import require_room


def cache_compilations(folder: str | os.PathLike[str]) -> None:
    """Keeps compiled programs in a folder: a later process that runs the same rounds compiles nothing.

    A switch of JAX's own persistent cache that leaves out no program for being small or quickly
    compiled.  It holds for all of JAX, from the next compilation on.  Tracing is not saved.

    Args:
        folder: is made if need be; safe to share between processes and versions.

    Examples:
        >>> import jax, tempfile
        >>> from fjx import simulation
        >>> simulation.cache_compilations(tempfile.mkdtemp())
        >>> jax.config.update("jax_compilation_cache_dir", None)  # off again
    """
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class Compiler:
    """Compiles programs, and knows how long it took.

    Attributes:
        seconds: spent on tracing, lowering and compiling so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, jitted: Any, *args: Any) -> tuple[Any, Tree]:
        """The compiled program and the shapes of what it returns; of ``args`` only shapes are read.

        Raises:
            MemoryError: it would need more memory than there is.
        """
        began = time.perf_counter()
        lowered = jitted.lower(*jax.tree.map(_like, args))
        compiled = lowered.compile()
        self.seconds += time.perf_counter() - began
        require_room(compiled)
        return compiled, lowered.out_info


def _like(x: Any) -> Any:
    # Without its device: the program says where it runs, by the mesh of its executor if it has one.
    if isinstance(x, jax.ShapeDtypeStruct) or not hasattr(x, "dtype"):
        return x
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def like_on(tree: Tree, shardings: Tree) -> Tree:
    """The shapes of a tree that will be placed by ``shardings``."""
    return jax.tree.map(
        lambda x, on: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on), tree, shardings
    )


def place(tree: Tree, shardings: Tree) -> Tree:
    """The tree on the devices of a compiled program, of which ``shardings`` are the arguments'.

    An array that is there already is not moved.  Where the devices belong to several processes each
    of them holds the same ``tree`` and places its own part.
    """

    def put(x: Any, sharding: jax.sharding.Sharding) -> Array:
        if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
            return x
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.jit(lambda x: x, out_shardings=sharding)(x)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = put(np.asarray(jax.random.key_data(x)), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree, shardings)
