"""The optimisers that the recipes share."""

import optax

from fjx import _validate, clients
from fjx._base import Array, ClientUpdate
from fjx.clients import LossFn


def client_sgd(
    loss_fn: LossFn,
    client_lr: float | Array,
    epochs: int,
    batch_size: int,
    *before: optax.GradientTransformation,
) -> ClientUpdate:
    """Local epochs of plain SGD, after whatever transforms the gradient ``before``."""
    _validate.number("client_lr", client_lr, above=0)
    local = optax.chain(*before, optax.sgd(client_lr)) if before else optax.sgd(client_lr)
    return clients.local_sgd(loss_fn, local, epochs=epochs, batch_size=batch_size)


def server_sgd(
    server_lr: float | Array, momentum: float | Array | None = None
) -> optax.GradientTransformation:
    """W += eta Delta, or with momentum v <- beta v + Delta; w += eta v."""
    _validate.number("server_lr", server_lr, above=0)
    if momentum is not None:
        _validate.number("momentum", momentum, at_least=0, below=1)
    return optax.sgd(server_lr, momentum=momentum)
