"""The local steps of Mime and of MimeLite: those that the server's optimiser would make."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fjx import _tree
from fjx._base import Array, Examples, Key, Metrics, Steps, Tree
from fjx.clients._loss import Loss, LossFn, as_loss, value_and_grad
from fjx.clients._sgd import trainer

BaseOptimizer = Callable[[Any], optax.GradientTransformation]
"""A base optimiser: a function of the step size."""


def held(transformation: optax.GradientTransformation, state: Tree) -> optax.GradientTransformation:
    """The steps of an optimiser whose state stays as it is."""

    def update(gradient: Tree, _: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        return transformation.update(gradient, state, params)[0], ()

    return optax.GradientTransformation(lambda params: (), update)


def variance_reduced(loss: Loss, anchor: Tree, target: Tree) -> Loss:
    """A loss with the gradient grad f(y) - grad f(x) + c, on the same batch.

    Its value is f(y).

    Args:
        loss: loss f.
        anchor: point x.
        target: gradient c of all clients at x.
    """

    def evaluate(model: Tree, batch: Tree, mask: Array, key: Key) -> tuple[Array, Metrics, Tree]:
        _, _, _, at_x = value_and_grad(loss, anchor, batch, mask, jax.random.clone(key))
        value, metrics, state = loss.evaluate(model, batch, mask, key)
        slope = _tree.subtract(_tree.widened(target), at_x)
        # A term of value zero whose gradient is the slope.
        step = jax.tree.map(lambda y: y - jax.lax.stop_gradient(y), model)
        terms = jax.tree.map(
            lambda s, d: jnp.sum(_tree.wide(s) * _tree.wide(d)).astype(value.dtype), slope, step
        )
        return sum(jax.tree.leaves(terms), value), metrics, state

    return Loss(evaluate)


def walk(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    statistics: Tree,
    target: Tree | None,
    model: Tree,
    *,
    epochs: int,
    batch_size: int,
) -> Steps:
    """Local steps ``(key, model, examples, None) -> (model, metrics)`` from the server's model.

    Args:
        loss_fn: loss.
        optimizer: the base optimiser.
        statistics: its state, which the server keeps.
        target: gradient c of Mime; None for MimeLite.
        model: model x of the server.
        epochs: passes over the client's examples.
        batch_size: examples in a batch.
    """
    loss = as_loss(loss_fn)
    if target is not None:
        loss = variance_reduced(loss, model, target)
    return trainer(
        loss, held(optimizer, statistics), epochs=epochs, steps=None, batch_size=batch_size
    )


def at_anchor(descent: Any, key: Key, model: Tree, examples: Examples, turn: Any) -> Tree:
    """The negative gradient over all examples at the server's model, by a key of its own."""
    own = jax.random.fold_in(jax.random.clone(key), 2**32 - 1)
    return descent.update(own, model, (), examples, turn)[0]
