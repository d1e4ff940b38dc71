"""Small operations on pytrees that more than one package needs."""

from typing import Any

import jax
import jax.numpy as jnp

from fjx._base import Array, Tree, TreeLike


def is_float(leaf: Any) -> bool:
    """Whether a leaf is of floating dtype (bf16 and the fp8 family included)."""
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))


def add(a: Tree, b: Tree) -> Tree:
    """``a + b``, leaf by leaf, in the dtype of ``a``."""
    return jax.tree.map(lambda x, y: x + y.astype(x.dtype), a, b)


def subtract(a: Tree, b: Tree) -> Tree:
    """``a - b``, leaf by leaf, in the dtype of ``a``."""
    return jax.tree.map(lambda x, y: x - y.astype(x.dtype), a, b)


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
