"""Aggregators around aggregators: the checks, the claims and the wrapper that all of them share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import (
    SUM,
    Aggregator,
    Array,
    Key,
    Metrics,
    Public,
    Releases,
    Template,
    Tree,
    TreeLike,
)
from fjx.wire import OneOf, SideInformation

KEY_LIKE = jax.eval_shape(jax.random.key, 0)


def require_aggregator(where: str, value: object) -> None:
    """Raises TypeError unless ``value`` is an Aggregator."""
    if not isinstance(value, Aggregator):
        raise TypeError(f"{where} needs a fjx.Aggregator such as aggregators.mean(), got {value!r}")


def releasing(aggregator: Aggregator, *mechanisms: object) -> Aggregator:
    """The same aggregator with the claim that its result is made of private releases only.

    Use it for an aggregator of your own that adds the noise of a mechanism to everything that depends on
    messages.  Nothing checks that it does.

    Guarantees:
        - The claim is tied to the functions that the aggregator has now: it is gone once ``_replace``
          exchanges one of them.

    Args:
        aggregator: the aggregator with a noised result.
        *mechanisms: one for each noised result; none withdraws the claim.

    Returns:
        An :class:`fjx.Aggregator` with the same functions.

    Raises:
        TypeError: ``aggregator`` is something else.

    Examples:
        >>> from fjx import aggregators, privacy
        >>> mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
        >>> a = aggregators.private(mechanism, denominator=10)
        >>> a.mechanisms == (mechanism,)
        True
        >>> a._replace(finish=aggregators.mean().finish).mechanisms
        ()
    """
    require_aggregator("releasing", aggregator)
    claim = Releases(mechanisms, aggregator.functions) if mechanisms else None
    return aggregator._replace(releases=claim)


def sent(aggregator: Aggregator, key: Key, message: Tree, public: Public) -> Tree:
    """The input of ``contribute``: the payload of ``encode``, or the message where that is None."""
    if aggregator.encode is None:
        return message
    return aggregator.encode(key, message, public)


def around(
    inner: Aggregator,
    *,
    before: Callable[[Tree, Public], Tree],
    after: Callable[[Tree, Public], Tree],
) -> Aggregator:
    """An aggregator of transformed messages, whose result is transformed back.

    Clients apply ``before`` to their messages and send the payload that ``inner`` makes of them; the
    server applies ``after`` to the result of ``inner``.  Both are given a :class:`fjx.Public` whose
    ``key`` is the same for all clients of the round and for the server, and differs from the key that
    ``inner`` is given.  Its ``state`` is empty.

    If ``inner`` has a privacy claim, its ``rank`` and ``size`` are None.  They depend on who came: one
    client more would change the messages of others, or the factor of a noised sum.

    Guarantees:
        - The state, the metrics and ``combine`` are those of ``inner``.
        - A privacy claim of ``inner`` stays: ``before`` acts on one client's message ahead of the bound,
          ``after`` behind the noise.

    Bits:
        Those of ``inner`` for the transformed message.  It is sent in place of the payload of the
        uplink's codec: put a codec inside, by :func:`compressed`.

    Args:
        inner: aggregator of the transformed messages.
        before: ``(message, public) -> message``, on the client.
        after: ``(result, public) -> result``, on the server; ``public.like`` is the message.

    Returns:
        An :class:`fjx.Aggregator`.

    Raises:
        TypeError: ``inner`` is something else.

    Examples:
        A mean of half precision:

        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import aggregators, wire
        >>> a = aggregators.around(
        ...     aggregators.mean(), before=lambda x, public: x.astype(jnp.bfloat16),
        ...     after=lambda x, public: x.astype(public.like.dtype))
        >>> x = jnp.ones(3)
        >>> public = fjx.Public.first(a, x, jax.random.key(0))
        >>> wire.bits(a.encode(jax.random.key(1), x, public))
        48
    """
    require_aggregator("around", inner)

    def own(public: Public) -> Public:
        """The round as ``before`` and ``after`` see it."""
        key = jax.random.fold_in(public.key, 0)
        alone = {"rank": None, "size": None} if inner.mechanisms else {}
        return public._replace(state=(), key=key, **alone)

    def inside(public: Public) -> Public:
        """The round as ``inner`` sees it."""
        key = jax.random.fold_in(public.key, 1)
        return public._replace(key=key, template=Template.of(transformed(public.like)))

    def transformed(message_like: TreeLike) -> TreeLike:
        def run(key: Key, rank: Array, size: Array, message: Tree) -> Tree:
            public = Public((), key, rank, size, template=Template.of(message_like), id=rank)
            return before(message, own(public))

        number = jax.ShapeDtypeStruct((), "int32")
        return jax.eval_shape(run, KEY_LIKE, number, number, Template.of(message_like).tree)

    def init(message_like: TreeLike) -> Tree:
        return inner.init(transformed(message_like))

    def encode(key: Key, message: Tree, public: Public) -> Tree:
        return sent(inner, key, before(message, own(public)), inside(public))

    def contribute(payload: Tree, weight: Array, public: Public) -> Tree:
        return inner.contribute(payload, weight, inside(public))

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        result, state, metrics = inner.finish(key, total, inside(public))
        return after(result, own(public)), state, metrics

    wrapped = Aggregator(init, contribute, finish, inner.combine, encode)
    return releasing(wrapped, *inner.mechanisms)


def switch(which: Callable[[Public], Array], *options: Aggregator) -> Aggregator:
    """One of several aggregators in each round, the same for all clients.

    Guarantees:
        - The result is that of the option that was chosen; the states of the others stay.
        - Metrics are those of all options.  A metric of several options is that of the chosen one; one
          that the chosen option does not report is NaN, or zero if it is a count.
        - There is no privacy claim, even if every option has one.

    Bits:
        Those of the option that was chosen.  The choice is free, because everybody knows it.

    Args:
        which: ``(public) -> i32[]`` or ``bool[]``, the number of the option, clamped to those that
            exist.  It must follow from facts that everybody knows, such as ``public.round`` or a coin
            drawn from ``public.key``.
        *options: aggregators of the same messages, with results of the same shapes; all sum, or all
            stack.

    Returns:
        An :class:`fjx.Aggregator` whose state is the tuple of theirs.

    Raises:
        TypeError: an option is something else.
        ValueError: there are none or more than 256, or some sum and some stack.

    Examples:
        A mean in even rounds and a sum over a fixed number in odd ones:

        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import aggregators
        >>> a = aggregators.switch(
        ...     lambda public: public.round % 2, aggregators.mean(), aggregators.scaled_sum(10.0))
        >>> public = fjx.Public.first(a, jnp.array(4.0), jax.random.key(0))
        >>> payload = a.encode(jax.random.key(1), jnp.array(4.0), public)
        >>> share = a.contribute(payload, jnp.float32(1), public)
        >>> float(a.finish(jax.random.key(2), share, public)[0])
        4.0
    """
    for number, option in enumerate(options):
        require_aggregator(f"switch: option {number}", option)
    if not 1 <= len(options) <= 256 or len({option.combine for option in options}) != 1:
        raise ValueError(
            "switch needs 1 to 256 aggregators, and all that sum or all that stack; got "
            f"{[option.combine.name for option in options]}"
        )

    def chosen(public: Public) -> Array:
        """The number of the option, by a key of its own."""
        number = which(public._replace(key=jax.random.fold_in(public.key, 0)))
        return jnp.clip(jnp.asarray(number).astype(jnp.int32), 0, len(options) - 1)

    def inside(public: Public, number: int) -> Public:
        # All options draw alike: only one of them counts.
        return public._replace(key=jax.random.fold_in(public.key, 1), state=public.state[number])

    def only(number: int, public: Public, tree: Tree) -> Tree:
        return _tree.where(chosen(public) == number, tree, _tree.zeros_like(tree))

    def init(message_like: TreeLike) -> Tree:
        return tuple(option.init(message_like) for option in options)

    def encode(key: Key, message: Tree, public: Public) -> OneOf:
        parts = []
        for number, option in enumerate(options):
            part = only(number, public, message)
            parts.append(sent(option, jax.random.clone(key), part, inside(public, number)))
        return OneOf(SideInformation(chosen(public).astype(jnp.uint8)), tuple(parts))

    def contribute(payload: OneOf, weight: Array, public: Public) -> Tree:
        return tuple(
            only(number, public, option.contribute(part, weight, inside(public, number)))
            for number, (option, part) in enumerate(zip(options, payload.parts, strict=True))
        )

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        message, states = None, []
        metrics: dict[str, Array] = {}
        for number, option in enumerate(options):
            own = inside(public, number)
            result, state, named = option.finish(jax.random.clone(key), total[number], own)
            now = chosen(public) == number
            message = result if number == 0 else _tree.where(now, result, message)
            states.append(_tree.where(now, state, own.state))
            for name, value in named.items():
                nothing = jnp.full_like(value, jnp.nan if _tree.is_float(value) else 0)
                metrics[name] = _selected(now, value, metrics.get(name, nothing))
        return message, tuple(states), metrics

    return Aggregator(init, contribute, finish, options[0].combine, encode)


def _selected(now: Array, value: Array, other: Array) -> Array:
    """``value`` if ``now`` is true, else ``other``, which may be a NaN on purpose."""
    with jax.debug_nans(False):
        return jnp.where(now, value, other)


def aggregate(
    key: Key,
    aggregator: Aggregator,
    messages: Tree,
    *,
    weights: Array | None = None,
    state: Tree | None = None,
    round: Array | int = 0,
) -> tuple[Tree, Tree, Metrics]:
    """One round of an aggregator by itself: encode, contribute, combine and finish.

    Use it to try an aggregator, and in tests.  It is the part of :func:`fjx.compose` that follows the
    uplink's codec.  The aggregator is given every message as it is; a round would first replace messages
    of weight zero, and those that are not finite, by zeros.

    Args:
        key: key of the round; the keys of clients follow from their ranks.
        aggregator: any aggregator.
        messages: tree of ``[m, ...]``, the messages of m clients in the order of their ranks.
        weights: ``f32[m]``; ones by default.
        state: state of the aggregator; that of a first round by default.
        round: number of rounds before this one.

    Returns:
        The aggregate message, the next state and the metrics.

    Raises:
        TypeError: ``aggregator`` is something else, or ``key`` is not a typed key.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> x = jnp.array([1.0, 2.0, 9.0])
        >>> message, _, _ = aggregators.aggregate(jax.random.key(0), aggregators.median(), x)
        >>> float(message)
        2.0
    """
    _validate.key("key", key)
    require_aggregator("aggregate", aggregator)
    m = jax.tree.leaves(messages)[0].shape[0]
    weights = jnp.ones(m, jnp.float32) if weights is None else jnp.asarray(weights, jnp.float32)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), messages)
    state = aggregator.init(like) if state is None else state
    key_public, key_clients, key_finish = jax.random.split(key, 3)

    def public(rank: Array | None) -> Public:
        shared = jax.random.clone(key_public)
        return Public(state, shared, rank, jnp.int32(m), jnp.int32(round), Template.of(like), rank)

    def share(rank: Array, message: Tree, weight: Array) -> Tree:
        payload = sent(aggregator, jax.random.fold_in(key_clients, rank), message, public(rank))
        return aggregator.contribute(payload, weight, public(rank))

    total = jax.vmap(share)(jnp.arange(m, dtype=jnp.int32), messages, weights)
    if aggregator.combine is SUM:
        total = jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=x.dtype), total)
    return aggregator.finish(key_finish, total, public(None))
