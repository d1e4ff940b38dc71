"""A codec for each block of a leaf."""

import functools
import math

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Compressor, Contract, Key, Tree, TreeLike
from fjx.compressors._lift import lift, map_nodes
from fjx.compressors._shapes import payload_like, require_compressor
from fjx.wire import Blocks, Coded, Flat, Leaves, Selected
from fjx.wire._bits import is_ragged


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
        ValueError: ``size`` is less than 1, ``codec`` has a state, is not one of arrays, or sends
            payloads whose length depends on the data.

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
    payload = payload_like(codec, block)
    if is_ragged(payload):
        raise ValueError("blockwise needs a codec whose payload has a fixed length")
    if _is_of_trees(payload):
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
        return isinstance(part, Blocks | Coded | Flat | Leaves | Selected)

    return any(of_trees(part) for part in jax.tree.leaves(payload, is_leaf=of_trees))
