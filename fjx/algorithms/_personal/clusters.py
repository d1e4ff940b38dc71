"""IFCA, HypCluster and FedEM: several models, for groups of clients or as a mixture for each."""

from typing import Unpack

import optax

from fjx import _validate
from fjx._base import Aggregator, Algorithm, Array, ClientUpdate
from fjx.aggregators import grouped, mean
from fjx.algorithms._refuse import for_population
from fjx.clients import LossFn
from fjx.clients._by_round import following
from fjx.clients._clusters import choosing, expectation_maximization
from fjx.clients._minibatch import client_sgd
from fjx.rounds._compose import Codecs, OpenParts, compose
from fjx.servers._sgd import server_sgd


def ifca(
    loss_fn: LossFn,
    *,
    clusters: int,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array = 1.0,
    aggregator: Aggregator | None = None,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    """IFCA: each client trains the one of k models that fits its examples best.

    The server sends all k models.  A client takes the one with the smallest loss on all of its
    examples, trains it, and the server averages the updates of each model (model averaging in the
    paper).  ``params`` holds k different models, stacked along a first axis:
    ``jax.vmap(init)(jax.random.split(key, k))``.

    Guarantees:
        - With one cluster it is :func:`fedavg`.
        - A model that nobody chose stays as it is.

    Bits:
        Up: one model and 8 bits for its number.  Down: k models.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)`` of one model.
        clusters: number k of models, 1 to 256.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size of the server.
        aggregator: aggregator of one cluster, which sums; the mean weighted by examples by default.
        **codecs: ``uplink`` and ``downlink`` of :func:`fjx.compose`.

    Returns:
        An :class:`fjx.Algorithm` whose ``params`` are the k models.  ``algorithm.model_of(state, row)``
        is the one that a client chose last, and ``row.client`` is its number.

    Raises:
        ValueError: ``clusters`` is out of range; ``aggregator`` stacks; ``params`` are not k stacked
            models (when given); there are more clusters than clients (when a round is traced).

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import algorithms
        >>> algorithm = algorithms.ifca(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2), clusters=2, client_lr=0.1, batch_size=10)
        >>> algorithm.traffic(jax.random.normal(jax.random.key(0), (2, 5)))
        Traffic(uplink=168, downlink=320)

    References:
        Ghosh, Chung, Yin, Ramchandran, *An Efficient Framework for Clustered Federated Learning*,
        NeurIPS 2020 (arXiv:2006.04088), algorithm 1.
    """
    clusters = _validate.static_integer("clusters", clusters, at_least=1, at_most=256)
    train = client_sgd(loss_fn, client_lr, epochs, batch_size)
    algorithm = compose(
        client=choosing(train, loss_fn, clusters=clusters, batch_size=batch_size),
        aggregator=grouped(mean() if aggregator is None else aggregator, clusters),
        server=server_sgd(server_lr),
        **codecs,
    )

    def check(population: int) -> None:
        if population < clusters:
            raise ValueError(
                f"clusters must be at most the number of clients, {population}; got {clusters}: "
                "some models would never be trained"
            )

    return for_population(algorithm, check)


def hypcluster(
    loss_fn: LossFn,
    *,
    clusters: int,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array = 1.0,
    aggregator: Aggregator | None = None,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    """HypCluster: each client trains the one of k hypotheses that fits its examples best.

    The method is that of :func:`ifca` with model averaging, found at the same time and analysed as
    learning with several hypotheses: updates of a cluster are weighted by examples.

    Guarantees:
        - Those of :func:`ifca`.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)`` of one model.
        clusters: number k of models, 1 to 256.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size of the server.
        aggregator: aggregator of one cluster, which sums; the mean weighted by examples by default.
        **codecs: ``uplink`` and ``downlink`` of :func:`fjx.compose`.

    Returns:
        An :class:`fjx.Algorithm` like that of :func:`ifca`.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.hypcluster(
        ...     lambda w, x, key: (w - x).mean(), clusters=2, client_lr=0.1, batch_size=10)

    References:
        Mansour, Mohri, Ro, Suresh, *Three Approaches for Personalization with Applications to Federated
        Learning*, 2020 (arXiv:2002.10619), section 4.
    """
    return ifca(
        loss_fn,
        clusters=clusters,
        client_lr=client_lr,
        batch_size=batch_size,
        epochs=epochs,
        server_lr=server_lr,
        aggregator=aggregator,
        **codecs,
    )


def fedem(
    loss_fn: LossFn,
    *,
    components: int,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    r"""FedEM: each client mixes M common models by weights of its own.

    Client k's examples come from a mixture of M distributions with weights pi_k.  In each round a client
    finds which model explains which example, updates its weights, and trains every model on the
    examples that it explains.  The server averages each model.  ``params`` holds M different models,
    stacked along a first axis: ``jax.vmap(init)(jax.random.split(key, M))``.

    Guarantees:
        - With one component it is :func:`fedavg`.

    Bits:
        M models in each direction.

    Args:
        loss_fn: negative log-likelihood ``(params, batch, key) -> loss`` of one model, a mean over
            examples.
        components: number M of models.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size of the server.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``.

    Returns:
        An :class:`fjx.Algorithm` whose ``params`` are the M models.  ``algorithm.model_of(state, row)``
        is a :class:`fjx.clients.Mixture` of the models and the client's weights.

    Raises:
        ValueError: ``components`` is below one; ``params`` are not M stacked models (when given).

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedem(
        ...     lambda w, x, key: (w - x).mean(), components=3, client_lr=0.1, batch_size=10)

    References:
        Marfoq, Neglia, Bellet, Kameni, Vidal, *Federated Multi-Task Learning under a Mixture of
        Distributions*, NeurIPS 2021 (arXiv:2108.10252), algorithm 1.
    """
    components = _validate.static_integer("components", components, at_least=1)
    batch_size = _validate.static_integer("batch_size", batch_size, at_least=1)
    if not callable(client_lr):
        _validate.number("client_lr", client_lr, above=0)

    def client(rate: float | Array) -> ClientUpdate:
        return expectation_maximization(
            loss_fn, rate, components=components, epochs=epochs, batch_size=batch_size
        )

    return compose(client=following(client_lr, client), server=server_sgd(server_lr), **parts)
