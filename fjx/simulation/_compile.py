"""Compiling ahead of time and once, and placing arguments on the devices of a compiled program."""

import contextlib
import os
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array, Tree
from fjx._kernels.inner import goes_on_after_a_sum, right_options
from fjx.clients._premises import Premises, traced_premises
from fjx.simulation._memory import require_room


def cache_compilations(folder: str | os.PathLike[str]) -> None:
    """Keep compiled programs in a folder, so that a later process with the same rounds compiles nothing.

    This turns on JAX's own persistent cache for every program, even one that is small or quick to
    compile.  It holds for all of JAX, from the next compilation on.  Tracing is not saved.

    Args:
        folder: folder of the cache, made if it does not exist; processes and versions may share it.

    Examples:
        >>> import jax, tempfile
        >>> from fjx import simulation
        >>> simulation.cache_compilations(tempfile.mkdtemp())
        >>> jax.config.update("jax_compilation_cache_dir", None)  # off again
    """
    jax.config.update("jax_compilation_cache_dir", os.path.abspath(os.path.expanduser(folder)))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


_KEPT = 8  # programs kept of one function, the latest


class _Kept(dict[Hashable, Any]):
    """What is kept on a function, or on a callable object of the user's; copies of that begin anew."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Kept, ()  # programs can be neither copied nor pickled


class Once:
    """A jitted function with the programs that were compiled of it.

    JAX traces a jitted function once for each form of its arguments, but only as long as somebody keeps
    the function.

    Attributes:
        jitted: function made by ``jax.jit``.
        traced: what was noted of the loss functions, by traced program.
        compiled: compiled programs, by traced program and placement of the arguments.
    """

    def __init__(self, jitted: Any) -> None:
        self.jitted = jitted
        self.traced: dict[Any, Premises] = {}
        self.compiled: dict[Hashable, Any] = {}

    @classmethod
    def of(cls, owner: Any, parts: Hashable, make: Callable[[], Any]) -> "Once":
        """The jitted function that ``make`` made of a function ``owner`` and these parts.

        It is kept as an attribute of ``owner``, so that it goes when its owner goes: the garbage
        collector finds that circle, and would not find one through a table of ours.  Parts without a
        hash, or an owner without attributes, are not remembered.
        """
        try:
            kept = vars(owner).setdefault("_jitted", _Kept())
            return _latest(kept, parts, lambda: cls(make()))
        except TypeError:
            return cls(make())


def _latest(kept: dict[Any, Any], name: Hashable, make: Callable[[], Any]) -> Any:
    """``kept[name]``, made if it is not there; the oldest entries go."""
    # Other threads may do the same at the same time, so nothing is expected to be there still.
    value = kept.pop(name, None)
    value = kept[name] = make() if value is None else value
    for oldest in list(kept)[:-_KEPT]:
        kept.pop(oldest, None)
    return value


class Compiler:
    """A compiler of the programs of one run.

    Attributes:
        seconds: time spent on tracing, lowering and compiling so far.
        names: names of the programs that were compiled.
        premises: what the programs' loss functions promise.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.names: tuple[str, ...] = ()
        self.premises: list[Premises] = []

    def __call__(self, name: str, once: Once, *args: Any) -> tuple[Any, Tree]:
        """The compiled program and the shapes of its results; only the shapes of ``args`` are read.

        Raises:
            MemoryError: the program needs more memory than there is.
        """
        likes = jax.tree.map(_like, args)
        with self.clock():
            with traced_premises() as premises:
                traced = once.jitted.trace(*likes)
            self.premises.append(_latest(once.traced, traced.jaxpr, lambda: premises))
            placed = tuple(getattr(x, "sharding", None) for x in jax.tree.leaves(likes))
            about = traced.jaxpr, placed, jax.config.jax_default_device  # type: ignore[attr-defined]
            if about not in once.compiled:
                self.names += (name,)
            compiled = _latest(once.compiled, about, lambda: _compiled(traced.lower()))
        require_room(compiled)
        return compiled, traced.out_info

    @contextlib.contextmanager
    def clock(self) -> Iterator[None]:
        """Context whose time counts as compiling."""
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began


def _compiled(lowered: Any) -> Any:
    compiled, options = lowered.compile(), right_options()
    if options is not None and goes_on_after_a_sum(compiled.as_text()):
        return lowered.compile(compiler_options=options)
    return compiled


def _like(x: Any) -> Any:
    # Without a device: the program decides where it runs, by the mesh of its executor if it has one.
    if isinstance(x, jax.ShapeDtypeStruct) or not hasattr(x, "dtype"):
        return x
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def place(tree: Tree, shardings: Tree) -> Tree:
    """The tree on the devices of a compiled program; ``shardings`` are those of its arguments.

    An array that is already there is not moved.  If the devices belong to several processes, each
    process holds the same ``tree`` and places its own part.
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


def first_copy(tree: Tree) -> Tree:
    """The tree with this process's first copy of each array of which every device holds one.

    Programs of it run once, with all threads, and not on every device.
    """

    def first(x: Any) -> Any:
        is_copied = isinstance(x, jax.Array) and x.is_fully_replicated
        return x.addressable_data(0) if is_copied and len(x.sharding.device_set) > 1 else x

    return jax.tree.map(first, tree)
