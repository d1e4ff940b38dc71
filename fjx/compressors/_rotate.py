"""A random rotation around a codec."""

import math

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import EXACT, Array, Compressor, Contract, Key, TreeLike
from fjx._kernels import random as _random
from fjx._kernels.hadamard import rotate, unrotate
from fjx._kernels.rounding import unless_narrow
from fjx.compressors._chain import chain
from fjx.compressors._lift import lift
from fjx.compressors._shapes import require_compressor
from fjx.wire import Rotated
from fjx.wire._payload import padded_size


def rotated(codec: Compressor, *, rounds: int = 2, block: int | None = None) -> Compressor:
    r"""Rotate each leaf at random before a codec, and rotate back after it.

    A leaf x is padded with zeros to d' coordinates, and the codec encodes Rx in float32:

    .. math:: R x = D_r H \cdots D_1 H D_0 x, \quad r = \mathrm{rounds}

    H is an orthonormal Walsh-Hadamard matrix of size d' = 2^m, or one for each block.  The signs
    D_i follow from a seed of the sender, which is in the payload.  The decoded vector is rotated
    back and cut to size.

    A rotation spreads the magnitude, which helps quantisers: the largest |(Rx)_i| is about
    ||x|| sqrt(2 ln d' / d') for every x.  Blocks need less padding and less time, but spread a
    coordinate over its own block only.  A codec with one scale for the leaf then works best if all
    blocks have equal norms.

    One round is not enough for sparse x, nor for codecs whose own promise depends on the rotation
    (DRIVE, EDEN).

    Guarantees:
        - R is orthogonal for every seed.  So the contract is that of the codec for d' coordinates;
          dropping the padding can only shrink the error.
        - A projection stays a projection if nothing is padded.
        - Narrower leaves than float32 are rounded once more in decoding; their contract is empty.
        - d' = B ceil(d / B) with B = min(block, 2^ceil(log2 d)).  Without blocks it is the next
          power of two.
        - If a leaf has a non-finite value, the codec sees no finite value in the block of this
          value.

    Bits:
        Those of the codec for d' coordinates, and 64 per leaf.

    Args:
        codec: codec of float32 vectors of d' coordinates, without a state.  A state would refer to
            coordinates that change every round; put ``error_feedback`` around ``rotated`` instead.
        rounds: number of rounds of signs and Hadamard transform, at least 1.
        block: number of coordinates that are rotated together, a power of two; None for all.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: ``codec`` is not a Compressor, or ``rounds`` or ``block`` is not an integer.
        ValueError: ``rounds`` is less than 1, or ``block`` is not a power of two.

    Examples:
        A quantiser has a smaller error once a large coordinate is spread:

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
        Suresh, Yu, Kumar, McMahan, *Distributed Mean Estimation with Limited Communication*, ICML
        2017 (arXiv:1611.00429).
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
    """The rotation as a lossless codec; its payload holds one vector for the next codec in a chain."""

    def encode(key: Key, x: Array) -> Rotated:
        together = _together(x.size, block)
        flat = jnp.pad(x.reshape(-1).astype(jnp.float32), (0, -x.size % together))
        vector = rotate(key, flat, rounds=rounds, block=together)
        seed, impl = _random.seed_of(key)
        return Rotated(vector, seed, x.shape, x.dtype.name, rounds, impl, together)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        return unless_narrow(leaf, EXACT)

    return lift(encode, derotated, contract, node=Rotated)


def derotated(payload: Rotated) -> Array:
    """The array in a payload: its vector rotated back and cut to size."""
    key = _random.key_of(payload.seed, payload.impl)
    flat = unrotate(key, payload.vector, rounds=payload.rounds, block=payload.block)
    return flat[: math.prod(payload.shape)].reshape(payload.shape).astype(payload.dtype)


def _together(size: int, block: int | None) -> int:
    """The number of coordinates of a leaf that are rotated together."""
    return max(min(padded_size(size), block or padded_size(size)), 1)
