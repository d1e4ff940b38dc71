"""FLTrust: messages are weighed by a message of the server's own."""

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import STACK, Aggregator, Array, Key, Metrics, Public, Tree, TreeLike
from fjx.aggregators._robust.products import combination, squared_norms
from fjx.aggregators._robust.stack import Stack, checked, contribute


def fltrust() -> Aggregator:
    r"""FLTrust: messages are weighed by their cosine with the server's own message.

    .. math:: \frac{\sum_i s_i \|g\| \, x_i / \|x_i\|}{\sum_i s_i}, \quad
        s_i = \max\left(0, \frac{\langle x_i, g \rangle}{\|x_i\| \|g\|}\right)

    The server's message g is the state of the aggregator, which the server sets before each round:
    :func:`fjx.algorithms.fltrust` trains it on examples of the server.  It is zero at first, and then
    so is the result.

    Guarantees:
        - The result is at most as long as g, and makes no obtuse angle with it, whatever any number of
          clients send.
        - Zero if nobody takes part, or if no message has a positive cosine.
        - The metric ``trusted`` counts the messages of positive cosine.
        - A message that is not finite, or whose squared norm overflows, is left out, and counted in the
          metric ``left_out``.

    Returns:
        An :class:`fjx.Aggregator` that stacks.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> x = jnp.array([[2.0, 0.0], [0.0, 5.0], [-9.0, 0.0]])
        >>> message, _, _ = aggregators.aggregate(
        ...     jax.random.key(0), aggregators.fltrust(), x, state=jnp.array([1.0, 0.0]))
        >>> message.tolist()
        [1.0, 0.0]

    References:
        Cao, Fang, Liu, Gong, *FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping*,
        NDSS 2021 (arXiv:2012.13995).
    """

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        stack, metrics = checked(total)
        own = Stack(jax.tree.map(lambda g: g[None], public.state), jnp.ones(1, bool))
        length, lengths = _root(squared_norms(own)[0]), _root(squared_norms(stack))
        product = jnp.zeros(stack.slots, stack.dtype)
        for x, g in zip(jax.tree.leaves(stack.tree), jax.tree.leaves(public.state), strict=True):
            product += jnp.sum(x * g[None], axis=range(1, x.ndim)).astype(product.dtype)
        scale = jnp.where(lengths > 0, lengths, 1.0)
        cosine = product / scale / jnp.where(length > 0, length, 1.0)
        score = jnp.where(stack.present, jnp.maximum(cosine, 0.0), 0.0)
        all_scores = jnp.sum(score)
        share = score * length / scale / jnp.where(all_scores > 0, all_scores, 1.0)
        trusted = jnp.sum(score > 0, dtype=jnp.int32)
        message = combination(share, stack)
        return message, public.state, {**metrics, "trusted": trusted}

    def init(message_like: TreeLike) -> Tree:
        return jax.tree.map(_tree.wide, _tree.zeros_like(message_like))

    return Aggregator(init, contribute, finish, STACK)


def _root(squares: Array) -> Array:
    """Square roots, with a derivative of zero at zero."""
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
