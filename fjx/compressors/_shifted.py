"""Codecs of differences from a memory that sender and receivers share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Array, Compressor, Contract, Key, Tree, TreeLike
from fjx.compressors._shapes import require_compressor
from fjx.wire import Shifted, SideInformation


class ShiftedState(NamedTuple):
    """The state of :func:`shifted`.

    Attributes:
        memory: H, which every receiver also holds; shaped like the message, in float32 at least.
        inner: state of the inner codec.
    """

    memory: Tree
    inner: Tree


def shifted(codec: Compressor, *, lam: Array | float = 1.0) -> Compressor:
    r"""Send the difference between the message and a memory that the receivers share; for the downlink.

    With message x and a memory H at both ends:

    .. math:: c = C(x - H), \quad \text{received: } H + c, \quad H \leftarrow H + \lambda c

    With lam = 1 the memory is the message that was last received, and the part of a change that C
    loses becomes part of the next change, as in error feedback.  This is EF21-P for contractive
    codecs, and DoubleSqueeze with :func:`error_feedback` in the uplink.  With an unbiased codec and
    lam <= 1 / (1 + omega) it is the downlink of MCM.

    Guarantees:
        - The error tends to zero as the messages settle.

    Bits:
        Those of the codec.  The memory starts as the first model, which is not billed.  The bill
        assumes that every receiver hears every broadcast; a client that misses one must be sent
        what it missed.

    Args:
        codec: contractive or unbiased codec of the differences.
        lam: step size lambda of the memory, in (0, 1]; may be traced.

    Returns:
        A :class:`fjx.Compressor` whose payload holds the memory as
        :class:`fjx.wire.SideInformation`.  A receiver of bytes inserts its own memory there before
        it decodes.

    Raises:
        TypeError: ``codec`` is not a Compressor, or ``lam`` is not a number.
        ValueError: ``lam`` is out of range; or, from ``decode``, the memory is missing.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.shifted(compressors.top_k(0.5))
        >>> x = jnp.array([3.0, 2.0])
        >>> payload, state = codec.encode(jax.random.key(0), x + 1.0, codec.init(x))
        >>> codec.decode(payload).tolist(), wire.bits(payload)
        ([4.0, 2.0], 40)

    References:
        Gruntkowska, Tyurin, Richtarik, *EF21-P and Friends*, ICML 2023 (arXiv:2209.15218);
        Philippenko, Dieuleveut, *Preserved Central Model for Faster Bidirectional Compression in
        Distributed Settings*, NeurIPS 2021 (arXiv:2102.12528).
    """
    require_compressor("shifted", codec)
    _validate.number("lam", lam, above=0, at_most=1)

    def init(message_like: TreeLike) -> ShiftedState:
        memory = jax.tree.map(
            lambda x: (
                jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else jnp.copy(x)
            ),
            message_like,
        )
        return ShiftedState(_tree.widened(memory), codec.init(_tree.like(memory)))

    def encode(key: Key, message: Tree, state: ShiftedState) -> tuple[Shifted, ShiftedState]:
        difference = _tree.subtract(_tree.widened(message), state.memory)
        change, inner = codec.encode(key, _tree.in_dtypes_of(difference, message), state.inner)
        moved = _tree.scale(jnp.asarray(lam), codec.decode(change))
        after = ShiftedState(_tree.add(state.memory, moved), inner)
        return Shifted(change, SideInformation(state.memory)), after

    def decode(payload: Shifted) -> Tree:
        if payload.memory.value is None:
            raise ValueError(
                "the payload was read from bytes and has no memory; insert what the receiver remembers: "
                "dataclasses.replace(payload, memory=wire.SideInformation(memory))"
            )
        change = codec.decode(payload.change)
        return _tree.in_dtypes_of(_tree.add(payload.memory.value, change), change)

    return Compressor(init, encode, decode, lambda message_like: Contract())
