"""FedPer, FedRep, FedBN and LG-FedAvg: one split of the model into shared and private leaves."""

import re
from typing import Unpack

import optax

from fjx._base import Algorithm, Array, ClientUpdate
from fjx.clients import LossFn
from fjx.clients._by_round import rounds_of
from fjx.clients._minibatch import client_sgd
from fjx.clients._parts import in_turn, part
from fjx.rounds._compose import OpenParts, compose
from fjx.rounds._private_leaves import private_leaves
from fjx.servers._sgd import server_sgd


def fedper(
    loss_fn: LossFn,
    *,
    pattern: str | None,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    """FedPer: FedAvg of some leaves; the other leaves are each client's own.

    A client trains both together by SGD.  It sends the shared leaves and keeps the private ones.

    Guarantees:
        - With ``pattern=None`` it is :func:`fedavg`.
        - Those of :func:`fjx.rounds.private_leaves`.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        pattern: regular expression of the private leaves, such as ``"^head/"``; None shares every leaf.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size of the server.
        **parts: remaining parts of :func:`fjx.compose`, over the shared leaves.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        ValueError: ``pattern`` matches no leaf, or every floating parameter (when the model is given).

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedper(
        ...     lambda w, x, key: (w["body"] * w["head"] - x).mean(), pattern="^head", client_lr=0.1,
        ...     batch_size=10)

    References:
        Arivazhagan, Aggarwal, Singh, Choudhary, *Federated Learning with Personalization Layers*, 2019
        (arXiv:1912.00818), algorithm 1.
    """
    return _private(
        client_sgd(loss_fn, client_lr, epochs, batch_size), server_lr, pattern, **parts
    )  # fmt: skip


def lg_fedavg(
    loss_fn: LossFn,
    *,
    pattern: str | None,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    """LG-FedAvg: private representations below a shared head.

    It is :func:`fedper` with the other side of the model private: each client has its own first
    layers, and the last layers are averaged.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        pattern: regular expression of the private leaves, such as ``"^encoder/"``; None shares every
            leaf.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size of the server.
        **parts: remaining parts of :func:`fjx.compose`, over the shared leaves.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        ValueError: ``pattern`` matches no leaf, or every floating parameter (when the model is given).

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.lg_fedavg(
        ...     lambda w, x, key: (w["encoder"] * w["head"] - x).mean(), pattern="^encoder",
        ...     client_lr=0.1, batch_size=10)

    References:
        Liang et al., *Think Locally, Act Globally: Federated Learning with Local and Global
        Representations*, 2020 (arXiv:2001.01523), algorithm 1.
    """
    return _private(
        client_sgd(loss_fn, client_lr, epochs, batch_size), server_lr, pattern, **parts
    )  # fmt: skip


def fedbn(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array = 1.0,
    pattern: str | None = "(?i)batch_?norm",
    **parts: Unpack[OpenParts],
) -> Algorithm:
    """FedBN: FedAvg of everything but batch normalisation, for clients with different features.

    Scales, shifts and running statistics of batch normalisation are each client's own.

    Args:
        loss_fn: loss function of a :class:`fjx.Stateful` model, such as
            :func:`fjx.clients.whole_batch` makes.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size of the server.
        pattern: regular expression of the private leaves; by default those of layers that are called
            ``BatchNorm`` or ``batch_norm``.
        **parts: remaining parts of :func:`fjx.compose`, over the shared leaves.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        ValueError: ``pattern`` matches no leaf, or every floating parameter (when the model is given).

    Examples:
        >>> from fjx import algorithms, clients
        >>> loss = clients.whole_batch(lambda model, x, mask, key: (0.0, {}, model.state))
        >>> algorithm = algorithms.fedbn(loss, client_lr=0.1, batch_size=10)

    References:
        Li, Jiang, Zhang, Kamp, Dou, *FedBN: Federated Learning on Non-IID Features via Local Batch
        Normalization*, ICLR 2021 (arXiv:2102.07623), algorithm 1.
    """
    return _private(
        client_sgd(loss_fn, client_lr, epochs, batch_size), server_lr, pattern, **parts
    )  # fmt: skip


def fedrep(
    loss_fn: LossFn,
    *,
    pattern: str | None,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    private_epochs: int = 1,
    server_lr: float | Array = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    """FedRep: a shared representation below private heads, which are trained first.

    A client trains its private leaves for ``private_epochs`` with the shared ones fixed, and then the
    shared leaves for ``epochs`` with its new private ones fixed.

    Batch normalisation that is private as well, as in :func:`fedbn`, is one more word of the pattern:
    ``"^head/|BatchNorm"``.

    Guarantees:
        - With ``pattern=None`` it is :func:`fedavg`.
        - Those of :func:`fjx.rounds.private_leaves`.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        pattern: regular expression of the private leaves, such as ``"^head/"``; None shares every leaf.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes that train the shared leaves.
        private_epochs: number of local passes that train the private leaves.
        server_lr: step size of the server.
        **parts: remaining parts of :func:`fjx.compose`, over the shared leaves.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        ValueError: ``pattern`` matches no leaf, or every floating parameter (when the model is given).

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedrep(
        ...     lambda w, x, key: (w["body"] * w["head"] - x).mean(), pattern="^head", client_lr=0.1,
        ...     batch_size=10, private_epochs=5)

    References:
        Collins, Hassani, Mokhtari, Shakkottai, *Exploiting Shared Representations for Personalized
        Federated Learning*, ICML 2021 (arXiv:2102.07078), algorithm 1.
    """

    def train(loss: LossFn, epochs: int) -> ClientUpdate:
        return client_sgd(loss, client_lr, epochs, batch_size)

    client = train(loss_fn, epochs)
    if pattern is not None:
        matches = re.compile(pattern).search
        client = in_turn(
            part(
                loss_fn,
                lambda loss: train(loss, private_epochs),
                inside=lambda name: matches(name) is not None,
            ),
            part(
                loss_fn, lambda loss: train(loss, epochs), inside=lambda name: matches(name) is None
            ),
        )
    client = client._replace(rounds=rounds_of(client_lr))
    return _private(client, server_lr, pattern, **parts)


def _private(
    client: ClientUpdate,
    server_lr: float | Array,
    pattern: str | None,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    ends = private_leaves(client=client, server=server_sgd(server_lr), pattern=pattern)
    return compose(**ends, **parts)
