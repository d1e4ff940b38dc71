"""The core types of fjx: five NamedTuples of pure functions, and the values they exchange.

Everything else in the library builds one of these five, or runs them.  A field is a function; its
``Protocol`` below states its inputs, its outputs and its promises.  Two argument orders hold everywhere:
transforms read ``(key, value, state) -> (value, state)``, and steps read
``(key, state, input) -> (state, output)``.  A key always comes first, and is a typed key
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
        offset: ``i32[]``, the place of this client's first example.
        size: ``i32[]``, the number of its examples; zero for an empty or a padding client.
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
        weights: ``f32[m]``, the client's weight; zero means that it does not take part.
        examples: the clients' windows, ``offset`` and ``size`` being ``i32[m]``.
        population: ``i32[]``, the number of clients in all, which is the id of a padding slot.
        rejected: ``i32[]``, the number of requested slots that were turned into padding because their
            id was out of range or a duplicate.
        present: ``bool[m]``, true for the clients that are there; None for those of positive weight.
            A client without examples may be there: its weight is zero, but it does what must not
            depend on data, such as adding its share of the noise.
    """

    ids: Array
    weights: Array
    examples: Examples
    population: Array
    rejected: Array
    present: Array | None = None


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Template:
    """Shapes and dtypes of a tree as a static value, which passes through ``jit`` and ``vmap``.

    Attributes:
        treedef: the containers.
        leaves: a ``jax.ShapeDtypeStruct`` for each leaf, in order.
    """

    treedef: jax.tree_util.PyTreeDef
    leaves: tuple[jax.ShapeDtypeStruct, ...]

    @classmethod
    def of(cls, tree: TreeLike) -> "Template":
        """The template of a tree of arrays or of shapes."""
        leaves, treedef = jax.tree.flatten(tree)
        shapes = (jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in leaves)
        return cls(treedef, tuple(shapes))

    @property
    def tree(self) -> TreeLike:
        """The shapes and dtypes, as a tree."""
        return self.treedef.unflatten(self.leaves)


class Public(NamedTuple):
    """The facts that every client of a round knows.

    They are free: they travel with the model, or are agreed on once.

    Attributes:
        state: the aggregator's state, the same for all clients.
        key: a key of the round, the same for all clients: the source of shared randomness.
        rank: ``i32[]``, this client's rank by id among the clients of the cohort, 0 to size - 1; None
            in ``finish``, because the server is no client.
        size: ``i32[]``, the number of clients in the cohort, without padding.
        round: ``i32[]``, the number of rounds before this one.
        template: shapes and dtypes of one client's message; see :attr:`like`.
        id: ``i32[]``, this client's id in the population; None in ``finish``.
    """

    state: Tree
    key: Key
    rank: Any
    size: Any
    round: Any = np.int32(0)
    template: Template | None = None
    id: Any = None

    @property
    def like(self) -> TreeLike:
        """Shapes and dtypes of one client's message, as a tree.

        Raises:
            ValueError: this value was made by hand, without a template.
        """
        if self.template is None:
            raise ValueError(
                "this aggregator needs the template of the message, and Public.template is None: make "
                "the value by Public.first(aggregator, message_like, key)"
            )
        return self.template.tree

    @classmethod
    def first(
        cls,
        aggregator: "Aggregator",
        message_like: TreeLike,
        key: Key,
        *,
        rank: Any = 0,
        size: Any = 1,
    ) -> "Public":
        """The public facts of an aggregator's first round, for calling its functions by hand.

        Args:
            aggregator: aggregator with the functions that will be called.
            message_like: message of one client, or its shapes.
            key: key of the round.
            rank: rank of the client, which is its id as well.
            size: size of the cohort.
        """
        return cls(
            state=aggregator.init(message_like),
            key=key,
            rank=jnp.int32(rank),
            size=jnp.int32(size),
            round=jnp.int32(0),
            template=Template.of(message_like),
            id=jnp.int32(rank),
        )


class Turn(NamedTuple):
    """One client's turn in a round: the facts for schedules, groups and attackers.

    Attributes:
        round: ``i32[]``, the number of rounds before this one.
        id: ``i32[]``, the client's id in the population.
        rank: ``i32[]``, its rank by id among the clients of the cohort.
    """

    round: Any = np.int32(0)
    id: Any = np.int32(0)
    rank: Any = np.int32(0)


class Stateful(NamedTuple):
    """A model with mutable state beside its parameters, such as BatchNorm's running statistics.

    Gradients are taken of ``params`` only.  The state moves because the loss function returns a new
    one, and it travels like the parameters do: the message holds ``after - before`` of both.  Integers
    in it are averaged as float32 numbers: counters should be signed and below 2^24.

    Attributes:
        params: the part that the optimisers move.
        state: the part that the loss function moves.
    """

    params: Tree
    state: Tree


