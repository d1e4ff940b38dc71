"""Payloads and weights of messages, computed from shapes alone."""

import jax

from fjx._base import Compressor, TreeLike
from fjx.wire import (
    Blocks,
    Coded,
    Flat,
    Leaves,
    Masked,
    OneOf,
    Payload,
    Rotated,
    Selected,
    Sparse,
    Summed,
)


def require_compressor(where: str, codec: object) -> None:
    """Raise TypeError unless ``codec`` is a Compressor."""
    if not isinstance(codec, Compressor):
        raise TypeError(
            f"{where} needs a fjx.Compressor such as compressors.top_k(0.01), got {codec!r}"
        )


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


def _is_no_sum(message_like: TreeLike) -> bool:
    """True if no payload is a sum: its terms may cancel, while the errors of a later codec do not."""

    def is_sum(part: TreeLike) -> bool:
        return isinstance(part, Summed)

    return not any(is_sum(part) for part in jax.tree.leaves(message_like, is_leaf=is_sum))
