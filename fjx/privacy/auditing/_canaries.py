"""Canaries, and scores of how much of them is in a release."""

from typing import Any

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Array, Key, Tree, TreeLike
from fjx._tree import require_floating


def canaries(key: Key, like: TreeLike, *, count: int, norm: float | Array = 1.0) -> Tree:
    """Updates to insert as canaries: independent and uniform on a sphere over all leaves together.

    In d dimensions two canaries overlap by about norm^2 / sqrt(d), so each can be told from a sum of
    fewer than d others.  A client that sends a canary with ``norm`` at or above the clip norm uses all
    that clipping allows it.

    Args:
        key: PRNG key for the directions.
        like: template of an update, with floating leaves only.
        count: number of canaries.
        norm: L2 norm of each canary, the radius of the sphere; may be traced.

    Returns:
        A pytree of ``[count, ...]`` arrays.

    Raises:
        TypeError: a leaf is not floating.
        ValueError: ``count`` is below one, or ``norm`` is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> birds = canaries(jax.random.key(0), {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}, count=5)
        >>> birds["w"].shape
        (5, 3, 2)

    References:
        Andrew, Kairouz, Oh, Oprea, McMahan, Suriyakumar, *One-shot Empirical Privacy Estimation for
        Federated Learning*, ICLR 2024 (arXiv:2302.03098).
    """
    _validate.key("key", key)
    count = _validate.static_integer("count", count, at_least=1)
    _validate.number("norm", norm, above=0)
    require_floating("like", like)
    leaves, treedef = jax.tree.flatten(_tree.like(like))
    draws = [
        jax.random.normal(jax.random.fold_in(key, i), (count, *leaf.shape), jnp.float32)
        for i, leaf in enumerate(leaves)
    ]
    squares = sum(jnp.sum(jnp.square(x.reshape(count, -1)), axis=1) for x in draws)
    factor = norm / jnp.sqrt(squares)

    def scaled(x: Array, leaf: Any) -> Array:
        return (factor.reshape(-1, *[1] * leaf.ndim) * x).astype(leaf.dtype)

    return treedef.unflatten([scaled(x, leaf) for x, leaf in zip(draws, leaves, strict=True)])


def scores(released: Tree, canaries: Tree) -> Array:
    """Score of each canary in a release: the inner product <released, canary>.

    No other score separates better for a Gaussian mechanism and a canary in a known place (Neyman and
    Pearson).  Subtract first what is known of the rest, such as the model before the round.

    Args:
        released: a released sum, mean, or difference of models.
        canaries: a pytree of ``[count, ...]`` arrays, as from :func:`canaries`.

    Returns:
        ``f32[count]``.

    Raises:
        ValueError: the structures or shapes do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> print(scores(jnp.array([3.0, 4.0]), jnp.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])))
        [3. 4. 5.]
    """
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), canaries)
    _validate.same_shapes("released", released, "one canary", one)

    def products(x: Array, c: Array) -> Array:
        wide = (c.astype(jnp.float32), jnp.asarray(x).astype(jnp.float32))
        return jnp.tensordot(*wide, axes=jnp.ndim(x), precision=jax.lax.Precision.HIGHEST)

    parts = jax.tree.leaves(jax.tree.map(products, released, canaries))
    return jnp.sum(jnp.stack(parts), axis=0)
