"""Client updates that many recipes share."""

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate, clients
from fjx._base import Array, ClientUpdate, Examples, Key, Metrics, Stateful, Tree, Turn
from fjx._kernels.permutation import shuffle
from fjx.clients import LossFn
from fjx.clients._by_round import following
from fjx.clients._loss import as_loss, value_and_grad
from fjx.clients._sgd import batch_at


def client_sgd(
    loss_fn: LossFn,
    client_lr: float | Array | optax.Schedule,
    epochs: int,
    batch_size: int,
    *before: optax.GradientTransformation,
) -> ClientUpdate:
    """Local epochs of plain SGD; the transformations ``before`` are applied to the gradient first.

    If ``client_lr`` is a function, it is one of the round, and may be zero in some.
    """
    if not callable(client_lr):
        _validate.number("client_lr", client_lr, above=0)

    def client(rate: float | Array) -> ClientUpdate:
        # Optax casts a rate that is a function to the dtype of the gradient.
        descent = optax.sgd((lambda _: rate) if callable(client_lr) else rate)
        local = optax.chain(*before, descent) if before else descent
        return clients.local_sgd(loss_fn, local, epochs=epochs, batch_size=batch_size)

    return following(client_lr, client)


def batch_gradient(loss_fn: LossFn, batch_size: int) -> ClientUpdate:
    """Send the negative gradient of one random batch, or of all examples if the client has no more.

    The message is the gradient itself, in the dtype of the model; a difference (x - g) - x would
    lose every part of g below the rounding error of x.  The message is zero for leaves that are not
    floating, and for clients without examples.
    """
    loss = as_loss(loss_fn)
    batch_size = _validate.static_integer("batch_size", batch_size, at_least=1)

    def update(
        key: Key, model: Tree, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        if isinstance(model, Stateful):
            raise TypeError("one gradient cannot move mutable state; use algorithms.fedavg")
        key_batch, key_loss = jax.random.split(key)
        batch, mask = batch_at(shuffle(key_batch), examples, jnp.int32(0), batch_size)
        value, metrics, _, gradient = value_and_grad(loss, model, batch, mask, key_loss)
        _, others = _tree.split_floats(model)
        descent = jax.tree.map(lambda g: -g, gradient)
        told = _tree.merge(descent, _tree.zeros_like(others)), {**metrics, "loss": value}
        message, metrics = _tree.where(examples.size > 0, told, _tree.zeros_like(told))
        return message, state, metrics

    return ClientUpdate(lambda params: (), update, _tree.like)
