"""The laws of aggregators."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import wire
from fjx._base import STACK, Aggregator, Array, Key, Tree, TreeLike
from fjx.aggregators import aggregate
from fjx.testing import _laws
from fjx.testing._aggregator_trial import (
    BASE,
    CLIENTS,
    NOBODY,
    ORDER,
    OTHER,
    RUNS,
    SLOTS,
    UNCOUNTED,
    Trial,
    stacked,
)
from fjx.testing._laws import Law, attempt, require


def check_aggregator(
    aggregator: Aggregator,
    like: TreeLike | None = None,
    *,
    messages: Tree | None = None,
    result: TreeLike | None = None,
) -> None:
    """Checks every law of an aggregator, up to the first that does not hold.

    A cohort of five clients, one of them of weight zero, plays a round: with its slots in another order,
    with padding elsewhere, without anybody.  Payloads travel as bytes between a program of the clients
    and one of the server.

    Args:
        aggregator: the aggregator.
        like: template of one client's message; None for one with a matrix, a vector, a scalar and an
            empty leaf, under the keys ``"a"`` and ``"b"``.
        messages: five messages, as a tree of ``[5, ...]``, for an aggregator whose messages are no
            random numbers; ``like`` follows from them.
        result: template of the aggregate message; None for that of a message in float32.

    Raises:
        TypeError: ``aggregator`` is not a :class:`fjx.Aggregator`.
        LawError: a law does not hold; the message names the law, the input and a remedy.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import aggregators, testing
        >>> testing.check_aggregator(aggregators.mean())
        >>> def contribute(payload, weight, public):  # everybody counts
        ...     return payload, jnp.ones(())
        >>> careless = aggregators.mean()._replace(contribute=contribute)
        >>> testing.check_aggregator(careless)  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        fjx.testing.LawError: the law 'a_client_of_weight_zero_changes_nothing' does not hold
    """
    _laws.run(aggregator_laws(aggregator, like, messages=messages, result=result))


def aggregator_laws(
    aggregator: Aggregator,
    like: TreeLike | None = None,
    *,
    messages: Tree | None = None,
    result: TreeLike | None = None,
) -> list[Law]:
    """The laws of an aggregator, to be checked one by one.

    Args:
        aggregator: the aggregator.
        like: template of one client's message.
        messages: five messages, as a tree of ``[5, ...]``.
        result: template of the aggregate message.

    Returns:
        A list of :class:`Law`.

    Raises:
        TypeError: ``aggregator`` is not a :class:`fjx.Aggregator`.

    Examples:
        >>> from fjx import aggregators, testing
        >>> testing.aggregator_laws(aggregators.median())[1].name
        'contributes_what_was_sent'
    """
    if not isinstance(aggregator, Aggregator):
        raise TypeError(f"aggregator must be a fjx.Aggregator, got {aggregator!r}")
    if messages is not None:
        like = _laws.row(stacked(messages), 0)
    like = message_like() if like is None else like
    return _laws.bind(Trial(aggregator, _laws.template(like), messages, result), LAWS)


def message_like() -> TreeLike:
    """A message of two fields, with a matrix, a vector, a scalar and an empty leaf."""
    return {
        "a": {
            "matrix": jax.ShapeDtypeStruct((3, 2), jnp.float32),
            "empty": jax.ShapeDtypeStruct((0,), jnp.float32),
        },
        "b": (jax.ShapeDtypeStruct((4,), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)),
    }


def keeps_structure_and_dtypes(trial: Trial) -> None:
    """The result is like a message, in float32 also of narrower ones; the state stays like itself."""
    remedy = (
        "add in float32 (a sum of bfloat16 loses clients), return the message's tree, and make init "
        "return what finish returns; give result= if the aggregate message is another tree"
    )
    narrow = _laws.cast(trial.like, jnp.bfloat16)
    for words, like in {BASE: trial.like, f"{BASE}, in bfloat16": narrow}.items():
        with attempt(words, remedy):
            message, (before, after), metrics = _traced(trial.aggregator, like)
        difference = _laws.unlike(message, trial.result)
        require(difference is None, words, f"the result has {difference}", remedy)
        difference = _laws.unlike(after, before)
        require(difference is None, words, f"the next state has {difference}", remedy)
        for name, value in metrics.items():
            right = value.shape == ()
            require(
                right, words, f"metric {name!r} is of shape {value.shape}", "metrics are scalars"
            )


def _traced(aggregator: Aggregator, like: TreeLike) -> tuple[Tree, tuple[Tree, Tree], Any]:
    """The result, the states before and after, and the metrics of a round: by tracing alone."""

    def play(key: Key, messages: Tree) -> tuple[Tree, tuple[Tree, Tree], Any]:
        state = aggregator.init(like)
        weights = jnp.ones(SLOTS)
        result, after, metrics = aggregate(key, aggregator, messages, weights=weights, state=state)
        return result, (state, after), metrics

    stacked = jax.tree.map(lambda x: jax.ShapeDtypeStruct((SLOTS, *x.shape), x.dtype), like)
    return jax.eval_shape(play, jax.eval_shape(jax.random.key, 0), stacked)


def contributes_what_was_sent(trial: Trial) -> None:
    """The result is a function of the bytes that clients sent, of weights and of what all know.

    Payloads are written to bytes and read; another program, which has nothing else, contributes them.
    """
    remedy = (
        "contribute(payload, weight, public) may use the payload alone: send what it needs, in arrays "
        "or fjx.wire payload types, or derive it from public"
    )
    restored = []
    for slot in range(SLOTS):
        payload = _laws.row(trial.payloads[BASE], slot)
        with attempt(f"the message of slot {slot}", remedy):
            restored.append(_laws.through_bytes(payload))
        difference = _laws.different(restored[-1], payload)
        require(
            difference is None, f"the message of slot {slot}", f"bytes restore {difference}", remedy
        )
    with attempt(BASE, remedy):
        again = trial.aggregate(BASE, payloads=_laws.stack(restored))
    difference = _laws.different(list(again), list(trial.base))
    require(difference is None, BASE, f"from bytes the result has {difference}", remedy)


def costs_the_bits_of_its_bytes(trial: Trial) -> None:
    """A payload costs the bits that are written; shapes tell its price, or the most of it."""
    remedy = (
        "a payload's arrays and widths() must not depend on values; or use a fjx.wire.Ragged type"
    )
    for slot in range(CLIENTS):
        payload = _laws.row(trial.payloads[BASE], slot)
        with attempt(f"the message of slot {slot}", remedy):
            data, cost = wire.to_bytes(payload), wire.bits(payload)
            most = wire.bits(_laws.template(payload))
            written = 8 * len(data) - wire.header_bits(data)
        found = f"{written} bits are written, {cost} billed, {most} from shapes"
        require(written == cost <= most, f"the message of slot {slot}", found, remedy)


def sound_messages_give_a_finite_result(trial: Trial) -> None:
    """Messages of finite numbers give a result, a state and metrics of finite numbers.

    Metrics over nobody may be NaN.
    """
    for given in (BASE, NOBODY):
        found = trial.aggregate(given)
        for name, x in _laws.floats(list(found[: 3 if given == BASE else 2])):
            finite = np.isfinite(np.asarray(x, np.float32)).all()
            remedy = "divide by jnp.where(weight > 0, weight, 1): nobody may come"
            require(finite, given, f"NaN or infinity at {name} of (result, state, metrics)", remedy)


def every_message_counts(trial: Trial) -> None:
    """Another message of a client that takes part gives another result."""
    difference = _laws.different(trial.aggregate(OTHER)[0], trial.base[0])
    require(
        difference is not None, OTHER, "the result is the same", "add up what clients contribute"
    )


def a_client_of_weight_zero_changes_nothing(trial: Trial) -> None:
    """A client of weight zero, whose message is zeros, changes no bit of the result.

    Clients that add noise of their own add it in this case, too.
    """
    if trial.aggregator.combine is STACK:
        without = _stacked_without(trial)
    else:
        here = np.arange(SLOTS) < CLIENTS
        here[UNCOUNTED] = False
        without = trial.aggregate(BASE, here=here)[0]
    if trial.clients_add_noise:
        return
    difference = _laws.different(without, trial.base[0])
    remedy = "multiply by the weight (or by weight > 0), what is counted as well as what is added"
    require(difference is None, BASE, f"without it the result has {difference}", remedy)


def _stacked_without(trial: Trial) -> Tree:
    """With another message in the slot of weight zero: what is stacked cannot be left out."""
    payloads = trial.payloads[BASE]

    def exchange(x: np.ndarray) -> np.ndarray:
        x = np.array(x)
        x[UNCOUNTED] = x[0]
        return x

    return trial.aggregate(BASE, payloads=jax.tree.map(exchange, payloads))[0]


def the_order_of_slots_does_not_matter(trial: Trial) -> None:
    """With its slots in another order, padding in between, a cohort has the same result."""
    difference = _laws.far(trial.aggregate(ORDER)[0], trial.base[0], 1e-5)
    remedy = (
        "tell clients apart by public.rank, never by their place in an array; a stacked slot of weight "
        "zero does not count"
    )
    require(difference is None, ORDER, f"the result has {difference}", remedy)


def nobody_gives_zeros(trial: Trial) -> None:
    """If nobody counts, the result is zeros, or the noise of a private mechanism."""
    result = trial.aggregate(NOBODY)[0]
    noise = any(
        float(getattr(m, "noise_multiplier", 0) or 0) > 0 for m in trial.aggregator.mechanisms
    )
    nonzero = [name for name, x in _laws.named(result) if np.any(np.asarray(x) != 0)]
    if noise and not trial.clients_add_noise:
        remedy = "add noise whether somebody came or not: that nobody did is private"
        require(nonzero, NOBODY, "the result is zeros, and noise is claimed", remedy)
    elif not noise:
        remedy = "the sum of nothing is zeros, and so is its mean: the model stays where it is"
        require(not nonzero, NOBODY, f"the result is not zeros at {nonzero[:1]}", remedy)


def a_claimed_result_does_not_depend_on_who_else_came(trial: Trial) -> None:
    """Under a privacy claim one client more changes neither the shares of others nor the noised sum.

    It would change their rank, and the size of the cohort.
    """
    aggregator, message = trial.aggregator, jax.tree.map(lambda x: x[1], trial.drawn)
    if not aggregator.mechanisms:
        return

    def alone(rank: Array, size: Array) -> Tree:
        public = trial.public(trial.state, rank)._replace(size=size)
        payload = message
        if aggregator.encode is not None:
            payload = aggregator.encode(jax.random.key(1), message, public)
        share = aggregator.contribute(payload, jnp.float32(1), public)
        return share, aggregator.finish(jax.random.key(2), share, public._replace(rank=None))[0]

    with attempt(BASE, RUNS):
        program = _laws.jit(alone)
        fewer = _laws.numpy(program(jnp.int32(1), jnp.int32(CLIENTS)))
        more = _laws.numpy(program(jnp.int32(2), jnp.int32(CLIENTS + 1)))
    given = "a client of rank 1 among five, then of rank 2 among six"
    remedy = (
        "use neither public.rank nor public.size under a claim: one client more would move the result "
        "by more than the clip norm; divide by a public number"
    )
    for words, few, many in zip(("its share", "the result"), fewer, more, strict=True):
        difference = _laws.different(many, few)
        require(difference is None, given, f"{words} has {difference}", remedy)


def vmap_is_a_loop(trial: Trial) -> None:
    """In a batch of clients one sends and contributes what it does alone."""
    aggregator, state = trial.aggregator, trial.state

    def one(message: Tree, weight: Array, rank: Array) -> Tree:
        sent = message
        if aggregator.encode is not None:
            key = jax.random.fold_in(jax.random.key(1), rank)
            sent = aggregator.encode(key, message, trial.public(state, rank))
        return sent, aggregator.contribute(sent, weight, trial.public(state, rank))

    messages, weights, ranks = trial.scenarios[BASE]
    with attempt(BASE, RUNS):
        inputs = (messages, weights, ranks)
        batch = _laws.numpy(_laws.jit(jax.vmap(one))(*inputs))
        alone = _laws.numpy(
            _laws.jit(one)(*(jax.tree.map(lambda x: x[1], part) for part in inputs))
        )
    difference = _laws.far(_laws.row(batch, 1), alone, 1e-5)
    remedy = (
        "an aggregator's encode and contribute have no client axis: reduce over all axes of a leaf"
    )
    require(difference is None, "the client of rank 1", f"in a batch it has {difference}", remedy)


def is_a_pure_function(trial: Trial) -> None:
    """Every trace of encode, contribute and finish is the same program."""
    remedy = "draw from the keys, and keep what changes from round to round in the state"
    state, rank = trial.state, jax.ShapeDtypeStruct((), jnp.int32)
    key = jax.eval_shape(jax.random.key, 0)
    if trial.aggregator.encode is not None:
        encode = trial.aggregator.encode
        _laws.require_one_program(
            "encode",
            lambda k, message, r: encode(k, message, trial.public(state, r)),
            (key, trial.like, rank),
            remedy,
        )
    payload = _laws.template(_laws.row(trial.payloads[BASE], 0))
    _laws.require_one_program(
        "contribute",
        lambda p, w, r: trial.aggregator.contribute(p, w, trial.public(state, r)),
        (payload, jax.ShapeDtypeStruct((), jnp.float32), rank),
        remedy,
    )


def uses_each_key_once(trial: Trial) -> None:
    """``encode`` draws from no key twice: neither from the client's nor from the round's."""
    state, encode = trial.state, trial.aggregator.encode
    if encode is None:
        return
    message = jax.tree.map(lambda x: jnp.asarray(x[0]), trial.drawn)
    public = trial.public(state, jnp.int32(0))
    _laws.require_fresh_keys(
        lambda key: encode(key, message, public._replace(key=jax.random.key(5)))
    )
    _laws.require_fresh_keys(
        lambda key: encode(jax.random.key(5), message, public._replace(key=key))
    )


LAWS = (
    keeps_structure_and_dtypes,
    contributes_what_was_sent,
    costs_the_bits_of_its_bytes,
    sound_messages_give_a_finite_result,
    every_message_counts,
    a_client_of_weight_zero_changes_nothing,
    the_order_of_slots_does_not_matter,
    nobody_gives_zeros,
    a_claimed_result_does_not_depend_on_who_else_came,
    vmap_is_a_loop,
    is_a_pure_function,
    uses_each_key_once,
)
"""Every law of an aggregator, in the order in which they are checked."""
