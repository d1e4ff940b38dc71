"""Losses of a model that will be adapted: MAML's, and the Moreau envelope."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import Array, Examples, Key, Metrics, Stateful, Tree
from fjx._kernels.permutation import permute_by
from fjx.clients._loss import Loss, LossFn, as_loss


class Paired(NamedTuple):
    """A client's examples, each with another one beside it that is drawn at random.

    A batch is a pair of batches: the one that :class:`fjx.Examples` gives, and one of as many other
    examples, drawn without replacement and independently of the first.

    Attributes:
        examples: the client's examples.
        order: random order that makes the pairs.
    """

    examples: Examples
    order: Array

    @property
    def size(self) -> Array:
        """Number of examples."""
        return self.examples.size

    def take(self, positions: Array) -> Tree:
        """The examples at ``positions``, and their partners."""
        others = permute_by(self.order, positions, self.examples.size)
        return self.examples.take(positions), self.examples.take(others)


def adapted_loss(loss_fn: LossFn, alpha: float | Array, *, first_order: bool) -> Loss:
    r"""MAML's loss F(w) = f(w - alpha \nabla f(w; D'); D) of pairs (D, D') of batches.

    Its gradient is (I - alpha H) g with g the gradient at the adapted model and H the Hessian on D'.
    ``first_order`` leaves H out.
    """
    loss = as_loss(loss_fn)

    def evaluate(
        model: Tree, batch: tuple[Tree, Tree], mask: Array, key: Key
    ) -> tuple[Array, Metrics, Tree]:
        outer, inner = batch
        key_inner = jax.random.fold_in(jax.random.clone(key), 2**32 - 1)
        at = jax.lax.stop_gradient(model) if first_order else model
        slope = _gradient(loss, at, inner, mask, key_inner)
        step = _tree.in_dtypes_of(_tree.scale(jnp.asarray(alpha), slope), slope)
        floats, others = _tree.split_floats(model)
        moved = _tree.merge(_tree.subtract(floats, step), others)
        return loss.evaluate(moved, outer, mask, key)

    return Loss(evaluate)


def moreau(loss_fn: LossFn, *, lam: float | Array, steps: int, rate: float | Array) -> "Moreau":
    r"""The Moreau envelope F(w) = min_theta f(theta) + lam/2 ||theta - w||^2 of a batch.

    The minimum is approached by gradient steps from theta = w.  The gradient of F is
    lam (w - theta), whatever theta: the envelope theorem.

    Args:
        loss_fn: loss function f.
        lam: strength lam.
        steps: number K of gradient steps.
        rate: their step size.
    """
    loss = as_loss(loss_fn)

    def solve(model: Tree, batch: Tree, mask: Array, key: Key) -> Tree:
        """The minimiser theta."""
        centre, others = _tree.split_floats(jax.lax.stop_gradient(model))

        def step(t: Array, theta: Tree) -> Tree:
            at = _tree.merge(theta, others)
            slope = _gradient(loss, at, batch, mask, jax.random.fold_in(key, t))
            pull = _tree.scale(jnp.asarray(lam), _tree.subtract(theta, centre))
            whole = _tree.add(_tree.widened(slope), pull)
            return _tree.subtract(theta, _tree.scale(jnp.asarray(rate), whole))

        return _tree.merge(jax.lax.fori_loop(0, steps, step, centre), others)

    def evaluate(model: Tree, batch: Tree, mask: Array, key: Key) -> tuple[Array, Metrics, Tree]:
        theta = solve(model, batch, mask, jax.random.fold_in(jax.random.clone(key), 2**32 - 1))
        value, metrics, state = loss.evaluate(theta, batch, mask, key)
        apart = _tree.subtract(*(_tree.split_floats(x)[0] for x in (model, theta)))
        for x in jax.tree.leaves(apart):
            value += jnp.asarray(lam / 2, value.dtype) * jnp.sum(
                _tree.wide(x) ** 2, dtype=value.dtype
            )
        return value, metrics, state

    return Moreau(Loss(evaluate), solve)


class Moreau(NamedTuple):
    """A Moreau envelope.

    Attributes:
        loss: the envelope as a loss.
        solve: function ``(model, batch, mask, key) -> theta``.
    """

    loss: Loss
    solve: Any


def mixed(shared: Tree, own: Tree, alpha: Array) -> Tree:
    """The model alpha own + (1 - alpha) shared, in the dtype of ``shared``."""

    def one(w: Array, v: Array) -> Array:
        if not _tree.is_float(w):
            return w
        return w + (alpha.astype(_tree.wide(w).dtype) * _tree.wide(v - w)).astype(w.dtype)

    return jax.tree.map(one, shared, own)


def mixture_loss(loss_fn: LossFn, *, adaptive: bool) -> Loss:
    """APFL's two losses, of ``{"shared": w, "own": v, "mixing": alpha}``.

    w has the gradient of f(w).  v and alpha have those of f(alpha v + (1 - alpha) w), in which w is
    constant.  The value is f(w).
    """
    loss = as_loss(loss_fn)

    def evaluate(model: Tree, batch: Tree, mask: Array, key: Key) -> tuple[Array, Metrics, Tree]:
        key_own = jax.random.fold_in(jax.random.clone(key), 2**32 - 1)
        value, metrics, state = loss.evaluate(model["shared"], batch, mask, key)
        alpha = model["mixing"] if adaptive else jax.lax.stop_gradient(model["mixing"])
        blend = mixed(jax.lax.stop_gradient(model["shared"]), model["own"], alpha)
        own, _, _ = loss.evaluate(blend, batch, mask, key_own)
        told = {"personal_loss": jax.lax.stop_gradient(own), "mixing": _tree.wide(alpha)}
        return value + own - jax.lax.stop_gradient(own), {**metrics, **told}, state

    return Loss(evaluate)


def require_stateless(name: str, model: Tree) -> None:
    """Raise TypeError if a model has mutable state, which two models cannot share."""
    if isinstance(model, Stateful):
        raise TypeError(
            f"{name} cannot adapt mutable state such as BatchNorm's running mean: use a model without "
            "it, for example GroupNorm in place of BatchNorm"
        )


def _gradient(loss: Loss, model: Tree, batch: Tree, mask: Array, key: Key) -> Tree:
    """Gradient of the floating parameters."""
    floats, others = _tree.split_floats(model)
    return jax.grad(lambda floats: loss.evaluate(_tree.merge(floats, others), batch, mask, key)[0])(
        floats
    )
