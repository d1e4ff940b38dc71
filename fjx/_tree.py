"""Small operations on pytrees that several packages need."""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx._base import Array, Stateful, Tree, TreeLike


def is_float(leaf: Any) -> bool:
    """True if a leaf has a floating dtype (including bf16 and the fp8 family)."""
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))


def to_dtype(x: Array, dtype: Any) -> Array:
    """``x`` in another dtype; a float that becomes an integer is rounded, not truncated."""
    if is_float(x) and not jnp.issubdtype(dtype, jnp.floating):
        x = jnp.round(x)
    return x.astype(dtype)


def add(a: Tree, b: Tree) -> Tree:
    """Sum ``a + b``, leaf by leaf, in the dtype of ``a``."""
    return jax.tree.map(lambda x, y: x + to_dtype(y, x.dtype), a, b)


def subtract(a: Tree, b: Tree) -> Tree:
    """Difference ``a - b``, leaf by leaf, in the dtype of ``a``."""
    return jax.tree.map(lambda x, y: x - to_dtype(y, x.dtype), a, b)


def wide(x: Array) -> Array:
    """``x`` in the dtype in which sums over clients are computed: float64 stays, all else is float32."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def widened(tree: Tree) -> Tree:
    """``tree`` with each floating leaf in the dtype of :func:`wide`: that of memories and of sums."""
    return jax.tree.map(lambda x: wide(x) if is_float(x) else x, tree)


def wide_zeros_like(tree: TreeLike) -> Tree:
    """Zeros with the shapes of ``tree``, floating ones in the dtype of :func:`wide`."""
    return widened(zeros_like(tree))


def in_dtypes_of(tree: Tree, like: TreeLike) -> Tree:
    """``tree`` with the dtypes of ``like``."""
    return jax.tree.map(lambda x, y: to_dtype(x, y.dtype), tree, like)


def scale(factor: Array, tree: Tree) -> Tree:
    """Product ``factor * tree``, each leaf in the dtype of :func:`wide`."""

    def product(x: Array) -> Array:
        x = wide(x)
        return factor.astype(x.dtype) * x

    return jax.tree.map(product, tree)


def divide(tree: Tree, number: Array) -> Tree:
    """Quotient ``tree / number`` by one reciprocal, each leaf in the dtype of :func:`wide`."""

    def quotient(x: Array) -> Array:
        x = wide(x)
        return 1 / number.astype(x.dtype) * x

    return jax.tree.map(quotient, tree)


def square_norm(tree: Tree) -> Array:
    """Sum of the squares of all floating leaves, in the dtype of :func:`wide`."""
    squares = [jnp.sum(wide(x) ** 2) for x in jax.tree.leaves(tree) if is_float(x)]
    dtype = _widest({x.dtype for x in squares} | {jnp.dtype(jnp.float32)})
    return sum((x.astype(dtype) for x in squares), jnp.zeros((), dtype))


def mean_of(total: Array, count: Array) -> Array:
    """Mean ``total / count`` in the dtype of :func:`wide`; NaN if ``count`` is zero.

    The NaN is selected and not computed, so that no division by zero hides other faults.
    """
    total = wide(total)
    mean = total / jnp.maximum(count, 1).astype(total.dtype)
    with jax.debug_nans(False):  # outside of jit it would stop at this one
        return jnp.where(count > 0, mean, jnp.nan)


def zeros_like(tree: TreeLike) -> Tree:
    """Zeros with the shapes and dtypes of ``tree``, which may hold ``ShapeDtypeStruct`` leaves."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)


def like(tree: Tree) -> TreeLike:
    """Shapes and dtypes of ``tree``."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree)


def where(condition: Array, a: Tree, b: Tree) -> Tree:
    """``a`` if the scalar ``condition`` is true, else ``b``; NaN in the other tree has no effect."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def all_finite(tree: Tree) -> Array:
    """Scalar ``bool[]``: True if every floating leaf is finite."""
    finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree) if is_float(x)]
    return jnp.all(jnp.stack(finite)) if finite else jnp.asarray(True)


def name_of(path: tuple[Any, ...]) -> str:
    """Path of a leaf as a text with ``/`` between keys."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def split(tree: Tree, inside: Tree) -> tuple[Tree, Tree]:
    """Two trees with the structure of ``tree``; each holds None at the leaves of the other.

    Args:
        tree: any pytree.
        inside: tree of bools, True for the leaves of the first part.
    """
    first = jax.tree.map(lambda leaf, yes: leaf if yes else None, tree, inside)
    second = jax.tree.map(lambda leaf, yes: None if yes else leaf, tree, inside)
    return first, second


def split_floats(tree: Tree) -> tuple[Tree, Tree]:
    """Floating leaves, which optimisers move, and all other leaves, which they must not touch."""
    return split(tree, jax.tree.map(is_float, tree))


def merge(first: Tree, second: Tree) -> Tree:
    """Inverse of :func:`split`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, first, second, is_leaf=lambda part: part is None
    )


