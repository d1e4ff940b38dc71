"""From a codec of one array to a codec of a pytree.

A codec is written for one floating array; :func:`lift` applies it to every floating leaf of a message
and passes the rest through.  Because a payload is itself a pytree, the same rule makes composition
work: after ``top_k`` a message holds :class:`~fjx.wire.Sparse` nodes whose values are floating and
whose indices are not, so a quantiser that follows quantises the values and leaves the indices alone.
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
    """A stateless :class:`~fjx.Compressor` of trees from the three functions of one leaf.

    Args:
        encode: ``(key, x) -> node`` for one floating array x of any shape.
        decode: ``(node) -> x``.
        contract: of one floating leaf, from its shape and dtype.
        node: the payload type that ``encode`` returns, by which ``decode`` finds its work.

    Returns:
        A :class:`fjx.Compressor`.  Leaf i draws from ``fold_in(key, i)``.

    Examples:
        Sending every array as zeros, by its shape alone:

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

    Innermost, because in ``chain(a, b)`` what ``b`` made lies inside what ``a`` made, and ``b`` is to
    be undone first, also where both are of one type.  A node that still holds a payload waits for an
    earlier codec's turn; where payloads inside are a node's own content, ``inside`` is its type.  A
    node whose floats were taken out by a codec of whole trees is no longer one.
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
    """Whether a node lost its floats: codecs of whole trees leave None where they took one out."""
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
