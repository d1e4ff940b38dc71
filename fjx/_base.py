"""The words of fjx: five NamedTuples of pure functions, and the values they exchange.

Everything else in the library builds one of these five, or runs them.  A field is a function; its
``Protocol`` below says what it takes, what it returns and what it must never do.  Two argument orders
hold everywhere: transforms read ``(key, value, state) -> (value, state)``, steps read
``(key, state, input) -> (state, output)``; a key comes first, always, and is a typed key
(``jax.random.key``).
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Key = jax.Array
"""A typed PRNG key, as made by ``jax.random.key``."""

Tree = Any
"""Any pytree of arrays: parameters, messages, states, batches."""

TreeLike = Any
"""A pytree of arrays or of ``jax.ShapeDtypeStruct``: only shapes and dtypes are read."""

Metrics = Mapping[str, jax.Array]
"""Scalars by name, for a human to read.  Metrics never feed back into the computation."""


# --------------------------------------------------------------------------------------------------
# Values
# --------------------------------------------------------------------------------------------------


class Examples(NamedTuple):
    """One client's examples: a window on the packed arrays that all clients share.

    Under ``vmap`` over a cohort ``arrays`` stays as it is and only ``offset`` and ``size`` carry a
    client axis, so no client's examples are copied or padded.

    Attributes:
        arrays: pytree of ``[total, ...]``, the examples of all clients one after another.
        offset: ``i32[]``, where this client's examples begin.
        size: ``i32[]``, how many there are; zero for an empty or a padding client.
    """

    arrays: Tree
    offset: Array
    size: Array

    def take(self, positions: Array) -> Tree:
        """The examples at ``positions`` (``i32[b]``, each below ``size``): a pytree of ``[b, ...]``."""
        rows = self.offset + positions
        # Positions past the end occur only where a mask discards them; "clip" keeps them readable.
        return jax.tree.map(lambda x: jnp.asarray(x).at[rows].get(mode="clip"), self.arrays)

    def batch(self, step: Array | int, size: int) -> tuple[Tree, Array]:
        """Batch ``step`` of one pass in the order stored: ``[size, ...]`` and its mask ``bool[size]``.

        Rows outside the mask repeat the first example.
        """
        positions = step * size + jnp.arange(size, dtype=jnp.int32)
        mask = positions < self.size
        return self.take(jnp.where(mask, positions, 0)), mask


class Cohort(NamedTuple):
    """The clients of one round, as arrays of a fixed length m.

    A slot may be padding (``ids == num_clients``, weight 0) or a client that dropped out (a valid
    id, weight 0).  Neither contributes, and neither's state changes by a bit.

    Attributes:
        ids: ``i32[m]``, each client at most once.
        weights: ``f32[m]``, what the client counts for; zero means that it does not take part.
        examples: the clients' windows, ``offset`` and ``size`` being ``i32[m]``.
        population: ``i32[]``, the number of clients in all, which is the id of a padding slot.
        rejected: ``i32[]``, how many requested slots were turned into padding because their id was
            out of range or a duplicate.
        present: ``bool[m]``, who is there: a client without examples is, though its weight is zero, and
            does what everybody there must do whatever its data (adding its share of the noise, say).
            None for those of positive weight.
    """

    ids: Array
    weights: Array
    examples: Examples
    population: Array
    rejected: Array
    present: Array | None = None


class Public(NamedTuple):
    """What every client of a round knows, for free: it travels with the model, or is agreed once.

    Attributes:
        state: the aggregator's state, the same for all.
        key: a round key, the same for all: the source of shared randomness.
        rank: ``i32[]``, this client's rank by id among the cohort's clients, 0 to size - 1; None
            where the server finishes the round, who is no client.
        size: ``i32[]``, the number of clients in the cohort, padding not counted.
    """

    state: Tree
    key: Key
    rank: Any
    size: Array


class Stateful(NamedTuple):
    """A model with mutable state beside its parameters (BatchNorm's running statistics, say).

    Gradients are taken of ``params`` only.  The state moves because the loss function returns a new
    one, and it travels like the parameters do: the message holds ``after - before`` of both.  Integers
    in it are averaged as float32 numbers: counters should be signed and below 2^24.

    Attributes:
        params: what the optimisers move.
        state: what the loss function moves.
    """

    params: Tree
    state: Tree


class Contract(NamedTuple):
    """What a compressor C promises for every message x of a given shape, tested by a law.

    Attributes:
        unbiased: E[C(x)] = x.
        omega: E||C(x) - x||^2 <= omega ||x||^2; None where nothing is promised.
        delta: E||C(x) - x||^2 <= (1 - delta) ||x||^2 with 0 < delta <= 1; None where nothing is.
        linear: for one key, C(x) + C(y) = C(x + y), so that payloads can be added.
        projection: ||x||^2 = ||C(x)||^2 + ||x - C(x)||^2; what follows on the kept values then errs
            in a direction of its own.
    """

    unbiased: bool = False
    omega: float | None = None
    delta: float | None = None
    linear: bool = False
    projection: bool = False


EXACT = Contract(unbiased=True, omega=0.0, delta=1.0, linear=True, projection=True)
"""The contract of a codec that loses nothing."""


class Combine(enum.Enum):
    """How the contributions of a cohort meet."""

    SUM = "sum"
    """They are added: in constant memory, across devices, under a secure sum or in ciphertext."""
    STACK = "stack"
    """The server needs them side by side (median, Krum): stacked along a leading client axis."""


SUM, STACK = Combine.SUM, Combine.STACK


# --------------------------------------------------------------------------------------------------
# Compressor
# --------------------------------------------------------------------------------------------------


class CompressorInit(Protocol):
    def __call__(self, message_like: TreeLike, /) -> Tree:
        """The codec's state before its first message; ``()`` for a stateless codec."""


class Encode(Protocol):
    def __call__(self, key: Key, message: Tree, state: Tree, /) -> tuple[Tree, Tree]:
        """On the client: the payload, which is what the wire carries, and the next state."""


class Decode(Protocol):
    def __call__(self, payload: Tree, /) -> Tree:
        """On the server: the message, from the payload alone; total, without key or state."""


class ContractOf(Protocol):
    def __call__(self, message_like: TreeLike, /) -> Contract:
        """What the codec promises for messages of this shape."""


class Compressor(NamedTuple):
    """A codec for one client's message.  There is no client axis anywhere in it: ``vmap`` adds one.

    Codecs act on floating leaves and pass every other leaf through.
    """

    init: CompressorInit
    encode: Encode
    decode: Decode
    contract: ContractOf


# --------------------------------------------------------------------------------------------------
# ClientUpdate
# --------------------------------------------------------------------------------------------------


class ClientInit(Protocol):
    def __call__(self, params: Tree, /) -> Tree:
        """What a client remembers between rounds, before its first; ``()`` for most algorithms."""


class ClientStep(Protocol):
    def __call__(
        self, key: Key, broadcast: Tree, state: Tree, examples: Examples, /
    ) -> tuple[Tree, Tree, Metrics]:
        """One client's local work: the message (after - before), the next state, metrics."""


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
    """A computation in steps: a function that a caller may also run piece by piece.

    Calling it runs ``begin``, then ``step`` as often as ``begin`` said, then ``end``.  Executors that
    keep several clients in flight run the pieces themselves.

    Attributes:
        begin: ``(*inputs) -> (trips, carry)`` with ``trips`` an ``i32[]``.
        step: ``(*inputs, t, carry) -> carry`` for t = 0, 1, ..., trips - 1.
        end: ``(*inputs, carry) -> outputs``.
    """

    begin: Callable[..., tuple[Array, Tree]]
    step: Callable[..., Tree]
    end: Callable[..., Any]

    def __call__(self, *inputs: Any) -> Any:
        """All of it at once."""
        trips, carry = self.begin(*inputs)
        carry = jax.lax.fori_loop(0, trips, lambda t, carry: self.step(*inputs, t, carry), carry)
        return self.end(*inputs, carry)

    def around(self, before: Callable[..., Any], after: Callable[..., Any]) -> "Steps":
        """The same steps from other inputs: ``after(*inputs, self(*before(*inputs)))``."""
        return Steps(
            begin=lambda *inputs: self.begin(*before(*inputs)),
            step=lambda *inputs: self.step(*before(*inputs[:-2]), *inputs[-2:]),
            end=lambda *inputs: after(*inputs[:-1], self.end(*before(*inputs[:-1]), inputs[-1])),
        )

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "Steps":
        """Any function as a computation whose ``end`` does everything."""
        if isinstance(function, cls):
            return function
        return cls(
            begin=lambda *inputs: (jnp.int32(0), ()),
            step=lambda *inputs: inputs[-1],
            end=lambda *inputs: function(*inputs[:-1]),
        )


class MessageLike(Protocol):
    def __call__(self, params: Tree, /) -> TreeLike:
        """The template (shapes and dtypes) of the message that ``update`` returns."""


class OnSent(Protocol):
    def __call__(self, received: Tree, state: Tree, public: Public, /) -> Tree:
        """On the client, once its message is on the wire: the state that it keeps.

        ``received`` is what the server decodes of the message, ``state`` what ``update`` returned.
        """


class OnAggregate(Protocol):
    def __call__(self, aggregate: Tree, state: Tree, public: Public, /) -> Tree:
        """On a client that took part, once the messages have met: the state that it keeps.

        ``aggregate`` is the aggregate message, ``state`` what ``on_sent``, or else ``update``, left.
        """


class ClientUpdate(NamedTuple):
    """One client's local work.  An ``update`` that is a :class:`Steps` runs well in lanes, too.

    Where what a client remembers depends on what its codec made of the message, or on its place in the
    cohort, ``on_sent`` says how; where it depends on what became of the cohort's messages,
    ``on_aggregate`` does.  Else they are None.  What is heard goes to those who took part, at the end
    of the round: it is traffic of its own, because a client need not be there when the next round
    begins.
    """

    init: ClientInit
    update: ClientStep
    message: MessageLike
    on_sent: OnSent | None = None
    on_aggregate: OnAggregate | None = None


# --------------------------------------------------------------------------------------------------
# Aggregator
# --------------------------------------------------------------------------------------------------


class AggregatorInit(Protocol):
    def __call__(self, message_like: TreeLike, /) -> Tree:
        """The aggregator's state before the first round."""


class Contribute(Protocol):
    def __call__(self, key: Key, message: Tree, weight: Array, public: Public, /) -> Tree:
        """One client's share.  ``key`` is its own.

        ``weight`` is zero if it does not count: it has no examples, or its message was not finite and is
        zeros here.  What it adds then (noise of its own, or nothing) is added to a sum as long as the
        client is there; of who is not, nothing ever is.
        """


class Finish(Protocol):
    def __call__(self, key: Key, total: Tree, public: Public, /) -> tuple[Tree, Tree, Metrics]:
        """After the contributions met: the aggregate message, the next state, metrics.

        ``public`` is what the clients saw, with their state and their key, so that what they agreed
        on (a rotation, a mask) can be undone; ``key`` is the server's own.
        """


class SharedEncode(Protocol):
    def __call__(self, key: Key, message: Tree, public: Public, /) -> Tree:
        """What a client sends: a payload that ``contribute`` makes its share of."""


class Aggregator(NamedTuple):
    """m messages to one.  Everything that the clients of a round must agree on lives here.

    Where what is on the wire depends on what they agreed on (a shared mask, a client's part of a
    permutation), ``encode`` says what that is; else it is None, and the uplink codec's payload is.

    ``releases`` names the private mechanisms of which the result is made, if it is made of nothing else:
    what :func:`fjx.plan` accounts for.  An aggregator around another one passes it on if it
    changes messages before and results after; whatever says nothing counts as without noise.
    """

    init: AggregatorInit
    contribute: Contribute
    finish: Finish
    combine: Combine
    encode: SharedEncode | None = None
    releases: tuple[Any, ...] = ()


# --------------------------------------------------------------------------------------------------
# ServerUpdate
# --------------------------------------------------------------------------------------------------


class ServerInit(Protocol):
    def __call__(self, params: Tree, /) -> Any:
        """The server's state; it has a field ``params``, the current model."""


class Broadcast(Protocol):
    def __call__(self, state: Any, /) -> Tree:
        """What the server sends to every client of the round."""


class ServerStep(Protocol):
    def __call__(self, state: Any, message: Tree, /) -> Any:
        """The state after the round's aggregate message."""


class ServerUpdate(NamedTuple):
    """How the server moves when the round's aggregate message has come in."""

    init: ServerInit
    broadcast: Broadcast
    update: ServerStep


# --------------------------------------------------------------------------------------------------
# Algorithm
# --------------------------------------------------------------------------------------------------


class Executor(Protocol):
    """How a cohort is run: all at once, in chunks, over devices.  Results do not depend on it."""

    def __call__(
        self,
        client: Callable[[Tree, Tree], tuple[Tree, Tree]],
        shared: Tree,
        slots: Tree,
        cost: Array,
        /,
    ) -> tuple[Tree, Tree]:
        """Runs ``client`` on every slot.

        Args:
            client: ``(shared, slot) -> (summed, stacked)``, possibly a :class:`Steps`.  For a slot of
                zeros it must return a ``summed`` of zeros: such slots fill up a chunk.
            shared: what every client is given: the model, the packed examples.
            slots: pytree of ``[m, ...]``, what each client is given.
            cost: ``i32[m]``, proportional to a slot's work; executors may sort by it.

        Returns:
            The first outputs added over the slots, and the second stacked in the order given.
        """


class Round(Protocol):
    def __call__(
        self,
        key: Key,
        state: Any,
        clients: Tree,
        cohort: Cohort,
        /,
        *,
        executor: Executor | None = None,
    ) -> tuple[Any, Tree, Metrics]:
        """One round: the server's state, the cohort's rows ``[m, ...]`` and the round's metrics."""


class Traffic(NamedTuple):
    """What one client moves in one round, in bits, measured on payloads.

    Attributes:
        uplink: its message.
        downlink: the broadcast, and the aggregate message where clients hear it.
    """

    uplink: int
    downlink: int


class Algorithm(NamedTuple):
    """What :func:`fjx.compose` returns: a federated algorithm as three pure functions and a price.

    Attributes:
        init: ``(params) -> state`` of the server side; ``state.params`` is the current model.
        init_client: ``(params) -> row``, one client's state; a table of them is indexed by id.
        round: ``(key, state, rows, cohort) -> (state, rows, metrics)``.
        traffic: ``(params) -> Traffic``, from shapes alone.
        expected: ``(params, rounds) -> f64[rounds]``, the bits that a client's message has in each round
            in expectation, of an algorithm that knows with which probability it sends what; else None.
    """

    init: Callable[[Tree], Any]
    init_client: Callable[[Tree], Tree]
    round: Round
    traffic: Callable[[Tree], Traffic]
    expected: Callable[[TreeLike, int], np.ndarray | None] | None = None

    @property
    def aggregator(self) -> Aggregator | None:
        """What :attr:`round` was made with, for whoever must know what runs (:class:`fjx.Plan`).

        None of an algorithm that was not composed.
        """
        made_with = getattr(self.round, "args", ())
        return made_with[0] if made_with and isinstance(made_with[0], Aggregator) else None
