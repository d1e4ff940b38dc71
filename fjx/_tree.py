"""Small operations on pytrees that more than one package needs."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx._base import Array, Tree, TreeLike


def is_float(leaf: Any) -> bool:
    """Whether a leaf is of floating dtype (bf16 and the fp8 family included)."""
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))


def to_dtype(x: Array, dtype: Any) -> Array:
    """``x`` in another dtype; a float that becomes an integer is rounded, not truncated."""
    if is_float(x) and not jnp.issubdtype(dtype, jnp.floating):
        x = jnp.round(x)
    return x.astype(dtype)


def add(a: Tree, b: Tree) -> Tree:
    """``a + b``, leaf by leaf, in the dtype of ``a``."""
    return jax.tree.map(lambda x, y: x + to_dtype(y, x.dtype), a, b)


def subtract(a: Tree, b: Tree) -> Tree:
    """``a - b``, leaf by leaf, in the dtype of ``a``."""
    return jax.tree.map(lambda x, y: x - to_dtype(y, x.dtype), a, b)


def wide(x: Array) -> Array:
    """``x`` in float32, or in float64 if that is what it is: what sums over clients are made of."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def scale(factor: Array, tree: Tree) -> Tree:
    """``factor * tree``, each leaf as :func:`wide` has it."""

    def product(x: Array) -> Array:
        x = wide(x)
        return factor.astype(x.dtype) * x

    return jax.tree.map(product, tree)


def divide(tree: Tree, number: Array) -> Tree:
    """``tree / number``, by one reciprocal in the precision in which :func:`wide` has a leaf."""

    def quotient(x: Array) -> Array:
        x = wide(x)
        return 1 / number.astype(x.dtype) * x

    return jax.tree.map(quotient, tree)


def zeros_like(tree: TreeLike) -> Tree:
    """Zeros of the shapes and dtypes of ``tree``, which may hold ``ShapeDtypeStruct`` leaves."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)


def like(tree: Tree) -> TreeLike:
    """The shapes and dtypes of ``tree``."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree)


def where(condition: Array, a: Tree, b: Tree) -> Tree:
    """``a`` if the scalar ``condition`` holds, else ``b``: a select, so NaN in the other is inert."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def all_finite(tree: Tree) -> Array:
    """Whether every floating leaf is finite: ``bool[]``."""
    finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree) if is_float(x)]
    return jnp.all(jnp.stack(finite)) if finite else jnp.asarray(True)


def split(tree: Tree, inside: Tree) -> tuple[Tree, Tree]:
    """``tree`` in two of its own structure: None stands in each where the other has a leaf.

    Args:
        tree: any pytree.
        inside: a tree of bools, True for the leaves of the first part.
    """
    first = jax.tree.map(lambda leaf, yes: leaf if yes else None, tree, inside)
    second = jax.tree.map(lambda leaf, yes: None if yes else leaf, tree, inside)
    return first, second


def split_floats(tree: Tree) -> tuple[Tree, Tree]:
    """The floating leaves and the others: what optimisers move, and what they must not touch."""
    return split(tree, jax.tree.map(is_float, tree))


def merge(first: Tree, second: Tree) -> Tree:
    """The inverse of :func:`split`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, first, second, is_leaf=lambda part: part is None
    )


class Structure(NamedTuple):
    """A tree without its numbers.

    Attributes:
        treedef: its containers.
        floats: for each leaf in order ``(shape, dtype name)``, or None where it is not floating.
    """

    treedef: jax.tree_util.PyTreeDef
    floats: tuple[tuple[tuple[int, ...], str] | None, ...]


def ravel(message: Tree) -> tuple[Array, Tree, Structure]:
    """The floats in their widest dtype, the tree with None in their places, and its structure."""
    floats, others = split_floats(message)
    leaves = jax.tree.leaves(floats)
    dtype = _widest({leaf.dtype for leaf in leaves})
    parts = [leaf.reshape(-1).astype(dtype) for leaf in leaves]
    vector = jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)
    return vector, others, structure_of(message)


def _widest(dtypes: set[jnp.dtype]) -> jnp.dtype:
    """The widest dtype; neither of float16 and bfloat16 holds the other, but float32 both."""
    width = max((jnp.finfo(dtype).bits for dtype in dtypes), default=0)
    widest = [dtype for dtype in dtypes if jnp.finfo(dtype).bits == width]
    return widest[0] if len(widest) == 1 else jnp.dtype(jnp.float32)


def unravel(vector: Array, others: Tree, structure: Structure) -> Tree:
    """The inverse of :func:`ravel`."""
    start, floats = 0, []
    for shape, dtype in filter(None, structure.floats):
        size = math.prod(shape)
        floats.append(vector[start : start + size].reshape(shape).astype(dtype))
        start += size
    return unite(floats, others, structure)


def structure_of(tree: Tree) -> Structure:
    """A tree without its numbers."""
    leaves, treedef = jax.tree.flatten(tree)
    floats = ((tuple(leaf.shape), leaf.dtype.name) if is_float(leaf) else None for leaf in leaves)
    return Structure(treedef, tuple(floats))


def unite(floats: Iterable[Array], others: Tree, structure: Structure) -> Tree:
    """The tree of a structure, from its floating leaves in order and the tree without them."""
    floating, rest = iter(floats), iter(jax.tree.leaves(others))
    leaves = [next(rest if described is None else floating) for described in structure.floats]
    return structure.treedef.unflatten(leaves)


def require_floating(name: str, tree: Tree) -> None:
    """Raises unless every leaf is floating.

    Raises:
        TypeError: naming the first leaf that is not.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not is_float(leaf):
            where = jax.tree_util.keystr(path) or "the only leaf"
            raise TypeError(
                f"{name} must have floating leaves only, got {jnp.result_type(leaf)} at {where}: it "
                "cannot be bounded and noised together with the others; keep it out of the message"
            )
