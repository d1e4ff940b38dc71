"""Codecs made of codecs."""

import functools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Array, Compressor, Contract, Key, Tree, TreeLike
from fjx._lift import lift, map_nodes, product
from fjx.wire import Blocks, Flat, Leaves, Masked, Payload, Rotated, Selected, Sparse, Structure


def chain(*codecs: Compressor) -> Compressor:
    """Applies codecs one after another: each encodes the floating leaves of the payload before it.

    ``chain(top_k(0.01), quantize(bits=8))`` quantises the kept values and leaves the indices alone.

    Guarantees: decodes in reverse; the contract is derived and promises no more than follows:
        unbiased after unbiased has omega = (1 + omega_1)(1 + omega_2) - 1; unbiased with omega < 1
        after a projection has delta = delta_1 (1 - omega); nothing is promised of other pairs.

    Args:
        *codecs: first applied first.

    Returns:
        A :class:`fjx.Compressor` whose state is the tuple of theirs.

    Raises:
        TypeError: an argument is not a Compressor.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.chain(compressors.top_k(0.5), compressors.quantize(bits=8))
        >>> x = jnp.array([1.0, -5.0, 5.0, 0.0])
        >>> payload, _ = codec.encode(jax.random.key(0), x, codec.init(x))
        >>> codec.decode(payload).tolist(), wire.bits(payload)
        ([0.0, -5.0, 5.0, 0.0], 56)

    References:
        Beznosikov, Horvath, Richtarik, Safaryan, *On Biased Compression for Distributed Learning*,
        JMLR 2023 (arXiv:2002.12410), for the classes and how they compose.
    """
    for codec in codecs:
        require_compressor("chain", codec)

    def init(message_like: TreeLike) -> Tree:
        return tuple(
            codec.init(like)
            for codec, like in zip(codecs, _stages(codecs, message_like), strict=True)
        )

    def encode(key: Key, message: Tree, state: Tree) -> tuple[Tree, Tree]:
        states = []
        for i, (codec, inner) in enumerate(zip(codecs, state, strict=True)):
            message, inner = codec.encode(jax.random.fold_in(key, i), message, inner)
            states.append(inner)
        return message, tuple(states)

    def decode(payload: Tree) -> Tree:
        return functools.reduce(lambda part, codec: codec.decode(part), reversed(codecs), payload)

    def contract(message_like: TreeLike) -> Contract:
        likes = _stages(codecs, message_like)
        contracts = [
            codec.contract(like) if _blocks_weigh_alike(like) else Contract()
            for codec, like in zip(codecs, likes, strict=True)
        ]
        exact = Contract(unbiased=True, omega=0.0, delta=1.0, linear=True, projection=True)
        return functools.reduce(_then, contracts, exact)

    return Compressor(init, encode, decode, contract)


def _stages(codecs: tuple[Compressor, ...], message_like: TreeLike) -> list[TreeLike]:
    """What each codec of a chain is given, as shapes."""
    likes = []
    for codec in codecs:
        likes.append(message_like)
        message_like = payload_like(codec, message_like)
    return likes


def payload_like(codec: Compressor, message_like: TreeLike) -> TreeLike:
    """The payload of a message of the shapes given, as shapes."""
    key = jax.eval_shape(jax.random.key, 0)
    state = jax.eval_shape(codec.init, message_like)
    return jax.eval_shape(codec.encode, key, message_like, state)[0]


def _then(first: Contract, second: Contract) -> Contract:
    """The contract of ``second`` on what ``first`` keeps."""
    if first == Contract(unbiased=True, omega=0.0, delta=1.0, linear=True, projection=True):
        return second
    linear = first.linear and second.linear
    if first.unbiased and second.unbiased and first.omega is not None and second.omega is not None:
        omega = (1 + first.omega) * (1 + second.omega) - 1
        return Contract(
            unbiased=True, omega=omega, delta=1 - omega if omega < 1 else None, linear=linear
        )
    if (
        first.projection
        and first.delta is not None
        and second.unbiased
        and second.omega is not None
    ):
        # E||C_2(Px) - x||^2 = ||x - Px||^2 + E||C_2(Px) - Px||^2 <= ||x||^2 - (1 - omega) ||Px||^2,
        # the cross term vanishing because C_2 is unbiased.
        delta = first.delta * (1 - second.omega)
        return Contract(delta=delta if delta > 0 else None, linear=linear)
    return Contract(linear=linear)


class ErrorFeedbackState(NamedTuple):
    """The state of :func:`error_feedback`.

    Attributes:
        residual: what past rounds failed to send; shaped like the message.
        inner: the state of the inner codec.
    """

    residual: Tree
    inner: Tree