class Contract(NamedTuple):
    """The promises of a compressor C for every message x of a given shape; a law tests each of them.

    Attributes:
        unbiased: E[C(x)] = x.
        omega: E||C(x) - x||^2 <= omega ||x||^2; None if nothing is promised.
        delta: E||C(x) - x||^2 <= (1 - delta) ||x||^2 with 0 < delta <= 1; None if nothing is promised.
        linear: for one key, C(x) + C(y) = C(x + y), so that payloads can be added.
        projection: ||x||^2 = ||C(x)||^2 + ||x - C(x)||^2.  A codec of the kept values then errs in a
            direction of its own.
    """

    unbiased: bool = False
    omega: float | None = None
    delta: float | None = None
    linear: bool = False
    projection: bool = False


EXACT = Contract(unbiased=True, omega=0.0, delta=1.0, linear=True, projection=True)
"""The contract of a codec that loses nothing."""


class Combine(enum.Enum):
    """The way in which the shares of a cohort meet."""

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
        """The state before the first message."""


class Encode(Protocol):
    def __call__(self, key: Key, message: Tree, state: Tree, /) -> tuple[Tree, Tree]:
        """The payload and the next state."""


class Decode(Protocol):
    def __call__(self, payload: Tree, /) -> Tree:
        """The message, from the payload alone."""


class ContractOf(Protocol):
    def __call__(self, message_like: TreeLike, /) -> Contract:
        """The promises for messages of this shape."""


class Compressor(NamedTuple):
    """A codec for one client's message.

    It has no client axis: ``vmap`` adds one.  A codec changes floating leaves and passes every other
    leaf through.  Its functions are pure, and they work under ``jit``, ``vmap`` and ``scan``, for
    empty, 0-d and one-element leaves, in float32 and in narrower dtypes.

    Attributes:
        init: ``(message_like) -> state``.  The state before the first message, shaped like the message;
            ``()`` for a codec without memory.  It reads shapes and dtypes only.
        encode: ``(key, message, state) -> (payload, state)``.  Runs on the client.  The payload is
            exactly the content of the wire: :func:`fjx.wire.bits` prices it.  ``key`` is this client's
            own for this round.  NaN in the message must reach ``decode``, because that is how a broken
            client is recognised and left out.
        decode: ``(payload) -> message``.  Runs on the server, without key and state, and never fails.
            The message has the structure, shapes and dtypes of the one that was encoded.
        contract: ``(message_like) -> Contract``.  The promises for messages of this shape; a law tests
            each of them.
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
        """The state before the first round."""


class ClientStep(Protocol):
    def __call__(
        self, key: Key, broadcast: Tree, state: Tree, examples: Examples, turn: Turn, /
    ) -> tuple[Tree, Tree, Metrics]:
        """The message, the next state, metrics."""


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
        """Shapes and dtypes of the message."""


class OnSent(Protocol):
    def __call__(self, received: Tree, state: Tree, public: Public, /) -> Tree:
        """The state after the message is sent."""


class OnAggregate(Protocol):
    def __call__(self, aggregate: Tree, state: Tree, public: Public, /) -> Tree:
        """The state after the round."""


class PersonalModel(Protocol):
    def __call__(self, broadcast: Tree, state: Tree, /) -> Tree:
        """The model that a client with this state uses."""


class ExampleReleases(NamedTuple):
    """The claim that a client's message is made of noised sums of single examples.

    It holds for the function with which it was made.  :attr:`ClientUpdate.example_releases` compares
    them.

    Attributes:
        mechanism: private mechanism that bounds each example's part of a sum and noises the sum.
        sampling_rate: probability with which a sum draws an example.
        steps: noised sums in a round.
        capacity: largest number of examples in a sum.
        update: the function of the client.
    """

    mechanism: Any
    sampling_rate: float
    steps: Any
    capacity: int
    update: Any


class ClientUpdate(NamedTuple):
    """One client's local work.

    It has no client axis: ``vmap`` adds one.  Write ``update`` as a :class:`Steps` if its loop should
    run well on executors that keep few clients in flight.

    Attributes:
        init: ``(params) -> state``.  The client's state before its first round; ``()`` for most
            algorithms.
        update: ``(key, broadcast, state, examples, turn) -> (message, state, metrics)``.  Local work on
            the decoded broadcast.  The message is ``after - before``; it has the structure and the
            shapes that ``message`` says.  ``examples`` is an :class:`Examples` window, ``turn`` a
            :class:`Turn` with the number of the round, the client's id and its rank.  ``metrics`` are
            scalars by name; a round reports their average over the examples of its participants.
        message: ``(params) -> message_like``.  Shapes and dtypes of the message.
        on_sent: ``(received, state, public) -> state``, or None.  The state that the client keeps once
            its message is sent.  ``received`` is the decoded message, ``state`` comes from ``update``,
            ``public`` is a :class:`Public`.
        on_aggregate: ``(aggregate, state, public) -> state``, or None.  The state that a participant
            keeps at the end of the round.  ``aggregate`` is the aggregate message, ``state`` comes from
            ``on_sent``, or else from ``update``.  Sending the aggregate to the participants is traffic
            of its own, which is billed: a client need not be there when the next round begins.
        releases: the claim that the message is private towards single examples, made by
            :func:`fjx.clients.dp_sgd`; None if nothing is claimed.
        rounds: the number of rounds for which its schedules are made; None for any number.
        personal: ``(broadcast, state) -> params``, or None.  The model that the client uses, of a
            client that keeps a model, or a part of one, in its state.
    """

    init: ClientInit
    update: ClientStep
    message: MessageLike
    on_sent: OnSent | None = None
    on_aggregate: OnAggregate | None = None
    releases: ExampleReleases | None = None
    rounds: int | None = None
    personal: PersonalModel | None = None

    @property
    def example_releases(self) -> ExampleReleases | None:
        """The claim about single examples; None once ``update`` was replaced."""
        if self.releases is None or self.releases.update is not self.update:
            return None
        return self.releases


# --------------------------------------------------------------------------------------------------
# Aggregator
# --------------------------------------------------------------------------------------------------


class AggregatorInit(Protocol):
    def __call__(self, message_like: TreeLike, /) -> Tree:
        """The state before the first round."""


class SharedEncode(Protocol):
    def __call__(self, key: Key, message: Tree, public: Public, /) -> Tree:
        """The payload that a client sends."""


class Contribute(Protocol):
    def __call__(self, payload: Tree, weight: Array, public: Public, /) -> Tree:
        """A client's share, from what it sent."""


