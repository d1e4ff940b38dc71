"""Aggregators that compare the messages side by side."""

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import STACK, Aggregator, Array, Key, Metrics, Public, Tree


def median() -> Aggregator:
    """The coordinate-wise median of the messages, each client counted once.

    Guarantees:
        - Fewer than half of the clients cannot move a coordinate outside the range of the others, for
          any messages that they send.
        - For an even number of clients it is the mean of the middle two.
        - Zero if nobody takes part.

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

    def contribute(message: Tree, weight: Array, public: Public) -> Tree:
        return message, weight > 0

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        messages, present = total
        count = jnp.sum(present)
        low, high = jnp.maximum(count - 1, 0) // 2, count // 2

        def middle(x: Array) -> Array:
            x = _tree.wide(x)
            if x.shape[0] == 0:
                return jnp.zeros(x.shape[1:], x.dtype)
            mask = present.reshape(-1, *[1] * (x.ndim - 1))
            ranked = jnp.sort(jnp.where(mask, x, jnp.inf), axis=0)
            # Halved before they are added: the sum of two large floats overflows.
            return jnp.where(count > 0, ranked[low] / 2 + ranked[high] / 2, 0.0)

        return jax.tree.map(middle, messages), public.state, {}

    return Aggregator(lambda message_like: (), contribute, finish, STACK)
