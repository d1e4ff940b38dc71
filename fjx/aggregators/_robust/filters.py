"""Rules that leave out what stands out: by covariance, by a random projection, by signs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fjx import _validate
from fjx._base import STACK, Aggregator, Array, Key, Metrics, Public, Tree
from fjx.aggregators._robust.products import (
    combination,
    mean_of,
    nearest,
    products,
    squared_norms,
)
from fjx.aggregators._robust.stack import (
    Stack,
    admitted,
    applied,
    byzantine,
    checked,
    contribute,
    stacking,
)
from fjx.aggregators._robust.subsets import centred_products


def caf(f: int | Array) -> Aggregator:
    r"""Covariance-bound agnostic filter: the weighted mean with the smallest covariance on the way.

    Weights c_i begin at one.  As long as their sum exceeds n - 2 f, each weight is multiplied by
    1 - t_i / max t, where t_i is the square of x_i in the direction of the largest variance about the
    weighted mean.  The result is the weighted mean whose largest eigenvalue was the smallest.

    Guarantees:
        - Its paper proves a coefficient kappa of the order f / n; no constant is claimed here.
        - With f = 0 it is the mean of the messages.
        - The metric ``iterations`` counts the covariances, at most n.
        - Zero if nobody takes part.
        - A message that is not finite, or whose squared norm overflows, is left out, and counted in the
          metric ``left_out``.
        - If the n messages that came are too few, f becomes the largest number with 2 f < n, and the
          metric ``f_lowered`` is 1.

    Args:
        f: number of Byzantine clients to withstand, at least 0; may be traced.

    Returns:
        An :class:`fjx.Aggregator` that stacks.

    Raises:
        TypeError: ``f`` is not an integer.
        ValueError: ``f`` is negative; or, from ``finish``, the cohort has no 2 f + 1 slots.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> x = jnp.array([1.0, 2.0, 3.0, 1e4])
        >>> message, _, _ = aggregators.aggregate(jax.random.key(0), aggregators.caf(1), x)
        >>> round(float(message), 2)
        2.0

    References:
        Allouah, Guerraoui, Stephan, *Towards Trustworthy Federated Learning with Untrusted
        Participants*, ICML 2025 (arXiv:2505.01874).
    """
    f = byzantine("caf", f)

    def rule(stack: Stack) -> tuple[Tree, Metrics]:
        lowered, metrics = admitted("caf", f, stack)
        inner = lax.stop_gradient(products(stack)).inner
        tiny = jnp.finfo(inner.dtype).tiny
        enough = (stack.came - 2 * lowered).astype(inner.dtype)
        everybody = stack.present.astype(inner.dtype)

        def more(state: _Weights) -> Array:
            first = state.turns == 0
            return ((jnp.sum(state.weights) > enough) | first) & (state.turns < stack.slots)

        def filtered(state: _Weights) -> _Weights:
            weights = state.weights
            root = jnp.sqrt(weights)
            # In units of the longest message, so that nothing below overflows.
            centred, unit = in_own_units(centred_products(inner, weights), weights > 0)
            values, vectors = jnp.linalg.eigh(root[:, None] * centred * root[None, :])
            largest = values[-1] / jnp.maximum(jnp.sum(weights), tiny) * unit
            # Up to one factor for all clients, which the quotient removes.
            along = jnp.abs(centred @ (root * vectors[:, -1]))
            along = along / jnp.maximum(jnp.max(along), tiny)
            # A compiler may round the largest quotient to a little more than one.
            kept = weights * jnp.maximum(1 - along**2, 0.0)
            best = jnp.where(largest < state.smallest, weights, state.best)
            smallest = jnp.minimum(largest, state.smallest)
            return _Weights(kept, best, smallest, state.turns + 1)

        infinite = jnp.full((), jnp.inf, inner.dtype)
        last = lax.while_loop(
            more, filtered, _Weights(everybody, everybody, infinite, jnp.int32(0))
        )
        share = last.best / jnp.maximum(jnp.sum(last.best), tiny)
        return combination(share, stack), {**metrics, "iterations": last.turns}

    return stacking(rule)


def in_own_units(products: Array, kept: Array) -> tuple[Array, Array]:
    """Inner products in units of the largest of those that are kept, zeros elsewhere, and the unit."""
    products = jnp.where(kept[:, None] & kept[None, :], products, 0.0)
    largest = jnp.max(jnp.abs(products))
    unit = jnp.where(largest > 0, largest, 1.0)
    return products / unit, unit


class _Weights(NamedTuple):
    """The state of a filter.

    Attributes:
        weights: ``[m]``, the weight of each message.
        best: ``[m]``, the weights with the smallest covariance so far.
        smallest: its largest eigenvalue.
        turns: number of covariances so far.
    """

    weights: Array
    best: Array
    smallest: Array
    turns: Array


def dnc(f: int | Array, *, iterations: int = 1, coordinates: int = 10_000) -> Aggregator:
    """Divide and conquer: without the f messages that stand out most in the main direction.

    Each iteration draws coordinates at random, takes the direction of the largest variance of the
    messages in them, and marks the f messages that lie farthest from the mean along it.  The result
    is the mean of the messages that no iteration marked.

    Guarantees:
        - The coordinates follow from the server's key of the round, which clients do not know.
        - With f = 0 it is the mean of the messages.
        - Of messages that are equally far, the last are marked.
        - We know no proof of a coefficient kappa for messages without a distribution.
        - Zero if nobody takes part.
        - A message that is not finite, or whose squared norm overflows, is left out, and counted in the
          metric ``left_out``.
        - If the n messages that came are too few, f becomes the largest number with
          max(2, iterations) f < n, and the metric ``f_lowered`` is 1.

    Args:
        f: number of Byzantine clients to withstand, at least 0; may be traced.
        iterations: number of directions, at least 1.
        coordinates: number of coordinates that are drawn for each, with replacement.

    Returns:
        An :class:`fjx.Aggregator` that stacks.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: an argument is out of range; or, from ``finish``, the cohort has no max(2,
            iterations) f + 1 slots.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> x = jnp.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 99.0]])
        >>> aggregators.aggregate(jax.random.key(0), aggregators.dnc(1), x)[0].tolist()
        [2.0, 0.0]

    References:
        Shejwalkar, Houmansadr, *Manipulating the Byzantine*, NDSS 2021.
    """
    f = byzantine("dnc", f)
    iterations = _validate.static_integer("dnc: iterations", iterations, at_least=1)
    coordinates = _validate.static_integer("dnc: coordinates", coordinates, at_least=1)

    def marked(key: Key, stack: Stack, lowered: Array) -> Array:
        thin = drawn(key, stack, coordinates)
        # In units of the largest number: a coordinate that is drawn often makes a square overflow.
        largest = jnp.max(jnp.abs(jnp.where(stack.present[:, None], thin, 0.0)))
        thin = thin / jnp.where(largest > 0, largest, 1.0)
        inner = products(Stack(thin, stack.present)).inner
        weights = stack.present.astype(inner.dtype)
        centred = weights[:, None] * centred_products(inner, weights) * weights[None, :]
        along = (centred @ jnp.linalg.eigh(centred)[1][:, -1]) ** 2
        score = jnp.where(stack.present, along, jnp.inf)
        return ~nearest(score[None], stack.came - lowered)[0]

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        def rule(stack: Stack) -> tuple[Tree, Metrics]:
            lowered, metrics = admitted("dnc", f, stack, times=max(2, iterations))
            fixed = lax.stop_gradient(stack)
            out = jnp.zeros(stack.slots, bool)
            for turn in range(iterations):
                out |= marked(jax.random.fold_in(key, turn), fixed, lowered)
            return mean_of(~out, stack), metrics

        stack, metrics = checked(total)
        message, own = applied(rule, stack)
        return message, public.state, {**metrics, **own}

    return Aggregator(lambda message_like: (), contribute, finish, STACK)


def sign_guard(*, low: float = 0.1, high: float = 3.0, coordinates: int = 10_000) -> Aggregator:
    """SignGuard: the mean of the messages of usual length and of usual signs.

    A message counts if its norm is between ``low`` and ``high`` times the median norm, and if it is in
    the largest cluster of the shares of positive, zero and negative signs among coordinates that are
    drawn at random.  Clusters are those of a mean shift with a flat kernel, whose radius is the mean
    distance of a message's signs from those of the nearer half of the others.  Longer messages than
    the median are scaled down to it.

    Guarantees:
        - The result is at most as long as the median message.
        - The coordinates follow from the server's key of the round, which clients do not know.
        - We know no proof of a coefficient kappa.
        - Zero if nobody takes part.
        - The metric ``trusted`` counts the messages of the mean.
        - A message that is not finite, or whose squared norm overflows, is left out, and counted in the
          metric ``left_out``.

    Args:
        low: least norm, in units of the median norm; at least 0.
        high: largest norm, in units of the median norm; at least 1.
        coordinates: number of coordinates that are drawn, with replacement.

    Returns:
        An :class:`fjx.Aggregator` that stacks.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> x = jnp.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
        >>> aggregators.aggregate(jax.random.key(0), aggregators.sign_guard(), x)[0].tolist()
        [1.0, 1.0]

    References:
        Xu, Huang, Song, Lan, *Byzantine-robust Federated Learning through Collaborative Malicious
        Gradient Filtering*, ICDCS 2022 (arXiv:2109.05872).
    """
    _validate.number("sign_guard: low", low, at_least=0, below=1)
    _validate.number("sign_guard: high", high, at_least=1)
    coordinates = _validate.static_integer("sign_guard: coordinates", coordinates, at_least=1)

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        def rule(stack: Stack) -> tuple[Tree, Metrics]:
            norms = jnp.sqrt(lax.stop_gradient(squared_norms(stack)))
            ranked = jnp.sort(jnp.where(stack.present, norms, jnp.inf))
            median = ranked[jnp.maximum(stack.came - 1, 0) // 2]
            usual = (norms >= low * median) & (norms <= high * median) & stack.present
            trusted = usual & _largest_cluster(_signs(key, stack, coordinates), usual)
            long = norms > median
            factors = jnp.where(long, median / jnp.where(long, norms, 1.0), 1.0)
            factors = jnp.where(trusted, factors, 0.0)
            share = factors / jnp.maximum(jnp.sum(trusted), 1).astype(stack.dtype)
            number = jnp.sum(trusted, dtype=jnp.int32)
            return combination(share, stack), {"trusted": number}

        stack, metrics = checked(total)
        message, own = applied(rule, stack)
        return message, public.state, {**metrics, **own}

    return Aggregator(lambda message_like: (), contribute, finish, STACK)


def drawn(key: Key, stack: Stack, coordinates: int) -> Array:
    """``[m, coordinates]``: random coordinates of the messages, drawn with replacement."""
    leaves = [x.reshape(len(x), -1) for x in jax.tree.leaves(stack.tree)]
    size = sum(x.shape[1] for x in leaves)
    places = jax.random.randint(key, (coordinates,), 0, max(size, 1))
    found = jnp.zeros((stack.slots, coordinates), stack.dtype)
    start = 0
    for x in leaves:
        if x.shape[1]:
            inside = (places >= start) & (places < start + x.shape[1])
            part = x[:, jnp.clip(places - start, 0, x.shape[1] - 1)]
            found = jnp.where(inside[None], part.astype(stack.dtype), found)
        start += x.shape[1]
    return found


def _signs(key: Key, stack: Stack, coordinates: int) -> Array:
    """``[m, 3]``: the shares of positive, zero and negative numbers among random coordinates."""
    x = drawn(key, stack, coordinates)
    kinds = [x > 0, x == 0, x < 0]
    return jnp.stack([jnp.mean(kind, axis=1, dtype=stack.dtype) for kind in kinds], axis=1)


def _largest_cluster(points: Array, present: Array) -> Array:
    """``bool[m]``: the points whose mean shift ends where most do; of such places, the most central."""
    count = jnp.sum(present)
    both = present[:, None] & present[None, :]

    def between(a: Array, b: Array) -> Array:
        return jnp.sqrt(jnp.sum((a[:, None] - b[None, :]) ** 2, axis=-1))

    # The nearest point is the point itself.
    ranked = jnp.sort(jnp.where(both, between(points, points), jnp.inf), axis=1)[:, 1:]
    near = jnp.arange(ranked.shape[1])[None] < count // 2
    total = jnp.sum(jnp.where(near & present[:, None], ranked, 0.0))
    # A little more than the mean, so that rounding does not part equal points.
    radius = total / jnp.maximum(count * (count // 2), 1).astype(total.dtype) + 1e-6

    def shift(_: Array, modes: Array) -> Array:
        inside = ((between(modes, points) <= radius) & present[None]).astype(points.dtype)
        return inside @ points / jnp.maximum(jnp.sum(inside, axis=1, keepdims=True), 1)

    modes = lax.fori_loop(0, 30, shift, points)
    same = (between(modes, modes) <= radius) & both
    away = jnp.sum(jnp.where(both, between(modes, points), 0.0), axis=1)
    return same[jnp.argmax(jnp.sum(same, axis=1, dtype=away.dtype) - away / (1 + away))]
