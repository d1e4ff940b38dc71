"""The server's part of a round, beside its step: the aggregate, and the clients that hear of it."""

from typing import NamedTuple

import jax

from fjx import _tree
from fjx._base import Array, ClientUpdate, Tree
from fjx.rounds._state import ClientRow, Context, Slot


class Encoded(NamedTuple):
    """An aggregate message that travels down as a payload.  Receivers use the decoded message.

    Attributes:
        payload: payload of the message.
        decoded: message that receivers decode.
    """

    payload: Tree
    decoded: Tree


def on_wire(message: Tree) -> Tree:
    """The part of an aggregate message that is sent."""
    return message.payload if isinstance(message, Encoded) else message


def heard(
    client: ClientUpdate,
    message: Tree,
    context: Context,
    rows: ClientRow,
    counts: Array,
    slots: Slot,
) -> ClientRow:
    """The rows ``[m, ...]`` of the cohort once its participants have been sent the aggregate."""
    hear = client.on_aggregate
    if hear is None:
        return rows
    decoded = message.decoded if isinstance(message, Encoded) else message

    def one(row: ClientRow, counts: Array, rank: Array, id: Array) -> ClientRow:
        memory = hear(decoded, row.client, context.public(rank, id))
        return _tree.where(counts, row._replace(client=memory), row)

    return jax.vmap(one)(rows, counts, slots.rank, slots.id)
