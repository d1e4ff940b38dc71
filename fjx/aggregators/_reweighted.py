"""A mean whose weights depend on the messages themselves."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import STACK, Aggregator, Array, Key, Metrics, Public, Tree, TreeLike

Weigh = Callable[[dict[str, Any], Array, Tree], tuple[Array, Tree]]
"""New weights ``(messages, weights, state) -> (f32[m], state)`` from the stacked messages."""


def reweighted(
    weigh: Weigh, *, init: Callable[[TreeLike], Tree] = lambda message_like: ()
) -> Aggregator:
    r"""The mean of updates, whose weights follow from the messages of the whole cohort.

    Messages are dicts ``{"update": tree, **numbers}``, such as those of :func:`fjx.clients.telling`.
    With lambda the new weights,

    .. math:: \sum_i \lambda_i \, \mathrm{update}_i \, / \sum_i \lambda_i

    Fair methods weigh clients by their losses in this way.

    Guarantees:
        - A client of weight zero keeps the weight zero.
        - Zero if all new weights are zero.

    Args:
        weigh: ``(messages, weights, state) -> (weights, state)``.  Leaves of ``messages`` have a leading
            axis of m clients, and floats are float32 or wider; ``weights`` are those of the cohort,
            ``f32[m]``.  A client that does not count has weight zero and a message of zeros.
        init: ``(message_like) -> state`` of ``weigh``.

    Returns:
        An :class:`fjx.Aggregator` that stacks: it holds all updates of a cohort at once.  Its result is
        like ``"update"``.  If clients tell a ``loss``, its metric ``worst_loss`` is the largest; NaN if
        nobody takes part.

    Raises:
        TypeError: ``weigh`` is not callable.
        ValueError: the message has no ``"update"`` (from ``init``).

    Examples:
        The larger of two losses counts three times:

        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> a = aggregators.reweighted(
        ...     lambda x, w, state: (w * jnp.where(x["loss"] == x["loss"].max(), 3.0, 1.0), state))
        >>> x = {"update": jnp.array([0.0, 4.0]), "loss": jnp.array([1.0, 2.0])}
        >>> message, _, metrics = aggregators.aggregate(jax.random.key(0), a, x)
        >>> float(message), float(metrics["worst_loss"])
        (3.0, 2.0)
    """
    if not callable(weigh):
        raise TypeError(
            f"weigh must be a function (messages, weights, state) -> (weights, state), got {weigh!r}"
        )

    def begin(message_like: TreeLike) -> Tree:
        if not (isinstance(message_like, dict) and "update" in message_like):
            raise ValueError(
                "reweighted needs messages {'update': ..., **numbers}, such as those of "
                "fjx.clients.telling"
            )
        return init(message_like)

    def contribute(message: Tree, weight: Array, public: Public) -> Tree:
        return message, weight

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        messages, weights = _tree.widened(total[0]), total[1]
        new, state = weigh(messages, weights, public.state)
        new = jnp.where(weights > 0, new, 0.0)
        share = new / jnp.where(jnp.sum(new) > 0, jnp.sum(new), 1.0)

        def mean(x: Array) -> Array:
            x = _tree.wide(x)
            return jnp.tensordot(share.astype(x.dtype), x, 1)

        metrics = {}
        if "loss" in messages:
            came = jnp.sum(weights > 0, dtype=jnp.int32)
            most = jnp.max(messages["loss"], initial=-jnp.inf, where=weights > 0)
            metrics["worst_loss"] = _tree.mean_of(
                jnp.where(came > 0, most, 0.0), jnp.minimum(came, 1)
            )
        return jax.tree.map(mean, messages["update"]), state, metrics

    return Aggregator(begin, contribute, finish, STACK)


def tilted(temperature: float | Array) -> Weigh:
    """Weights of TERM: w_i exp(t F_i), up to a common factor."""

    def weigh(messages: dict[str, Any], weights: Array, state: Tree) -> tuple[Array, Tree]:
        exponents = jnp.asarray(temperature, jnp.float32) * messages["loss"]
        most = jnp.max(exponents, initial=-jnp.inf, where=weights > 0)
        return weights * jnp.exp(jnp.where(weights > 0, exponents - most, 0.0)), state

    return weigh


def worst(fraction: float | Array) -> Weigh:
    """Weights of the clients with the largest losses that make up a fraction of all weight.

    The last of them counts in part, so that the fraction is exact.
    """

    def weigh(messages: dict[str, Any], weights: Array, state: Tree) -> tuple[Array, Tree]:
        order = jnp.argsort(-messages["loss"])
        ranked = weights[order]
        before = jnp.cumsum(ranked) - ranked
        kept = jnp.clip(jnp.asarray(fraction) * jnp.sum(weights) - before, 0.0, ranked)
        return jnp.zeros_like(weights).at[order].set(kept), state

    return weigh


def agnostic(step_size: float | Array) -> Weigh:
    """Weights of AFL, one for each client of the population, which ascend along the losses.

    The state is ``f32[num_clients]``; messages hold ``"loss"`` and ``"id"``.
    """

    def weigh(messages: dict[str, Any], weights: Array, state: Array) -> tuple[Array, Array]:
        ids, came = messages["id"], weights > 0
        losses = jnp.where(came, messages["loss"], 0.0)
        ascent = jnp.asarray(step_size, jnp.float32) * losses
        moved = onto_simplex(state.at[ids].add(jnp.where(came, ascent, 0.0), mode="drop"))
        own = state.at[ids].get(mode="fill", fill_value=0.0)
        return jnp.where(came, own, 0.0), jnp.where(jnp.any(came), moved, state)

    return weigh


def onto_simplex(x: Array) -> Array:
    """The nearest point with coordinates that are not negative and sum to one."""
    ranked = -jnp.sort(-x)
    count = jnp.arange(1, x.size + 1, dtype=x.dtype)
    thresholds = (jnp.cumsum(ranked) - 1) / count
    support = jnp.sum(ranked > thresholds)
    return jnp.maximum(x - thresholds[support - 1], 0.0)


def common_descent(epsilon: float | Array, iterations: int = 300) -> Weigh:
    """Weights of FedMGDA+: those within ``epsilon`` of uniform for which the mean update is shortest."""

    def weigh(messages: dict[str, Any], weights: Array, state: Tree) -> tuple[Array, Tree]:
        came = (weights > 0).astype(jnp.float32)
        gram = sum(
            (_gram(x) for x in jax.tree.leaves(messages["update"])),
            jnp.zeros((came.size, came.size), jnp.float32),
        )
        start = came / jnp.maximum(jnp.sum(came), 1.0)
        low, high = jnp.maximum(start - epsilon, 0.0) * came, jnp.minimum(start + epsilon, 1) * came
        # Accelerated projected gradient on lambda' G lambda / 2, whose curvature is at most the trace.
        step = 1 / jnp.maximum(jnp.trace(gram), 1e-12)

        def improve(t: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            at, ahead = carry
            after = _into_box(ahead - step * (gram @ ahead), low, high)
            momentum = t.astype(jnp.float32) / (t + 3).astype(jnp.float32)
            return after, after + momentum * (after - at)

        best, _ = jax.lax.fori_loop(0, iterations, improve, (start, start))
        return best, state

    return weigh


def _gram(x: Array) -> Array:
    flat = x.reshape(x.shape[0], -1).astype(jnp.float32)
    return flat @ flat.T


def _into_box(x: Array, low: Array, high: Array) -> Array:
    """The nearest point between ``low`` and ``high`` with the sum one, by bisection."""

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = ends
        middle = (a + b) / 2
        above = jnp.sum(jnp.clip(x - middle, low, high)) > 1
        return jnp.where(above, middle, a), jnp.where(above, b, middle)

    ends = jnp.min(x) - 1.0, jnp.max(x)
    a, b = jax.lax.fori_loop(0, 40, halve, ends)
    return jnp.clip(x - (a + b) / 2, low, high)
