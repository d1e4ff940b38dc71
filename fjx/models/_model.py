"""The type of a model, and the loss that all our models share."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from fjx._base import Array, Key, Metrics, Tree

Batch = Mapping[str, Tree]
"""A mapping ``{"x": inputs, "y": labels}``, both with a leading axis of examples."""


class Score(Protocol):
    def __call__(self, outputs: Array, labels: Array, /) -> dict[str, Array]:
        """One ``f32[b]`` for each name, one value an example; training minimises "loss"."""


class Apply(Protocol):
    def __call__(self, params: Tree, x: Array, key: Key | None = None, /) -> Array:
        """Outputs for ``x``.  ``key`` is the source of dropout; without a key nothing is random."""


class Model(NamedTuple):
    """A model as four pure functions, without a client axis: ``vmap`` adds one.

    Attributes:
        init: function ``(key) -> params``, a nested dict of arrays.
        apply: function ``(params, x, key=None) -> outputs``; deterministic without a key.
        loss: function ``(params, batch, key) -> (loss, metrics)``, means over the examples of the
            batch; the argument of ``fjx.clients``.
        evaluate: function ``(params, batch) -> {"loss": f32[b], ...}``, deterministic and not
            averaged, so that the caller may mask, weight and group.
    """

    init: Callable[[Key], Tree]
    apply: Apply
    loss: Callable[[Tree, Batch, Key], tuple[Array, Metrics]]
    evaluate: Callable[[Tree, Batch], dict[str, Array]]


def cross_entropy(logits: Array, labels: Array) -> dict[str, Array]:
    r"""Softmax cross-entropy and accuracy of each example, for classes and for sequences.

    An example has one label, or one label for each position of a sequence; negative labels are
    padding.  Let T be the real positions of an example and z_t its logits.  Then

    .. math:: loss = \frac{1}{|T|} \sum_{t \in T} (\log \sum_c \exp z_{t,c} - z_{t,y_t})

    Every example thus counts the same, whatever its length.  Keras instead takes a mean over all
    tokens of a batch; the weight of one example then depends on the other examples in its batch.

    Guarantees:
        - An example without a real label has loss and accuracy zero.
        - A label past the last class gives NaN, not a wrong number.

    Args:
        logits: array ``f[b, ..., classes]``; the computation is in float32.
        labels: array ``i[b, ...]`` of any integer dtype.

    Returns:
        A dict ``{"loss": f32[b], "accuracy": f32[b]}``.

    Raises:
        TypeError: labels are not integers.
        ValueError: the shape of ``labels`` is not the shape of ``logits`` without the last axis.

    Examples:
        >>> import jax.numpy as jnp
        >>> logits = jnp.log(jnp.array([[[0.5, 0.5], [0.1, 0.9], [0.3, 0.7]]]))
        >>> scores = cross_entropy(logits, jnp.array([[0, 1, -1]]))
        >>> [f"{score[0]:.3f}" for score in (scores["loss"], scores["accuracy"])]
        ['0.399', '1.000']
    """
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}; cast them to int32")
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels must have the shape of logits without the last axis, {logits.shape[:-1]}, "
            f"got {labels.shape}"
        )
    labels = labels.astype(jnp.int32)
    real = labels >= 0
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    chosen = jnp.where(real, labels, 0)[..., None]
    negative = -jnp.take_along_axis(log_probabilities, chosen, axis=-1)[..., 0]
    correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)

    positions = tuple(range(1, labels.ndim))
    count = jnp.maximum(jnp.sum(real, positions), 1).astype(jnp.float32)

    def mean(x: Array) -> Array:
        return jnp.sum(jnp.where(real, x, 0.0), positions) / count

    return {"loss": mean(negative), "accuracy": mean(correct)}


def from_functions(
    init: Callable[[Key], Tree], apply: Apply, *, loss: Score = cross_entropy
) -> Model:
    """Model from an initialisation, a forward pass and a loss.

    Guarantees:
        - ``Model.loss`` of a batch is the plain mean of ``Model.loss`` over its examples, if
          ``apply`` treats each example by itself. fjx relies on this to average batches with
          padding exactly.

    Args:
        init: function ``(key) -> params``.
        apply: function ``(params, x, key=None) -> outputs``, random only if a key is given.
        loss: score ``(outputs, labels) -> {"loss": f32[b], ...}``, one value an example; all other
            names are metrics.

    Returns:
        A :class:`Model`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> def squared(outputs, labels):
        ...     return {"loss": (outputs - labels) ** 2}
        >>> line = from_functions(
        ...     lambda key: {"slope": jax.random.normal(key)},
        ...     lambda params, x, key=None: params["slope"] * x,
        ...     loss=squared,
        ... )
        >>> batch = {"x": jnp.array([1.0, 2.0]), "y": jnp.array([0.0, 0.0])}
        >>> loss, metrics = line.loss({"slope": jnp.array(2.0)}, batch, jax.random.key(0))
        >>> float(loss), metrics
        (10.0, {})
    """

    def evaluate(params: Tree, batch: Batch) -> dict[str, Array]:
        return loss(apply(params, batch["x"]), batch["y"])

    def mean_loss(params: Tree, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        scores = loss(apply(params, batch["x"], key), batch["y"])
        means = {name: jnp.mean(score) for name, score in scores.items()}
        return means.pop("loss"), means

    return Model(init, apply, mean_loss, evaluate)
