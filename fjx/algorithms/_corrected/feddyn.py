"""FedDyn and FedADMM: a multiplier for each client, so that its own optimum no longer pulls."""

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate, clients
from fjx._base import Algorithm, Array, ClientUpdate, ServerUpdate, Tree
from fjx.aggregators import counted, mean, uniform
from fjx.algorithms._refuse import fixes
from fjx.clients import LossFn
from fjx.clients._by_round import following
from fjx.rounds._compose import Codecs, OpenParts, compose
from fjx.servers._sgd import server_sgd


class FedDynState(NamedTuple):
    """Server state of :func:`feddyn`.

    Attributes:
        params: the model theta.
        h: -alpha times the sum of all updates so far, over the number of all clients.
    """

    params: Tree
    h: Tree


@fixes(
    aggregator="the server's memory adds the exact share of the clients that came, so it is always the "
    "uniform mean; for privacy use algorithms.fedadmm, whose server has no memory"
)
def feddyn(
    loss_fn: LossFn,
    *,
    num_clients: int,
    alpha: float | Array = 0.1,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    r"""FedDyn: local losses with a dynamic regulariser, whose common fixed point is the optimum.

    Client k minimises, from theta_{t-1},

    .. math::
        F_k(\theta) - \langle g_k, \theta \rangle
        + \frac{\alpha}{2} \lVert \theta - \theta_{t-1} \rVert^2

    to theta_k, and sets g_k = g_k - alpha (theta_k - theta_{t-1}), which is grad F_k(theta_k) if the
    minimum is exact.  With P the clients that came and m all clients, the server sets

    .. math::
        h \leftarrow h - \frac{\alpha}{m} \sum_{k \in P} (\theta_k - \theta_{t-1}), \qquad
        \theta_t = \frac{1}{|P|} \sum_{k \in P} \theta_k - h / \alpha

    Guarantees:
        - At a fixed point all theta_k are theta, and theta is stationary for the mean of the F_k.
        - With alpha = 0 it is FedAvg with a uniform mean.  As alpha goes to zero only the *clients*
          become those of FedAvg: h / alpha, the sum of all updates so far, does not depend on alpha
          itself.
        - A round to which nobody comes changes nothing.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        num_clients: number m of clients in all.
        alpha: strength of the regulariser, non-negative; the paper's are 0.1 to 0.001.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``; small beside
            1 / alpha.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        **codecs: ``uplink`` and ``downlink`` of :func:`fjx.compose`.

    Returns:
        An :class:`fjx.Algorithm`.  The state of a client is a :class:`fjx.clients.DualState`; its
        ``dual`` is -g_k.

    Raises:
        ValueError: a number is out of range.
        TypeError: ``aggregator`` is given; the model holds more than floating parameters (from
            ``init_client``).

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.feddyn(
        ...     lambda w, x, key: (w - x).mean(), num_clients=100, alpha=0.01, client_lr=0.1,
        ...     batch_size=10)

    References:
        Acar et al., ICLR 2021 (arXiv:2111.04263), algorithm 1.
    """
    _validate.integer("num_clients", num_clients, at_least=1)
    _validate.number("alpha", alpha, at_least=0)

    def init(params: Tree) -> FedDynState:
        return FedDynState(params, _tree.wide_zeros_like(params))

    def update(state: FedDynState, heard: dict[str, Any]) -> FedDynState:
        moved, share = heard["aggregate"], heard["participants"] / num_clients
        h = _tree.subtract(state.h, _tree.scale(jnp.asarray(alpha) * share, moved))
        memory = jax.tree.map(lambda x: _over(x, alpha), h)
        arrived = _tree.subtract(_tree.add(_tree.widened(state.params), moved), memory)
        after = FedDynState(_tree.in_dtypes_of(arrived, state.params), h)
        return _tree.where(heard["participants"] > 0, after, state)

    return compose(
        client=_dual(loss_fn, client_lr, rho=alpha, epochs=epochs, batch_size=batch_size),
        aggregator=counted(uniform(mean())),
        server=ServerUpdate(init, lambda state: state.params, update),
        **codecs,
    )


def fedadmm(
    loss_fn: LossFn,
    *,
    rho: float | Array,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array | optax.Schedule = 1.0,
    **parts: Unpack[OpenParts],
) -> Algorithm:
    r"""FedADMM: consensus by the alternating direction method of multipliers.

    Client i minimises, from theta,

    .. math:: F_i(w) + \langle y_i, w - \theta \rangle + \frac{\rho}{2} \lVert w - \theta \rVert^2

    to w_i, and sets y_i = y_i + rho (w_i - theta).  It sends the change of w_i + y_i / rho since its
    last round, and the server steps along the uniform mean of these:

    .. math:: \theta \leftarrow \theta + \eta \, \frac{1}{|S|} \sum_{i \in S} \Delta_i

    Guarantees:
        - With eta = |S| / m, m being the number of all clients, theta is the mean of all
          w_i + y_i / rho.  That is the paper's step size for partial participation.
        - At a fixed point of that all w_i are theta, and theta is stationary for the mean of the F_i.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        rho: strength of the quadratic term, positive.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``; small beside
            1 / rho.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size eta of the server, or a schedule ``(round) -> step size``; |S| / m to
            begin with.
        **parts: remaining parts of :func:`fjx.compose`: ``uplink``, ``downlink``, ``aggregator``; the
            uniform mean by default.

    Returns:
        An :class:`fjx.Algorithm`.  Local work begins at theta; the paper also starts from the last w_i.

    Raises:
        ValueError: a number is out of range.
        TypeError: the model holds more than floating parameters (from ``init_client``).

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedadmm(
        ...     lambda w, x, key: (w - x).mean(), rho=0.1, client_lr=0.1, batch_size=10)

    References:
        Gong, Li, Freris, ICDE 2022 (arXiv:2204.03529), algorithm 1.
    """
    parts.setdefault("aggregator", uniform(mean()))
    return compose(
        client=_dual(
            loss_fn, client_lr, rho=rho, send_dual=True, epochs=epochs, batch_size=batch_size
        ),
        server=server_sgd(server_lr),
        **parts,
    )


def _dual(loss_fn: LossFn, client_lr: float | Array | optax.Schedule, **hyper: Any) -> ClientUpdate:
    """The client of both, by plain SGD."""
    if not callable(client_lr):
        _validate.number("client_lr", client_lr, above=0)

    def client(rate: Any) -> ClientUpdate:
        descent = optax.sgd((lambda _: rate) if callable(client_lr) else rate)
        return clients.dual(loss_fn, descent, **hyper)

    return following(client_lr, client)


def _over(x: Array, alpha: float | Array) -> Array:
    """The quotient ``x / alpha``; zero for alpha = 0, where x is zero as well."""
    alpha = jnp.asarray(alpha, x.dtype)
    return jnp.where(alpha > 0, x / jnp.where(alpha > 0, alpha, 1), 0)
