"""Gradient inversion: examples from the gradient that a client sent."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate
from fjx._base import Array, Key, Tree, TreeLike


class Inverted(NamedTuple):
    """Examples that explain a gradient.

    Attributes:
        examples: the examples, in an order of their own.
        mismatch: ``f32[]``, one minus the cosine between their gradient and the one that was sent.
    """

    examples: Tree
    mismatch: Array


def invert_gradient(
    key: Key,
    loss: Callable[[Tree, Tree], Array],
    params: Tree,
    gradient: Tree,
    like: TreeLike,
    *,
    steps: int = 500,
    learning_rate: float | Array = 0.1,
    restarts: int = 4,
) -> Inverted:
    """Examples whose gradient points where a client's gradient did.

    Adam minimises one minus the cosine of the two gradients over the examples, from several random
    starts at once.

    It is a probe of the easy case: one exact gradient of a small batch with known labels, at an
    untrained model.  It is weak against several local steps, large batches, codecs and noise.  So its
    failure says nothing about privacy: audit membership (:mod:`fjx.privacy.auditing`) instead.

    Args:
        key: key of the starts.
        loss: function ``(params, examples) -> f32[]``, with the labels in it.
        params: model at which the gradient was taken.
        gradient: gradient that was sent, a tree like ``params``; a message ``after - before`` has the
            other sign.
        like: template of the examples, with floating leaves only.
        steps: steps of Adam.
        learning_rate: its first step size, which falls to zero as a cosine.
        restarts: number of starts; the best one counts.

    Returns:
        An :class:`Inverted`.

    Raises:
        TypeError: a leaf of ``like`` is not floating.
        ValueError: a number is out of range, or ``gradient`` is not like ``params``.

    Examples:
        A linear model gives its only example away:

        >>> import jax, jax.numpy as jnp
        >>> from fjx import attacks
        >>> def loss(w, x):
        ...     return (jnp.vdot(w, x) - 1.0) ** 2
        >>> w, x = jnp.array([1.0, 0.0]), jnp.array([3.0, 4.0])
        >>> found = attacks.invert_gradient(
        ...     jax.random.key(0), loss, w, jax.grad(loss)(w, x), x, steps=200)
        >>> direction = found.examples / jnp.linalg.norm(found.examples)
        >>> [abs(round(float(d), 2)) for d in direction]
        [0.6, 0.8]

    References:
        Geiping, Bauermeister, Dröge, Moeller, *Inverting Gradients: How Easy Is It to Break Privacy in
        Federated Learning?*, NeurIPS 2020 (arXiv:2003.14053), with Adam on the cosine and no prior.
    """
    _validate.key("key", key)
    _validate.same_shapes("gradient", gradient, "params", params)
    _tree.require_floating("like", like)
    steps = _validate.static_integer("steps", steps, at_least=1)
    restarts = _validate.static_integer("restarts", restarts, at_least=1)
    _validate.number("learning_rate", learning_rate, above=0)
    target = _tree.wide(_tree.ravel(gradient)[0])
    vector, others, structure = _tree.ravel(_tree.zeros_like(_tree.like(like)))

    def mismatch(examples: Array) -> Array:
        tried = jax.grad(loss)(params, _tree.unravel(examples, others, structure))
        own = _tree.wide(_tree.ravel(tried)[0])
        squares = jnp.sum(jnp.square(own)) * jnp.sum(jnp.square(target))
        return 1 - jnp.sum(own * target) / jnp.sqrt(jnp.maximum(squares, 1e-30))

    adam = optax.adam(lambda t: learning_rate * (0.5 + 0.5 * jnp.cos(jnp.pi * t / steps)))

    @jax.jit
    def search(key: Key) -> tuple[Array, Array]:
        start = jax.random.normal(key, vector.shape, vector.dtype)

        def step(_: int, now: tuple[Array, optax.OptState]) -> tuple[Array, optax.OptState]:
            examples, memory = now
            with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
                move, memory = adam.update(jax.grad(mismatch)(examples), memory, examples)
            return optax.apply_updates(examples, move), memory

        examples, _ = jax.lax.fori_loop(0, steps, step, (start, adam.init(start)))
        return examples, mismatch(examples)

    found, missed = jax.vmap(search)(jax.random.split(key, restarts))
    best = jnp.nanargmin(missed)
    return Inverted(_tree.unravel(found[best], others, structure), missed[best])
