"""The geometric median, by Weiszfeld's iteration on inner products."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fjx import _validate
from fjx._base import Aggregator, Array, Metrics, Tree
from fjx.aggregators._robust.products import (
    about_message,
    combination,
    nearest_to_most,
    products,
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
        frame = frame_of(stack)
        weights = stack.present.astype(stack.dtype)
        share = weights / jnp.maximum(jnp.sum(weights), 1)
        found = weiszfeld(frame, share, tolerance, max_iterations)
        return combination(implicit(frame, share, found), stack), {"iterations": found.iterations}

    return stacking(rule)


def autogm(
    *,
    penalty: float | Array = 1.0,
    turns: int = 10,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
) -> Aggregator:
    r"""Auto-weighted geometric median: far messages are given less weight, very far ones none.

    .. math:: \min_{z, \alpha} \sum_i \alpha_i \|z - x_i\| + \frac{\lambda}{2} \|\alpha\|^2,
        \quad \alpha_i \ge 0, \ \sum_i \alpha_i = 1

    Weights and point are minimised in turn.  The penalty :math:`\lambda` is ``penalty`` times n times
    the median distance to the message in the middle, so that the rule does not depend on a scale.

    Guarantees:
        - With a large penalty it is :func:`geometric_median`.
        - We know no proof of a coefficient kappa.
        - The metric ``iterations`` counts the steps of all turns.
        - Zero if nobody takes part.
        - A message that is not finite, or whose squared norm overflows, is left out, and counted in the
          metric ``left_out``.

    Args:
        penalty: penalty on unequal weights, positive; may be traced.
        turns: number of times that weights and point are minimised, at least 1.
        tolerance: tolerance of each geometric median, at least 1e-6.
        max_iterations: largest number of iterations of each.

    Returns:
        An :class:`fjx.Aggregator` that stacks.

    Raises:
        TypeError: an argument is no number.
        ValueError: an argument is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> x = jnp.array([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0], [99.0, 0.0]])
        >>> message, _, _ = aggregators.aggregate(jax.random.key(0), aggregators.autogm(), x)
        >>> message.round(2).tolist()
        [1.0, 1.0]

    References:
        Li, Ngai, Voigt, *Byzantine-Robust Aggregation in Federated Learning Empowered Industrial IoT*,
        IEEE TII 2021.
    """
    _validate.number("autogm: penalty", penalty, above=0)
    turns = _validate.static_integer("autogm: turns", turns, at_least=1)
    _validate.number("autogm: tolerance", tolerance, at_least=1e-6, below=1)
    _validate.integer("autogm: max_iterations", max_iterations, at_least=1)

    def rule(stack: Stack) -> tuple[Tree, Metrics]:
        frame = frame_of(stack)
        everybody = stack.present.astype(stack.dtype)
        count = jnp.maximum(jnp.sum(everybody), 1)
        unit = penalty * count * jnp.sqrt(frame.typical)

        def turn(_: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            share, _, iterations = state
            found = weiszfeld(frame, share, tolerance, max_iterations)
            length = jnp.sqrt(_squares(lax.stop_gradient(frame.inner), found.coefficients))
            following = _on_simplex(jnp.where(stack.present, length, jnp.inf), unit)
            following = jnp.where(unit > 0, following, everybody / count)
            return following, share, iterations + found.iterations

        start = everybody / count, everybody / count, jnp.int32(0)
        share, _, iterations = lax.fori_loop(0, turns, turn, start)
        found = weiszfeld(frame, share, tolerance, max_iterations)
        message = combination(implicit(frame, share, found), stack)
        return message, {"iterations": iterations + found.iterations}

    return stacking(rule)


class Frame(NamedTuple):
    """Inner products about the medoid, and the scale of the distances.

    Attributes:
        inner: ``[m, m]``, products about the medoid.
        typical: square of the median distance to the message in the middle.
        medoid: place of the medoid.
    """

    inner: Array
    typical: Array
    medoid: Array


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


def frame_of(stack: Stack) -> Frame:
    """The frame of a geometric median."""
    found = products(stack)
    squares = lax.stop_gradient(found.squares)
    ranked = jnp.sort(squares[nearest_to_most(squares, stack)])
    typical = jnp.where(stack.came > 0, ranked[jnp.maximum(stack.came - 1, 0) // 2], 0.0)
    # If the geometric median is a message, it is the medoid.  There the distance vanishes, and
    # products about the medoid have no rounding error.
    medoid = _medoid(squares, typical, stack)
    return Frame(about_message(found.inner, medoid), typical, medoid)


def weiszfeld(frame: Frame, share: Array, tolerance: float, max_iterations: int) -> _Point:
    """The geometric median of messages with weights ``share``, which sum to one."""
    frame = lax.stop_gradient(frame)

    def far(point: _Point) -> Array:
        return (point.gradient > tolerance) & (point.iterations < max_iterations)

    def move(point: _Point) -> _Point:
        forces = _forces(frame, share, point.coefficients)
        following = _normalised(forces)
        # The gradient at z is (sum of the forces) (z - next z).
        moved = following - point.coefficients
        length = jnp.sqrt(jnp.maximum(moved @ frame.inner @ moved, 0.0))
        gradient = jnp.sum(forces) * length
        # The result is a point of which the gradient is known.
        coefficients = jnp.where(gradient <= tolerance, point.coefficients, following)
        return _Point(coefficients, gradient, point.iterations + 1)

    start = _from_medoid(frame, share)
    first = _Point(start, jnp.full_like(frame.typical, jnp.inf), jnp.int32(0))
    return lax.while_loop(far, move, first)


def _from_medoid(frame: Frame, share: Array) -> Array:
    """The coefficients of the first point: from the medoid towards where the others pull it.

    The step of Vardi and Zhang (PNAS 2000).  It lowers the sum of distances, and so do all steps after
    it: no iterate comes to rest on a worse message.  In the mean, far messages count as much as near
    ones, and its distances from near messages would be lost in rounding.
    """
    squares = jnp.maximum(jnp.diagonal(frame.inner), 0.0)
    here = squares <= _smoothing(frame, share)
    forces = jnp.where(here, 0.0, share / jnp.sqrt(jnp.where(here, 1.0, squares)))
    pull = jnp.sqrt(jnp.maximum(forces @ frame.inner @ forces, 0.0))
    held = jnp.sum(jnp.where(here, share, 0.0))
    step = jnp.where(pull > held, 1 - held / jnp.where(pull > 0, pull, 1.0), 0.0)
    medoid = (jnp.arange(len(share)) == frame.medoid).astype(share.dtype)
    return (1 - step) * medoid + step * _normalised(forces)


def implicit(frame: Frame, share: Array, found: _Point) -> Array:
    """The coefficients that were found, with the derivative of a root of Weiszfeld's equation."""

    def residual(coefficients: Array) -> Array:
        return _normalised(_forces(frame, share, coefficients)) - coefficients

    def tangent(linear: Callable[[Array], Array], right: Array) -> Array:
        return jnp.linalg.solve(jax.jacobian(linear)(right), right)

    fixed = lax.stop_gradient(found.coefficients)
    return lax.custom_root(residual, fixed, lambda _, root: root, tangent)


