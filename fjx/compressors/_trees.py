"""Which leaves a codec sees, and as what: some of them, all as one vector, or each by itself."""

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
    """Applies a codec to the floating leaves whose path matches, and sends the others as they are.

    Args:
        pattern: a regular expression, searched for in the leaf's path with ``/`` between keys, such
            as ``params/Dense_0/kernel``.
        codec: for the matching leaves.  Chain several ``on`` for several parts; the second meets the
            payload of the first, where ``inside/`` or ``outside/`` comes before a path and fields of
            payloads after it, so its pattern should have neither ``^`` nor ``$``.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: ``codec`` is not a Compressor.
        re.error: ``pattern`` is not a regular expression.
        ValueError: from ``init``, if no floating leaf matches, or two leaves have the same path.

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
        named = {_name(path): leaf for path, leaf in leaves}
        if len(named) < len(leaves):
            raise ValueError(f"on: two leaves have one path, among {list(named)}; rename a key")
        inside = {
            name: leaf
            for name, leaf in named.items()
            if leaf is not None and _tree.is_float(leaf) and matches(name)
        }
        return inside, _fill(message, lambda name, leaf: None if name in inside else leaf)

    def init(message_like: TreeLike) -> Tree:
        inside, outside = divide(message_like)
        if not inside:
            names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(outside)]
            raise ValueError(f"on: pattern {pattern!r} matches no floating leaf among {names}")
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
    """``tree`` with ``function(path, leaf)`` in place of each leaf, None being one."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(_name(path), leaf), tree, is_leaf=_is_none
    )


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_none(part: Any) -> bool:
    return part is None


def flatten(codec: Compressor) -> Compressor:
    """Applies a codec to the whole message as one vector: ``flatten(top_k(0.01))`` is global top-k.

    Args:
        codec: sees one floating vector, of the widest floating dtype of the message, or of float32
            where two of its dtypes are the widest.

    Returns:
        A :class:`fjx.Compressor`; leaves that are not floating are sent as they are.

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

    def vector_like(message_like: TreeLike) -> TreeLike:
        return jax.eval_shape(lambda message: ravel(message)[0], message_like)

    def contract(message_like: TreeLike) -> Contract:
        # Of a vector of scales each is as wrong as the largest allows, and counts for many.
        like = vector_like(message_like)
        return codec.contract(like) if weighs_alike(message_like) else Contract()

    return Compressor(
        init=lambda message_like: codec.init(vector_like(message_like)),
        encode=encode,
        decode=decode,
        contract=contract,
    )


def per_leaf(codec: Compressor) -> Compressor:
    """Applies a codec to each floating leaf by itself, with a key and a state of its own.

    Codecs of arrays already work leaf by leaf; this makes it so for one that does not, and undoes
    nothing: ``per_leaf(flatten(c))`` is c on each leaf as a vector.

    Args:
        codec: sees messages of a single leaf.

    Returns:
        A :class:`fjx.Compressor` whose state is the tuple of the floating leaves' states; the other
        leaves are sent as they are.

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
