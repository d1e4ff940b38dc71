"""The client of MOON: a contrastive term between models."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate
from fjx._base import Array, ClientUpdate, Examples, Key, Metrics, Tree, TreeLike, Turn
from fjx.clients._loss import Loss, LossFn, as_loss
from fjx.clients._made import made
from fjx.clients._sgd import trainer
from fjx.clients._unmoved import require_moved

Features = Callable[[Tree, Tree], Array]
"""A representation ``(params, batch) -> f32[b, k]`` of each example of a batch."""


def contrastive(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    features: Features,
    mu: float | Array,
    temperature: float | Array = 0.5,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int,
) -> ClientUpdate:
    r"""Local training with MOON's model-contrastive term.

    With z the representation of an example by the local model, z' by the broadcast model and z'' by the
    model with which this client ended its last round, the client adds mu times the mean of

    .. math:: - \log \frac{e^{\cos(z, z') / \tau}}{e^{\cos(z, z') / \tau} + e^{\cos(z, z'') / \tau}}

    So representations are drawn to those of the global model and away from the client's own last ones.

    Guarantees:
        - With mu = 0 it is :func:`local_sgd`.
        - Before its first round a client's last model is the first global one.

    Args:
        loss_fn: loss, as for :func:`local_sgd`.
        optimizer: optax transformation of the local steps.
        features: representation ``(params, batch) -> f32[b, k]``; row i may depend on example i only.
        mu: weight of the term, non-negative.
        temperature: temperature tau, positive.
        epochs: passes over the client's examples.
        steps: number of batches; give it or ``epochs``.
        batch_size: examples in a batch.

    Returns:
        A :class:`fjx.ClientUpdate` whose state is the client's last model.

    Raises:
        TypeError: ``loss_fn`` or ``features`` is not callable; (when traced) ``features`` returns no
            ``[b, k]``.
        ValueError: a number is out of range.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from fjx import clients
        >>> client = clients.contrastive(
        ...     lambda w, batch, key: jnp.mean((batch["x"] @ w).sum(-1)), optax.sgd(0.1), mu=1.0,
        ...     features=lambda w, batch: batch["x"] @ w, epochs=1, batch_size=10)

    References:
        Li, He, Song, *Model-Contrastive Federated Learning*, CVPR 2021 (arXiv:2103.16257), algorithm 1.
    """
    if not callable(features):
        raise TypeError(
            f"features must be a function (params, batch) -> f32[b, k], got {features!r}"
        )
    _validate.number("mu", mu, at_least=0)
    _validate.number("temperature", temperature, above=0)
    loss = as_loss(loss_fn)

    def toward(broadcast: Tree, last: Tree) -> Loss:
        """The loss of a client that hears ``broadcast`` and remembers ``last``."""

        def evaluate(
            model: Tree, batch: Tree, mask: Array, key: Key
        ) -> tuple[Array, Metrics, Tree]:
            value, metrics, state = loss.evaluate(model, batch, mask, key)
            own, near, far = (_represented(features, m, batch) for m in (model, broadcast, last))
            logits = jnp.stack([_cosine(own, near), _cosine(own, far)], axis=-1)
            terms = -jax.nn.log_softmax(logits / jnp.asarray(temperature, logits.dtype))[:, 0]
            count = jnp.maximum(jnp.sum(mask, dtype=jnp.float32), 1.0)
            term = jnp.sum(jnp.where(mask, terms, 0.0)) / count.astype(terms.dtype)
            weighted = jnp.asarray(mu, term.dtype) * term
            return value + weighted.astype(value.dtype), {**metrics, "contrast": term}, state

        return Loss(evaluate)

    # Checks the numbers now, and not when the client is traced.
    trainer(loss_fn, optimizer, epochs=epochs, steps=steps, batch_size=batch_size)

    def work(key: Key, broadcast: Tree, last: Tree, examples: Examples, turn: Turn) -> Any:
        train = trainer(
            toward(broadcast, last), optimizer, epochs=epochs, steps=steps, batch_size=batch_size
        )

        def inputs(
            key: Key, broadcast: Tree, last: Tree, examples: Examples, turn: Turn
        ) -> tuple[Any, ...]:
            return key, broadcast, examples, None

        def message(
            key: Key, broadcast: Tree, last: Tree, examples: Examples, turn: Turn, done: Any
        ) -> tuple[Tree, Tree, Metrics]:
            model, metrics = done
            return _tree.subtract(model, broadcast), model, metrics

        return train.around(inputs, message)

    def message_like(params: Tree) -> TreeLike:
        require_moved(optimizer, params)
        return _tree.like(params)

    return ClientUpdate(lambda params: params, made(work), message_like)


def _represented(features: Features, model: Any, batch: Tree) -> Array:
    params = getattr(model, "params", model)
    z = jnp.asarray(features(params, batch))
    if z.ndim != 2:
        raise TypeError(f"features must return [b, k], a row for each example, got {list(z.shape)}")
    return _tree.wide(z)


def _cosine(a: Array, b: Array) -> Array:
    """Cosine of the angle of each pair of rows; zero if a row is zero."""
    square = jnp.sum(a * a, -1) * jnp.sum(b * b, -1)
    # The root of zero has no derivative.
    there = square > 0
    return jnp.where(there, jnp.sum(a * b, -1) / jnp.sqrt(jnp.where(there, square, 1.0)), 0.0)
