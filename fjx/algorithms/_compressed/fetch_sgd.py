"""FetchSGD: sketches up, a few coordinates down."""

from fjx import aggregators
from fjx._base import Algorithm, Array
from fjx.algorithms._refuse import METHOD, fixes
from fjx.clients import LossFn
from fjx.clients._minibatch import batch_gradient
from fjx.compressors import flatten, top_k
from fjx.rounds._compose import compose
from fjx.rounds._replicated import replicated
from fjx.servers._sgd import server_sgd


@fixes(aggregator=METHOD, uplink=METHOD)
def fetch_sgd(
    loss_fn: LossFn,
    *,
    ratio: float,
    rows: int,
    columns: int,
    learning_rate: float | Array,
    batch_size: int,
    momentum: float | Array = 0.9,
) -> Algorithm:
    """FetchSGD: sketched gradients, with momentum and error feedback in the space of sketches.

    Clients send sketches of their gradients.  :func:`fjx.aggregators.fetch_sgd` keeps momentum and
    error as sketches and finds an update Delta of k coordinates.  These travel down, to clients that
    are :func:`fjx.rounds.replicated`.

    Guarantees:
        - Clients remember nothing but the model.
        - Nothing is lost on the way down.

    Bits:
        Up, 32 rows * columns.  Down, k numbers and their places, for clients that hear every broadcast.
        A client that comes once, or was away, must be sent the model or the updates that it missed;
        that is not billed (:func:`fjx.rounds.replicated`).

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        ratio: fraction of the coordinates that move, k = ceil(ratio d), at most about a tenth of the
            columns.
        rows: number of rows of a sketch, at least 1; odd numbers suit the median.
        columns: number of columns of a sketch, at least 1.
        learning_rate: step size of the server.
        batch_size: number of examples in a client's batch.
        momentum: momentum rho, in [0, 1).

    Returns:
        An :class:`fjx.Algorithm`, for models of floating parameters.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fetch_sgd(
        ...     lambda w, x, key: (w - x).mean(), ratio=0.01, rows=5, columns=100,
        ...     learning_rate=0.1, batch_size=10)
        >>> algorithm.traffic(jnp.zeros(1000))
        Traffic(uplink=16000, downlink=424)

    References:
        Rothchild, Panda, Ullah, Ivkin, Stoica, Braverman, Gonzalez, Arora, *FetchSGD:
        Communication-Efficient Federated Learning with Sketching*, ICML 2020 (arXiv:2007.07682),
        algorithm 1.
    """
    return compose(
        client=batch_gradient(loss_fn, batch_size),
        **replicated(
            flatten(top_k(ratio)),  # of k coordinates, all others being zero: exact
            aggregator=aggregators.fetch_sgd(ratio, rows=rows, columns=columns, momentum=momentum),
            server=server_sgd(learning_rate),
        ),
    )
