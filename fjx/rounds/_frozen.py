"""Frozen leaves: a part of the model that nobody trains, sends or noises."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _tree
from fjx._base import (
    Algorithm,
    Cohort,
    Executor,
    Key,
    Metrics,
    Runs,
    Traffic,
    Tree,
    TreeLike,
)
from fjx.clients._loss import LossFn, as_loss
from fjx.clients._parts import loss_beside


class FrozenState(NamedTuple):
    """The server's state of :func:`frozen`.

    Attributes:
        inner: state of the algorithm that trains the other leaves.
        fixed: the frozen leaves, with None in place of the others.
    """

    inner: Any
    fixed: Tree

    @property
    def params(self) -> Tree:
        """The current model with all of its leaves."""
        return _tree.joined(self.inner.params, self.fixed)


def frozen(loss_fn: LossFn, make: Callable[[LossFn], Algorithm], *, pattern: str) -> Algorithm:
    """The algorithm ``make(loss)`` on a part of the model; the leaves that match a pattern are frozen.

    Everything that ``make`` composes (clients, codecs, aggregator, server, their states) is given the
    trained part of the model, and no frozen leaf.  The loss is given the whole model.  So frozen leaves
    are not trained, sent, clipped, noised or billed, and their gradient is not computed.

    The trained part is the model with None in place of each frozen leaf.  A tree that follows the
    parameters, such as ``axes`` of :func:`fjx.clients.submodel`, has None there as well.

    A :func:`fjx.plan_examples` makes its client before the frozen leaves are known, so such a plan is
    refused here.  Close the loss over these leaves instead, and plan for the trained part.

    Guarantees:
        - A frozen leaf keeps its value, bit for bit, whatever ``make`` composes.
        - The trained part moves as it does under ``make`` of a loss that is closed over the frozen
          leaves.
        - A frozen leaf may have any dtype: tables of integers and masks of bools are carried so.
        - A :class:`fjx.Plan` finds the aggregator that it made, if ``make`` composes with it.

    Bits:
        Those of the trained part.  Clients have the frozen leaves before the first round.

    Args:
        loss_fn: loss of the whole model, as for :func:`fjx.clients.local_sgd`.
        make: function ``(loss) -> Algorithm``, such as ``lambda loss: algorithms.fedavg(loss, ...)``.
            It is called each time that a round is traced, and must return the same algorithm.
        pattern: regular expression, searched for in the path of a leaf with ``/`` between keys, such as
            ``encoder/Dense_0/kernel``.  ``"^(?!head/)"`` freezes all but ``head``.  In a
            :class:`fjx.Stateful` model paths begin with ``params/`` or ``state/``; a model whose state
            is frozen as a whole is trained as its parameters alone.

    Returns:
        An :class:`fjx.Algorithm` on the whole model.

    Raises:
        TypeError: ``make`` does not return an algorithm, or ``loss_fn`` is not callable.
        re.error: ``pattern`` is not a regular expression.
        ValueError: ``pattern`` matches no leaf, or every floating parameter (when the model is given).

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import algorithms, rounds
        >>> def loss_fn(params, x, key):
        ...     return jnp.mean((x @ params["body"] - params["head"]) ** 2)
        >>> algorithm = rounds.frozen(
        ...     loss_fn,
        ...     lambda loss: algorithms.fedavg(loss, client_lr=0.1, batch_size=2),
        ...     pattern="^body")
        >>> params = {"body": jnp.ones(3), "head": jnp.zeros(())}
        >>> algorithm.traffic(params)
        Traffic(uplink=32, downlink=32)
        >>> result = fjx.simulate(
        ...     jax.random.key(0), algorithm, params, fjx.data.from_clients([jnp.ones((2, 3))] * 4),
        ...     sampler=fjx.samplers.full(), rounds=2)
        >>> result.params["body"].tolist(), bool(result.params["head"] > 0)
        ([1.0, 1.0, 1.0], True)
    """
    as_loss(loss_fn)  # raises
    re.compile(pattern)  # raises

    def divide(model: Tree) -> tuple[Tree, Tree]:
        """The trained part and the frozen leaves."""
        return _tree.divide_by_path(model, pattern, where="frozen", left="train")

    def made(fixed: Tree) -> Algorithm:
        """The algorithm of the trained part, beside these frozen leaves."""
        algorithm = make(loss_beside(fixed, loss_fn))
        if not isinstance(algorithm, Algorithm):
            raise TypeError(
                f"frozen: make must return an fjx.Algorithm, got {type(algorithm).__name__}; for "
                "example lambda loss: algorithms.fedavg(loss, client_lr=0.1, batch_size=20)"
            )
        return algorithm

    def init(params: Tree) -> FrozenState:
        trained, fixed = divide(jax.tree.map(jnp.asarray, params))
        return FrozenState(made(fixed).init(trained), fixed)

    def init_client(params: Tree) -> Tree:
        trained, fixed = divide(params)
        return made(fixed).init_client(trained)

    def traffic(params: TreeLike) -> Traffic:
        trained, fixed = divide(params)
        return made(fixed).traffic(trained)

    def expected(params: TreeLike, rounds: int) -> np.ndarray | None:
        trained, fixed = divide(params)
        function = made(fixed).expected
        return None if function is None else function(trained, rounds)

    def personal(state: FrozenState, row: Tree) -> Tree:
        return _tree.joined(made(state.fixed).model_of(state.inner, row), state.fixed)

    # Two calls tell whether the aggregator is one object, as a plan's is, or made anew by a recipe.
    first, second = made(()), made(())
    aggregator = first.aggregator
    claims = (
        aggregator is not None and aggregator is second.aggregator and first.runs_its_aggregator
    )

    def play(
        key: Key,
        state: FrozenState,
        rows: Tree,
        cohort: Cohort,
        *,
        executor: Executor | None = None,
    ) -> tuple[FrozenState, Tree, Metrics]:
        algorithm = made(state.fixed)
        if claims and not (algorithm.aggregator is aggregator and algorithm.runs_its_aggregator):
            raise ValueError(
                "frozen: make returned an algorithm that runs another aggregator than at first; make "
                "aggregators outside of it"
            )
        inner, rows, metrics = algorithm.round(key, state.inner, rows, cohort, executor=executor)
        return FrozenState(inner, state.fixed), rows, metrics

    return Algorithm(
        init,
        init_client,
        round=play,
        traffic=traffic,
        aggregator=aggregator,
        expected=None if first.expected is None else expected,
        runs=Runs(aggregator, play) if claims and aggregator is not None else None,
        rounds=first.rounds,
        personal=None if first.personal is None else personal,
    )
