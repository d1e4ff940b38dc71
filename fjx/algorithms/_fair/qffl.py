"""q-FFL: a resource allocation between clients."""

from typing import Any, Unpack

import jax.numpy as jnp
import optax

from fjx import _validate
from fjx._base import Algorithm, Array, ClientUpdate, Tree
from fjx.aggregators import mean, uniform
from fjx.algorithms._refuse import fixes
from fjx.algorithms._told import scaled, square_of, told
from fjx.clients import LossFn, Trained, mean_loss, telling
from fjx.clients._by_round import following
from fjx.clients._minibatch import client_sgd
from fjx.rounds._compose import Codecs
from fjx.servers._sgd import server_sgd

LEAST = 1e-10  # so that F^(q - 1) exists where F is zero, as in the authors' code


@fixes(
    aggregator="the step is a ratio of two sums over the same clients, both without noise; for privacy "
    "use algorithms.dp_fedavg, or fjx.plan"
)
def qffl(
    loss_fn: LossFn,
    *,
    q: float | Array = 1.0,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    lipschitz: float | Array | None = None,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    r"""q-FFL by q-FedAvg: more weight for clients with larger losses, so that losses vary less.

    It minimises the sum of F_k^(q+1) / (q + 1).  With F_k the loss of client k at the model w that it
    received, Delta_k its update by local SGD, and L a Lipschitz constant of the gradients,

    .. math::
        w \leftarrow w + \frac{\sum_k L F_k^q \Delta_k}
        {\sum_k \bigl(q F_k^{q-1} \lVert L \Delta_k \rVert^2 + L F_k^q\bigr)}

    The denominator estimates the Lipschitz constant of that objective, so no step size is tuned again
    for each q.

    Guarantees:
        - With q = 0 it is FedAvg with a uniform mean.
        - With ``epochs=1`` and one batch of all examples it is q-FedSGD.

    Bits:
        Those of the update, and 32 for its share of the denominator.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``; the loss must be
            positive.
        q: strength of fairness, non-negative; the paper's are 0.001 to 15.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        lipschitz: the constant L; by default 1 / ``client_lr``, as in the paper.
        **codecs: ``uplink`` of F_k^q Delta_k, and ``downlink``.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        ValueError: a number is out of range.
        TypeError: ``aggregator`` is given.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.qffl(
        ...     lambda w, x, key: ((w - x) ** 2).mean(), q=1.0, client_lr=0.1, batch_size=10)

    References:
        Li, Sanjabi, Beirami, Smith, *Fair Resource Allocation in Federated Learning*, ICLR 2020
        (arXiv:1905.10497), algorithm 2.
    """
    _validate.number("q", q, at_least=0)
    if lipschitz is not None:
        _validate.number("lipschitz", lipschitz, above=0)
    score = mean_loss(loss_fn, batch_size=batch_size)

    def client(rate: Any) -> ClientUpdate:
        # In a round of rate zero nobody moves, whatever the constant.
        step_size = jnp.asarray(rate, jnp.float32)
        inverse = 1 / jnp.where(step_size > 0, step_size, 1)
        constant = inverse if lipschitz is None else jnp.asarray(lipschitz, jnp.float32)

        def tell(done: Trained) -> tuple[Tree, dict[str, Array]]:
            # Numerator and denominator are both divided by L.
            loss = jnp.maximum(score(done.key, done.broadcast, done.examples), LEAST)
            power = loss ** jnp.asarray(q, jnp.float32)
            curvature = q * power / loss * constant * square_of(done.update)
            return scaled(power, done.update), {"denominator": curvature + power}

        # The rate as a function, so that its dtype is the gradient's.
        local = client_sgd(loss_fn, lambda _: rate, epochs, batch_size)
        return telling(local, tell, denominator=jnp.float32)

    if not callable(client_lr):
        _validate.number("client_lr", client_lr, above=0)

    def step(mean: dict[str, Any]) -> Tree:
        whole = mean["denominator"]
        return scaled(1 / jnp.where(whole > 0, whole, 1.0), mean["update"])

    return told(
        client=following(client_lr, client),
        server=server_sgd(1.0),
        step=step,
        aggregator=uniform(mean()),
        **codecs,
    )
