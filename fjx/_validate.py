"""Eager checks of arguments: concrete values are checked at once, tracers pass.

Every error names the argument, the value and the remedy.
"""

import numbers
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def concrete(value: Any) -> bool:
    """True if ``value`` can be inspected now, False for a tracer."""
    return not isinstance(value, jax.core.Tracer)


def number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise unless ``value`` is a finite real number within the bounds.

    Raises:
        TypeError: not a real number (a bool, a string, None, an array with axes).
        ValueError: not finite, or out of bounds.
    """
    if not concrete(value):
        return
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        kinds = (jnp.floating, jnp.integer)
        is_real = value.ndim == 0 and any(jnp.issubdtype(value.dtype, kind) for kind in kinds)
    if not is_real:
        raise TypeError(f"{name} must be a real number, got {value!r}")
    bounds = [
        (above, "greater than", lambda v, b: v > b),
        (at_least, "at least", lambda v, b: v >= b),
        (at_most, "at most", lambda v, b: v <= b),
        (below, "less than", lambda v, b: v < b),
    ]
    wanted = " and ".join(f"{word} {bound}" for bound, word, _ in bounds if bound is not None)
    x = float(value)
    if not np.isfinite(x):
        raise ValueError(f"{name} must be finite, got {value!r}")
    if not all(holds(x, bound) for bound, _, holds in bounds if bound is not None):
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def scalar(name: str, value: Any, **bounds: float) -> Any:
    """The value as a Python float, checked like :func:`number`.

    Use it for a value that is kept: a caller's array may change after the check.

    Returns:
        The value as a Python float; a tracer is returned unchanged.

    Raises:
        TypeError: not a real number.
        ValueError: not finite, or out of bounds.
    """
    number(name, value, **bounds)
    return float(value) if concrete(value) else value


def integer(
    name: str, value: Any, *, at_least: int | None = None, at_most: int | None = None
) -> None:
    """Raise unless ``value`` is an integer within the bounds; a tracer of integer dtype passes.

    Raises:
        TypeError: not an integer; a float with an integral value is not one.
        ValueError: out of bounds.
    """
    if not concrete(value):
        if not jnp.issubdtype(value.dtype, jnp.integer):
            raise TypeError(f"{name} must be an integer, got {value}")
        return
    if isinstance(value, bool) or not (
        isinstance(value, numbers.Integral)
        or (
            isinstance(value, jax.Array | np.ndarray)
            and value.dtype.kind in "iu"
            and value.ndim == 0
        )
    ):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    number(name, int(value), at_least=at_least, at_most=at_most)


def static_integer(name: str, value: Any, **bounds: int) -> int:
    """The value as a Python int, checked like :func:`integer`; tracers are refused.

    Use it for a value that decides shapes.

    Returns:
        The value as a Python int, whatever integer type it had.

    Raises:
        TypeError: not an integer, or a tracer.
        ValueError: out of bounds.
    """
    if not concrete(value):
        raise TypeError(f"{name} decides the shape of arrays and must be a Python int, got {value}")
    integer(name, value, **bounds)
    return int(value)


def static_number(name: str, value: Any, **bounds: float) -> float:
    """The value as a Python float, checked like :func:`number`; tracers are refused.

    Use it for a value that decides shapes.

    Returns:
        The value as a Python float.

    Raises:
        TypeError: not a number, or a tracer.
        ValueError: out of bounds.
    """
    if not concrete(value):
        raise TypeError(
            f"{name} decides the shape of arrays and must be a Python number, got {value}"
        )
    number(name, value, **bounds)
    return float(value)


def mixing(matrix: Any) -> np.ndarray:
    """Mixing matrix of a gossip method, made exactly symmetric.

    Raises:
        ValueError: not square, not symmetric, or a row does not sum to one.
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"mixing must be a square matrix, got shape {matrix.shape}")
    if not np.allclose(matrix, matrix.T, atol=1e-6) or not np.allclose(matrix.sum(1), 1, atol=1e-5):
        raise ValueError(
            "mixing must be symmetric with rows that sum to one, so that the mean is preserved; use "
            "Metropolis weights: w_ij = 1 / (1 + max(degree i, degree j)) for neighbours"
        )
    return (matrix + matrix.T) / 2


MOVING = ("rbg", "unsafe_rbg")
"""Generators whose numbers under ``jax.vmap`` are no function of the key alone."""


def key(name: str, value: Any) -> None:
    """Raise unless ``value`` is one typed PRNG key, or a tracer of one.

    Raises:
        TypeError: a legacy ``uint32[2]`` key, a seed, or anything else.
        ValueError: an array of keys, or a key whose draws depend on its neighbours under ``jax.vmap``.
    """
    dtype = getattr(value, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"{name} must be a typed key, got {type(value).__name__}"
            f"{'' if dtype is None else f' of dtype {dtype}'}; make one with jax.random.key(seed), "
            "or wrap a legacy key with jax.random.wrap_key_data"
        )
    if value.shape != ():
        raise ValueError(f"{name} must be one key, got shape {value.shape}; use jax.vmap over keys")
    if (impl := str(jax.random.key_impl(value))) in MOVING:
        raise ValueError(
            f"{name} must be a Threefry key, got one of {impl!r}, whose draws under jax.vmap are no "
            "function of the key alone; make it with jax.random.key(seed, impl='threefry2x32')"
        )


def same_shapes(name: str, tree: Any, like_name: str, like: Any) -> None:
    """Raise unless both trees have the same structure and shapes.

    Raises:
        ValueError: the trees differ; the error names the first leaf that does.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    wanted, wanted_def = jax.tree_util.tree_flatten_with_path(like)
    if treedef != wanted_def:
        raise ValueError(
            f"{name} must have the structure of {like_name}: got {treedef}, wanted {wanted_def}"
        )
    for (path, leaf), (_, want) in zip(leaves, wanted, strict=True):
        _same(name, path, like_name, list(jnp.shape(leaf)), list(jnp.shape(want)))


def same_structure(name: str, tree: Any, like_name: str, like: Any) -> None:
    """Raise unless both trees have the same structure, shapes and dtypes.

    Raises:
        ValueError: the trees differ; the error names the first leaf that does.
    """
    same_shapes(name, tree, like_name, like)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for (path, leaf), want in zip(leaves, jax.tree.leaves(like), strict=True):
        dtype = leaf.dtype if hasattr(leaf, "dtype") else jax.typeof(leaf).dtype
        _same(name, path, like_name, dtype, want.dtype)


def _same(name: str, path: Any, like_name: str, got: Any, wanted: Any) -> None:
    if got != wanted:
        where = jax.tree_util.keystr(path) or "the only leaf"
        raise ValueError(f"{name} must match {like_name}: at {where} got {got}, wanted {wanted}")


def disjoint(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Union of two dicts of metrics, which must not share a name.

    A metric that overwrites another one would disappear without a warning.

    Raises:
        ValueError: ``a`` and ``b`` have a name in common.
    """
    if clash := sorted(set(a) & set(b)):
        raise ValueError(
            f"two parts of the algorithm report metrics called {clash}; rename one of them"
        )
    return {**a, **b}
