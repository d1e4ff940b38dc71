"""Losses on batches with padding.

A client's last batch may be short, but shapes are fixed, so every batch comes with a mask.  There
are two kinds of loss.  A loss that is a mean over examples can be masked from outside, exactly:
:func:`per_example` does so, and clients apply it to every plain function.  A loss that mixes the
examples of a batch (BatchNorm, contrastive learning) must see the mask itself: use
:func:`whole_batch`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import Array, Key, Metrics, Stateful, Tree
from fjx.clients._premises import note
from fjx.layers import loop_safe


class Loss(NamedTuple):
    """A loss of a masked batch.

    Attributes:
        evaluate: function ``(model, batch, mask, key) -> (loss, metrics, state)``.  ``mask`` is a
            ``bool[b]``, True at real examples; ``loss`` and ``metrics`` are scalars; ``state`` is
            the next mutable state of a :class:`fjx.Stateful` model, else None.
    """

    evaluate: Callable[[Tree, Tree, Array, Key], tuple[Array, Metrics, Tree]]


@dataclasses.dataclass(frozen=True)
class OfPart:
    """A plain loss of a part of a model, from that of the whole.

    Attributes:
        loss_fn: loss ``(whole, batch, key)``.
        join: function ``(part) -> whole``.
    """

    loss_fn: Callable[..., Any]
    join: Callable[[Tree], Tree]

    def __call__(self, part: Tree, batch: Tree, key: Key) -> Any:
        """The loss of the whole model."""
        return self.loss_fn(self.join(part), batch, key)


LossFn = Callable[..., Any] | Loss
"""A loss that clients accept: a function that is a mean over examples, or a :class:`Loss`."""


def per_example(loss_fn: Callable[..., Any]) -> Loss:
    """Masked loss from ``loss_fn(params, batch, key)``, a mean over the examples of a batch.

    ``loss_fn`` is evaluated on each example as a batch of one, under ``vmap``, and the mean is
    taken over the real examples.  A short batch thus gives the value that ``loss_fn`` gives on its
    real rows.  Terms that do not depend on the batch, such as weight decay, are not changed.

    Clients wrap plain functions in ``per_example`` themselves.  Before its first block of rounds,
    :func:`fjx.simulate` checks that a plain function and its metrics are means over examples: on a few
    pairs of examples, with randomness that is the same for each example.  Whoever wraps the function
    means the average over single examples, and nothing is checked.

    Args:
        loss_fn: loss that returns ``loss`` or ``(loss, metrics)``, all scalars; each example has
            its own key.

    Returns:
        A :class:`Loss`.

    Raises:
        TypeError: ``loss_fn`` returns a third value, or a value that is not a scalar (when traced).

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import clients
        >>> loss = clients.per_example(lambda w, batch, key: jnp.mean(w * batch))
        >>> batch, mask = jnp.array([1.0, 3.0, 100.0]), jnp.array([True, True, False])
        >>> float(loss.evaluate(2.0, batch, mask, jax.random.key(0))[0])
        4.0
    """

    def evaluate(model: Tree, batch: Tree, mask: Array, key: Key) -> tuple[Array, Metrics, Tree]:
        def one(example: Tree, key: Key) -> tuple[Array, Metrics]:
            return _values(loss_fn, model, jax.tree.map(lambda x: x[None], example), key)

        losses, metrics = jax.vmap(one)(batch, jax.random.split(key, mask.shape[0]))
        count = jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1.0)

        def average(x: Array) -> Array:
            return jnp.sum(jnp.where(mask, x, 0.0)) / count.astype(x.dtype)

        return average(losses), jax.tree.map(average, metrics), None

    return Loss(evaluate)


def whole_batch(loss_fn: Callable[..., Any]) -> Loss:
    """Masked loss from ``loss_fn(model, batch, mask, key)``, which sees the whole batch and its mask.

    Args:
        loss_fn: loss that returns ``loss``, ``(loss, metrics)``, or for a :class:`fjx.Stateful`
            model ``(loss, metrics, state)`` with the next mutable state.  Rows where ``mask`` is
            False repeat a real example and must not count.

    Returns:
        A :class:`Loss`.

    Raises:
        TypeError: the loss or a metric is not a scalar (when traced).

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import clients
        >>> loss = clients.whole_batch(lambda w, batch, mask, key: jnp.sum(w * batch, where=mask))
        >>> batch, mask = jnp.array([1.0, 3.0, 100.0]), jnp.array([True, True, False])
        >>> float(loss.evaluate(2.0, batch, mask, jax.random.key(0))[0])
        8.0
    """

    def evaluate(model: Tree, batch: Tree, mask: Array, key: Key) -> tuple[Array, Metrics, Tree]:
        value = loss_fn(model, batch, mask, key)
        value = value if isinstance(value, tuple) else (value, {})
        loss, metrics, state = value if len(value) == 3 else (*value, None)
        return _loss(loss), _scalars(metrics), state

    return Loss(evaluate)


def as_loss(loss_fn: LossFn) -> Loss:
    """A :class:`Loss`; a plain function is wrapped in :func:`per_example`.

    That a plain function is a mean over examples is a premise, which is noted when it is traced.
    """
    if isinstance(loss_fn, OfPart):
        # The function of the caller is wrapped, which is given the whole model.
        whole, join = as_loss(loss_fn.loss_fn), loss_fn.join
        return Loss(lambda part, *others: whole.evaluate(join(part), *others))
    if isinstance(loss_fn, Loss):
        return loss_fn
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function (params, batch, key) -> loss, got {loss_fn!r}")
    loss = per_example(loss_fn)

    def named(model: Tree, batch: Tree, key: Key) -> dict[str, Array]:
        value, metrics = _values(loss_fn, model, batch, key)
        return {"loss": value, **metrics}

    def evaluate(model: Tree, batch: Tree, mask: Array, key: Key) -> tuple[Array, Metrics, Tree]:
        note(loss_fn, named, model, batch)
        return loss.evaluate(model, batch, mask, key)

    return Loss(evaluate)


def value_and_grad(
    loss: Loss, model: Tree, batch: Tree, mask: Array, key: Key
) -> tuple[Array, Metrics, Tree, Tree]:
    """Loss, metrics, the model with its next mutable state, and the gradient.

    The gradient has the structure of the parameters, with None in place of leaves that are not
    floating.
    """
    stateful = isinstance(model, Stateful)
    floats, _ = _tree.split_floats(model.params if stateful else model)
    (value, (metrics, state)), gradient = jax.value_and_grad(
        objective(loss, model, batch, mask, key), has_aux=True
    )(floats)
    return value, metrics, model._replace(state=state) if stateful else model, gradient


def objective(
    loss: Loss, model: Tree, batch: Tree, mask: Array, key: Key
) -> Callable[[Tree], tuple[Array, tuple[Metrics, Tree]]]:
    """The function ``(floating parameters) -> (loss, (metrics, state))`` of one batch."""
    stateful = isinstance(model, Stateful)
    _, others = _tree.split_floats(model.params if stateful else model)

    def of(floats: Tree) -> tuple[Array, tuple[Metrics, Tree]]:
        params = _tree.merge(floats, others)
        value, metrics, state = loss.evaluate(
            model._replace(params=params) if stateful else params, batch, mask, key
        )
        if stateful and state is None:
            raise TypeError(
                "loss_fn must return (loss, metrics, state) for a model with mutable state; "
                "wrap it in fjx.clients.whole_batch"
            )
        return value, (metrics, state)

    return loop_safe(of) if jax.default_backend() == "cpu" else of


def _values(
    loss_fn: Callable[..., Any], model: Tree, batch: Tree, key: Key
) -> tuple[Array, Metrics]:
    """Loss and metrics of a plain loss function."""
    value = loss_fn(model, batch, key)
    loss, metrics, *state = value if isinstance(value, tuple) else (value, {})
    if state:
        raise TypeError(
            "loss_fn returned (loss, metrics, state), but a loss with mutable state mixes "
            "the examples of a batch; wrap it in fjx.clients.whole_batch"
        )
    return _loss(loss), _scalars(metrics)


RESERVED = frozenset({"loss", "examples", "steps"})
"""Names of the metrics that clients report themselves."""


def _scalars(metrics: Metrics) -> Metrics:
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"loss_fn's metrics must be a dict of scalars, got {type(metrics).__name__}"
        )
    if clash := sorted(RESERVED & set(metrics)):
        raise ValueError(
            f"loss_fn's metrics may not be called {clash}, which clients report; rename them"
        )
    return {name: _scalar(f"loss_fn's metric {name!r}", value) for name, value in metrics.items()}


def _loss(value: Any) -> Array:
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise TypeError(
            f"loss_fn's loss must be a float to have a gradient, got {jnp.result_type(value)}; "
            "return counts as metrics"
        )
    return _scalar("loss_fn's loss", value)


def _scalar(what: str, value: Any) -> Array:
    value = jnp.asarray(value)
    if value.shape != ():
        raise TypeError(f"{what} must be a scalar, got {value.dtype}{list(value.shape)}")
    return _tree.wide(value)