def error_feedback(codec: Compressor) -> Compressor:
    """Remembers what a codec failed to send, and adds it to the next message.

    With residual e: c = C(x + e) is sent, and e becomes x + e - c.  The sum of all that was sent and
    the residual is the sum of all messages, so a contractive codec loses nothing for good.

    Guarantees: decode(payload) + e_new = x + e_old, to rounding; the residual is that of the decoded
        wire value, so rounding in the codec is fed back too.

    Args:
        codec: any compressor; theory asks for a contractive one (delta > 0).

    Returns:
        A :class:`fjx.Compressor` whose state holds one message per client.

    Raises:
        TypeError: ``codec`` is not a Compressor.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors
        >>> codec = compressors.error_feedback(compressors.top_k(0.5))
        >>> x = jnp.array([3.0, 2.0])
        >>> payload, state = codec.encode(jax.random.key(0), x, codec.init(x))
        >>> codec.decode(payload).tolist(), state.residual.tolist()
        ([3.0, 0.0], [0.0, 2.0])

    References:
        Seide et al., *1-Bit Stochastic Gradient Descent*, Interspeech 2014; Karimireddy et al.,
        *Error Feedback Fixes SignSGD*, ICML 2019 (arXiv:1901.09847).
    """
    require_compressor("error_feedback", codec)

    def init(message_like: TreeLike) -> ErrorFeedbackState:
        return ErrorFeedbackState(_tree.zeros_like(message_like), codec.init(message_like))

    def encode(key: Key, message: Tree, state: ErrorFeedbackState) -> tuple[Tree, Tree]:
        wanted = _tree.add(message, state.residual)
        payload, inner = codec.encode(key, wanted, state.inner)
        return payload, ErrorFeedbackState(_missing(wanted, codec.decode(payload)), inner)

    return Compressor(init, encode, codec.decode, lambda message_like: Contract())


def _missing(wanted: Tree, sent: Tree) -> Tree:
    """``wanted - sent``; nothing is missing of what is not floating, for codecs pass it through."""
    return jax.tree.map(
        lambda w, s: w - s if _tree.is_float(w) else jnp.zeros_like(w), wanted, sent
    )


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
        exact = Contract(unbiased=True, omega=0.0, delta=1.0, linear=True, projection=True)
        return product([exact, codec.contract(divide(message_like)[0])])

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
        vector, others, structure = _ravel(message)
        payload, state = codec.encode(key, vector, state)
        return Flat(payload, others, structure), state

    def decode(payload: Flat) -> Tree:
        return _unravel(codec.decode(payload.vector), payload.others, payload.structure)

    def vector_like(message_like: TreeLike) -> TreeLike:
        return jax.eval_shape(lambda message: _ravel(message)[0], message_like)

    def contract(message_like: TreeLike) -> Contract:
        # Of a vector of scales each is as wrong as the largest allows, and counts for many.
        like = vector_like(message_like)
        return codec.contract(like) if _weighs_alike(message_like) else Contract()

    return Compressor(
        init=lambda message_like: codec.init(vector_like(message_like)),
        encode=encode,
        decode=decode,
        contract=contract,
    )


_SAME_NORM = (Blocks, Sparse, Masked, Flat, Leaves, Rotated, Selected)
"""Payloads that decode to a message of the norm of their floats: none of them is a scale."""


def _weighs_alike(message_like: TreeLike) -> bool:
    """Whether all floats of a message count alike, which those of some payloads in it would not."""

    def unlike(part: TreeLike) -> bool:
        return isinstance(part, Payload) and not isinstance(part, _SAME_NORM)

    return not any(unlike(part) for part in jax.tree.leaves(message_like, is_leaf=unlike))


def _blocks_weigh_alike(message_like: TreeLike) -> bool:
    """Whether no leaf holds the scales of many blocks, of which each counts for its own norm."""

    def is_blocks(part: TreeLike) -> bool:
        return isinstance(part, Blocks)

    parts = jax.tree.leaves(message_like, is_leaf=is_blocks)
    return all(_weighs_alike(part) for part in parts if is_blocks(part))


def _ravel(message: Tree) -> tuple[Array, Tree, Structure]:
    floats, others = _tree.split_floats(message)
    leaves = jax.tree.leaves(floats)
    dtype = _widest({leaf.dtype for leaf in leaves})
    parts = [leaf.reshape(-1).astype(dtype) for leaf in leaves]
    vector = jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)
    return vector, others, _structure(message)


def _widest(dtypes: set[jnp.dtype]) -> jnp.dtype:
    """The widest dtype; neither of float16 and bfloat16 holds the other, but float32 both."""
    width = max((jnp.finfo(dtype).bits for dtype in dtypes), default=0)
    widest = [dtype for dtype in dtypes if jnp.finfo(dtype).bits == width]
    return widest[0] if len(widest) == 1 else jnp.dtype(jnp.float32)


def _unravel(vector: Array, others: Tree, structure: Structure) -> Tree:
    start, floats = 0, []
    for shape, dtype in filter(None, structure.floats):
        size = math.prod(shape)
        floats.append(vector[start : start + size].reshape(shape).astype(dtype))
        start += size
    return _unite(floats, others, structure)


