"""A small problem on which clients and algorithms are tried."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import data
from fjx._base import Tree

SIZES = (3, 5, 0, 7, 2, 1)
"""Ragged clients, one of them empty and one with a single example."""


class Problem(NamedTuple):
    """A loss, a model and the data of a few clients.

    Attributes:
        loss_fn: ``(params, batch, key) -> (loss, metrics)``.
        params: the model before training.
        dataset: a :class:`fjx.data.FederatedData`.
    """

    loss_fn: Callable[..., Any]
    params: Tree
    dataset: data.FederatedData


def linear_regression() -> Problem:
    """Linear regression on six clients with 3, 5, 0, 7, 2 and 1 examples.

    The loss adds a random slope, so that a client's key has a say in its message.

    Returns:
        A :class:`Problem`.

    Examples:
        >>> from fjx import testing
        >>> problem = testing.linear_regression()
        >>> problem.dataset.num_clients, problem.params["w"].shape
        (6, (4,))
    """
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(n, 4)).astype(np.float32) for n in SIZES]
    y = [(a @ rng.normal(size=4) + 1).astype(np.float32) for a in x]
    return Problem(
        _squared_error,
        {"w": jnp.linspace(-1.0, 1.0, 4), "b": jnp.zeros(())},
        data.from_clients([{"x": a, "y": b} for a, b in zip(x, y, strict=True)]),
    )


def _squared_error(model: Tree, batch: Tree, key: Any) -> tuple[Any, Any]:
    error = batch["x"] @ model["w"] + model["b"] - batch["y"]
    slope = 0.1 * jax.random.normal(key) * jnp.sum(model["w"])
    return jnp.mean(error**2) / 2 + slope, {"absolute": jnp.mean(jnp.abs(error))}
