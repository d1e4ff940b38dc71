"""Fair methods whose clients send the loss of the model that they received: AFL, TERM, superquantile."""

from typing import Any, Unpack

import jax.numpy as jnp
import optax

from fjx import _validate
from fjx._base import Aggregator, Algorithm, Array, Tree
from fjx.aggregators import reweighted
from fjx.aggregators._reweighted import agnostic, tilted, worst
from fjx.algorithms._refuse import fixes, for_population
from fjx.algorithms._told import told
from fjx.clients import LossFn, Trained, mean_loss, telling
from fjx.clients._minibatch import client_sgd
from fjx.rounds._compose import Codecs
from fjx.servers._sgd import server_sgd

private = fixes(
    aggregator="the losses that clients send decide how much each of them counts, without noise; for "
    "privacy use algorithms.dp_fedavg, or fjx.plan"
)


@private
def afl(
    loss_fn: LossFn,
    *,
    num_clients: int,
    weights_lr: float | Array = 0.1,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array | optax.Schedule = 1.0,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    r"""AFL: agnostic federated learning, which minimises the largest loss of any mixture of clients.

    The server keeps a weight lambda_k for each client of the population.  In each round it descends
    along the weighted mean of the updates, and ascends along the losses F_k of the model that it sent:

    .. math::
        x \leftarrow x + \sum_k \lambda_k \Delta_k, \qquad
        \lambda \leftarrow \Pi_\Delta (\lambda + \gamma F(x))

    Pi is the projection onto the simplex.

    Guarantees:
        - With ``weights_lr`` 0 it is FedAvg with a uniform mean.
        - Weights are not negative and sum to one.  A client that does not come keeps its loss of zero
          in the ascent; the mean is that over the clients that came.

    Bits:
        Those of the update, 32 for the loss and 32 for the client's id.  The weights stay on the server.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        num_clients: number of clients in all.
        weights_lr: step size gamma of the weights, non-negative.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes; the paper's method makes one step on all examples.
        server_lr: step size of the server, or a schedule ``(round) -> step size``.
        **codecs: ``uplink`` of the update, and ``downlink``.

    Returns:
        An :class:`fjx.Algorithm`.  The state of its aggregator is lambda.  Its metric ``worst_loss`` is
        the largest loss in the cohort.

    Raises:
        ValueError: a number is out of range; there are more clients (when a round is traced).
        TypeError: ``aggregator`` is given.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.afl(
        ...     lambda w, x, key: (w - x).mean(), num_clients=100, weights_lr=0.1, client_lr=0.1,
        ...     batch_size=10)

    References:
        Mohri, Sivek, Suresh, *Agnostic Federated Learning*, ICML 2019 (arXiv:1902.00146), figure 2.
    """
    num_clients = _validate.static_integer("num_clients", num_clients, at_least=1)
    _validate.number("weights_lr", weights_lr, at_least=0)
    uniform = jnp.full(num_clients, 1 / num_clients, jnp.float32)
    aggregator = reweighted(agnostic(weights_lr), init=lambda message_like: uniform)
    ids = {"id": jnp.int32}
    algorithm = _by_loss(
        loss_fn, client_lr, batch_size, epochs, server_lr, aggregator, codecs, **ids
    )

    def check(population: int) -> None:
        if population > num_clients:
            raise ValueError(
                f"num_clients must be the number of all clients, {population}; got {num_clients}: the "
                "others have no weight and would never count"
            )

    return for_population(algorithm, check)


@private
def term(
    loss_fn: LossFn,
    *,
    tilt: float | Array = 1.0,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array | optax.Schedule = 1.0,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    r"""TERM: tilted empirical risk over clients.

    It minimises

    .. math:: \frac{1}{t} \log \sum_k p_k e^{t F_k(w)}

    whose gradient is the mean of the clients' gradients by weights in proportion to
    p_k exp(t F_k(w)).  A positive t lifts the clients with large losses, up to the worst one; a negative
    t suppresses them, as outliers.

    Guarantees:
        - With t = 0 it is FedAvg.
        - No exponential overflows.

    Bits:
        Those of the update, and 32 for the loss.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        tilt: tilt t, of either sign.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size of the server, or a schedule ``(round) -> step size``.
        **codecs: ``uplink`` of the update, and ``downlink``.

    Returns:
        An :class:`fjx.Algorithm`.  Its metric ``worst_loss`` is the largest loss in the cohort.

    Raises:
        ValueError: a number is not finite.
        TypeError: ``aggregator`` is given.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.term(
        ...     lambda w, x, key: (w - x).mean(), tilt=1.0, client_lr=0.1, batch_size=10)

    References:
        Li, Beirami, Sanjabi, Smith, *Tilted Empirical Risk Minimization*, ICLR 2021 (arXiv:2007.01162),
        equation 2 over groups, lemma 1.
    """
    _validate.number("tilt", tilt)
    aggregator = reweighted(tilted(tilt))
    return _by_loss(loss_fn, client_lr, batch_size, epochs, server_lr, aggregator, codecs)


@private
def superquantile(
    loss_fn: LossFn,
    *,
    fraction: float | Array,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array | optax.Schedule = 1.0,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    """Superquantile learning: minimise the mean loss of the worst-off fraction of the clients.

    In each round the updates of the clients with the largest losses count, until their weights make up
    the fraction of the cohort's; the last of them counts in part.  So worst-k % is the objective.

    Guarantees:
        - With ``fraction`` 1 it is FedAvg.

    Bits:
        Those of the update, and 32 for the loss.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        fraction: fraction of the clients' weight, in (0, 1]; 0.1 is the worst 10 %.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size of the server, or a schedule ``(round) -> step size``.
        **codecs: ``uplink`` of the update, and ``downlink``.

    Returns:
        An :class:`fjx.Algorithm`.  Its metric ``worst_loss`` is the largest loss in the cohort.

    Raises:
        ValueError: a number is out of range.
        TypeError: ``aggregator`` is given.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.superquantile(
        ...     lambda w, x, key: (w - x).mean(), fraction=0.1, client_lr=0.1, batch_size=10)

    References:
        Laguel, Pillutla, Malick, Harchaoui, *A Superquantile Approach to Federated Learning with
        Heterogeneous Devices*, CISS 2021; Pillutla, Laguel, Malick, Harchaoui, *Federated Learning with
        Superquantile Aggregation for Heterogeneous Data*, Machine Learning 2024 (arXiv:2112.09429).
    """
    _validate.number("fraction", fraction, above=0, at_most=1)
    aggregator = reweighted(worst(fraction))
    return _by_loss(loss_fn, client_lr, batch_size, epochs, server_lr, aggregator, codecs)


def _by_loss(
    loss_fn: LossFn,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int,
    server_lr: float | Array | optax.Schedule,
    aggregator: Aggregator,
    codecs: Codecs,
    **ids: Any,
) -> Algorithm:
    """FedAvg whose clients send the loss of the broadcast beside the update, and perhaps their id."""
    score = mean_loss(loss_fn, batch_size=batch_size)

    def tell(done: Trained) -> tuple[Tree, dict[str, Array]]:
        own = {"id": jnp.asarray(done.turn.id)} if ids else {}
        return done.update, {"loss": score(done.key, done.broadcast, done.examples), **own}

    return told(
        client=telling(
            client_sgd(loss_fn, client_lr, epochs, batch_size), tell, loss=jnp.float32, **ids
        ),
        server=server_sgd(server_lr),
        aggregator=aggregator,
        **codecs,
    )
