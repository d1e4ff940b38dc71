"""The server optimiser that the recipes share."""

from typing import Any

import jax
import optax

from fjx import _validate
from fjx._base import Array


def server_sgd(
    server_lr: float | Array | optax.Schedule, momentum: float | Array | None = None
) -> optax.GradientTransformation:
    """SGD step w += eta Delta, or with momentum v <- beta v + Delta; w += eta v.

    If ``server_lr`` is a function, it is one of the round.
    """
    if momentum is not None:
        _validate.number("momentum", momentum, at_least=0, below=1)
    return optax.sgd(by_round(server_lr), momentum=momentum)


def by_round(server_lr: float | Array | optax.Schedule) -> Any:
    """The server's step size: a number, which is checked, or a schedule of the round.

    A server's optimiser makes a step in each round, so that it counts rounds.
    """
    if not callable(server_lr):
        _validate.number("server_lr", server_lr, above=0)
        return server_lr
    schedule = server_lr

    def at(round: Array) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # schedules of optax mix integers and floats
            return schedule(round)

    return at
