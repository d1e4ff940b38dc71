"""MOON: representations that stay near those of the global model."""

from typing import Any, Unpack

import optax

from fjx import _validate, clients
from fjx._base import Algorithm, Array, ClientUpdate
from fjx.clients import LossFn
from fjx.clients._by_round import following
from fjx.clients._contrastive import Features
from fjx.rounds._compose import OpenParts, compose
from fjx.servers._sgd import server_sgd


def moon(
    loss_fn: LossFn,
    *,
    features: Features,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    mu: float | Array = 1.0,
    temperature: float | Array = 0.5,
    server_lr: float | Array | optax.Schedule = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    """MOON: FedAvg with a contrastive term between the local, the global and the last local model.

    The term of :func:`fjx.clients.contrastive` draws a client's representations to those of the global
    model, and away from those with which the client ended its last round.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        features: representation ``(params, batch) -> f32[b, k]``, such as the last hidden layer.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        mu: weight of the term; 0 is FedAvg.  The paper tunes it among 0.1, 1, 5 and 10.
        temperature: temperature tau of the term.
        server_lr: step size of the server, or a schedule ``(round) -> step size``.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

    Returns:
        An :class:`fjx.Algorithm`, whose clients remember a model each.

    Raises:
        TypeError: ``features`` is not callable, or does not return ``[b, k]`` (when traced).
        ValueError: a number is out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import algorithms
        >>> algorithm = algorithms.moon(
        ...     lambda w, batch, key: jnp.mean(batch["x"] @ w), features=lambda w, batch: batch["x"] @ w,
        ...     client_lr=0.1, batch_size=10)

    References:
        Li, He, Song, CVPR 2021 (arXiv:2103.16257), algorithm 1.
    """
    if not callable(client_lr):
        _validate.number("client_lr", client_lr, above=0)

    def client(rate: Any) -> ClientUpdate:
        return clients.contrastive(
            loss_fn,
            optax.sgd((lambda _: rate) if callable(client_lr) else rate),
            features=features,
            mu=mu,
            temperature=temperature,
            epochs=epochs,
            batch_size=batch_size,
        )

    return compose(client=following(client_lr, client), server=server_sgd(server_lr), **parts)
