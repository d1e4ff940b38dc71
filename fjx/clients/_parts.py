"""Parts of a model: trained beside the rest, one after another, or kept on the client."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import (
    Array,
    ClientUpdate,
    Examples,
    Key,
    Metrics,
    Stateful,
    Steps,
    Tree,
    TreeLike,
    Turn,
)
from fjx.clients._loss import Loss, LossFn, OfPart


def loss_beside(rest: Tree, loss_fn: LossFn) -> LossFn:
    """The loss of one part of a model, of the same kind as the loss of the whole model.

    Args:
        rest: the other part of :func:`fjx._tree.divide_by_path`.
        loss_fn: loss of the whole model.
    """
    if not isinstance(loss_fn, Loss):
        return OfPart(loss_fn, lambda part: _tree.joined(part, rest))

    def evaluate(part: Tree, batch: Tree, mask: Array, key: Key) -> tuple[Array, Metrics, Tree]:
        loss, metrics, state = loss_fn.evaluate(_tree.joined(part, rest), batch, mask, key)
        if not isinstance(part, Stateful) or state is None:
            return loss, metrics, None
        moved = jax.tree.map(
            lambda kept, new: new if kept is None else None, rest.state, state, is_leaf=_is_none
        )
        return loss, metrics, moved

    return Loss(evaluate)


def _is_none(part: Any) -> bool:
    return part is None


def part(
    loss_fn: LossFn, make: Callable[[LossFn], ClientUpdate], *, inside: Callable[[str], bool]
) -> ClientUpdate:
    """Local work ``make(loss)`` on some leaves of the model; the others rest, and their change is zero.

    Args:
        loss_fn: loss of the whole model.
        make: function ``(loss) -> client update`` without state.
        inside: function of a leaf's path, True for the leaves that are trained.
    """

    def update(
        key: Key, model: Tree, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        names = jax.tree_util.tree_map_with_path(lambda path, _: _tree.name_of(path), model)
        trained, rest = _tree.split(model, jax.tree.map(inside, names))
        client = make(loss_beside(rest, loss_fn))
        message, _, metrics = client.update(key, trained, (), examples, turn)
        return _tree.merge(message, _tree.zeros_like(rest)), state, metrics

    return ClientUpdate(lambda params: (), update, _tree.like)


def in_turn(*updates: ClientUpdate) -> ClientUpdate:
    """Local work in stages, each begun at the model of the one before; the message is the whole way.

    The metrics are those of the last stage, and ``steps`` are those of all.

    Args:
        *updates: stages, without state.
    """

    def update(
        key: Key, model: Tree, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        now, told = model, []
        for key_stage, stage in zip(jax.random.split(key, len(updates)), updates, strict=True):
            message, _, metrics = stage.update(key_stage, now, (), examples, turn)
            now = _tree.add(now, message)
            told.append(metrics)
        steps = jnp.sum(jnp.stack([metrics["steps"] for metrics in told]))
        return _tree.subtract(now, model), state, {**told[-1], "steps": steps}

    return ClientUpdate(lambda params: (), update, _tree.like)


class KeptState(NamedTuple):
    """State of a client that keeps a part of what it trains.

    Attributes:
        own: the part that stays on the client.
        inner: state of the client that trains both parts.
    """

    own: Tree
    inner: Tree


def keeping(
    client: ClientUpdate,
    *,
    own: Callable[[Tree], Tree],
    join: Callable[[Tree, Tree], Tree],
    split: Callable[[Tree], tuple[Tree, Tree]],
    uses: Callable[[Tree, Tree], Tree],
) -> ClientUpdate:
    """Local work on a model of two parts, one of which the server sends; the client keeps the other.

    Only the change of the server's part is sent.  The client's own part moves by its own change.

    Args:
        client: local work on both parts; its messages are like what it trains.
        own: function of the parameters, the client's own part at first.
        join: function ``(shared, own) -> both``.
        split: function ``(message) -> (shared, own)``.
        uses: function ``(shared, own) -> params``, the model that the client uses.

    Raises:
        ValueError: ``client`` has an ``on_sent`` or an ``on_aggregate``: it would be told of less than
            it sends.
    """
    if client.on_sent is not None or client.on_aggregate is not None:
        raise ValueError(
            "a client that keeps a part of its model must have no on_sent and no on_aggregate, which "
            "are told of the whole message"
        )

    def whole(params: Tree) -> Tree:
        return join(params, own(params))

    def init(params: Tree) -> KeptState:
        return KeptState(own(params), client.init(whole(params)))

    def inputs(
        key: Key, broadcast: Tree, state: KeptState, examples: Examples, turn: Turn
    ) -> tuple[Any, ...]:
        return key, join(broadcast, state.own), state.inner, examples, turn

    def after(
        key: Key,
        broadcast: Tree,
        state: KeptState,
        examples: Examples,
        turn: Turn,
        trained: tuple[Tree, Tree, Metrics],
    ) -> tuple[Tree, KeptState, Metrics]:
        message, inner, metrics = trained
        shared, change = split(message)
        return shared, KeptState(_tree.add(state.own, change), inner), metrics

    def message(params: Tree) -> TreeLike:
        return jax.eval_shape(lambda x: split(x)[0], client.message(_tree.like(whole(params))))

    return ClientUpdate(
        init,
        Steps.of(client.update).around(inputs, after),
        message,
        rounds=client.rounds,
        personal=lambda broadcast, state: uses(broadcast, state.own),
    )
