"""Rules that choose messages by their distances: Krum, multi-Krum."""

import jax.numpy as jnp
from jax import lax

from fjx._base import Aggregator, Array, Metrics, Tree
from fjx.aggregators._robust.products import combination, mean_of, nearest, products
from fjx.aggregators._robust.stack import Stack, admitted, byzantine, stacking


def krum(f: int | Array) -> Aggregator:
    r"""The message with the smallest sum of squared distances to its n - f nearest messages.

    .. math:: x_k, \quad k = \arg\min_i \sum_{j \in N_i} \|x_i - x_j\|^2

    The set :math:`N_i` holds the n - f messages nearest to :math:`x_i`, itself among them.  This is the
    rule for which robustness is proved; the first paper sums over one neighbour fewer.

    Guarantees:
        - (f, kappa)-robust for f < n / 2: :func:`fjx.theory.kappa_krum`.
        - The result is one of the messages, unchanged.  Of equal scores the first wins.
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
        >>> x = jnp.array([[1.0, 0.0], [1.1, 0.0], [1.3, 0.0], [9.0, 9.0]])
        >>> aggregators.aggregate(jax.random.key(0), aggregators.krum(1), x)[0].round(1).tolist()
        [1.100000023841858, 0.0]

    References:
        Blanchard, El Mhamdi, Guerraoui, Stainer, *Machine Learning with Adversaries*, NeurIPS 2017
        (arXiv:1703.02757); Allouah et al., *Fixing by Mixing*, AISTATS 2023 (arXiv:2302.01772).
    """
    f = byzantine("krum", f)

    def rule(stack: Stack) -> tuple[Tree, Metrics]:
        lowered, metrics = admitted("krum", f, stack)
        best = jnp.argmin(scores(products(stack).squares, stack.present, lowered))
        chosen = (jnp.arange(stack.slots) == best).astype(stack.dtype)
        return combination(lax.stop_gradient(chosen), stack), metrics

    return stacking(rule)


def multi_krum(f: int | Array) -> Aggregator:
    """The mean of the n - f messages with the smallest scores of Krum.

    Guarantees:
        - (f, kappa)-robust for f < n / 2: :func:`fjx.theory.kappa_krum`, as proved there.
        - With f = 0 it is the mean of the messages.
        - Of equal scores the first win.
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
        >>> x = jnp.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [9.0, 9.0]])
        >>> aggregators.aggregate(jax.random.key(0), aggregators.multi_krum(1), x)[0].tolist()
        [2.0, 0.0]

    References:
        Blanchard, El Mhamdi, Guerraoui, Stainer, *Machine Learning with Adversaries*, NeurIPS 2017
        (arXiv:1703.02757).
    """
    f = byzantine("multi_krum", f)

    def rule(stack: Stack) -> tuple[Tree, Metrics]:
        lowered, metrics = admitted("multi_krum", f, stack)
        score = scores(products(stack).squares, stack.present, lowered)
        return mean_of(nearest(score[None], stack.came - lowered)[0], stack), metrics

    return stacking(rule)


def scores(squares: Array, present: Array, f: Array) -> Array:
    """Scores of Krum ``[m]`` among those who are present; infinite for the others."""
    squares = lax.stop_gradient(squares)
    count = jnp.sum(present, dtype=jnp.int32)
    near = jnp.arange(len(present))[None] < count - f
    score = jnp.sum(jnp.where(near, jnp.sort(squares, axis=1), 0.0), axis=1)
    return jnp.where(present, score, jnp.inf)
