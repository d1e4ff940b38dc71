"""Selections of leaves for a codec: some of them, all as one vector, or each separately."""

import re
from collections.abc import Callable
from typing import Any

import jax

from fjx import _tree
from fjx._base import EXACT, Array, Compressor, Contract, Key, Tree, TreeLike
from fjx._tree import ravel, structure_of, unite, unravel
from fjx.compressors._lift import product
from fjx.compressors._shapes import require_compressor, weighs_alike
from fjx.wire import Flat, Leaves, Selected


def on(pattern: str, codec: Compressor) -> Compressor:
    """Apply a codec to the float leaves whose path matches a pattern; send the others unchanged.

    Chain several ``on`` to give several parts their own codecs.  The second sees the payload of the
    first: there a path has ``inside/`` or ``outside/`` before it, and names of payload fields after
    it.  So its pattern should have neither ``^`` nor ``$``.

    Args:
        pattern: regular expression, searched for in the path of a leaf with ``/`` between keys,
            such as ``params/Dense_0/kernel``.
        codec: codec of the matching leaves.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: ``codec`` is not a Compressor.
        re.error: ``pattern`` is not a regular expression.
        ValueError: from ``init``, if no float leaf matches, or if two leaves have the same path.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.on("kernel$", compressors.quantize(bits=8))
        >>> message = {"kernel": jnp.ones((10, 10)), "bias": jnp.ones(10)}
        >>> payload, _ = codec.encode(jax.random.key(0), message, codec.init(message))
        >>> wire.bits(payload) == 100 * 8 + 32 + 10 * 32
        True
    """
    require_compressor("on", codec)
    matches = re.compile(pattern).search

    def divide(message: Tree) -> tuple[dict[str, Array], Tree]:
        leaves = jax.tree_util.tree_leaves_with_path(message, is_leaf=_is_none)
        named = {_tree.name_of(path): leaf for path, leaf in leaves}
        if len(named) < len(leaves):
            raise ValueError(f"on: two leaves have one path among {list(named)}; rename a key")
        inside = {
            name: leaf
            for name, leaf in named.items()
            if leaf is not None and _tree.is_float(leaf) and matches(name)
        }
        return inside, _fill(message, lambda name, leaf: None if name in inside else leaf)

    def init(message_like: TreeLike) -> Tree:
        inside, outside = divide(message_like)
        if not inside:
            names = [
                _tree.name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(outside)
            ]
            raise ValueError(
                f"on: pattern {pattern!r} matches no floating leaf among {names}; "
                "give a part of one of these paths"
            )
        return codec.init(inside)

    def encode(key: Key, message: Tree, state: Tree) -> tuple[Selected, Tree]:
        inside, outside = divide(message)
        payload, state = codec.encode(key, inside, state)
        return Selected(payload, outside), state

    def decode(payload: Selected) -> Tree:
        inside = codec.decode(payload.inside)
        return _fill(payload.outside, lambda name, leaf: inside.get(name, leaf))

    def contract(message_like: TreeLike) -> Contract:
        return product([EXACT, codec.contract(divide(message_like)[0])])

    return Compressor(init, encode, decode, contract)


def _fill(tree: Tree, function: Callable[[str, Any], Any]) -> Tree:
    """``tree`` with ``function(path, leaf)`` in place of each leaf; None counts as a leaf."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(_tree.name_of(path), leaf), tree, is_leaf=_is_none
    )


def _is_none(part: Any) -> bool:
    return part is None


def flatten(codec: Compressor) -> Compressor:
    """Apply a codec to the whole message as one vector: ``flatten(top_k(0.01))`` is global top-k.

    Args:
        codec: codec of one float vector.  Its dtype is the widest float dtype of the message, or
            float32 if two dtypes are the widest.

    Returns:
        A :class:`fjx.Compressor`.  Leaves other than floats are sent unchanged.

    Raises:
        TypeError: ``codec`` is not a Compressor.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors
        >>> codec = compressors.flatten(compressors.top_k(0.5))
        >>> message = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([8.0, 9.0])}
        >>> payload, _ = codec.encode(jax.random.key(0), message, codec.init(message))
        >>> jax.tree.map(lambda x: x.tolist(), codec.decode(payload))
        {'a': [0.0, 0.0], 'b': [8.0, 9.0]}
    """
    require_compressor("flatten", codec)

    def encode(key: Key, message: Tree, state: Tree) -> tuple[Flat, Tree]:
        vector, others, structure = ravel(message)
        payload, state = codec.encode(key, vector, state)
        return Flat(payload, others, structure), state

    def decode(payload: Flat) -> Tree:
        return unravel(codec.decode(payload.vector), payload.others, payload.structure)

    def vector_like(message_like: TreeLike) -> jax.ShapeDtypeStruct:
        return jax.eval_shape(lambda message: ravel(message)[0], message_like)

    def contract(message_like: TreeLike) -> Contract:
        # In a vector of scales, the error of each is relative to the largest, and each scale counts for
        # many coordinates.
        if not weighs_alike(message_like):
            return Contract()
        # A leaf narrower than the vector is rounded to its own dtype.  A promise that a codec makes for
        # vectors of that dtype, too, is of values which the dtype holds.
        like = vector_like(message_like)
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(message_like) if _tree.is_float(leaf)}
        likes = [jax.ShapeDtypeStruct(like.shape, dtype) for dtype in dtypes | {like.dtype}]
        return product([codec.contract(like) for like in likes])

    return Compressor(
        init=lambda message_like: codec.init(vector_like(message_like)),
        encode=encode,
        decode=decode,
        contract=contract,
    )


def per_leaf(codec: Compressor) -> Compressor:
    """Apply a codec to each float leaf separately, with its own key and state.

    Codecs of arrays already work leaf by leaf.  This does the same for a codec that does not, and
    undoes nothing: ``per_leaf(flatten(c))`` is c on each leaf as a vector.

    Args:
        codec: codec of messages with a single leaf.

    Returns:
        A :class:`fjx.Compressor` whose state is the tuple of the states of the float leaves.  Other
        leaves are sent unchanged.

    Raises:
        TypeError: ``codec`` is not a Compressor.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors
        >>> codec = compressors.per_leaf(compressors.flatten(compressors.top_k(0.5)))
        >>> message = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([8.0, 9.0])}
        >>> payload, _ = codec.encode(jax.random.key(0), message, codec.init(message))
        >>> jax.tree.map(lambda x: x.tolist(), codec.decode(payload))
        {'a': [0.0, 2.0], 'b': [0.0, 9.0]}
    """
    require_compressor("per_leaf", codec)

    def floating(message: Tree) -> list[Array]:
        return [leaf for leaf in jax.tree.leaves(message) if _tree.is_float(leaf)]

    def init(message_like: TreeLike) -> Tree:
        return tuple(codec.init(leaf) for leaf in floating(message_like))

    def encode(key: Key, message: Tree, state: Tree) -> tuple[Leaves, Tree]:
        encoded = [
            codec.encode(jax.random.fold_in(key, i), leaf, inner)
            for i, (leaf, inner) in enumerate(zip(floating(message), state, strict=True))
        ]
        payloads, states = tuple(p for p, _ in encoded), tuple(s for _, s in encoded)
        return Leaves(payloads, _tree.split_floats(message)[1], structure_of(message)), states

    def decode(payload: Leaves) -> Tree:
        return unite(map(codec.decode, payload.leaves), payload.others, payload.structure)

    def contract(message_like: TreeLike) -> Contract:
        return product([codec.contract(leaf) for leaf in floating(message_like)])

    return Compressor(init, encode, decode, contract)
