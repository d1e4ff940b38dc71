"""Sums and means of the clients' messages."""

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import SUM, Aggregator, Array, Key, Metrics, Public, Template, Tree
from fjx.aggregators._around import releasing, require_aggregator, sent


def mean() -> Aggregator:
    r"""The weighted mean of the messages.

    .. math:: \sum_i w_i x_i / \sum_i w_i

    The weights are the cohort's: numbers of examples unless the dataset was given others
    (:meth:`fjx.data.FederatedData.with_weights`).  For equal weights use ``uniform(mean())``.

    Guarantees:
        - Exact but for the rounding of a sum in float32; of float64 messages, in float64.
        - Zero if nobody takes part.

    Returns:
        An :class:`fjx.Aggregator` that sums.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> message, _, _ = aggregators.aggregate(jax.random.key(0), aggregators.mean(),
        ...     jnp.array([1.0, 4.0]), weights=jnp.array([2.0, 1.0]))
        >>> float(message)
        2.0

    References:
        McMahan et al., AISTATS 2017 (arXiv:1602.05629), algorithm 1.
    """

    def contribute(message: Tree, weight: Array, public: Public) -> Tree:
        return _tree.scale(weight, message), weight

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        summed, weight = total
        return _tree.divide(summed, jnp.where(weight > 0, weight, 1.0)), public.state, {}

    return Aggregator(lambda message_like: (), contribute, finish, SUM)


def scaled_sum(denominator: float | Array) -> Aggregator:
    r"""The sum of the messages over a fixed number.

    .. math:: \sum_{i: w_i > 0} x_i / \text{denominator}

    Unlike a mean it does not depend on how many clients came.  Private sums and running averages over
    all clients need that.

    Args:
        denominator: positive number; may be traced.

    Returns:
        An :class:`fjx.Aggregator` that sums.

    Raises:
        ValueError: ``denominator`` is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> message, _, _ = aggregators.aggregate(jax.random.key(0), aggregators.scaled_sum(10.0),
        ...     jnp.array([4.0, 1.0]), weights=jnp.array([3.0, 1.0]))
        >>> float(message)
        0.5
    """
    _validate.number("denominator", denominator, above=0)

    def contribute(message: Tree, weight: Array, public: Public) -> Tree:
        return _tree.scale(weight > 0, message)

    def finish(key: Key, summed: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        return _tree.scale(jnp.asarray(1 / denominator), summed), public.state, {}

    return Aggregator(lambda message_like: (), contribute, finish, SUM)


def weighted_sum(denominator: float | Array = 1.0) -> Aggregator:
    r"""The weighted sum of the messages over a fixed number.

    .. math:: \sum_i w_i x_i / \text{denominator}

    Unlike :func:`mean` it does not divide by the weights that came.  So it is unbiased if each weight
    is divided by the probability with which its client came.

    Args:
        denominator: positive number; may be traced.

    Returns:
        An :class:`fjx.Aggregator` that sums.

    Raises:
        ValueError: ``denominator`` is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> message, _, _ = aggregators.aggregate(jax.random.key(0), aggregators.weighted_sum(),
        ...     jnp.array([4.0, 1.0]), weights=jnp.array([0.5, 2.0]))
        >>> float(message)
        4.0
    """
    _validate.number("denominator", denominator, above=0)

    def contribute(message: Tree, weight: Array, public: Public) -> Tree:
        return _tree.scale(weight, message)

    def finish(key: Key, summed: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        return _tree.scale(jnp.asarray(1 / denominator), summed), public.state, {}

    return Aggregator(lambda message_like: (), contribute, finish, SUM)


def uniform(aggregator: Aggregator) -> Aggregator:
    """The same aggregator, in which every client that takes part has the weight one.

    Args:
        aggregator: the aggregator that is given the new weights.

    Returns:
        An :class:`fjx.Aggregator`.

    Raises:
        TypeError: ``aggregator`` is something else.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> a = aggregators.uniform(aggregators.mean())
        >>> message, _, _ = aggregators.aggregate(
        ...     jax.random.key(0), a, jnp.array([1.0, 2.0]), weights=jnp.array([250.0, 1.0]))
        >>> float(message)
        1.5
    """
    require_aggregator("uniform", aggregator)

    def contribute(payload: Tree, weight: Array, public: Public) -> Tree:
        return aggregator.contribute(payload, (weight > 0).astype(jnp.float32), public)

    alike = aggregator._replace(contribute=contribute)
    return releasing(alike, *aggregator.mechanisms)


def per_field(**fields: Aggregator) -> Aggregator:
    """An aggregator of its own for each entry of a message that is a dict.

    Args:
        **fields: one aggregator for each key of the message; all sum, or all stack.

    Returns:
        An :class:`fjx.Aggregator` of dicts with these keys.  A metric is named ``field/metric``.

    Raises:
        TypeError: a field is not an aggregator.
        ValueError: there are no fields, or some sum and some stack; the message has other keys (from
            ``init``).

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> a = aggregators.per_field(model=aggregators.mean(), control=aggregators.scaled_sum(10.0))
        >>> x = {"model": jnp.array([1.0, 2.0]), "control": jnp.array([1.0, 2.0])}
        >>> message, _, _ = aggregators.aggregate(jax.random.key(0), a, x)
        >>> print(message["model"], message["control"])
        1.5 0.3
    """
    for name, field in fields.items():
        require_aggregator(f"per_field: {name}", field)
    if len({field.combine for field in fields.values()}) != 1:
        raise ValueError(
            "per_field needs at least one aggregator, and all that sum or all that stack; got "
            f"{ {name: field.combine.name for name, field in fields.items()} }"
        )
    names = sorted(fields)

    def init(message_like: Tree) -> Tree:
        if not isinstance(message_like, dict) or sorted(message_like) != names:
            got = sorted(message_like) if isinstance(message_like, dict) else type(message_like)
            raise ValueError(f"per_field has aggregators for {names}, the message has {got}")
        return {name: fields[name].init(message_like[name]) for name in names}

    def inside(public: Public, name: str) -> Public:
        """The round as a field sees it."""
        return public._replace(
            state=public.state[name],
            key=jax.random.fold_in(public.key, names.index(name)),
            template=Template.of(public.like[name]),
        )

    def of(key: Key, name: str) -> Key:
        return jax.random.fold_in(key, names.index(name))

    def encode(key: Key, message: Tree, public: Public) -> Tree:
        return {
            name: sent(fields[name], of(key, name), message[name], inside(public, name))
            for name in names
        }

    def contribute(payload: Tree, weight: Array, public: Public) -> Tree:
        return {
            name: fields[name].contribute(payload[name], weight, inside(public, name))
            for name in names
        }

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        message, states, metrics = {}, {}, {}
        for name in names:
            result = fields[name].finish(of(key, name), total[name], inside(public, name))
            message[name], states[name], part = result
            metrics.update({f"{name}/{metric}": value for metric, value in part.items()})
        return message, states, metrics

    encoded = any(field.encode is not None for field in fields.values())
    joint = Aggregator(
        init, contribute, finish, fields[names[0]].combine, encode if encoded else None
    )
    mechanisms = [fields[name].mechanisms for name in names]
    # One field without noise is enough for the result not to be private.
    return releasing(joint, *sum(mechanisms, ())) if all(mechanisms) else joint
