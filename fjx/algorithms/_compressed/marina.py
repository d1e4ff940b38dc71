"""MARINA: compressed gradient differences, and whole gradients at random times."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _tree, _validate, clients, servers, wire
from fjx._base import (
    SUM,
    Aggregator,
    Algorithm,
    Array,
    ClientUpdate,
    Compressor,
    Examples,
    Key,
    Metrics,
    Public,
    ServerUpdate,
    Template,
    Tree,
    TreeLike,
    Turn,
)
from fjx._kernels import random as _random
from fjx._kernels.permutation import permute
from fjx.aggregators import compressed, mean, switch, uniform
from fjx.aggregators._around import require_aggregator, sent
from fjx.algorithms._refuse import CODEC, MEMORY, fixes
from fjx.clients import LossFn
from fjx.rounds._compose import compose
from fjx.rounds._shapes import sent_like
from fjx.servers._sgd import server_sgd
from fjx.wire import OneOf, SideInformation
from fjx.wire._bits import is_ragged


@fixes(aggregator=MEMORY, uplink=CODEC)
def marina(
    loss_fn: LossFn,
    differences: Compressor | Aggregator,
    *,
    p: float,
    learning_rate: float | Array,
    batch_size: int,
    downlink: Compressor | None = None,
) -> Algorithm:
    r"""MARINA: compressed gradient differences, with whole gradients in a random part of the rounds.

    A coin, the same for all clients, decides how the estimate g of the gradient is renewed.  With
    probability p it is g = mean grad f_i(x^+), and else

    .. math:: g \leftarrow g + \mathrm{mean}_i \, C(\nabla f_i(x^+) - \nabla f_i(x))

    The model moves by -gamma g.  The broadcast holds both models, so that clients remember nothing.
    Both gradients are taken on the same examples with the same key.

    Guarantees:
        - With full gradients of all clients it converges to the optimum at a constant step.

    Bits:
        Up, those of the model with probability p, else those of the codec.  The coin is free.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        differences: codec C of the differences, unbiased with an omega and without a state; or an
            aggregator by which the clients of a round agree on it, such as ``aggregators.perm_k``.
        p: probability of whole gradients, in (0, 1]; with k / d a codec of k coordinates sends as many
            bits of differences as of gradients.
        learning_rate: step size gamma; :func:`fjx.theory.marina` gives one that is proved.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        TypeError: ``differences`` is something else.
        ValueError: ``p`` is out of range, or ``differences`` stacks; from ``init``, the codec has a
            state.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.marina(
        ...     lambda w, x, key: (w - x).mean(), compressors.rand_k(0.1), p=0.1,
        ...     learning_rate=0.1, batch_size=10)

    References:
        Gorbunov, Burlachenko, Li, Richtarik, *MARINA: Faster Non-Convex Distributed Learning with
        Compression*, ICML 2021 (arXiv:2102.07845), algorithm 1.
    """
    if isinstance(differences, Compressor):
        differences = compressed(differences, uniform(mean()))
    require_aggregator("marina", differences)
    if differences.combine is not SUM:
        raise ValueError(
            "marina adds the mean of differences to an estimate, and this aggregator needs messages "
            "side by side (STACK): pass one that sums, such as aggregators.compressed(codec) or perm_k"
        )
    algorithm = compose(
        client=_two_gradients(loss_fn, batch_size),
        aggregator=_now_and_then(differences, p),
        server=_both_models(servers.from_optax(server_sgd(learning_rate))),
        downlink=downlink,
    )
    return algorithm._replace(expected=_expected(differences, p))


@fixes(aggregator=MEMORY, uplink=CODEC)
def pp_marina(
    loss_fn: LossFn,
    differences: Compressor | Aggregator,
    *,
    participants: int,
    p: float,
    learning_rate: float | Array,
    batch_size: int,
    downlink: Compressor | None = None,
) -> Algorithm:
    r"""PP-MARINA: MARINA in whose compressed rounds only some of the clients are drawn.

    With probability p, g is the mean gradient of the whole cohort, as in :func:`marina`.  Otherwise a
    set S of r clients of the cohort is drawn:

    .. math:: g \leftarrow g + (1 / r) \sum_{i \in S} C(\nabla f_i(x^+) - \nabla f_i(x))

    The round's key and a client's rank in the cohort decide whether it is in S, so that all know it.

    Guarantees:
        - With full gradients it converges to the optimum at a constant step, as long as all clients
          come to the rounds of whole gradients.

    Bits:
        Up, those of the model with probability p.  Otherwise those of the codec from clients of S, and
        nothing from the others.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        differences: codec C of the differences, unbiased with an omega and without a state; or an
            aggregator by which the clients of a round agree on it.
        participants: number r of clients in S, at least 1.  They are drawn without replacement; the
            paper draws with replacement, whose variance is no smaller.
        p: probability of whole gradients, in (0, 1].
        learning_rate: step size gamma; :func:`fjx.theory.pp_marina` gives one that is proved.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`, for cohorts of all clients (:func:`fjx.samplers.full`).  It has no
        expected bits, because differences come from r clients of a cohort whose size the model does not
        tell.

    Raises:
        TypeError: ``differences`` is something else, or ``participants`` is not an integer.
        ValueError: a number is out of range, or ``differences`` stacks; from ``init``, the codec has a
            state.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.pp_marina(
        ...     lambda w, x, key: (w - x).mean(), compressors.rand_k(0.1), participants=5, p=0.05,
        ...     learning_rate=0.1, batch_size=10)

    References:
        Gorbunov, Burlachenko, Li, Richtarik, ICML 2021 (arXiv:2102.07845), algorithm 4.
    """
    if isinstance(differences, Compressor):
        differences = compressed(differences, uniform(mean()))
    require_aggregator("pp_marina", differences)
    return marina(
        loss_fn,
        _drawn(differences, participants),
        p=p,
        learning_rate=learning_rate,
        batch_size=batch_size,
        downlink=downlink,
    )


def _drawn(aggregator: Aggregator, participants: int) -> Aggregator:
    """Leave out all but some clients of the cohort, drawn by rank from the round's key."""
    participants = _validate.static_integer("participants", participants, at_least=1)

    def place(public: Public) -> Array:
        """Place of a client in the order in which clients are drawn."""
        return permute(jax.random.fold_in(public.key, 0), public.rank, public.size)

    def inside(public: Public) -> Public:
        """The round as the clients that were drawn see it: a cohort of their own."""
        return public._replace(
            key=jax.random.fold_in(public.key, 1),
            rank=None if public.rank is None else place(public),
            size=jnp.minimum(participants, public.size),
        )

    def is_in(public: Public) -> Array:
        return place(public) < participants

    def encode(key: Key, message: Tree, public: Public) -> OneOf:
        drawn = is_in(public)
        kept = _tree.where(drawn, message, _tree.zeros_like(message))
        payload = sent(aggregator, key, kept, inside(public))
        payload = _tree.where(drawn, payload, _tree.zeros_like(payload))
        return OneOf(SideInformation(drawn.astype(jnp.uint8)), ((), payload))

    def contribute(payload: OneOf, weight: Array, public: Public) -> Tree:
        weight = jnp.where(is_in(public), weight, 0.0)
        return aggregator.contribute(payload.parts[1], weight, inside(public))

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        return aggregator.finish(key, total, inside(public))

    return Aggregator(aggregator.init, contribute, finish, aggregator.combine, encode)


def _two_gradients(loss_fn: LossFn, batch_size: int) -> ClientUpdate:
    """Client that sends ``{"now", "before"}``, the descent directions at both models."""
    inner = clients.gradient(loss_fn, batch_size=batch_size)

    def update(
        key: Key, broadcast: Tree, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        now, _, metrics = inner.update(key, broadcast["now"], (), examples, turn)
        before, _, _ = inner.update(jax.random.clone(key), broadcast["before"], (), examples, turn)
        return {"now": now, "before": before}, state, metrics

    def message(params: Tree) -> TreeLike:
        return {"now": _tree.like(params), "before": _tree.like(params)}

    return ClientUpdate(inner.init, update, message)


def _expected(differences: Aggregator, p: float) -> Callable[[TreeLike, int], np.ndarray | None]:
    """Expected bits of a client's message: whole in the first round, and then with probability p.

    The result is None if the bits of a difference depend on the data.
    """

    def expected(params: TreeLike, rounds: int) -> np.ndarray | None:
        whole, small = _tree.like(params), sent_like(differences, _tree.like(params))
        if is_ragged(small):
            return None
        whole, small = wire.bits(whole), wire.bits(small)
        return np.concatenate([[whole], np.full(rounds - 1, p * whole + (1 - p) * small)])

    return expected


class MarinaServerState(NamedTuple):
    """Server state of :func:`marina`.

    Attributes:
        inner: state of the update that moves the model.
        before: the model of the round before.
    """

    inner: Tree
    before: Tree

    @property
    def params(self) -> Tree:
        """The current model."""
        return self.inner.params


def _both_models(server: ServerUpdate) -> ServerUpdate:
    def init(params: Tree) -> MarinaServerState:
        return MarinaServerState(server.init(params), params)

    def broadcast(state: MarinaServerState) -> Tree:
        return {"now": state.params, "before": state.before}

    def update(state: MarinaServerState, message: Tree) -> MarinaServerState:
        return MarinaServerState(server.update(state.inner, message), state.params)

    return ServerUpdate(init, broadcast, update)


class MarinaState(NamedTuple):
    """Aggregator state of :func:`marina`.

    Attributes:
        estimate: g, the estimate of the mean gradient.
        inner: states of the aggregators of differences and of whole gradients.
    """

    estimate: Tree
    inner: Tree


def _now_and_then(differences: Aggregator, p: float) -> Aggregator:
    """Aggregator to the estimate g: the mean gradient after heads, else g + the difference."""
    p = _validate.static_number("p", p, above=0, at_most=1)

    def coin(public: Public) -> Array:
        heads = _random.uniform(public.key, ()) < p
        return heads | (public.round == 0)  # there is no estimate yet

    either = switch(coin, _of_differences(differences), _of_gradients())

    def inside(public: Public) -> Public:
        return public._replace(state=public.state.inner)

    def init(message_like: TreeLike) -> MarinaState:
        nothing = _tree.scale(jnp.float32(0), _tree.zeros_like(message_like["now"]))
        return MarinaState(nothing, either.init(message_like))

    def encode(key: Key, message: Tree, public: Public) -> Tree:
        return sent(either, key, message, inside(public))

    def contribute(payload: Tree, weight: Array, public: Public) -> Tree:
        return either.contribute(payload, weight, inside(public))

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        (value, is_gradient), inner, metrics = either.finish(key, total, inside(public))
        moved = _tree.add(public.state.estimate, value)
        estimate = _tree.where(is_gradient, value, moved)
        return estimate, MarinaState(estimate, inner), metrics

    return Aggregator(init, contribute, finish, SUM, encode)


def _of_differences(differences: Aggregator) -> Aggregator:
    """The aggregate of ``now - before``, and that it is no gradient."""

    def inside(public: Public) -> Public:
        return public._replace(template=Template.of(public.like["now"]))

    def encode(key: Key, message: Tree, public: Public) -> Tree:
        change = _tree.subtract(message["now"], message["before"])
        return sent(differences, key, change, inside(public))

    def contribute(payload: Tree, weight: Array, public: Public) -> Tree:
        return differences.contribute(payload, weight, inside(public))

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        moved, state, metrics = differences.finish(key, total, inside(public))
        return (moved, jnp.asarray(False)), state, metrics

    def init(message_like: TreeLike) -> Tree:
        return differences.init(message_like["now"])

    return Aggregator(init, contribute, finish, SUM, encode)


def _of_gradients() -> Aggregator:
    """The uniform mean of ``now``, and that it is a gradient, unless nobody came."""
    inner = uniform(mean())

    def encode(key: Key, message: Tree, public: Public) -> Tree:
        return message["now"]

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        message, state, metrics = inner.finish(key, total, public)
        _, participants = total
        return (message, participants > 0), state, metrics

    return inner._replace(finish=finish, encode=encode)
