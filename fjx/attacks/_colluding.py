"""Colluding attackers, who see the honest messages of the round and choose their own together."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import (
    STACK,
    Aggregator,
    Array,
    Compressor,
    Key,
    Metrics,
    Public,
    Tree,
    TreeLike,
    Turn,
)
from fjx.aggregators._around import require_aggregator, sent
from fjx.attacks._who import Byzantine, require_byzantine
from fjx.wire import Observed, SideInformation


class View(NamedTuple):
    """The sight of colluding attackers: all honest messages of the round, and the aggregator.

    Attributes:
        messages: ``f[m, d]``, the honest messages as the server decodes them, one flat row each; all
            other rows are zeros.
        honest: ``bool[m]``, the clients that count and do not lie.
        byzantine: ``bool[m]``, the attackers.
        aggregate: function ``(rows f[m, d]) -> f[d]``, the aggregate if the attackers sent their rows of
            ``rows``; the other rows are not read.
    """

    messages: Array
    honest: Array
    byzantine: Array
    aggregate: Callable[[Array], Array]

    @classmethod
    def of(
        cls, messages: Array, f: int = 1, *, aggregate: Callable[[Array], Array] | None = None
    ) -> "View":
        """The sight of f attackers behind some honest messages, for calling an attack by hand.

        Args:
            messages: ``f[n, d]``, the honest messages.
            f: number of attackers; their rows are the last.
            aggregate: function ``(rows f[n + f, d]) -> f[d]``; the mean by default.
        """
        n, d = messages.shape
        honest = jnp.arange(n + f) < n
        rows = jnp.concatenate([messages, jnp.zeros((f, d), messages.dtype)])

        def mean(lies: Array) -> Array:
            return jnp.mean(jnp.where(honest[:, None], rows, lies), axis=0)

        return cls(rows, honest, ~honest, mean if aggregate is None else aggregate)

    def mean(self) -> Array:
        """``f[d]``: mean of the honest messages; NaN if there are none."""
        return _tree.mean_of(jnp.sum(self.messages, axis=0), jnp.sum(self.honest))

    def centred(self) -> Array:
        """``f[m, d]``: the honest messages minus their mean; zeros elsewhere."""
        return jnp.where(self.honest[:, None], self.messages - self.mean()[None], 0.0)

    def deviation(self) -> Array:
        """``f[d]``: standard deviation of the honest messages (ddof = 1); zero for a single one."""
        count = jnp.maximum(jnp.sum(self.honest) - 1, 1).astype(self.messages.dtype)
        return jnp.sqrt(jnp.sum(jnp.square(self.centred()), axis=0) / count)


Attack = Callable[[Key, View], Array]
"""A function ``(key, view) -> lies``: the messages of the attackers.

