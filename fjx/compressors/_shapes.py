"""Payloads and weights of messages, computed from shapes alone."""

import jax

from fjx._base import Compressor, TreeLike
from fjx._kernels.rounding import narrow
from fjx._tree import is_float
from fjx.wire import (
    BernoulliMasked,
    Blocks,
    Cast,
    Coded,
    Dithered,
    FixedStep,
    Flat,
    Kept,
    KLevel,
    Leaves,
    LloydMax,
    Masked,
    Microscaled,
    MixedLloydMax,
    Natural,
    OneOf,
    Payload,
    Quantized,
    Quic,
    Rotated,
    Selected,
    Signs,
    Sparse,
    SubtractivelyDithered,
    Ternary,
    TwoMeans,
)


def require_compressor(where: str, codec: object) -> None:
    """Raise TypeError unless ``codec`` is a Compressor."""
    if not isinstance(codec, Compressor):
        raise TypeError(
            f"{where} needs a fjx.Compressor such as compressors.top_k(0.01), got {codec!r}"
        )


def has_narrow(message_like: TreeLike) -> bool:
    """True if a float leaf of a message is narrower than float32, so that a sum is rounded to it."""
    return any(narrow(leaf) for leaf in jax.tree.leaves(message_like) if is_float(leaf))


def payload_like(codec: Compressor, message_like: TreeLike) -> TreeLike:
    """The shapes of the payload of a message with the given shapes."""
    key = jax.eval_shape(jax.random.key, 0)
    state = jax.eval_shape(codec.init, message_like)
    return jax.eval_shape(codec.encode, key, message_like, state)[0]


_SAME_NORM = (Blocks, OneOf, Coded, Sparse, Masked, Flat, Leaves, Rotated, Selected)
"""Payloads whose decoded message has the norm of their floats, because none of these is a scale."""


def weighs_alike(message_like: TreeLike) -> bool:
    """True if an error in any float of a message costs the same; a scale inside a payload costs more."""

    def unlike(part: TreeLike) -> bool:
        return isinstance(part, Payload) and not isinstance(part, _SAME_NORM)

    return not any(unlike(part) for part in jax.tree.leaves(message_like, is_leaf=unlike))


def blocks_weigh_alike(message_like: TreeLike) -> bool:
    """True if no leaf holds scales of many blocks, each of which counts for its own norm."""

    def is_blocks(part: TreeLike) -> bool:
        return isinstance(part, Blocks)

    parts = jax.tree.leaves(message_like, is_leaf=is_blocks)
    return all(weighs_alike(part) for part in parts if is_blocks(part))


_SCALED = (
    BernoulliMasked,
    Cast,
    Dithered,
    FixedStep,
    Kept,
    LloydMax,
    Microscaled,
    MixedLloydMax,
    Natural,
    Quantized,
    Quic,
    Signs,
    SubtractivelyDithered,
    Ternary,
    TwoMeans,
)
"""Payloads whose floats are scales, or values of coordinates of their own, and are multiplied only."""


def gain(message_like: TreeLike) -> float | None:
    """Factor by which squared relative errors of the floats of a message may grow in decoding.

    Let a message decode to C, which was encoded from v, and let the squared error of each of its floats
    be at most omega times the square of that float.  Then the squared error of C is at most
    gain * omega * max(||C||^2, ||v||^2).  None if there is no such bound: ``Summed`` and ``LowRank``
    decode to sums whose terms may cancel, floats of ``Codebook``, ``Sketched`` and ``Projected`` count
    for different numbers of coordinates, and payload types of strangers may be anything.
    """

    def unlike(part: TreeLike) -> bool:
        return isinstance(part, Payload) and not isinstance(part, _SAME_NORM + _SCALED)

    found = 1.0
    for part in filter(unlike, jax.tree.leaves(message_like, is_leaf=unlike)):
        if not isinstance(part, KLevel):
            return None
        # A coordinate is the least level l plus at most m - l, where m is the largest level, and
        # l^2 + m^2 <= ||v||^2.  Its squared error is at most omega (|l| + |m - l|)^2 <= 5 omega ||v||^2.
        found = max(found, 5.0 * part.codes.size)
    return found