def _structure(tree: Tree) -> Structure:
    leaves, treedef = jax.tree.flatten(tree)
    floats = (
        (tuple(leaf.shape), leaf.dtype.name) if _tree.is_float(leaf) else None for leaf in leaves
    )
    return Structure(treedef, tuple(floats))


def _unite(floats: Iterable[Array], others: Tree, structure: Structure) -> Tree:
    """The tree of a structure, from its floating leaves in order and the tree without them."""
    floating, rest = iter(floats), iter(jax.tree.leaves(others))
    leaves = [next(rest if described is None else floating) for described in structure.floats]
    return structure.treedef.unflatten(leaves)


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
        return Leaves(payloads, _tree.split_floats(message)[1], _structure(message)), states

    def decode(payload: Leaves) -> Tree:
        return _unite(map(codec.decode, payload.leaves), payload.others, payload.structure)

    def contract(message_like: TreeLike) -> Contract:
        return product([codec.contract(leaf) for leaf in floating(message_like)])

    return Compressor(init, encode, decode, contract)


def blockwise(codec: Compressor, *, size: int) -> Compressor:
    """Applies a codec to blocks of so many coordinates of each leaf: a scale, or k values, for each.

    Each leaf is cut into b = ceil(d / size) blocks, the last padded with zeros, and the codec encodes
    them side by side, each with a key of its own: ``blockwise(absmax(bits=8), size=64)``.

    Guarantees: the contract is that of the codec for ``size`` coordinates, where dropping the padding
        can only shrink the error; a projection stays one where nothing is padded; a value that is not
        finite spoils no more than its block; bits: those of b blocks, the padding included.

    Args:
        codec: sees vectors of ``size`` coordinates.  It has no state: put ``error_feedback`` around
            ``blockwise``.
        size: of a block, at least 1.

    Returns:
        A :class:`fjx.Compressor`.  After ``flatten`` only the message's last block is padded, not each
        leaf's: ``flatten(blockwise(codec, size=64))``.

    Raises:
        TypeError: ``codec`` is not a Compressor, or ``size`` not an integer.
        ValueError: ``size`` is less than 1, ``codec`` has a state, or is not one of arrays.

    Examples:
        Where magnitudes differ along a leaf, so do the scales:

        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.blockwise(compressors.absmax(bits=4), size=2)
        >>> x = jnp.array([7.0, 1.0, 0.875, 0.25, 7168.0])
        >>> payload, _ = codec.encode(jax.random.key(0), x, ())
        >>> codec.decode(payload).tolist(), wire.bits(payload)
        ([7.0, 1.0, 0.875, 0.25, 7168.0], 120)

    References:
        Alistarh, Grubic, Li, Tomioka, Vojnovic, *QSGD*, NeurIPS 2017 (arXiv:1610.02132), section 4,
        where blocks are called buckets.
    """
    require_compressor("blockwise", codec)
    size = _validate.static_integer("size", size, at_least=1)
    block = jax.ShapeDtypeStruct((size,), jnp.float32)
    if jax.tree.leaves(jax.eval_shape(codec.init, block)):
        raise ValueError(
            "blockwise needs a codec without state; put error_feedback around blockwise"
        )
    if _is_of_trees(payload_like(codec, block)):
        raise ValueError(
            "blockwise needs a codec of arrays; put flatten, per_leaf, on and blockwise around it"
        )

    def encode(key: Key, x: Array) -> Blocks:
        def encode_block(key: Key, row: Array) -> Tree:
            return codec.encode(key, row, codec.init(row))[0]

        count = -(-x.size // size)
        rows = jnp.pad(x.reshape(-1), (0, count * size - x.size)).reshape(count, size)
        return Blocks(jax.vmap(encode_block)(jax.random.split(key, count), rows), x.shape, size)

    def decode(payload: Blocks) -> Array:
        rows = jax.vmap(codec.decode, axis_size=payload.count)(payload.rows)
        return rows.reshape(-1)[: math.prod(payload.shape)].reshape(payload.shape)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        promised = codec.contract(jax.ShapeDtypeStruct((size,), leaf.dtype))
        return promised._replace(projection=promised.projection and leaf.size % size == 0)

    # The rows of blocks are payloads already.
    decode_all = functools.partial(map_nodes, decode, Blocks, inside=Blocks)
    return lift(encode, decode, contract, node=Blocks)._replace(decode=decode_all)


def _is_of_trees(payload: TreeLike) -> bool:
    """Whether a payload comes from a codec that is more than one array's, or is in blocks itself."""

    def of_trees(part: TreeLike) -> bool:
        return isinstance(part, Blocks | Flat | Leaves | Selected)

    return any(of_trees(part) for part in jax.tree.leaves(payload, is_leaf=of_trees))


def require_compressor(where: str, codec: object) -> None:
    """Raises TypeError unless ``codec`` is a Compressor."""
    if not isinstance(codec, Compressor):
        raise TypeError(
            f"{where} needs a fjx.Compressor such as compressors.top_k(0.01), got {codec!r}"
        )
