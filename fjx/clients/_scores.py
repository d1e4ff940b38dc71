"""Numbers that describe a model on one client's examples, by which clients are weighed or chosen."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Array, Examples, Key, Tree, Turn
from fjx.clients._gradient import gradient
from fjx.clients._loss import LossFn, as_loss

Score = Callable[[Key, Tree, Examples], Array]
"""A number ``(key, model, examples) -> f32[]`` that describes a model on one client's examples."""


def mean_loss(loss_fn: LossFn, *, batch_size: int) -> Score:
    """Score: the mean loss F_k(w) of a model over all of a client's examples.

    Guarantees:
        - Exact for a loss that is a mean over examples, whatever the batch size.
        - NaN for a client without examples.

    Args:
        loss_fn: loss, as for :func:`fjx.clients.local_sgd`.
        batch_size: examples evaluated at a time; it bounds the memory and changes nothing else.

    Returns:
        A function ``(key, model, examples) -> f32[]``.

    Raises:
        TypeError: ``loss_fn`` is not callable.
        ValueError: ``batch_size`` is below one.

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> score = fjx.clients.mean_loss(lambda w, x, key: jnp.mean((w - x) ** 2), batch_size=2)
        >>> examples = fjx.Examples(jnp.array([1.0, 2.0, 3.0]), jnp.int32(0), jnp.int32(3))
        >>> round(float(score(jax.random.key(0), jnp.array(2.0), examples)), 4)
        0.6667
    """
    loss = as_loss(loss_fn)
    batch_size = _validate.static_integer("batch_size", batch_size, at_least=1)

    def score(key: Key, model: Tree, examples: Examples) -> Array:
        def add(t: Array, total: Array) -> Array:
            batch, mask = examples.batch(t, batch_size)
            value, _, _ = loss.evaluate(model, batch, mask, jax.random.fold_in(key, t))
            return total + jnp.sum(mask, dtype=jnp.float32) * value.astype(jnp.float32)

        batches = -(-examples.size // batch_size)
        total = jax.lax.fori_loop(0, batches, add, jnp.zeros((), jnp.float32))
        return _tree.mean_of(total, examples.size)

    return score


def gradient_norm(loss_fn: LossFn, *, batch_size: int) -> Score:
    """Score: the norm ||grad F_k(w)|| of the gradient over all of a client's examples.

    Guarantees:
        - Exact for a loss that is a mean over examples, whatever the batch size.

    Args:
        loss_fn: loss, as for :func:`fjx.clients.local_sgd`.
        batch_size: examples evaluated at a time; it bounds the memory and changes nothing else.

    Returns:
        A function ``(key, model, examples) -> f32[]``; zero for a client without examples.

    Raises:
        TypeError: ``loss_fn`` is not callable; the model is a :class:`fjx.Stateful` (when traced).
        ValueError: ``batch_size`` is below one.

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> score = fjx.clients.gradient_norm(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2) / 2, batch_size=2)
        >>> examples = fjx.Examples(jnp.array([1.0, 2.0, 6.0]), jnp.int32(0), jnp.int32(3))
        >>> float(score(jax.random.key(0), jnp.array(0.0), examples))
        3.0
    """
    descent = gradient(loss_fn, batch_size=batch_size)

    def score(key: Key, model: Tree, examples: Examples) -> Array:
        message, _, _ = descent.update(key, model, (), examples, Turn())
        return jnp.sqrt(_tree.square_norm(message))

    return score
