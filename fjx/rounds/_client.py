"""A client's part of a round: train, encode, decode, guard, contribute, count."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import STACK, Array, Combine, Examples, Steps, Tree, TreeLike
from fjx.rounds._metrics import bytes_sent, tally_of
from fjx.rounds._state import ClientRow, Context, Parts, Slot
from fjx.wire._bits import is_ragged

After = Callable[[Context, Slot, tuple[Tree, Tree, Any]], tuple[Tree, Tree]]
"""The part of a round after local work: ``(context, slot, trained) -> (summed, stacked)``."""


def training(
    update: Callable[..., Any],
    memory: Callable[[Any], Tree] = lambda row: row.client,
    model: Callable[[Context, Any], Tree] = lambda context, row: context.broadcast,
) -> Callable[[After], Steps]:
    """Local work of one client, to be followed by the rest of its round.

    Args:
        update: the function of a :class:`fjx.ClientUpdate`.
        memory: ``(row) -> state`` of the client update.
        model: ``(context, row) -> tree``, the input of local work; the broadcast by default.
    """

    def inputs(context: Context, slot: Slot) -> tuple[Any, ...]:
        return (
            context.keys(slot.id).train,
            model(context, slot.row),
            memory(slot.row),
            Examples(context.arrays, slot.offset, slot.size),
            slot.turn(context.round),
        )

    return lambda after: Steps.of(update).around(inputs, after)


def guard(slot: Slot, *trees: Tree, takes_part: Array | None = None) -> tuple[Array, Array]:
    """Two flags of a client: it counts, and it failed.

    A client counts if it takes part and all its trees are finite.  It fails if it takes part and a tree
    is not finite.
    """
    takes_part = slot.weight > 0 if takes_part is None else takes_part
    finite = _tree.all_finite(trees)
    return takes_part & finite, takes_part & ~finite


def upload(parts: Parts, template: TreeLike) -> After:
    """The steps from a client's message to its share.

    encode -> wire -> decode -> guard -> aggregator's encode -> wire -> contribute -> on_sent -> count.
    """
    client, uplink, aggregator = parts.client, parts.uplink, parts.aggregator

    def after(context: Context, slot: Slot, trained: tuple[Tree, Tree, Any]) -> tuple[Tree, Tree]:
        message, memory, metrics = trained
        _validate.same_structure("the client's message", message, "its template", template)
        keys, public = context.keys(slot.id), context.public(slot.rank, slot.id)

        sent, residual = uplink.encode(keys.uplink, message, slot.row.uplink)
        received = uplink.decode(sent)
        counts, failed = guard(slot, message, received)
        received = _tree.where(counts, received, _tree.zeros_like(received))
        weight = jnp.where(counts, slot.weight, 0.0)

        given = received
        if aggregator.encode is not None:
            sent = given = aggregator.encode(keys.aggregator, received, public)
        share = aggregator.contribute(given, weight, context.public(slot.rank, slot.id))
        # An absent client adds nothing, not even its noise.  A client that is there adds its noise
        # whatever its data are.
        share = _tree.where(slot.present, share, _tree.zeros_like(share))

        if client.on_sent is not None:
            memory = client.on_sent(received, memory, context.public(slot.rank, slot.id))
        row = _tree.where(counts, ClientRow(memory, residual), slot.row)
        tally = tally_of(counts, failed, slot.size, metrics)
        if is_ragged(sent):
            tally["sent"] = bytes_sent(sent, slot.weight > 0)
        return meeting(aggregator.combine, share, tally, (row, counts))

    return after


def meeting(combine: Combine, share: Tree, tally: Tree, kept: Tree) -> tuple[Tree, Tree]:
    """The outputs of one client: those that are added over the cohort, and those that are stacked."""
    return (tally, (share, kept)) if combine is STACK else ((share, tally), kept)


def met(combine: Combine, summed: Tree, stacked: Tree) -> tuple[Tree, Tree, Tree]:
    """The total, the tally and the rest, from the outputs of :func:`meeting` of all clients."""
    if combine is STACK:
        total, kept = stacked
        return total, summed, kept
    total, tally = summed
    return total, tally, stacked
