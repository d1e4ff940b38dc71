"""The server optimiser that the recipes share."""

import optax

from fjx import _validate
from fjx._base import Array


def server_sgd(
    server_lr: float | Array, momentum: float | Array | None = None
) -> optax.GradientTransformation:
    """SGD step w += eta Delta, or with momentum v <- beta v + Delta; w += eta v."""
    _validate.number("server_lr", server_lr, above=0)
    if momentum is not None:
        _validate.number("momentum", momentum, at_least=0, below=1)
    return optax.sgd(server_lr, momentum=momentum)
