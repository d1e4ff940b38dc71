"""PowerSGD: gradients of low rank, found by all clients together."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate, servers
from fjx._base import Algorithm, Array, Examples, Key, Metrics, Tree, TreeLike, Turn
from fjx.algorithms._refuse import MEMORY, METHOD, fixes
from fjx.clients import LossFn
from fjx.clients._minibatch import batch_gradient
from fjx.compressors._lowrank import is_approximated, orthonormal, started
from fjx.rounds._two_phases import Phase, two_phases
from fjx.servers._sgd import server_sgd


class PowerSgdState(NamedTuple):
    """Server state of :func:`power_sgd`.

    Attributes:
        model: the current model, and the state of the update that moves it.
        left: P of each matrix, with orthonormal columns.
        right: Q of each matrix.
    """

    model: Any
    left: tuple[Array, ...]
    right: tuple[Array, ...]

    @property
    def params(self) -> Tree:
        """The current model."""
        return self.model.params


@fixes(aggregator=MEMORY, uplink=METHOD)
def power_sgd(
    loss_fn: LossFn,
    *,
    rank: int,
    learning_rate: float | Array,
    batch_size: int,
    momentum: float | Array | None = None,
) -> Algorithm:
    """PowerSGD: the mean gradient in low rank by a step of the power method, with error feedback.

    Each client adds its gradient to the sum M_i that it still owes.  For every matrix in it

        P = orth(mean M_i Q),   Q = mean M_i^T P,   M_i = M_i - P P^T M_i.

    P takes one round and Q another: two rounds are one step, in which the model moves by P Q^T.  The
    next step starts from Q.  Leaves that :func:`fjx.compressors.power_sgd` does not approximate travel
    whole with Q.

    Guarantees:
        - P Q^T is the projection of mean M_i on the columns of P.  It is exact if the mean has rank r or
          less, in general position to Q.
        - A client's gradients are the sum of its messages and of its debt, to rounding, even if it is
          absent in one of the phases or both.
        - With all clients there the model moves as in the paper.  There clients owe M_i - P Q^T, which
          has the same mean, and only means count.

    Bits:
        Up and down, for a matrix of n x m: 32 r n in the first round, 32 r m in the second.  Vectors
            travel whole in the second round.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        rank: rank r, at least 1.
        learning_rate: step size of the server.
        batch_size: number of examples in a client's batch; a step takes one batch.
        momentum: momentum lambda of the server, which moves by Delta + m with m = lambda m + Delta; None
            for Delta alone.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        TypeError: ``rank`` is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import algorithms
        >>> algorithm = algorithms.power_sgd(
        ...     lambda w, x, key: jnp.mean(w["matrix"]) * x.mean(), rank=1, learning_rate=0.1,
        ...     batch_size=10)
        >>> algorithm.traffic({"matrix": jnp.zeros((10, 20)), "bias": jnp.zeros(5)})
        Traffic(uplink=800, downlink=800)

    References:
        Vogels, Karimireddy, Jaggi, *PowerSGD: Practical Low-Rank Gradient Compression for Distributed
        Optimization*, NeurIPS 2019 (arXiv:1905.13727), algorithms 1 and 2.
    """
    rank = _validate.static_integer("rank", rank, at_least=1)
    batch = batch_gradient(loss_fn, batch_size)
    model = servers.from_optax(_with_momentum(learning_rate, momentum))

    def split(tree: Tree) -> tuple[list[Array], Tree]:
        """Matrices that are approximated, and the rest."""
        inside = jax.tree.map(lambda leaf: is_approximated(leaf, rank), tree)
        matrices, rest = _tree.split(tree, inside)
        return [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(matrices)], rest

    def restore(matrices: list[Array], rest: Tree, like: Tree) -> Tree:
        """The inverse of ``split``."""
        parts = iter(matrices)
        whole = iter(jax.tree.leaves(rest))
        return jax.tree.map(
            lambda x: next(parts).reshape(x.shape) if is_approximated(x, rank) else next(whole),
            like,
        )

    def nothing(params: Tree) -> Tree:
        zeros = _tree.zeros_like(params)
        return jax.tree.map(lambda x: _tree.wide(x) if _tree.is_float(x) else x, zeros)

    def factors(params: Tree, axis: int) -> tuple[Array, ...]:
        return tuple(jnp.zeros((m.shape[axis], rank), m.dtype) for m in split(nothing(params))[0])

    def init(params: Tree) -> PowerSgdState:
        return PowerSgdState(model.init(params), factors(params, 0), factors(params, 1))

    def left_like(params: Tree) -> TreeLike:
        return jax.eval_shape(lambda: factors(params, 0))

    def right_like(params: Tree) -> TreeLike:
        return jax.eval_shape(lambda: (factors(params, 1), split(nothing(params))[1]))

    def first(
        key: Key, server: PowerSgdState, owed: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        descent, _, metrics = batch.update(key, server.params, (), examples, turn)
        # Factors do not show a NaN outside of the matrices, and the memory must not keep it.
        finite = _tree.all_finite(descent)
        owed = _tree.where(finite, _tree.add(owed, descent), owed)
        matrices, _ = split(owed)
        left = (m @ started(q) for m, q in zip(matrices, server.right, strict=True))
        return tuple(jnp.where(finite, p, jnp.nan) for p in left), owed, metrics

    def second(
        key: Key, server: PowerSgdState, owed: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        matrices, rest = split(owed)
        right = tuple(m.T @ p for m, p in zip(matrices, server.left, strict=True))
        left = [m - p @ q.T for m, p, q in zip(matrices, server.left, right, strict=True)]
        return (right, rest), restore(left, _tree.zeros_like(rest), owed), {}

    def move(state: PowerSgdState, mean: Tree) -> PowerSgdState:
        right, rest = mean
        moves = [p @ q.T for p, q in zip(state.left, right, strict=True)]
        moved = model.update(state.model, restore(moves, rest, state.params))
        return PowerSgdState(moved, state.left, right)

    def orthogonalise(state: PowerSgdState, mean: Tree) -> PowerSgdState:
        return state._replace(left=tuple(map(orthonormal, mean)))

    return two_phases(
        Phase(first, left_like, orthogonalise),
        Phase(second, right_like, move),
        client=nothing,
        server=init,
        broadcast=lambda state: state,
    )


def _with_momentum(
    learning_rate: float | Array, momentum: float | Array | None
) -> optax.GradientTransformation:
    """Server step along Delta, or along Delta + m with m = lambda m + Delta."""
    plain = server_sgd(learning_rate)
    if momentum is None:
        return plain
    _validate.number("momentum", momentum, at_least=0, below=1)
    trace = optax.trace(momentum)

    def update(gradients: Tree, state: Any, params: Tree = None) -> tuple[Tree, Any]:
        gathered, state = trace.update(gradients, state)
        return jax.tree.map(jnp.add, gradients, gathered), state

    return optax.chain(optax.GradientTransformation(trace.init, update), plain)
