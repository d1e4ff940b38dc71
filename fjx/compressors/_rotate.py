"""A rotation at random around a codec."""

import math

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import EXACT, Array, Compressor, Contract, Key, TreeLike
from fjx._kernels.hadamard import rotate, unrotate
from fjx.compressors._chain import chain
from fjx.compressors._lift import lift
from fjx.compressors._shapes import require_compressor
from fjx.wire import Rotated
from fjx.wire._payload import padded_size


def rotated(codec: Compressor, *, rounds: int = 2, block: int | None = None) -> Compressor:
    r"""Rotates each leaf at random before a codec, and back after it.

    A leaf x is padded with zeros to d' coordinates, the codec encodes
    Rx = D_rounds H ... D_1 H D_0 x in float32, and the decoded vector is rotated back and cut to size.
    H is an orthonormal Walsh-Hadamard matrix, of size d' = 2^m, or one for each block of it; the signs
    D_r follow from a seed of the sender, which is on the wire.  A rotation spreads what a quantiser
    must span: the largest |(Rx)_i| is about ||x|| sqrt(2 ln d' / d'), whatever x is.

    Blocks need less padding and less time.  A coordinate is spread over its block alone, so that a
    codec with one scale for the leaf is at its best where blocks have equal norms.

    Guarantees: R is orthogonal for every seed, so the contract is that of the codec for d'
        coordinates, where dropping the padding can only shrink the error; a projection stays one
        where nothing is padded; of a leaf with a non-finite value, nothing in that value's block
        is finite when the codec sees it; d' = B ceil(d / B) with B = min(block, 2^ceil(log2
        d)), the next power of two without blocks; bits: those of the codec for d' coordinates + 64
        per leaf.  One round is not enough for sparse x and codecs whose own promise depends on the
        rotation (DRIVE, EDEN).

    Args:
        codec: sees float32 vectors of d' coordinates.  A state of it would live in coordinates that
            change every round: give it none, and put ``error_feedback`` around ``rotated``.
        rounds: of signs and Hadamard transform, at least 1.
        block: how many coordinates are rotated with one another, a power of two; None for all.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: ``codec`` is not a Compressor, or ``rounds`` or ``block`` not an integer.
        ValueError: ``rounds`` is less than 1, or ``block`` not a power of two.

    Examples:
        One large coordinate costs a quantiser less once it is spread:

        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> x = jnp.ones(256).at[3].set(16.0)
        >>> def error(codec):
        ...     payload, _ = codec.encode(jax.random.key(0), x, codec.init(x))
        ...     return float(jnp.sum((codec.decode(payload) - x) ** 2)), wire.bits(payload)
        >>> plain = compressors.quantize(bits=4)
        >>> (before, cost), (after, more) = error(plain), error(compressors.rotated(plain))
        >>> after < before / 2, more - cost
        (True, 64)

    References:
        Ailon, Chazelle, *The Fast Johnson-Lindenstrauss Transform*, SIAM Journal on Computing 2009;
        Suresh, Yu, Kumar, McMahan, *Distributed Mean Estimation with Limited Communication*,
        ICML 2017 (arXiv:1611.00429).
    """
    require_compressor("rotated", codec)
    rounds = _validate.static_integer("rounds", rounds, at_least=1, at_most=64)
    if block is not None:
        block = _validate.static_integer("block", block, at_least=1, at_most=2**30)
        if block & (block - 1):
            raise ValueError(f"block must be a power of two, such as 4096, got {block}")
    pipeline = chain(_rotation(rounds, block), codec)

    def contract(message_like: TreeLike) -> Contract:
        promised = pipeline.contract(message_like)
        sizes = [leaf.size for leaf in jax.tree.leaves(message_like) if _tree.is_float(leaf)]
        whole = all(size % _together(size, block) == 0 for size in sizes)
        return promised._replace(projection=promised.projection and whole)

    return pipeline._replace(contract=contract)


def _rotation(rounds: int, block: int | None) -> Compressor:
    """The rotation as a codec that loses nothing, and leaves a vector for the next one in a chain."""

    def encode(key: Key, x: Array) -> Rotated:
        together = _together(x.size, block)
        flat = jnp.pad(x.reshape(-1).astype(jnp.float32), (0, -x.size % together))
        vector = rotate(key, flat, rounds=rounds, block=together)
        seed, impl = jax.random.key_data(key), str(jax.random.key_impl(key))
        return Rotated(vector, seed, x.shape, x.dtype.name, rounds, impl, together)

    return lift(encode, derotated, lambda leaf: EXACT, node=Rotated)


def derotated(payload: Rotated) -> Array:
    """What a payload says: the vector rotated back, cut to size."""
    key = jax.random.wrap_key_data(payload.seed, impl=payload.impl)
    flat = unrotate(key, payload.vector, rounds=payload.rounds, block=payload.block)
    return flat[: math.prod(payload.shape)].reshape(payload.shape).astype(payload.dtype)


def _together(size: int, block: int | None) -> int:
    """How many coordinates of a leaf are rotated with one another."""
    return max(min(padded_size(size), block or padded_size(size)), 1)
