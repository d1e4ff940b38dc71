"""The floats of a tree as one vector, and back."""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import Array, Tree
from fjx.wire import Structure


def ravel(message: Tree) -> tuple[Array, Tree, Structure]:
    """The floats in their widest dtype, the tree with None in their places, and its structure."""
    floats, others = _tree.split_floats(message)
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
    floats = (
        (tuple(leaf.shape), leaf.dtype.name) if _tree.is_float(leaf) else None for leaf in leaves
    )
    return Structure(treedef, tuple(floats))


def unite(floats: Iterable[Array], others: Tree, structure: Structure) -> Tree:
    """The tree of a structure, from its floating leaves in order and the tree without them."""
    floating, rest = iter(floats), iter(jax.tree.leaves(others))
    leaves = [next(rest if described is None else floating) for described in structure.floats]
    return structure.treedef.unflatten(leaves)
