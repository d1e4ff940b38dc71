"""Bulyan: repeated Krum, then a mean around the median."""

import jax.numpy as jnp
from jax import lax

from fjx._base import Aggregator, Array, Metrics, Tree
from fjx.aggregators._robust.coordinates import around_median
from fjx.aggregators._robust.products import by_blocks, products
from fjx.aggregators._robust.selection import scores
from fjx.aggregators._robust.stack import Stack, admitted, byzantine, stacking


def bulyan(f: int | Array) -> Aggregator:
    """Bulyan: n - 2 f messages chosen by Krum one after another, then a mean around their median.

    Krum chooses a message, which is set aside, and chooses again among the others, until n - 2 f are
    chosen.  Each coordinate of the result is the mean of those n - 4 f of their values that are nearest
    to their median.  Krum is the rule of :func:`krum`, among the messages that are left.

    Guarantees:
        - Its paper bounds each coordinate, for n >= 4 f + 3.  We know no proof of a coefficient kappa.
        - With f = 0 it is the mean of the messages.
        - Of equal scores, and of values equally near to the median, the first count.  The last choices
          of Krum have few neighbours, so equal scores are common, and the order of messages matters.
        - Zero if nobody takes part.
        - A message that is not finite, or whose squared norm overflows, is left out, and counted in the
          metric ``left_out``.
        - If the n messages that came are too few, f becomes the largest number with 4 f + 3 <= n, or
          zero, and the metric ``f_lowered`` is 1.

    Args:
        f: number of Byzantine clients to withstand, at least 0; may be traced.

    Returns:
        An :class:`fjx.Aggregator` that stacks.

    Raises:
        TypeError: ``f`` is not an integer.
        ValueError: ``f`` is negative; or, from ``finish``, the cohort has no 4 f + 3 slots.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> x = jnp.array([1.0, 2.0, 2.0, 2.0, 2.0, 3.0, 1e6])
        >>> float(aggregators.aggregate(jax.random.key(0), aggregators.bulyan(1), x)[0])
        2.0

    References:
        El Mhamdi, Guerraoui, Rouault, *The Hidden Vulnerability of Distributed Learning in Byzantium*,
        ICML 2018 (arXiv:1802.07927).
    """
    f = byzantine("bulyan", f)

    def rule(stack: Stack) -> tuple[Tree, Metrics]:
        lowered, metrics = admitted("bulyan", f, stack, times=4, plus=3)
        squares = lax.stop_gradient(products(stack).squares)

        def choose(turn: Array, left: Array) -> Array:
            both = left[:, None] & left[None, :]
            best = jnp.argmin(scores(jnp.where(both, squares, jnp.inf), left, lowered))
            return left & ~((jnp.arange(stack.slots) == best) & (turn < stack.came - 2 * lowered))

        left = lax.fori_loop(0, stack.slots, choose, stack.present)
        chosen = Stack(stack.tree, stack.present & ~left)
        number = jnp.maximum(stack.came - 4 * lowered, 1)
        return by_blocks(lambda x: around_median(x, chosen, number), stack), metrics

    return stacking(rule)
