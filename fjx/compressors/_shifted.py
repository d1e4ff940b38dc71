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
        memory: H, which every receiver has too; shaped like the message.
        inner: the state of the inner codec.
    """

    memory: Tree
    inner: Tree


def shifted(codec: Compressor, *, lam: Array | float = 1.0) -> Compressor:
    """Sends how the message differs from what its receivers remember: for the downlink.

    With memory H on both ends, c = C(x - H) is sent, H + c is received, and H becomes H + lam c.  With
    lam = 1 receivers have what they were last sent, and what C loses of one change is part of the next,
    as in error feedback: EF21-P, for contractive codecs, and with :func:`error_feedback` in the uplink
    DoubleSqueeze.  With unbiased codecs and lam at most 1 / (1 + omega) it is MCM's downlink.

    Guarantees: as the messages settle, what is lost tends to zero; bits: those of the codec.  The memory
        begins with the first model, which is not billed, and the bill takes every receiver to hear every
        broadcast: a client that misses one must be told what it missed.

    Args:
        codec: contractive or unbiased, applied to differences.
        lam: in (0, 1]; may be traced.

    Returns:
        A :class:`fjx.Compressor` whose payload holds the memory as :class:`fjx.wire.SideInformation`:
        a receiver
        of bytes puts its own there before it decodes.

    Raises:
        TypeError: ``codec`` is not a Compressor, or ``lam`` not a number.
        ValueError: ``lam`` is out of range; from ``decode``, the memory is missing.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.shifted(compressors.top_k(0.5))
        >>> x = jnp.array([3.0, 2.0])
        >>> payload, state = codec.encode(jax.random.key(0), x + 1.0, codec.init(x))
        >>> codec.decode(payload).tolist(), wire.bits(payload)
        ([4.0, 2.0], 40)

    References:
        Gruntkowska, Tyurin, Richtarik, *EF21-P and Friends*, ICML 2023 (arXiv:2209.15218); Philippenko,
        Dieuleveut, *Preserved Central Model for Faster Bidirectional Compression in Distributed
        Settings*, NeurIPS 2021 (arXiv:2102.12528).
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
        return ShiftedState(memory, codec.init(_tree.like(memory)))

    def encode(key: Key, message: Tree, state: ShiftedState) -> tuple[Shifted, ShiftedState]:
        change, inner = codec.encode(key, _tree.subtract(message, state.memory), state.inner)
        moved = _tree.scale(jnp.asarray(lam), codec.decode(change))
        after = ShiftedState(_tree.add(state.memory, moved), inner)
        return Shifted(change, SideInformation(state.memory)), after

    def decode(payload: Shifted) -> Tree:
        if payload.memory.value is None:
            raise ValueError(
                "the payload was read from bytes: give it what the receiver remembers, "
                "dataclasses.replace(payload, memory=wire.SideInformation(memory))"
            )
        return _tree.add(payload.memory.value, codec.decode(payload.change))

    return Compressor(init, encode, decode, lambda message_like: Contract())
