"""A codec applied to each block of a leaf."""

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
    """Apply a codec to blocks of ``size`` coordinates of each leaf, each with its own scale or k values.

    Each leaf is cut into b = ceil(d / size) blocks, and the last is padded with zeros.  The codec
    encodes the blocks side by side, each with its own key.  A common use is
    ``blockwise(absmax(bits=8), size=64)``.  With ``flatten(blockwise(codec, size=64))`` only the
    last block of the message is padded, not that of each leaf.

    Guarantees:
        - The contract is that of the codec for ``size`` coordinates; dropping the padding can only
          shrink the error.
        - A projection stays a projection if nothing is padded.
        - A non-finite value spoils no more than its own block.

    Bits:
        Those of b blocks, padding included.

    Args:
        codec: codec of vectors of ``size`` coordinates, without a state.  For memory, put
            ``error_feedback`` around ``blockwise``.
        size: coordinates per block, at least 1.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: ``codec`` is not a Compressor, or ``size`` is not an integer.
        ValueError: ``size`` is less than 1, ``codec`` has a state, is not a codec of arrays, or
            sends payloads with a length that depends on the data.

    Examples:
        The scales follow the magnitudes along a leaf:

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
            "blockwise needs a codec without a state; put error_feedback around blockwise instead"
        )
    payload = payload_like(codec, block)
    if is_ragged(payload):
        raise ValueError(
            "blockwise needs a codec whose payload has a fixed length, such as top_k or quantize"
        )
    if _is_of_trees(payload):
        raise ValueError(
            "blockwise needs a codec of arrays; put flatten, per_leaf, on, entropy or another "
            "blockwise around this one instead"
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

    # The rows of Blocks are payloads themselves, so a payload inside is its own content.
    decode_all = functools.partial(map_nodes, decode, Blocks, inside=Blocks)
    return lift(encode, decode, contract, node=Blocks)._replace(decode=decode_all)


def _is_of_trees(payload: TreeLike) -> bool:
    """True if a payload comes from a codec of trees of arrays, or is in blocks already."""

    def of_trees(part: TreeLike) -> bool:
        return isinstance(part, Blocks | Coded | Flat | Leaves | Selected)

    return any(of_trees(part) for part in jax.tree.leaves(payload, is_leaf=of_trees))