They are ``f[d]``, one for all, or ``f[m, d]``, of which the rows of attackers count.
"""


class _Share(NamedTuple):
    """A client's share in an attacked round.

    Attributes:
        share: the share for the aggregator that is attacked.
        floats: ``f[d]``, the floats of the decoded message.
        others: its leaves that are not floating.
        weight: ``f32[]``, weight of the client.
        lies: ``bool[]``, the client is Byzantine.
        rank, id: the client's.
    """

    share: Tree
    floats: Array
    others: Tree
    weight: Array
    lies: Array
    rank: Array
    id: Array


def colluding(
    aggregator: Aggregator,
    attack: Attack,
    *,
    byzantine: Byzantine,
    codec: Compressor | None = None,
) -> Aggregator:
    """An aggregator whose Byzantine clients send what they agreed on, knowing all honest messages.

    The messages of a round are held side by side.  Rows of attackers are replaced by those of
    ``attack``, and then the aggregator does its work.  One that adds (``fjx.SUM``) is attacked as well:
    its shares are stacked first and added afterwards, so a mean needs the memory of a median here.

    Without ``codec`` the lies are arbitrary decoded messages: attackers who write any payload.  With
    ``codec`` they are encoded and decoded first, with a fresh state of the codec: attackers who can only
    lie through the wire format.  Give the codec of the uplink.  An aggregator's own ``encode`` is always
    applied to the lies.

    Guarantees:
        - Shares of honest clients are not changed by a bit.
        - An attack sees honest messages only.
        - If nobody lies, a round is bitwise that of ``aggregator`` with the executor ``vectorized``.  An
          aggregator that adds may differ by the order of its sum with others.
        - Clients that are absent, padded, or without a finite message do not lie.
        - A lie that is not finite is left out, as the round leaves out a client's.
        - There is no privacy claim: the messages themselves are looked at.

    Bits:
        Those of ``aggregator``.  A lie costs as much as the honest message that it replaces.

    Args:
        aggregator: aggregator that is attacked.
        attack: attack such as :func:`alie`.
        byzantine: predicate of the Byzantine clients.
        codec: codec that the lies must pass through; None for arbitrary ones.

    Returns:
        An :class:`fjx.Aggregator` that stacks, with the metric ``byzantine``, the number of clients that
        lied.

    Raises:
        TypeError: an argument is of another kind.

    Examples:
        Three honest clients, and one that knows them:

        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators, attacks
        >>> bad = attacks.ids([3], num_clients=4)
        >>> x = jnp.array([[1.0], [2.0], [3.0], [2.0]])
        >>> for defence in (aggregators.mean(), aggregators.median()):
        ...     attacked = attacks.colluding(defence, attacks.ipm(9.0), byzantine=bad)
        ...     print(aggregators.aggregate(jax.random.key(0), attacked, x)[0])
        [-3.]
        [1.5]
    """
    require_aggregator("colluding", aggregator)
    require_byzantine(byzantine)
    require_attack("colluding", attack)
    if codec is not None and not isinstance(codec, Compressor):
        raise TypeError(
            f"codec must be a fjx.Compressor such as compressors.top_k(0.1), got {codec!r}"
        )

    def encode(key: Key, message: Tree, public: Public) -> Observed:
        return Observed(sent(aggregator, key, message, public), SideInformation(message))

    def contribute(payload: Tree, weight: Array, public: Public) -> _Share:
        message = payload if aggregator.encode is None else payload.seen.value
        given = payload if aggregator.encode is None else payload.sent
        if public.id is None:
            raise ValueError(
                "an attacked aggregator must know which client sent a message, and Public.id is None: "
                "make the value by Public.first, or give it an id"
            )
        floats, others, _ = _tree.ravel(message)
        turn = Turn(public.round, public.id, public.rank)
        return _Share(
            share=aggregator.contribute(given, weight, public),
            floats=_tree.wide(floats),
            others=others,
            weight=weight,
            lies=byzantine(turn) & (weight > 0),
            rank=jnp.asarray(public.rank, jnp.int32),
            id=jnp.asarray(public.id, jnp.int32),
        )

    def finish(key: Key, total: _Share, public: Public) -> tuple[Tree, Tree, Metrics]:
        # Apart from all that the aggregator splits off its key.
        key_attack, key_codec, key_encode = jax.random.split(
            jax.random.fold_in(jax.random.clone(key), 2**32 - 1), 3
        )

        def lie(floats: Array, share: _Share) -> Tree:
            """The share of a client that sends this."""
            message = _tree.unravel(floats, share.others, _tree.structure_of(public.like))
            if codec is not None:
                own = jax.random.fold_in(jax.random.clone(key_codec), share.id)
                payload, _ = codec.encode(own, message, codec.init(public.like))
                message = codec.decode(payload)
            finite = _tree.all_finite(message)
            message = _tree.where(finite, message, _tree.zeros_like(message))
            client = public._replace(rank=share.rank, id=share.id)
            own = jax.random.fold_in(jax.random.clone(key_encode), share.id)
            given = sent(aggregator, own, message, client)
            return aggregator.contribute(given, jnp.where(finite, share.weight, 0.0), client)

        def met(lies: Array) -> Tree:
            """The total of the server once the attackers sent these rows."""
            shares = rows_where(total.lies, jax.vmap(lie)(lies, total), total.share)
            if aggregator.combine is STACK:
                return shares
            return jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=x.dtype), shares)

        def tried(lies: Array) -> Array:
            message = aggregator.finish(jax.random.clone(key), met(lies), public)[0]
            return _tree.ravel(message)[0].astype(total.floats.dtype)

        honest = (total.weight > 0) & ~total.lies
        seen = jnp.where(honest[:, None], total.floats, 0.0)
        lies = attack(key_attack, View(seen, honest, total.lies, tried))
        lies = jnp.broadcast_to(lies, total.floats.shape).astype(total.floats.dtype)
        message, state, metrics = aggregator.finish(key, met(lies), public)
        count = jnp.sum(total.lies, dtype=jnp.int32)
        return message, state, _validate.disjoint(metrics, {"byzantine": count})

    def init(message_like: TreeLike) -> Tree:
        return aggregator.init(message_like)

    return Aggregator(
        init, contribute, finish, STACK, encode if aggregator.encode is not None else None
    )


def rows_where(condition: Array, a: Tree, b: Tree) -> Tree:
    """Rows of ``a`` where ``condition`` (``bool[m]``) is true, else those of ``b``."""
    return jax.vmap(_tree.where)(condition, a, b)


def require_attack(where: str, attack: object) -> None:
    """Raise TypeError unless ``attack`` is a function.

    Raises:
        TypeError: it is something else.
    """
    if not callable(attack):
        raise TypeError(
            f"{where} needs an attack (key, view) -> lies such as attacks.alie(), got {attack!r}"
        )
