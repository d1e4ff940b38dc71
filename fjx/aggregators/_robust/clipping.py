"""Rules that shorten messages: centered clipping, norm bounds, adaptive clipping."""

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import STACK, Aggregator, Array, Key, Metrics, Public, Tree, TreeLike
from fjx.aggregators._around import releasing, require_aggregator
from fjx.aggregators._robust.mixing import mixed, require_decoded
from fjx.aggregators._robust.products import scaled, squared_norms
from fjx.aggregators._robust.stack import (
    Stack,
    admitted,
    byzantine,
    checked,
    contribute,
)


def centered_clipping(radius: float | Array = 100.0, *, iterations: int = 1) -> Aggregator:
    r"""Steps from the last result by the mean of clipped differences.

    .. math:: v \leftarrow v + \frac{1}{n} \sum_i (x_i - v) \min\left(1, \frac{\tau}{\|x_i - v\|}\right)

    The state is the last result v, which is zero at first.  Each client counts once.

    Guarantees:
        - f messages, whatever they are, move v by at most f radius / n in each iteration.
        - If no difference is longer than the radius, it is the mean of the messages.
        - There is no coefficient kappa without further assumptions: the right radius depends on the
          distance of the honest messages from v.
        - If nobody takes part, the result is zero and v stays.
        - A message that is not finite, or whose squared norm overflows, is left out, and counted in the
          metric ``left_out``.

    Args:
        radius: largest length tau of a difference, positive; may be traced.
        iterations: number of steps in a round, at least 1.

    Returns:
        An :class:`fjx.Aggregator` that stacks.

    Raises:
        TypeError: ``radius`` is no number, or ``iterations`` is not an integer.
        ValueError: an argument is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> x = jnp.array([1.0, 2.0, 3.0, 1e6])
        >>> a = aggregators.centered_clipping(4.0)
        >>> message, state, _ = aggregators.aggregate(jax.random.key(0), a, x)
        >>> float(message), float(state)
        (2.5, 2.5)

    References:
        Karimireddy, He, Jaggi, *Learning from History for Byzantine Robust Optimization*, ICML 2021
        (arXiv:2012.10333).
    """
    _validate.number("centered_clipping: radius", radius, above=0)
    iterations = _validate.static_integer("centered_clipping: iterations", iterations, at_least=1)

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        stack, metrics = checked(total)
        count = jnp.maximum(stack.came, 1)
        centre = public.state
        for _ in range(iterations):
            away = jax.tree.map(lambda x, v: x - v[None], stack.tree, centre)
            away = Stack(away, stack.present)
            steps = scaled(_factors(squared_norms(away), radius), away)
            steps = jax.tree.map(lambda x: jnp.sum(x, axis=0), steps)
            centre = _tree.add(centre, _tree.divide(steps, count))
        somebody = stack.came > 0
        message = _tree.where(somebody, centre, _tree.zeros_like(centre))
        return message, _tree.where(somebody, centre, public.state), metrics

    def init(message_like: TreeLike) -> Tree:
        return jax.tree.map(_tree.wide, _tree.zeros_like(message_like))

    return Aggregator(init, contribute, finish, STACK)