def _forces(frame: Frame, share: Array, coefficients: Array) -> Array:
    """The weight of each message over its distance from a combination of messages."""
    return share / jnp.sqrt(_squares(frame.inner, coefficients) + _smoothing(frame, share))


def _smoothing(frame: Frame, share: Array) -> Array:
    return SMOOTHING**2 * frame.typical + jnp.finfo(share.dtype).tiny


def _squares(inner: Array, coefficients: Array) -> Array:
    """Squared distances of all messages from a combination of them."""
    about = inner @ coefficients
    return jnp.maximum(jnp.diagonal(inner) - 2 * about + coefficients @ about, 0.0)


def _normalised(forces: Array) -> Array:
    return forces / jnp.maximum(jnp.sum(forces), jnp.finfo(forces.dtype).tiny)


def _on_simplex(lengths: Array, unit: Array) -> Array:
    """The weights max(0, eta - d_i) / unit that sum to one."""
    ranked = jnp.sort(lengths)
    finite = jnp.isfinite(ranked)
    number = jnp.arange(1, len(lengths) + 1)
    # With the k shortest distances, eta is their mean plus unit / k; it has to exceed the longest.
    eta = (jnp.cumsum(jnp.where(finite, ranked, 0.0)) + unit) / number.astype(lengths.dtype)
    last = jnp.sum(finite & (eta > ranked)) - 1
    positive = jnp.maximum(eta[jnp.maximum(last, 0)] - lengths, 0.0)
    return _normalised(jnp.where(jnp.isfinite(lengths), positive, 0.0))


def _medoid(squares: Array, typical: Array, stack: Stack) -> Array:
    """The place of the message with the smallest sum of distances.

    A distance counts at most 100 times the typical one, so that the sums do not lose near messages
    beside far ones.  If half of the messages are equal, the typical distance is zero, and these are the
    geometric median.
    """
    length = jnp.sqrt(jnp.minimum(squares, 1e4 * typical))
    total = jnp.sum(jnp.where(stack.present[None], length, 0.0), axis=1)
    best = jnp.argmin(jnp.where(stack.present, total, jnp.inf))
    return jnp.where(typical > 0, best, nearest_to_most(squares, stack))
