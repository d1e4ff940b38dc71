"""The geometric median, by Weiszfeld's iteration on inner products."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fjx import _validate
from fjx._base import Aggregator, Array, Metrics, Tree
from fjx.aggregators._robust.products import (
    combination,
    inner_products,
    nearest_to_most,
    products,
    row,
)
from fjx.aggregators._robust.stack import Stack, stacking

SMOOTHING = 1e-4
"""The smoothing nu in units of the typical distance between messages."""


def geometric_median(*, tolerance: float = 1e-5, max_iterations: int = 1000) -> Aggregator:
    r"""The point with the smallest sum of distances to the messages, each client counted once.

    .. math:: \arg\min_z \sum_i \sqrt{\|z - x_i\|^2 + \nu^2}

    The smoothing :math:`\nu` is 1e-4 of the median distance to the message in the middle.  Weiszfeld's
    iteration stops when the mean of the vectors :math:`(z - x_i) / \sqrt{\|z - x_i\|^2 + \nu^2}`, which
    is the gradient over n, is at most ``tolerance`` long.  Every iterate is a combination of the
    messages, so an iteration costs n^2 operations, whatever the dimension.

    Guarantees:
        - (f, kappa)-robust for every f < n / 2, up to smoothing and tolerance:
          :func:`fjx.theory.kappa_geometric_median`.
        - The metric ``iterations`` counts the steps; it is ``max_iterations`` if the tolerance was not
          reached.
        - Gradients are those of the minimiser, by the implicit function theorem.
        - Zero if nobody takes part.
        - A message that is not finite, or whose squared norm overflows, is left out, and counted in the
          metric ``left_out``.

    Args:
        tolerance: largest length of the mean of the unit vectors; at least 1e-6, which is the
            precision of float32.
        max_iterations: largest number of iterations.

    Returns:
        An :class:`fjx.Aggregator` that stacks.

    Raises:
        TypeError: an argument is no number.
        ValueError: an argument is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> x = jnp.array([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0], [1.0, 1.0]])
        >>> message, _, metrics = aggregators.aggregate(
        ...     jax.random.key(0), aggregators.geometric_median(), x)
        >>> message.round(3).tolist()
        [1.0, 1.0]

    References:
        Weiszfeld, 1937; Pillutla, Kakade, Harchaoui, *Robust Aggregation for Federated Learning*, IEEE
        TSP 2022 (arXiv:1912.13445).
    """
    _validate.number("geometric_median: tolerance", tolerance, at_least=1e-6, below=1)
    _validate.integer("geometric_median: max_iterations", max_iterations, at_least=1)

    def rule(stack: Stack) -> tuple[Tree, Metrics]:
        weights = stack.present.astype(stack.dtype)
        coefficients, iterations = minimiser(stack, weights, tolerance, max_iterations)
        return combination(coefficients, stack.tree), {"iterations": iterations}

    return stacking(rule)


class _Point(NamedTuple):
    """A point of the iteration.

    Attributes:
        coefficients: ``[m]``, its coefficients as a combination of the messages; they sum to one.
        gradient: length of the gradient over the sum of the weights.
        iterations: number of steps so far.
    """

    coefficients: Array
    gradient: Array
    iterations: Array


def minimiser(
    stack: Stack, weights: Array, tolerance: float, max_iterations: int
) -> tuple[Array, Array]:
    """Coefficients of the geometric median of weighted messages, and the number of iterations.

    Args:
        stack: messages.
        weights: ``[m]``, the weight of each; zero where nobody is present.
        tolerance: largest length of the gradient over the sum of the weights.
        max_iterations: largest number of steps.
    """
    found = lax.stop_gradient(products(stack))
    ranked = jnp.sort(found.squares[nearest_to_most(found, stack)])
    typical = jnp.where(stack.count > 0, ranked[jnp.maximum(stack.count - 1, 0) // 2], 0.0)
    # If the geometric median is a message, it is the medoid.  There the distance vanishes, and
    # products about the medoid have no rounding error.
    inner_at = inner_products(stack, row(stack.tree, _medoid(found.squares, typical, stack)))
    tiny = jnp.finfo(stack.dtype).tiny
    smoothing = SMOOTHING**2 * typical + tiny
    share = weights / jnp.maximum(jnp.sum(weights), tiny)

    def pull(coefficients: Array, inner: Array) -> Array:
        """The share of each message over its distance from the point."""
        about = inner @ coefficients
        squares = jnp.diagonal(inner) - 2 * about + coefficients @ about
        return share / jnp.sqrt(jnp.maximum(squares, 0.0) + smoothing)

    fixed = lax.stop_gradient(inner_at)

    def far(point: _Point) -> Array:
        return (point.gradient > tolerance) & (point.iterations < max_iterations)

    def move(point: _Point) -> _Point:
        forces = pull(point.coefficients, fixed)
        following = forces / jnp.maximum(jnp.sum(forces), tiny)
        # The gradient at z is (sum of the forces) (z - next z).
        moved = following - point.coefficients
        length = jnp.sqrt(jnp.maximum(moved @ fixed @ moved, 0.0))
        gradient = jnp.sum(forces) * length
        # The result is a point of which the gradient is known.
        coefficients = jnp.where(gradient <= tolerance, point.coefficients, following)
        return _Point(coefficients, gradient, point.iterations + 1)

    last = lax.while_loop(far, move, _Point(share, jnp.full_like(typical, jnp.inf), jnp.int32(0)))

    def residual(coefficients: Array) -> Array:
        forces = pull(coefficients, inner_at)
        return forces / jnp.maximum(jnp.sum(forces), tiny) - coefficients

    def tangent(linear: Callable[[Array], Array], right: Array) -> Array:
        return jnp.linalg.solve(jax.jacobian(linear)(right), right)

    # No loop is differentiated: the derivative is that of a root.
    root = lax.custom_root(residual, last.coefficients, lambda _, found: found, tangent)
    return root, last.iterations


def _medoid(squares: Array, typical: Array, stack: Stack) -> Array:
    """The place of the message with the smallest sum of distances.

    A distance counts at most 100 times the typical one, so that the sums do not lose near messages
    beside far ones.
    """
    length = jnp.sqrt(jnp.minimum(squares, 1e4 * typical))
    total = jnp.sum(jnp.where(stack.present[None], length, 0.0), axis=1)
    return jnp.argmin(jnp.where(stack.present, total, jnp.inf))
