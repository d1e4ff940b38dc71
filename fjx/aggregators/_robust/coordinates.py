"""Rules that treat each coordinate by itself: median, trimmed mean, mean around the median."""

import jax.numpy as jnp

from fjx._base import Aggregator, Array, Metrics, Tree
from fjx._kernels.columns import sorted_columns
from fjx.aggregators._robust.products import by_blocks
from fjx.aggregators._robust.stack import Stack, admitted, byzantine, rows, stacking


def median() -> Aggregator:
    """The coordinate-wise median of the messages, each client counted once.

    Guarantees:
        - Fewer than half of the clients cannot move a coordinate outside the range of the others, for
          any messages that they send.
        - (f, kappa)-robust for f < n / 2: :func:`fjx.theory.kappa_median`.
        - For an even number of clients it is the mean of the middle two.
        - Zero if nobody takes part.
        - A message that is not finite is left out, and counted in the metric ``left_out``.

    Returns:
        An :class:`fjx.Aggregator` that stacks.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> x = jnp.array([1.0, 2.0, 1e9])
        >>> float(aggregators.aggregate(jax.random.key(0), aggregators.median(), x)[0])
        2.0

    References:
        Yin, Chen, Kannan, Bartlett, *Byzantine-Robust Distributed Learning*, ICML 2018
        (arXiv:1803.01498).
    """

    def rule(stack: Stack) -> tuple[Tree, Metrics]:
        return by_blocks(lambda x: _middle(x, stack), stack), {}

    return stacking(rule, by_norm=False)


def trimmed_mean(f: int | Array) -> Aggregator:
    r"""The mean of each coordinate without its f smallest and its f largest values.

    Each client counts once.

    Guarantees:
        - Up to f clients cannot move a coordinate outside the range of the others.
        - (f, kappa)-robust for f < n / 2: :func:`fjx.theory.kappa_trimmed_mean`.
        - With f = 0 it is the mean of the messages.
        - Zero if nobody takes part.
        - A message that is not finite is left out, and counted in the metric ``left_out``.
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
        >>> x = jnp.array([-1e9, 1.0, 2.0, 3.0, 7.0])
        >>> float(aggregators.aggregate(jax.random.key(0), aggregators.trimmed_mean(1), x)[0])
        2.0

    References:
        Yin, Chen, Kannan, Bartlett, *Byzantine-Robust Distributed Learning*, ICML 2018
        (arXiv:1803.01498).
    """
    f = byzantine("trimmed_mean", f)

    def rule(stack: Stack) -> tuple[Tree, Metrics]:
        trimmed, metrics = admitted("trimmed_mean", f, stack)
        return by_blocks(lambda x: trimmed_mean_of(x, stack, trimmed), stack), metrics

    return stacking(rule, by_norm=False)


def mean_around_median(f: int | Array) -> Aggregator:
    """The mean of the n - f values of each coordinate that are nearest to the median.

    Each client counts once.  The rule is also called MeaMed.

    Guarantees:
        - (f, kappa)-robust for f < n / 2: :func:`fjx.theory.kappa_mean_around_median`.
        - With f = 0 it is the mean of the messages.
        - Of values that are equally near to the median, those of the first clients count.
        - Zero if nobody takes part.
        - A message that is not finite is left out, and counted in the metric ``left_out``.
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
        >>> x = jnp.array([1.0, 2.0, 3.0, 7.0])
        >>> float(aggregators.aggregate(jax.random.key(0), aggregators.mean_around_median(1), x)[0])
        2.0

    References:
        Xie, Koyejo, Gupta, *Generalized Byzantine-tolerant SGD*, 2018 (arXiv:1802.10116).
    """
    f = byzantine("mean_around_median", f)

    def rule(stack: Stack) -> tuple[Tree, Metrics]:
        lowered, metrics = admitted("mean_around_median", f, stack)
        number = jnp.maximum(stack.came - lowered, 1)
        return by_blocks(lambda x: around_median(x, stack, number), stack), metrics

    return stacking(rule, by_norm=False)


def trimmed_mean_of(x: Array, stack: Stack, f: Array) -> Array:
    """The mean of each column without its f smallest and f largest values."""
    rank = jnp.arange(stack.slots)[:, None]
    kept = (rank >= f) & (rank < stack.came - f)
    total = jnp.sum(jnp.where(kept, _ranked(x, stack), 0.0), axis=0)
    return total / jnp.maximum(stack.came - 2 * f, 1).astype(x.dtype)


def _ranked(x: Array, stack: Stack) -> Array:
    """Each column in ascending order; infinite where nobody is."""
    return sorted_columns(jnp.where(rows(stack.present, x), x, jnp.inf))


def _middle(x: Array, stack: Stack) -> Array:
    """The median of each column, zero if nobody came."""
    low, high = jnp.maximum(stack.came - 1, 0) // 2, stack.came // 2
    ranked = _ranked(x, stack)
    # Halved before they are added: the sum of two large floats overflows.
    return jnp.where(stack.came > 0, ranked[low] / 2 + ranked[high] / 2, 0.0)


def around_median(x: Array, stack: Stack, number: Array) -> Array:
    """The mean of those values of each column that are nearest to its median, the first of equal ones.

    Args:
        x: ``[m, d]``, the values.
        stack: the stack that says who is present.
        number: how many values of each column count, at least 1.
    """
    away = jnp.where(stack.present[:, None], jnp.abs(x - _middle(x, stack)[None]), jnp.inf)
    last = sorted_columns(away)[number - 1][None]
    nearer, equal = away < last, away == last
    room = number - jnp.sum(nearer, axis=0, dtype=jnp.int32)
    chosen = nearer | (equal & (jnp.cumsum(equal, axis=0, dtype=jnp.int32) <= room[None]))
    return jnp.sum(jnp.where(chosen, x, 0.0), axis=0) / number.astype(x.dtype)