def divide_by_path(model: Tree, pattern: str, *, where: str, left: str) -> tuple[Tree, Tree]:
    """The leaves of a model that do not match a pattern, and those that do.

    A :class:`fjx.Stateful` without state in the first part is that part's parameters alone.

    Args:
        model: parameters, or a :class:`fjx.Stateful`.
        pattern: regular expression, searched for in the path of a leaf (:func:`name_of`).
        where: name of the function, for errors.
        left: what the first part is for, for errors.

    Raises:
        ValueError: the pattern matches no leaf, or every floating parameter.
    """
    names = jax.tree_util.tree_map_with_path(lambda path, _: name_of(path), model)
    matches = re.compile(pattern).search
    others, matching = split(model, jax.tree.map(lambda name: matches(name) is None, names))
    if not jax.tree.leaves(matching):
        raise ValueError(
            f"{where}: pattern {pattern!r} matches no leaf among {jax.tree.leaves(names)}; give a "
            "part of one of these paths"
        )
    parameters = others.params if isinstance(others, Stateful) else others
    if not any(map(is_float, jax.tree.leaves(parameters))):
        raise ValueError(
            f"{where}: pattern {pattern!r} matches every floating parameter among "
            f"{jax.tree.leaves(names)}, so nothing is left to {left}; give a narrower one"
        )
    if isinstance(others, Stateful) and not jax.tree.leaves(others.state):
        others = others.params
    return others, matching


def joined(others: Tree, matching: Tree) -> Tree:
    """Inverse of :func:`divide_by_path`."""
    if isinstance(matching, Stateful) and not isinstance(others, Stateful):
        others = Stateful(others, jax.tree.map(lambda _: None, matching.state))
    return merge(others, matching)


class Structure(NamedTuple):
    """Structure of a tree, without its numbers.

    Attributes:
        treedef: containers of the tree.
        floats: pair ``(shape, dtype name)`` of each leaf in order, or None for a leaf that is not
            floating.
    """

    treedef: jax.tree_util.PyTreeDef
    floats: tuple[tuple[tuple[int, ...], str] | None, ...]


def ravel(message: Tree) -> tuple[Array, Tree, Structure]:
    """All floats as one vector, the tree with None in their places, and its structure.

    The vector has the widest dtype of the floats.
    """
    floats, others = split_floats(message)
    leaves = jax.tree.leaves(floats)
    dtype = _widest({leaf.dtype for leaf in leaves})
    parts = [leaf.reshape(-1).astype(dtype) for leaf in leaves]
    vector = jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)
    return vector, others, structure_of(message)


def _widest(dtypes: set[jnp.dtype]) -> jnp.dtype:
    """Widest of some dtypes; for float16 with bfloat16 it is float32, which holds both."""
    width = max((jnp.finfo(dtype).bits for dtype in dtypes), default=0)
    widest = [dtype for dtype in dtypes if jnp.finfo(dtype).bits == width]
    return widest[0] if len(widest) == 1 else jnp.dtype(jnp.float32)


def unravel(vector: Array, others: Tree, structure: Structure) -> Tree:
    """Inverse of :func:`ravel`."""
    start, floats = 0, []
    for shape, dtype in filter(None, structure.floats):
        size = math.prod(shape)
        floats.append(vector[start : start + size].reshape(shape).astype(dtype))
        start += size
    return unite(floats, others, structure)


def structure_of(tree: Tree) -> Structure:
    """Structure of a tree, without its numbers."""
    leaves, treedef = jax.tree.flatten(tree)
    floats = ((tuple(leaf.shape), leaf.dtype.name) if is_float(leaf) else None for leaf in leaves)
    return Structure(treedef, tuple(floats))


def unite(floats: Iterable[Array], others: Tree, structure: Structure) -> Tree:
    """Tree of a structure, from its floating leaves in order and the tree without them."""
    floating, rest = iter(floats), iter(jax.tree.leaves(others))
    leaves = [next(rest if described is None else floating) for described in structure.floats]
    return structure.treedef.unflatten(leaves)


def require_floating(name: str, tree: Tree) -> None:
    """Raise unless every leaf is floating.

    Raises:
        TypeError: a leaf is not floating; the error names the first one.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not is_float(leaf):
            where = jax.tree_util.keystr(path) or "the only leaf"
            raise TypeError(
                f"{name} must have floating leaves only, got {jnp.result_type(leaf)} at {where}; "
                "this leaf cannot be clipped and noised with the others, so keep it out of the "
                "message"
            )
