"""Rounds of two kinds: two halves of one step, or a beginning and the rest."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import (
    SUM,
    Aggregator,
    Algorithm,
    Array,
    Broadcast,
    ClientInit,
    ClientStep,
    ClientUpdate,
    Compressor,
    Contract,
    Examples,
    Key,
    MessageLike,
    Metrics,
    Public,
    ServerInit,
    ServerStep,
    ServerUpdate,
    Tree,
    TreeLike,
    Turn,
)
from fjx.aggregators import mean, uniform
from fjx.compressors import identity
from fjx.rounds._compose import compose
from fjx.rounds._replicated import replicated
from fjx.wire import OneOf, SideInformation

FIRST, SECOND = "first", "second"
NOBODY = 2  # in place of the phase of a round to which nobody came


class Phase(NamedTuple):
    """A round of one kind.

    Attributes:
        client: local work of a client; both phases share the client's state.
        message: ``(params) -> template`` of the clients' messages.
        server: ``(state, mean) -> state``, the server's step by the mean of the messages.
        uplink: codec of the messages; its state rests during the other phase.
        downlink: codec of their mean.
    """

    client: ClientStep
    message: MessageLike
    server: ServerStep
    uplink: Compressor = identity()
    downlink: Compressor = identity()


def alternately(round: Array) -> Array:
    """The schedule of a step with two uplinks: 0, 1, 0, 1, ..."""
    return round % 2


def two_phases(
    first: Phase,
    second: Phase,
    *,
    client: ClientInit,
    server: ServerInit,
    broadcast: Broadcast,
    schedule: Callable[[Array], Array] = alternately,
) -> Algorithm:
    """An algorithm with rounds of two kinds: by default halves of a step that has two uplinks.

    The phase follows from the number of the round.  Local work, messages and the server's step are
    those of the phase.  Clients are :func:`replicated`: the mean of one round's messages travels down
    in the next.

    Guarantees:
        - The phase is free, because everybody knows the number of the round.
        - Clients of both phases share one state.  A client that is absent in one phase of a step may
          take part in the other; the author of a phase must see to it that this works.
        - A metric that only one phase reports is NaN in the other.
        - An empty round only increments the counter.  Its payload down is empty, which is how clients
          recognise it.

    Bits:
        Up, those of the phase's codec; down, those of the mean of the round before.  A message of the
        other phase costs nothing.  ``traffic`` reports the more expensive phase; a run is billed the
        bits that were sent.

    Args:
        first: phase 0.
        second: phase 1.
        client: ``(params) -> state`` of a client.
        server: ``(params) -> state`` of the server, with a field ``params``.
        broadcast: ``(state) -> tree``, the input of local work in both phases.
        schedule: ``(round) -> phase``, from the number of the round to 0 or 1, ``i32[]``.

    Returns:
        An :class:`fjx.Algorithm` of uniform means.  Its metric ``phase`` is that of the round.

    Examples:
        The first half of a step asks for the size of gradients:

        >>> import jax, jax.numpy as jnp
        >>> from typing import NamedTuple
        >>> from fjx import rounds
        >>> class State(NamedTuple):
        ...     params: jax.Array
        ...     size: jax.Array
        >>> def ask(key, state, memory, examples, turn):
        ...     return jnp.max(jnp.abs(examples.batch(0, 1)[0])), memory, {}
        >>> def move(key, state, memory, examples, turn):
        ...     return examples.batch(0, 1)[0][0] / state.size, memory, {}
        >>> def scalar(params):
        ...     return jax.ShapeDtypeStruct((), jnp.float32)
        >>> algorithm = rounds.two_phases(
        ...     rounds.Phase(ask, scalar, lambda state, mean: state._replace(size=mean)),
        ...     rounds.Phase(move, scalar, lambda state, mean: state._replace(params=mean)),
        ...     client=lambda params: (), server=lambda params: State(params, jnp.ones(())),
        ...     broadcast=lambda state: state)
        >>> algorithm.traffic(jnp.zeros(()))
        Traffic(uplink=32, downlink=32)
    """

    def message(params: Tree) -> TreeLike:
        phase = jax.ShapeDtypeStruct((), jnp.uint8)
        return {"phase": phase, FIRST: first.message(params), SECOND: second.message(params)}

    def phase_of(round: Array) -> Array:
        return schedule(round).astype(jnp.uint8)

    def update(
        key: Key, content: Tree, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        phase = phase_of(turn.round)
        inputs = (key, content, state, examples, turn)
        likes = [jax.eval_shape(half.client, *_clones(inputs)) for half in (first, second)]
        names = likes[0][2].keys() | likes[1][2].keys()
        wide = {n: _wide(*(like[2][n].dtype for like in likes if n in like[2])) for n in names}

        def run(name: str, half: Phase) -> tuple[Tree, Tree, Metrics]:
            sent = {FIRST: likes[0][0], SECOND: likes[1][0]}
            sent = _tree.zeros_like(sent)
            sent[name], after, metrics = half.client(*inputs)
            reported = {n: jnp.asarray(metrics.get(n, jnp.nan)).astype(wide[n]) for n in names}
            return sent, after, reported

        sent, state, metrics = jax.lax.cond(
            phase == 0, lambda: run(FIRST, first), lambda: run(SECOND, second)
        )
        return {"phase": phase, **sent}, state, metrics

    def step(state: Any, heard: Tree) -> Any:
        return jax.lax.switch(
            heard["phase"],
            (
                lambda: first.server(state, heard[FIRST]),
                lambda: second.server(state, heard[SECOND]),
                lambda: state,
            ),
        )

    return compose(
        client=ClientUpdate(client, update, message),
        uplink=_either(first.uplink, second.uplink),
        **replicated(
            _either(first.downlink, second.downlink),
            aggregator=_means(phase_of),
            server=ServerUpdate(server, broadcast, step),
            message=message,
        ),
    )


def _either(first: Compressor, second: Compressor) -> Compressor:
    """The codec of ``{"phase", "first", "second"}``, which encodes the part of the phase, if any."""
    codecs = {FIRST: first, SECOND: second}

    def init(message_like: TreeLike) -> Tree:
        return {name: codec.init(message_like[name]) for name, codec in codecs.items()}

    def encode(key: Key, message: Tree, state: Tree) -> tuple[OneOf, Tree]:
        parts, states = [], {}
        for number, (name, codec) in enumerate(codecs.items()):
            now = message["phase"] == number
            own = jax.random.fold_in(key, number)
            payload, after = codec.encode(own, message[name], state[name])
            parts.append(_tree.where(now, payload, _tree.zeros_like(payload)))
            states[name] = _tree.where(now, after, state[name])
        return OneOf(SideInformation(message["phase"]), (*parts, ())), states

    def decode(payload: OneOf) -> Tree:
        message = {"phase": payload.number}
        for number, (name, codec) in enumerate(codecs.items()):
            part = codec.decode(payload.parts[number])
            message[name] = _tree.where(payload.number == number, part, _tree.zeros_like(part))
        return message

    return Compressor(init, encode, decode, lambda message_like: Contract())


def _means(phase_of: Callable[[Array], Array]) -> Aggregator:
    """The uniform means of both parts, and the phase, or a mark that nobody came."""
    inner = uniform(mean())

    def contribute(message: Tree, weight: Array, public: Public) -> Tree:
        parts = {name: message[name] for name in (FIRST, SECOND)}
        return inner.contribute(parts, weight, public)

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        phase = phase_of(public.round)
        parts, state, _ = inner.finish(key, total, public)
        _, participants = total
        said = jnp.where(participants > 0, phase, jnp.uint8(NOBODY))
        return {"phase": said, **parts}, state, {"phase": phase}

    return Aggregator(lambda message_like: (), contribute, finish, SUM)


def _clones(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (jax.random.clone(inputs[0]), *inputs[1:])


def _wide(*dtypes: Any) -> Any:
    """The dtype of a metric in both phases: float32, or float64 if one phase reports it so."""
    return jnp.float64 if jnp.dtype(jnp.float64) in dtypes else jnp.float32
