"""Payloads with parts that are not sent, because the receiver has them or does not need them."""

import dataclasses

import jax

from fjx._base import Tree
from fjx.wire._payload import Payload


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SideInformation(Payload):
    """Arrays that the receiver has already; they cost nothing and are not written to bytes.

    A payload that was read from bytes has None here until the receiver inserts its own arrays.  If the
    arrays decide which other parts travel, the receiver gives them in the ``like`` of
    :func:`from_bytes`.

    Attributes:
        value: any arrays, or None.
    """

    value: Tree

    def check(self) -> None:
        """Nothing is checked, because nothing was read."""


def is_side_information(part: Tree) -> bool:
    """True for a :class:`SideInformation`."""
    return isinstance(part, SideInformation)


def without_side_information(payload: Tree) -> Tree:
    """Payload as bytes represent it, with None in every :class:`SideInformation`."""
    return jax.tree.map(
        lambda part: SideInformation(None) if is_side_information(part) else part,
        payload,
        is_leaf=is_side_information,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shifted(Payload):
    """Difference between a message and a memory that sender and receiver share.

    Attributes:
        change: payload of the difference.
        memory: the memory; it does not travel.
    """

    change: Tree
    memory: SideInformation

    def check(self) -> None:
        """The memory is a :class:`SideInformation`."""
        if not isinstance(self.memory, SideInformation):
            raise ValueError("Shifted.memory must be a SideInformation")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Observed(Payload):
    """Payload together with facts about the client that are not sent, for the metrics of a simulation.

    Attributes:
        sent: the payload.
        seen: a :class:`SideInformation` of the facts.  It costs nothing; a receiver of bytes finds None.
    """

    sent: Tree
    seen: SideInformation

    def check(self) -> None:
        """The facts are a :class:`SideInformation`."""
        if not isinstance(self.seen, SideInformation):
            raise ValueError("Observed.seen must be a SideInformation")
