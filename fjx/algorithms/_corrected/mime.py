"""Mime and MimeLite: clients make the steps that the server's optimiser would make."""

import functools
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

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
    TreeLike,
    Turn,
)
from fjx.aggregators import mean, uniform
from fjx.algorithms._refuse import fixes
from fjx.clients import LossFn
from fjx.clients._by_round import rounds_of
from fjx.clients._dual import require_floats
from fjx.clients._made import made
from fjx.clients._mime import BaseOptimizer, at_anchor, walk
from fjx.compressors import identity
from fjx.rounds._compose import OpenParts, compose
from fjx.rounds._two_phases import Phase, two_phases

MOMENTUM: BaseOptimizer = functools.partial(optax.sgd, momentum=0.9)
"""The base optimiser of both papers' experiments: SGD with momentum."""


class MimeState(NamedTuple):
    """Server state of :func:`mime` and :func:`mimelite`.

    Attributes:
        params: the model x.
        statistics: state s of the base optimiser.
        descent: -c, the mean of the negative gradients at x; None for MimeLite.
    """

    params: Tree
    statistics: Tree
    descent: Tree


def mimelite(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    optimizer: BaseOptimizer = MOMENTUM,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    """MimeLite: local steps of the server's optimiser, whose statistics stay fixed in a round.

    The server sends its model x and the statistics s of a base optimiser, such as momentum.  Clients
    step by that optimiser without changing s.  The server averages the models, and moves s by the mean
    of the clients' full gradients at x.

    Guarantees:
        - With an optimiser without statistics, such as ``optax.sgd``, it is FedAvg with a uniform mean.

    Bits:
        Up, an update and a gradient; down, the model and the statistics.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size of the local steps, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        optimizer: function of the step size that returns an optax transformation, whose state must not
            depend on the step size; SGD with momentum 0.9 by default.
        **parts: remaining parts of :func:`fjx.compose` over ``{"params", "gradient"}``: ``uplink``,
            ``downlink``, ``aggregator``; the uniform mean by default.  A private aggregator clips both
            parts together.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        ValueError: a number is out of range.
        TypeError: the model holds more than floating parameters (from ``init``).

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.mimelite(
        ...     lambda w, x, key: (w - x).mean(), client_lr=0.1, batch_size=10)

    References:
        Karimireddy, Jaggi, Kale, Mohri, Reddi, Stich, Suresh, *Mime: Mimicking Centralized Stochastic
        Algorithms in Federated Learning*, NeurIPS 2021 (arXiv:2008.03606), algorithm 1.
    """
    local, server = _Local(loss_fn, client_lr, epochs, batch_size, optimizer), optimizer(1.0)

    def work(key: Key, sent: Tree, state: Tree, examples: Examples, turn: Turn) -> Any:
        def message(
            key: Key, sent: Tree, state: Tree, examples: Examples, turn: Turn, done: Any
        ) -> tuple[Tree, Tree, Metrics]:
            y, metrics = done
            x = sent["params"]
            minus_g = at_anchor(local.full, key, x, examples, turn)
            return {"params": _tree.subtract(y, x), "gradient": minus_g}, state, metrics

        def inputs(
            key: Key, sent: Tree, state: Tree, examples: Examples, turn: Turn
        ) -> tuple[Any, ...]:
            return key, sent["params"], examples, None

        steps = local.walk(sent["params"], sent["statistics"], None, turn)
        return steps.around(inputs, message)

    def message_like(params: Tree) -> TreeLike:
        return {"params": _tree.like(params), "gradient": _tree.like(params)}

    def update(state: MimeState, told: dict[str, Any]) -> MimeState:
        x = _tree.add(state.params, told["params"])
        statistics = _moved(server, state.statistics, told["gradient"], state.params)
        return MimeState(x, statistics, None)

    def broadcast(state: MimeState) -> Tree:
        return {"params": state.params, "statistics": state.statistics}

    parts.setdefault("aggregator", uniform(mean()))
    return compose(
        client=ClientUpdate(
            lambda params: (), made(work), message_like, rounds=rounds_of(client_lr)
        ),
        server=ServerUpdate(lambda x: _begin(server, x, None), broadcast, update),
        **parts,
    )


@fixes(
    aggregator="its first round gathers gradients and its second models, each as a uniform mean; for "
    "privacy use algorithms.mimelite",
    downlink="clients keep a replica of the server, which hears the mean itself; use "
    "algorithms.mimelite",
)
def mime(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    optimizer: BaseOptimizer = MOMENTUM,
    uplink: Compressor | None = None,
) -> Algorithm:
    r"""Mime: MimeLite whose local gradients are corrected towards the gradient of all clients.

    Two rounds are one step of the method.  The first gathers c = mean grad F_i(x).  In the second each
    client steps by the base optimiser, with the server's statistics s, along

    .. math:: \nabla F_i(y; b) - \nabla F_i(x; b) + c

    with both gradients on the same batch b.  The server averages the models, and moves s by c.

    Guarantees:
        - For one local step on all examples it is the base optimiser itself, on the mean loss.
        - With ``optax.sgd`` it is SVRG on each client: with all clients it converges to the optimum.

    Bits:
        In the first round those of the gradient, in the second those of the model.  Statistics follow
        from what clients hear.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size of the local steps, or a schedule ``(round) -> step size``, where a step
            of the method is two rounds.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        optimizer: as for :func:`mimelite`.
        uplink: codec of the gradients and of the updates; identity by default.

    Returns:
        An :class:`fjx.Algorithm`.  In the paper one cohort does both halves of a step.  Here the clients
        of the second round may be others; c is then the gradient of those of the first.

    Raises:
        ValueError: a number is out of range.
        TypeError: ``aggregator`` or ``downlink`` is given; the model holds more than floating
            parameters (from ``init``).

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.mime(
        ...     lambda w, x, key: (w - x).mean(), client_lr=0.1, batch_size=10)

    References:
        Karimireddy et al., NeurIPS 2021 (arXiv:2008.03606), algorithm 1.
    """
    local, server = _Local(loss_fn, client_lr, epochs, batch_size, optimizer), optimizer(1.0)
    codec = identity() if uplink is None else uplink

    def ask(
        key: Key, sent: MimeState, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        return local.full.update(key, sent.params, state, examples, turn)

    def move(
        key: Key, sent: MimeState, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        x, statistics, descent = sent
        target = jax.tree.map(lambda d: -d, descent)
        y, metrics = local.walk(x, statistics, target, turn)(key, x, examples, None)
        return _tree.subtract(y, x), state, metrics

    def arrive(state: MimeState, moved: Tree) -> MimeState:
        statistics = _moved(server, state.statistics, state.descent, state.params)
        # c was taken at x: if nobody comes to the next first round, it is zero.
        c = _tree.zeros_like(state.descent)
        return MimeState(_tree.add(state.params, moved), statistics, c)

    algorithm = two_phases(
        Phase(ask, _tree.like, lambda state, c: state._replace(descent=c), codec),
        Phase(move, _tree.like, arrive, codec),
        client=lambda params: (),
        server=lambda x: _begin(server, x, _tree.wide_zeros_like(x)),
        broadcast=lambda state: state,
    )
    return algorithm._replace(rounds=rounds_of(client_lr))


class _Local:
    """Local work of both: steps of the base optimiser, and the gradient over all examples."""

    def __init__(
        self,
        loss_fn: LossFn,
        client_lr: float | Array | optax.Schedule,
        epochs: int,
        batch_size: int,
        optimizer: BaseOptimizer,
    ) -> None:
        if not callable(optimizer):
            raise TypeError(
                f"optimizer must be a function of the step size, such as optax.sgd, got {optimizer!r}"
            )
        if not callable(client_lr):
            _validate.number("client_lr", client_lr, above=0)
        self.full = clients.gradient(loss_fn, batch_size=batch_size)
        self.loss_fn, self.client_lr, self.optimizer = loss_fn, client_lr, optimizer
        self.hyper = {"epochs": epochs, "batch_size": batch_size}
        walk(loss_fn, optax.sgd(1.0), (), None, (), **self.hyper)  # checks the numbers now

    def walk(self, x: Tree, statistics: Tree, target: Tree | None, turn: Turn) -> Any:
        """Local steps from the server's model."""
        rate: Any = self.client_lr
        if callable(rate):
            with jax.numpy_dtype_promotion("standard"):
                rate = rate(turn.round)
        return walk(self.loss_fn, self.optimizer(rate), statistics, target, x, **self.hyper)


def _begin(server: optax.GradientTransformation, params: Tree, descent: Tree) -> MimeState:
    require_floats("statistics", params)
    return MimeState(params, server.init(params), descent)


def _moved(
    server: optax.GradientTransformation, statistics: Tree, descent: Tree, params: Tree
) -> Tree:
    """The statistics after the gradient of all clients; as they were if nobody came."""
    gradient = jax.tree.map(lambda d, p: -_tree.to_dtype(d, p.dtype), descent, params)
    _, moved = server.update(gradient, statistics, params)
    somebody = _tree.square_norm(gradient) > 0
    return jax.tree.map(lambda a, b: jnp.where(somebody, a, b), moved, statistics)