def norm_bounding(inner: Aggregator, bound: float | Array) -> Aggregator:
    r"""An aggregator of messages that are at most ``bound`` long: longer ones are scaled down.

    .. math:: x_i \min\left(1, \frac{\text{bound}}{\|x_i\|}\right)

    It is the defence that works inside a secure sum and under differential privacy, because it needs
    no message but one.  The server bounds the messages that it decodes.  If ``inner`` has an
    ``encode``, clients bound their own messages before it, and a Byzantine client need not do so.

    Guarantees:
        - ``combine``, the state and the metrics are those of ``inner``.  A privacy claim of ``inner``
          stays, because a message is bounded ahead of the mechanism.
        - In a mean of n messages, f messages move the result by at most 2 f bound / n.

    Args:
        inner: aggregator of the bounded messages, such as :func:`mean`.
        bound: largest norm of a message, positive; may be traced.

    Returns:
        An :class:`fjx.Aggregator`.

    Raises:
        TypeError: ``inner`` is not an aggregator, or ``bound`` is no number.
        ValueError: ``bound`` is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> a = aggregators.norm_bounding(aggregators.mean(), 2.0)
        >>> float(aggregators.aggregate(jax.random.key(0), a, jnp.array([1.0, 1.0, -1e6]))[0])
        0.0

    References:
        Sun, Kairouz, Suresh, McMahan, *Can You Really Backdoor Federated Learning?*, 2019
        (arXiv:1911.07963).
    """
    require_aggregator("norm_bounding", inner)
    _validate.number("norm_bounding: bound", bound, above=0)
    code = inner.encode

    def short(message: Tree) -> Tree:
        one = Stack(jax.tree.map(lambda x: _tree.wide(x)[None], message), jnp.ones(1, bool))
        return jax.tree.map(lambda x: x[0], scaled(_factors(squared_norms(one), bound), one))

    def bounded(message: Tree, weight: Array, public: Public) -> Tree:
        return inner.contribute(short(message), weight, public)

    def encode(key: Key, message: Tree, public: Public) -> Tree:
        assert code is not None
        return code(key, _tree.in_dtypes_of(short(message), message), public)

    parts = {"contribute": bounded} if code is None else {"encode": encode}
    return releasing(inner._replace(**parts), *inner.mechanisms)


def adaptive_clipping(inner: Aggregator, f: int | Array) -> Aggregator:
    """An aggregator of messages of which the longest are clipped to the longest of the others (ARC).

    The k = floor(2 f (n - f) / n) longest messages are scaled down to the norm of the next one.

    Guarantees:
        - With f = 0 nothing is clipped.
        - The state and the metrics of ``inner`` are kept; its counts of messages left out and of
          lowered f are added.
        - A message that is not finite, or whose squared norm overflows, is left out, and counted in the
          metric ``left_out``.
        - If the n messages that came are too few, f becomes the largest number with 2 f < n, and the
          metric ``f_lowered`` counts it.

    Args:
        inner: robust aggregator of the clipped messages, each of weight one.
        f: number of Byzantine clients to withstand, at least 0; may be traced.

    Returns:
        An :class:`fjx.Aggregator` that stacks.

    Raises:
        TypeError: ``inner`` is not an aggregator, or ``f`` is not an integer.
        ValueError: ``f`` is negative; ``inner`` has an ``encode``; or, from ``finish``, the cohort has
            no 2 f + 1 slots.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> a = aggregators.adaptive_clipping(aggregators.mean(), 1)
        >>> float(aggregators.aggregate(jax.random.key(0), a, jnp.array([1.0, 4.0, -1e6]))[0])
        0.3333333432674408

    References:
        Allouah et al., *Adaptive Gradient Clipping for Robust Federated Learning*, 2024
        (arXiv:2405.14432).
    """
    f = byzantine("adaptive_clipping", f)

    def clip(key: Key, stack: Stack) -> tuple[Stack, Metrics]:
        lowered, metrics = admitted("adaptive_clipping", f, stack)
        count = jnp.maximum(stack.came, 1)
        squares = squared_norms(stack)
        clipped = 2 * lowered * (count - lowered) // count
        bound = jnp.sort(jnp.where(stack.present, squares, jnp.inf))[count - clipped - 1]
        bound = jnp.where(stack.came > 0, bound, 0.0)
        return Stack(scaled(_factors(squares, jnp.sqrt(bound)), stack), stack.present), metrics

    require_decoded("adaptive_clipping", inner)
    return mixed(inner, clip)


def _factors(squares: Array, bound: float | Array) -> Array:
    """The factors min(1, bound / norm) from squared norms; 1 for a norm of zero."""
    norms = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    long = (squares > 0) & (norms > bound)
    return jnp.where(long, jnp.asarray(bound, squares.dtype) / jnp.where(long, norms, 1.0), 1.0)
