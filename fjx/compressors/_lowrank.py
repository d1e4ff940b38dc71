"""Low-rank approximation by one step of the power method."""

import functools
import math

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import EXACT, Array, Compressor, Contract, Key, Tree, TreeLike
from fjx._kernels.inner import inner
from fjx.compressors._lift import map_nodes, product
from fjx.wire import LowRank


def power_sgd(rank: int) -> Compressor:
    r"""PowerSGD: send each matrix as a product of two thin ones, found by a step of the power method.

    A leaf with two or more axes is seen as a matrix M: its first axis by all others.  Let Q be the
    factor of the previous message.

    .. math:: P = \mathrm{orth}(M Q), \quad Q \leftarrow M^T P, \quad C(M) = P Q^T

    P and Q are sent.  Over the messages, Q turns towards the leading right singular vectors.  A
    leaf of one axis is sent unchanged, and so is one whose factors would cost more than half of it.
    A single message may lose all but r directions, so put the codec in ``error_feedback``.

    Guarantees:
        - P Q^T is the orthogonal projection of M on the columns of P, so ||M||^2 = ||P Q^T||^2 +
          ||M - P Q^T||^2.
        - Exact for matrices of rank r or less, in general position to Q.
        - If the same M is sent repeatedly, it converges to the best approximation of rank r.
        - A zero matrix stays zero.  Columns of Q that vanish start afresh and give no NaN.
        - In a leaf with a non-finite value, some values decode to values that are not finite.

    Bits:
        32 r (n + m) per approximated n x m matrix.

    Args:
        rank: r, at least 1.

    Returns:
        A :class:`fjx.Compressor` whose state holds Q of each matrix.

    Raises:
        TypeError: ``rank`` is not an integer.
        ValueError: ``rank`` is less than 1.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.power_sgd(1)
        >>> x = {"w": jnp.outer(jnp.arange(8.0), jnp.ones(8)), "b": jnp.arange(8.0)}
        >>> payload, _ = codec.encode(jax.random.key(0), x, codec.init(x))
        >>> bool(jnp.abs(codec.decode(payload)["w"] - x["w"]).max() < 1e-5), wire.bits(payload)
        (True, 768)

    References:
        Vogels, Karimireddy, Jaggi, *PowerSGD: Practical Low-Rank Gradient Compression for
        Distributed Optimization*, NeurIPS 2019 (arXiv:1905.13727).
    """
    rank = _validate.static_integer("rank", rank, at_least=1)

    def init(message_like: TreeLike) -> Tree:
        leaves = (leaf for leaf in jax.tree.leaves(message_like) if is_approximated(leaf, rank))
        return tuple(jnp.zeros((math.prod(leaf.shape[1:]), rank), jnp.float32) for leaf in leaves)

    def encode(key: Key, message: Tree, state: Tree) -> tuple[Tree, Tree]:
        leaves, treedef = jax.tree.flatten(message)
        before, after, sent = iter(state), [], []
        for leaf in leaves:
            if not is_approximated(leaf, rank):
                sent.append(leaf)
                continue
            matrix = leaf.astype(jnp.float32).reshape(leaf.shape[0], -1)
            left = orthonormal(matrix @ started(next(before)))
            right = matrix.T @ left
            sent.append(LowRank(left, right, leaf.shape, leaf.dtype.name))
            after.append(right)
        return treedef.unflatten(sent), tuple(after)

    def decode(payload: LowRank) -> Array:
        return (payload.left @ payload.right.T).reshape(payload.shape).astype(payload.dtype)

    def contract(message_like: TreeLike) -> Contract:
        leaves = [leaf for leaf in jax.tree.leaves(message_like) if _tree.is_float(leaf)]

        def of(leaf: jax.ShapeDtypeStruct) -> Contract:
            if not is_approximated(leaf, rank):
                return EXACT
            return Contract(projection=jnp.finfo(leaf.dtype).bits >= 32)

        return product([of(leaf) for leaf in leaves])

    return Compressor(init, encode, functools.partial(map_nodes, decode, LowRank), contract)


def is_approximated(leaf: jax.ShapeDtypeStruct | Array, rank: int) -> bool:
    """True if a leaf is a matrix whose factors cost at most half of it."""
    if not _tree.is_float(leaf) or len(leaf.shape) < 2:
        return False
    n, m = leaf.shape[0], math.prod(leaf.shape[1:])
    return 2 * rank * (n + m) <= n * m


def started(q: Array) -> Array:
    """Q, with columns of a fixed random matrix in place of zero or non-finite columns."""
    fresh = jax.random.normal(jax.random.key(0), q.shape, q.dtype)
    power = jnp.sum(q**2, axis=0)
    return jnp.where(((power > 0) & jnp.isfinite(power))[None], q, fresh)


def orthonormal(columns: Array) -> Array:
    """Gram-Schmidt, done twice for better orthogonality; columns that vanish stay zero."""
    largest = jnp.max(jnp.abs(columns), axis=0, initial=0.0)
    done: list[Array] = []
    for column in (columns / jnp.where(largest > 0, largest, 1.0)[None]).T:
        start = jnp.sum(column**2)
        for _ in range(2):
            for other in done:
                column = column - inner(other, column) * other
        power = jnp.sum(column**2)
        # A column that depends on those before leaves only rounding errors, which are no direction.
        sound = power > 1e-10 * start
        done.append(jnp.where(sound, column * jax.lax.rsqrt(jnp.where(sound, power, 1.0)), 0.0))
    return jnp.stack(done, axis=1)
