"""FedExP: the server extrapolates."""

from typing import Any, Unpack

import jax.numpy as jnp
import optax

from fjx import _validate
from fjx._base import Algorithm, Array, Tree
from fjx.algorithms._told import scaled, square_of, told
from fjx.clients import LossFn, telling
from fjx.clients._minibatch import client_sgd
from fjx.rounds._compose import OpenParts
from fjx.servers._sgd import server_sgd


def fedexp(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    epsilon: float | Array = 1e-3,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    r"""FedExP: FedAvg with a server step size that grows as the clients' updates disagree.

    With p_i the weight of client i, which is 1 / M for clients of equal size,

    .. math::
        x \leftarrow x + \eta_g \bar\Delta, \qquad
        \eta_g = \max\Bigl(1, \frac{\sum_i p_i \lVert \Delta_i \rVert^2}
        {2 (\lVert \bar\Delta \rVert^2 + \epsilon)}\Bigr)

    Guarantees:
        - The step is never shorter than that of FedAvg.  With all updates alike, or epsilon large, it is
          that of FedAvg.

    Bits:
        Those of the update, and 32 for its squared norm.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        epsilon: positive number that bounds the step size when updates cancel.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink`` of the update, ``downlink``,
            ``aggregator`` of ``{"update", "square"}``, which may not be private.

    Returns:
        An :class:`fjx.Algorithm`.  Its iterates oscillate; the paper evaluates the mean of the last two.

    Raises:
        ValueError: ``epsilon`` is not positive; ``aggregator`` is private.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedexp(
        ...     lambda w, x, key: (w - x).mean(), client_lr=0.1, batch_size=10)

    References:
        Jhunjhunwala, Wang, Joshi, *FedExP: Speeding Up Federated Averaging via Extrapolation*, ICLR 2023
        (arXiv:2301.09604), algorithm 1.
    """
    _validate.number("epsilon", epsilon, above=0)

    def step(mean: dict[str, Any]) -> Tree:
        length = mean["square"] / (2 * (square_of(mean["update"]) + epsilon))
        return scaled(jnp.maximum(length, 1.0), mean["update"])

    return told(
        client=telling(
            client_sgd(loss_fn, client_lr, epochs, batch_size),
            lambda done: (done.update, {"square": square_of(done.update)}),
            square=jnp.float32,
        ),
        server=server_sgd(1.0),
        step=step,
        **parts,
    )