class Finish(Protocol):
    def __call__(self, key: Key, total: Tree, public: Public, /) -> tuple[Tree, Tree, Metrics]:
        """The aggregate message, the next state, metrics."""


class Releases(NamedTuple):
    """The claim that all of an aggregator's result is made of releases of these mechanisms.

    It holds for the functions with which it was made.  :attr:`Aggregator.mechanisms` compares them.

    Attributes:
        mechanisms: the private mechanisms, each of which released one noised result.
        functions: ``(init, encode, contribute, finish, combine)`` of the aggregator.
    """

    mechanisms: tuple[Any, ...]
    functions: tuple[Any, ...]


class Aggregator(NamedTuple):
    """The messages of a cohort to one message.

    Everything that the clients of a round must agree on lives here: a rotation, a mask, a clip bound,
    a modular codec.  ``public`` is a :class:`Public` in each function; its ``like`` holds the shapes of
    one client's message.

    Attributes:
        init: ``(message_like) -> state``.  The state before the first round.
        contribute: ``(payload, weight, public) -> share``.  One client's share, a function of what the
            client sent: the result of ``encode``, or the decoded message where ``encode`` is None.  So
            it can run on a server that has nothing but payloads.  ``weight`` is ``f32[]``; it is zero
            for a client that does not count, because it has no examples or its message was not finite.
            The message of such a client is zeros, and its share must not change the result, but it may
            hold noise.  A client that is absent has a share of zeros.
        finish: ``(key, total, public) -> (message, state, metrics)``.  The aggregate message, the next
            state and metrics, from the shares that were added or stacked.  ``key`` is the server's own.
            ``public.state`` and ``public.key`` are those that the clients saw, so that a rotation or a
            mask can be undone.
        combine: ``SUM`` or ``STACK``.  See :class:`Combine`.
        encode: ``(key, message, public) -> payload``, or None.  Runs on the client: the payload that it
            sends, when that depends on what clients agreed on.  ``key`` is the client's own.  If None,
            the payload of the uplink codec is sent.
        releases: the claim that the result is noised, made by :func:`fjx.aggregators.releasing`; None
            if any part of the result is not noised.  No privacy is claimed then.
    """

    init: AggregatorInit
    contribute: Contribute
    finish: Finish
    combine: Combine
    encode: SharedEncode | None = None
    releases: Releases | None = None

    @property
    def functions(self) -> tuple[Any, ...]:
        """The functions to which a claim is tied."""
        return self.init, self.encode, self.contribute, self.finish, self.combine

    @property
    def mechanisms(self) -> tuple[Any, ...]:
        """The mechanisms of which the result is made; none once a function was replaced."""
        if self.releases is None:
            return ()
        same = all(a is b for a, b in zip(self.releases.functions, self.functions, strict=True))
        return self.releases.mechanisms if same else ()


