"""Make a codec of pytrees from a codec of one array.

A codec is written for one float array.  :func:`lift` applies it to every float leaf of a message
and passes all other leaves through.  A payload is itself a pytree, so the same rule makes
composition work.  After ``top_k`` a message holds :class:`~fjx.wire.Sparse` nodes with float values
and integer indices, so a quantiser that follows quantises the values and leaves the indices alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Compressor, Contract, Key, Tree, TreeLike
from fjx._tree import is_float
from fjx.wire import Payload


def lift(
    encode: Callable[[Key, Array], Any],
    decode: Callable[[Any], Array],
    contract: Callable[[jax.ShapeDtypeStruct], Contract],
    *,
    node: type,
) -> Compressor:
    """A codec of your own: a :class:`~fjx.Compressor` of pytrees from three functions of one array.

    The codec is stateless and applies the functions to every float leaf.  All other leaves are sent
    as they are.  ``encode`` and ``decode`` must meet these requirements:

    - Shape and dtype: ``decode`` returns the shape and dtype of x.  Keep both in the payload, for
      example as static fields; ``decode`` gets nothing else.
    - Any shape: empty leaves (a size of 0) and 0-d leaves work.  A mean over no coordinates is NaN,
      and ``jnp.max`` needs ``initial=``.
    - Any float dtype: narrow leaves (bfloat16, float16, fp8) work.  It is usual to compute in
      float32.
    - NaN and infinities survive: a non-finite coordinate decodes to something non-finite, unless
      the codec did not send it.  This is how the server notices, and drops, a client whose training
      diverged.
    - Zeros decode to zeros.  Guard every division by a norm or a maximum.
    - The payload is complete: ``decode`` gives the same message after
      ``wire.from_bytes(wire.to_bytes(p))``.  A private seed that ``decode`` needs is a field of the
      payload, and is billed.
    - Fixed shapes: the shapes of the payload depend on the shape of x alone, as ``jax.jit`` needs.
      A payload with fewer entries than its shapes allow is a :class:`fjx.wire.Ragged`.
    - Pure and portable: equal keys give equal payloads.  Neither function needs LAPACK, calls the
      host, or uses 64-bit numbers.

    ``contract`` may promise only what holds for every x of the given shape and dtype.  It must work
    for an empty leaf, too.  For narrow leaves, the last cast in ``decode`` adds a rounding error
    that most bounds do not cover.  ``Contract()``, which promises nothing, is always correct.

    Args:
        encode: ``(key, x) -> node`` for one float array x of any shape.
        decode: ``(node) -> x``.
        contract: ``(leaf) -> Contract`` from the shape and dtype of one float leaf.
        node: payload type that ``encode`` returns.  ``decode`` is called on every node of this
            type.

    Returns:
        A :class:`fjx.Compressor`.  Leaf i draws from ``fold_in(key, i)``.

    Examples:
        A codec that sends nothing, and decodes every array to zeros:

        >>> import dataclasses, jax, jax.numpy as jnp
        >>> from fjx import Contract, compressors, wire
        >>> @jax.tree_util.register_dataclass
        ... @dataclasses.dataclass(frozen=True)
        ... class Nothing(wire.Payload):
        ...     shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
        >>> nothing = compressors.lift(
        ...     lambda key, x: Nothing(x.shape), lambda p: jnp.zeros(p.shape),
        ...     lambda leaf: Contract(), node=Nothing)
        >>> payload, _ = nothing.encode(jax.random.key(0), {"w": jnp.ones(3)}, ())
        >>> wire.bits(payload), nothing.decode(payload)["w"].tolist()
        (0, [0.0, 0.0, 0.0])

        Signs times the mean magnitude.  Empty leaves, narrow leaves and NaN work:

        >>> @jax.tree_util.register_dataclass
        ... @dataclasses.dataclass(frozen=True)
        ... class Signs(wire.Payload):
        ...     negative: jax.Array
        ...     scale: jax.Array
        ...     dtype: str = dataclasses.field(metadata={"static": True})
        ...     def widths(self):
        ...         return {"negative": 1}
        >>> def encode(key, x):
        ...     x32 = x.astype(jnp.float32)
        ...     return Signs(x < 0, jnp.sum(jnp.abs(x32)) / max(x.size, 1), x.dtype.name)
        >>> def decode(p):
        ...     return jnp.where(p.negative, -p.scale, p.scale).astype(p.dtype)
        >>> def contract(leaf):
        ...     return Contract(delta=1 / max(leaf.size, 1), projection=True)
        >>> signs = compressors.lift(encode, decode, contract, node=Signs)
        >>> message = {"w": jnp.array([1.0, -5.0]), "empty": jnp.zeros((0, 3), jnp.bfloat16)}
        >>> payload, _ = signs.encode(jax.random.key(0), message, ())
        >>> wire.bits(payload), signs.decode(payload)["w"].tolist()
        (72, [3.0, -3.0])
    """

    def encode_tree(key: Key, message: Tree, state: Tree) -> tuple[Tree, Tree]:
        _validate.key("key", key)
        leaves, treedef = jax.tree.flatten(message)
        encoded = [
            encode(jax.random.fold_in(key, i), jnp.asarray(leaf)) if is_float(leaf) else leaf
            for i, leaf in enumerate(leaves)
        ]
        return treedef.unflatten(encoded), state

    def contract_tree(message_like: TreeLike) -> Contract:
        leaves = [leaf for leaf in jax.tree.leaves(message_like) if is_float(leaf)]
        return product([contract(leaf) for leaf in leaves])

    return Compressor(
        init=lambda message_like: (),
        encode=encode_tree,
        decode=functools.partial(map_nodes, decode, node),
        contract=contract_tree,
    )


def map_nodes(
    function: Callable[[Any], Any], node: type, tree: Tree, *, inside: type = Payload
) -> Tree:
    """``tree`` with every innermost ``node`` replaced by ``function(node)``.

    Only innermost nodes are replaced.  In ``chain(a, b)`` the nodes of ``b`` lie inside those of
    ``a``, and ``b`` must be undone first, even if both have one type.  A node that still holds a
    payload therefore waits for the earlier codec.  If a node holds payloads as its own content,
    pass its type as ``inside``.  A node whose floats were taken out by a codec of whole trees is
    skipped.
    """

    def visit(subtree: Any) -> Any:
        if not isinstance(subtree, node) or _hollow(subtree):
            return subtree
        parts, treedef = jax.tree.flatten(
            subtree, is_leaf=lambda part: part is not subtree and isinstance(part, inside)
        )
        if any(isinstance(part, inside) for part in parts):
            return treedef.unflatten([each(part) for part in parts])
        return function(subtree)

    def each(part: Any) -> Any:
        return jax.tree.map(visit, part, is_leaf=lambda part: isinstance(part, node))

    return each(tree)


def _hollow(part: Any) -> bool:
    """True if a node lost its floats: a codec of whole trees puts None where it takes one out."""
    leaves = jax.tree.leaves(part, is_leaf=lambda leaf: leaf is None)
    taken = any(leaf is None for leaf in leaves)
    return taken and not any(is_float(leaf) for leaf in leaves if leaf is not None)


def product(contracts: list[Contract]) -> Contract:
    """The contract of codecs that act on disjoint parts of a message: the worst of each bound."""

    def worst(values: list[float | None], pick: Callable[..., float]) -> float | None:
        known = [value for value in values if value is not None]
        return pick(known) if len(known) == len(values) else None

    return Contract(
        unbiased=all(c.unbiased for c in contracts),
        omega=worst([c.omega for c in contracts], functools.partial(max, default=0.0)),
        delta=worst([c.delta for c in contracts], functools.partial(min, default=1.0)),
        linear=all(c.linear for c in contracts),
        projection=all(c.projection for c in contracts),
    )
