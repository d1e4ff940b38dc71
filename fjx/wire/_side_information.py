"""Payloads that build on what the receiver has already."""

import dataclasses

import jax

from fjx._base import Tree
from fjx.wire._payload import Payload


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SideInformation(Payload):
    """What the receiver has already: it costs nothing, and no byte of it is written.

    Attributes:
        value: any arrays; None where the payload was read from bytes, until the receiver puts its own.
            What decides what else is there, the receiver gives in the ``like`` of ``from_bytes``.
    """

    value: Tree

    def check(self) -> None:
        """Nothing was read."""


def is_side_information(part: Tree) -> bool:
    """Whether a part of a payload is the receiver's own."""
    return isinstance(part, SideInformation)


def without_side_information(payload: Tree) -> Tree:
    """The payload as bytes have it: every :class:`SideInformation` empty."""
    return jax.tree.map(
        lambda part: SideInformation(None) if is_side_information(part) else part,
        payload,
        is_leaf=is_side_information,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shifted(Payload):
    """How a message differs from what its receiver remembers.

    Attributes:
        change: a payload of the difference.
        memory: what the receiver remembers.
    """

    change: Tree
    memory: SideInformation

    def check(self) -> None:
        """The memory is the receiver's own."""
        if not isinstance(self.memory, SideInformation):
            raise ValueError("Shifted.memory must be a SideInformation")
