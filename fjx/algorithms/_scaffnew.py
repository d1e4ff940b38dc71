"""Scaffnew: local steps whose drift is corrected, and communication now and then."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree, _validate, clients
from fjx._base import (
    Algorithm,
    Array,
    ClientUpdate,
    Compressor,
    Examples,
    Key,
    Metrics,
    ServerUpdate,
    Tree,
)
from fjx._compose import compose
from fjx.aggregators import mean, uniform
from fjx.clients import LossFn


class ScaffnewState(NamedTuple):
    """The client's state of :func:`scaffnew`.

    Attributes:
        control: h_i, near the gradient of f_i at the optimum; the clients' sum to zero.
        point: where its last local steps ended.
    """

    control: Tree
    point: Tree


class ScaffnewServerState(NamedTuple):
    """The server's state of :func:`scaffnew`.

    Attributes:
        params: the model.
        rounds: ``i32[]``, how many there have been.
    """

    params: Tree
    rounds: Array


def scaffnew(
    loss_fn: LossFn,
    *,
    p: float | Array,
    learning_rate: float | Array,
    batch_size: int,
    seed: int | Array = 0,
    downlink: Compressor | None = None,
) -> Algorithm:
    r"""Scaffnew (ProxSkip): gradient steps corrected for drift, averaged with probability p each.

    Each client steps x_i = x_i - gamma (grad f_i(x_i) - h_i).  After each step all average, with
    probability p and the same coin, x = mean x_i, and h_i = h_i + (p / gamma) (x - x_i).  A round is
    what lies between two averages: its number of steps is geometric, and follows from ``seed`` and
    the number of the round, so that all clients and their server know it.

    Guarantees: with full gradients it converges to the optimum however much clients differ, in
        sqrt(L / mu) rounds for p = sqrt(mu / L), where gradient descent needs L / mu; all clients take
        part in every round: one that misses the model after its own steps spoils the sum of the h_i.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a mean over the batch.
        p: of an average, in (0, 1].
        learning_rate: gamma; :func:`fjx.theory.scaffnew` gives one that is proved, and p.
        batch_size: examples at a time; bounds memory, changes nothing else.
        seed: of the coin.
        downlink: codec of the broadcast.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.scaffnew(
        ...     lambda w, x, key: (w - x).mean(), p=0.1, learning_rate=0.1, batch_size=10)

    References:
        Mishchenko, Malinovsky, Stich, Richtarik, *ProxSkip: Yes! Local Gradient Steps Provably Lead to
        Communication Acceleration! Finally!*, ICML 2022 (arXiv:2202.09357), algorithm 2.
    """
    _validate.number("p", p, above=0, at_most=1)
    _validate.number("learning_rate", learning_rate, above=0)
    full = clients.gradient(loss_fn, batch_size=batch_size)

    def init(params: Tree) -> ScaffnewState:
        return ScaffnewState(_tree.zeros_like(params), params)

    def update(
        key: Key, broadcast: Tree, state: ScaffnewState, examples: Examples
    ) -> tuple[Tree, ScaffnewState, Metrics]:
        x, rounds = broadcast["params"], broadcast["rounds"]
        pull = _tree.scale(jnp.asarray(p / learning_rate), _tree.subtract(x, state.point))
        control = _tree.add(state.control, pull)

        def step(t: Array, carry: tuple[Tree, Metrics]) -> tuple[Tree, Metrics]:
            x, _ = carry
            descent, _, metrics = full.update(jax.random.fold_in(key, t), x, (), examples)
            moved = _tree.scale(jnp.asarray(learning_rate), _tree.add(descent, control))
            return _tree.add(x, moved), metrics

        nothing = _tree.zeros_like(
            jax.eval_shape(lambda: full.update(jax.random.clone(key), x, (), examples)[2])
        )
        point, metrics = jax.lax.fori_loop(0, steps_of(seed, rounds, p), step, (x, nothing))
        return _tree.subtract(point, x), ScaffnewState(control, point), metrics

    return compose(
        client=ClientUpdate(init, update, _tree.like),
        aggregator=uniform(mean()),
        server=_counting(),
        downlink=downlink,
    )


def steps_of(seed: int | Array, rounds: Array, p: float | Array) -> Array:
    """``i32[]``: how many steps a round has: geometric, one at least, of mean 1 / p."""
    key = jax.random.fold_in(jax.random.key(seed), rounds)
    return jax.random.geometric(key, p, dtype=jnp.int32)


def _counting() -> ServerUpdate:
    def init(params: Tree) -> ScaffnewServerState:
        return ScaffnewServerState(params, jnp.int32(0))

    def broadcast(state: ScaffnewServerState) -> Tree:
        return {"params": state.params, "rounds": state.rounds}

    def update(state: ScaffnewServerState, message: Tree) -> ScaffnewServerState:
        return ScaffnewServerState(_tree.add(state.params, message), state.rounds + 1)

    return ServerUpdate(init, broadcast, update)