# --------------------------------------------------------------------------------------------------
# ServerUpdate
# --------------------------------------------------------------------------------------------------


class ServerInit(Protocol):
    def __call__(self, params: Tree, /) -> Any:
        """The state before the first round."""


class Broadcast(Protocol):
    def __call__(self, state: Any, /) -> Tree:
        """The tree that is sent to every client."""


class ServerStep(Protocol):
    def __call__(self, state: Any, message: Tree, /) -> Any:
        """The state after the round."""


class ServerUpdate(NamedTuple):
    """The server's step, once the messages of a round are aggregated.

    Attributes:
        init: ``(params) -> state``.  The server's state before the first round.  It has a field or
            property ``params``, the current model.
        broadcast: ``(state) -> tree``.  The tree that is sent to every client of the round: the model,
            and what clients need beside it.
        update: ``(state, message) -> state``.  The state after the round.  ``message`` is the aggregate
            message; it points from the old model to the new one.
    """

    init: ServerInit
    broadcast: Broadcast
    update: ServerStep


# --------------------------------------------------------------------------------------------------
# Algorithm
# --------------------------------------------------------------------------------------------------


class Executor(Protocol):
    """A way to run a cohort: all at once, in chunks, over devices.  Results do not depend on it."""

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
            shared: inputs that all clients share: the model, the packed examples.
            slots: pytree of ``[m, ...]``, the inputs of each client.
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
    """The bits that one client moves in one round, measured on payloads.

    Attributes:
        uplink: bits of its message.
        downlink: bits of the broadcast, and of the aggregate message if clients hear it.
    """

    uplink: int
    downlink: int


class Runs(NamedTuple):
    """The statement that a round runs this aggregator.

    It holds for the two with which it was made.  :attr:`Algorithm.runs_its_aggregator` compares them.

    Attributes:
        aggregator: the aggregator that ``round`` runs.
        round: round function of the algorithm.
        client: the client update that ``round`` runs on each client's own examples; None if nothing is
            said of it.
    """

    aggregator: Aggregator
    round: Round
    client: ClientUpdate | None = None


class Algorithm(NamedTuple):
    """A federated algorithm, as pure functions and a price.

    :func:`fjx.compose` makes one from its parts; :mod:`fjx.rounds` makes those whose rounds are of
    another kind.

    Attributes:
        init: ``(params) -> state``.  The state of the server's side; ``state.params`` is the current
            model.
        init_client: ``(params) -> row``.  One client's state: a row of the table of all clients, which
            is indexed by id.
        round: ``(key, state, rows, cohort, *, executor=None) -> (state, rows, metrics)``.  One round.
            ``rows`` are the cohort's rows, ``[m, ...]``; ``cohort`` is a :class:`Cohort` of m slots.
            The row of a client that does not take part comes back bit for bit.
        traffic: ``(params) -> Traffic``.  The bits that one client moves in a round, from shapes alone.
        aggregator: the aggregator that ``round`` runs; None for an algorithm without one.
        expected: ``(params, rounds) -> f64[rounds]``, or None.  The expected bits of a client's message
            in each round, of an algorithm that knows with which probability it sends which payload.
        runs: the statement that ``round`` runs ``aggregator``, made with the two; None if nothing is
            known.  A function that wraps a round says what the new one runs:
            ``_replace(round=new, runs=fjx.Runs(algorithm.aggregator, new))``.
        rounds: the number of rounds for which its schedules are made; None for any number.  Longer runs
            are refused.
        personal: ``(state, row) -> params``, or None.  The model that the client of a row uses; None if
            every client uses ``state.params``.  Call :meth:`model_of`, which covers both.
    """

    init: Callable[[Tree], Any]
    init_client: Callable[[Tree], Tree]
    round: Round
    traffic: Callable[[Tree], Traffic]
    aggregator: Aggregator | None = None
    expected: Callable[[TreeLike, int], np.ndarray | None] | None = None
    runs: Runs | None = None
    rounds: int | None = None
    personal: Callable[[Any, Tree], Tree] | None = None

    def model_of(self, state: Any, row: Tree) -> Tree:
        """The model that a client uses: its own if it keeps one, else the common one.

        Args:
            state: state of the server's side; ``result.state.algorithm`` of a run.
            row: state of the client; ``result.state.client(id)`` of a run.  Several rows go through
                ``jax.vmap`` or ``jax.lax.map``.
        """
        return state.params if self.personal is None else self.personal(state, row)

    @property
    def runs_its_aggregator(self) -> bool:
        """True if ``round`` is known to run ``aggregator``; false once one of them was replaced."""
        return (
            self.runs is not None
            and self.runs.aggregator is self.aggregator
            and self.runs.round is self.round
        )
