"""Pre-aggregators: the server mixes the messages before an aggregator sees them."""

import jax
import jax.numpy as jnp
from jax import lax

from fjx import _validate
from fjx._base import STACK, SUM, Aggregator, Array, Key, Metrics, Public, Tree, TreeLike
from fjx.aggregators._around import require_aggregator
from fjx.aggregators._robust.products import combination, nearest, products
from fjx.aggregators._robust.stack import Stack, admitted, byzantine, checked, contribute


def nearest_neighbour_mixing(inner: Aggregator, f: int | Array) -> Aggregator:
    r"""An aggregator of means of neighbours: each message is replaced by the mean of the n - f nearest.

    .. math:: y_i = \frac{1}{n - f} \sum_{j \in N_i} x_j

    The set :math:`N_i` holds the n - f messages nearest to :math:`x_i`, itself among them.  Mixing makes
    honest messages similar, which is what a robust rule needs when clients' data differ.

    Guarantees:
        - If ``inner`` is (f, kappa)-robust with f < n / 2, this aggregator is (f, kappa')-robust:
          :func:`fjx.theory.kappa_nearest_neighbour_mixing`.
        - With f = 0 every message is the mean.
        - The state and the metrics of ``inner`` are kept; its counts of messages left out and of
          lowered f are added.
        - A message that is not finite, or whose squared norm overflows, is left out, and counted in the
          metric ``left_out``.
        - If the n messages that came are too few, f becomes the largest number with 2 f < n, and the
          metric ``f_lowered`` counts it.

    Args:
        inner: aggregator of the mixed messages, each of weight one.
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
        >>> x = jnp.array([1.0, 4.0, 7.0])
        >>> a = aggregators.nearest_neighbour_mixing(aggregators.median(), 1)
        >>> float(aggregators.aggregate(jax.random.key(0), a, x)[0])
        2.5

    References:
        Allouah et al., *Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity*,
        AISTATS 2023 (arXiv:2302.01772).
    """
    require_decoded("nearest_neighbour_mixing", inner)
    f = byzantine("nearest_neighbour_mixing", f)

    def mix(key: Key, stack: Stack) -> tuple[Stack, Metrics]:
        lowered, metrics = admitted("nearest_neighbour_mixing", f, stack)
        near = nearest(lax.stop_gradient(products(stack).squares), stack.came - lowered)
        near = (near & stack.present[None] & stack.present[:, None]).astype(stack.dtype)
        weights = near / jnp.maximum(jnp.sum(near, axis=1, keepdims=True), 1)
        return Stack(combination(weights, stack), stack.present), metrics

    return mixed(inner, mix)


def bucketing(inner: Aggregator, size: int) -> Aggregator:
    """An aggregator of means of buckets: random groups of ``size`` messages.

    The messages that came are shuffled and cut into buckets; the last one may be smaller.  A bucket
    with a Byzantine message is a Byzantine bucket, so ``inner`` must withstand as many of them as there
    are Byzantine clients, among ceil(n / size).

    Guarantees:
        - Honest buckets differ less than honest clients: their variance is that of the messages over
          ``size``, in expectation.
        - The buckets depend on the server's key of the round, which clients do not know.
        - The state and the metrics of ``inner`` are kept; its count of messages left out is added.
        - A message that is not finite is left out, and counted in the metric ``left_out``.

    Args:
        inner: aggregator of the buckets' means, each of weight one.
        size: number of messages in a bucket, at least 1.

    Returns:
        An :class:`fjx.Aggregator` that stacks.

    Raises:
        TypeError: ``inner`` is not an aggregator, or ``size`` is not an integer.
        ValueError: ``size`` is not positive; ``inner`` has an ``encode``.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> x = jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 100.0])
        >>> a = aggregators.bucketing(aggregators.median(), 2)
        >>> float(aggregators.aggregate(jax.random.key(0), a, x)[0])
        1.0

    References:
        Karimireddy, He, Jaggi, *Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing*, ICLR
        2022 (arXiv:2006.09365).
    """
    require_decoded("bucketing", inner)
    size = _validate.static_integer("bucketing: size", size, at_least=1)

    def mix(key: Key, stack: Stack) -> tuple[Stack, Metrics]:
        # Those who came stand in front, in random order.
        draws = jax.random.uniform(key, (stack.slots,))
        place = jnp.argsort(jnp.argsort(jnp.where(stack.present, draws, 2.0)))
        buckets = -(-stack.slots // size)
        inside = (place[None] // size == jnp.arange(buckets)[:, None]) & stack.present[None]
        count = jnp.sum(inside, axis=1)
        weights = inside.astype(stack.dtype) / jnp.maximum(count, 1)[:, None].astype(stack.dtype)
        return Stack(combination(weights, stack), count > 0), {}

    return mixed(inner, mix, by_norm=False)


def require_decoded(where: str, inner: Aggregator) -> None:
    """Raise unless ``inner`` is an aggregator of messages that the server can read.

    Raises:
        TypeError: it is no aggregator.
        ValueError: it has an ``encode``.
    """
    require_aggregator(where, inner)
    if inner.encode is not None:
        raise ValueError(
            f"{where} changes messages on the server, so the inner aggregator must not have an encode "
            "of its own; put a codec in the uplink, or use aggregators.compressed around the result"
        )


def mixed(inner: Aggregator, mix: object, *, by_norm: bool = True) -> Aggregator:
    """The aggregator that gives ``inner`` the stack that ``mix`` makes of the messages.

    Args:
        inner: aggregator of what is mixed.
        mix: ``(key, stack) -> (stack, metrics)``.
        by_norm: the mix needs squared norms.
    """

    def init(message_like: TreeLike) -> Tree:
        return inner.init(message_like)

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        key_mix, key_inner = jax.random.split(key)
        stack, metrics = checked(total, by_norm=by_norm)
        stack, own = mix(key_mix, stack)  # type: ignore[operator]
        share = jax.vmap(lambda message, weight: inner.contribute(message, weight, public))
        shares = share(stack.tree, stack.present.astype(jnp.float32))
        if inner.combine is SUM:
            shares = jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=x.dtype), shares)
        message, state, theirs = inner.finish(key_inner, shares, public)
        return message, state, added({**metrics, **own}, theirs)

    return Aggregator(init, contribute, finish, STACK)


def added(ours: Metrics, theirs: Metrics) -> Metrics:
    """The metrics of both; counts of the same name are added."""
    return {
        name: ours[name] + theirs[name]
        if name in ours and name in theirs
        else (ours[name] if name in ours else theirs[name])
        for name in {**ours, **theirs}
    }
