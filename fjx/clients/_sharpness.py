"""The loss of SAM: that at the worst point nearby."""

from typing import Any

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Array, Key, Metrics, Stateful, Tree
from fjx.clients._loss import Loss, LossFn, as_loss, value_and_grad


def sharpness_aware(loss_fn: LossFn, *, rho: float | Array) -> Loss:
    r"""Loss at the worst point within a radius rho, to first order (SAM).

    .. math:: f(w + \rho \, \nabla f(w) / \lVert \nabla f(w) \rVert)

    Minimising it finds flat minima.  It is a loss like others: any client and any recipe may use it.
    Both gradients are of the same batch.

    Guarantees:
        - With rho = 0 it is ``loss_fn``.
        - The ascent has the norm rho; it is zero where the gradient is zero.

    Args:
        loss_fn: loss, as for :func:`fjx.clients.local_sgd`.
        rho: radius, non-negative; may be traced.

    Returns:
        A :class:`Loss`.  Each evaluation takes a gradient of ``loss_fn`` first, so a local step costs
        two.

    Raises:
        TypeError: ``loss_fn`` is not callable.
        ValueError: ``rho`` is negative.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import clients
        >>> loss = clients.sharpness_aware(lambda w, x, key: jnp.mean((w - x) ** 2), rho=0.5)
        >>> batch, mask = jnp.array([1.0]), jnp.array([True])
        >>> float(loss.evaluate(jnp.array(2.0), batch, mask, jax.random.key(0))[0])
        2.25

    References:
        Foret, Kleiner, Mobahi, Neyshabur, *Sharpness-Aware Minimization for Efficiently Improving
        Generalization*, ICLR 2021 (arXiv:2010.01412), equation 2.
    """
    _validate.number("rho", rho, at_least=0)
    loss = as_loss(loss_fn)

    def evaluate(model: Tree, batch: Tree, mask: Array, key: Key) -> tuple[Array, Metrics, Tree]:
        # No derivative passes through the ascent.
        here = jax.lax.stop_gradient(model)
        _, _, _, gradient = value_and_grad(loss, here, batch, mask, jax.random.clone(key))
        norm = jnp.sqrt(_tree.square_norm(gradient))
        factor = jnp.asarray(rho) / jnp.where(norm > 0, norm, 1.0)
        return loss.evaluate(_moved(model, _tree.scale(factor, gradient)), batch, mask, key)

    return Loss(evaluate)


def _moved(model: Any, step: Tree) -> Any:
    """The model with its floating parameters moved by a step."""
    if isinstance(model, Stateful):
        return model._replace(params=_moved(model.params, step))
    floats, others = _tree.split_floats(model)
    return _tree.merge(_tree.add(floats, step), others)
