"""An aggregate beside the number of clients that it is of."""

import jax.numpy as jnp

from fjx._base import SUM, Aggregator, Array, Key, Metrics, Public, Tree
from fjx.aggregators._around import require_aggregator


def counted(inner: Aggregator) -> Aggregator:
    """The result of an aggregator beside the number of clients that counted.

    The server counts messages, so nothing more is sent.

    Guarantees:
        - The aggregate, the state, the metrics and ``combine`` are those of ``inner``.
        - A privacy claim of ``inner`` is withdrawn: the count has no noise.

    Args:
        inner: aggregator of the messages.

    Returns:
        An :class:`fjx.Aggregator`.  Its result is ``{"aggregate": tree, "participants": f32[]}``.

    Raises:
        TypeError: ``inner`` is something else.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> result, _, _ = aggregators.aggregate(
        ...     jax.random.key(0), aggregators.counted(aggregators.mean()), jnp.array([1.0, 2.0, 6.0]),
        ...     weights=jnp.array([1.0, 0.0, 1.0]))
        >>> float(result["aggregate"]), float(result["participants"])
        (3.5, 2.0)
    """
    require_aggregator("counted", inner)

    def contribute(payload: Tree, weight: Array, public: Public) -> Tree:
        return inner.contribute(payload, weight, public), (weight > 0).astype(jnp.float32)

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        shares, count = total
        result, state, metrics = inner.finish(key, shares, public)
        count = count if inner.combine is SUM else jnp.sum(count)
        return {"aggregate": result, "participants": count}, state, metrics

    return Aggregator(inner.init, contribute, finish, inner.combine, inner.encode)
