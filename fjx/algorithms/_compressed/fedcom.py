"""FedPAQ, FedCOM and FedCOMGATE: local steps, whose result is compressed and averaged."""

import optax

from fjx import _validate, clients
from fjx._base import Algorithm, Array, ClientUpdate, Compressor
from fjx.aggregators import mean, uniform
from fjx.algorithms._refuse import CODEC, GRADIENTS, MEMORY, fixes
from fjx.clients import LossFn
from fjx.clients._by_round import following
from fjx.clients._corrected import corrected
from fjx.clients._minibatch import batch_gradient
from fjx.rounds._compose import compose
from fjx.servers._sgd import server_sgd


@fixes(aggregator=GRADIENTS, uplink=CODEC)
def fedcom(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    client_lr: float | Array | optax.Schedule,
    steps: int,
    batch_size: int,
    server_lr: float | Array = 1.0,
    downlink: Compressor | None = None,
) -> Algorithm:
    r"""FedCOM: local SGD with compressed updates and a server step size.

    With x_i the model of client i after tau local steps from x,

    .. math:: x \leftarrow x + \gamma \, \mathrm{mean}_i \, Q(x_i - x)

    Guarantees:
        - With one step, full gradients and no codec it is gradient descent with step size eta gamma.
        - With more steps it comes to rest where local gradient descent does
          (:func:`fjx.data.local_gd_fixed_point`).  That is not the optimum if clients differ.

    Bits:
        Those of the codec.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        codec: codec Q of the messages, unbiased.
        client_lr: step size eta of the local steps, or a schedule ``(round) -> step size``;
            :func:`fjx.theory.fedcom` gives a constant one that is proved.
        steps: number tau of local steps.
        batch_size: number of examples in a batch.
        server_lr: step size gamma of the server; the paper's is the square root of the number of
            clients, with a small eta.
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.fedcom(
        ...     lambda w, x, key: (w - x).mean(), compressors.qsgd(levels=4), client_lr=0.1, steps=10,
        ...     batch_size=10)

    References:
        Haddadpour, Kamani, Mokhtari, Mahdavi, *Federated Learning with Compression: Unified Analysis and
        Sharp Guarantees*, AISTATS 2021 (arXiv:2007.01154), algorithm 1.
    """
    if not callable(client_lr):
        _validate.number("client_lr", client_lr, above=0)

    def client(rate: float | Array) -> ClientUpdate:
        return clients.local_sgd(loss_fn, optax.sgd(rate), steps=steps, batch_size=batch_size)

    return compose(
        client=following(client_lr, client),
        uplink=codec,
        aggregator=uniform(mean()),
        server=server_sgd(server_lr),
        downlink=downlink,
    )


@fixes(aggregator=GRADIENTS, uplink=CODEC)
def fedpaq(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    client_lr: float | Array | optax.Schedule,
    steps: int,
    batch_size: int,
    downlink: Compressor | None = None,
) -> Algorithm:
    """FedPAQ: local SGD with quantised updates.

    It is :func:`fedcom` with gamma = 1.  The paper draws a random part of the clients in each round.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        codec: codec Q of the messages, unbiased.
        client_lr: step size eta of the local steps, or a schedule ``(round) -> step size``;
            :func:`fjx.theory.fedpaq` gives a constant one that is proved.
        steps: number tau of local steps.
        batch_size: number of examples in a batch.
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.fedpaq(
        ...     lambda w, x, key: (w - x).mean(), compressors.qsgd(levels=4), client_lr=0.1, steps=10,
        ...     batch_size=10)

    References:
        Reisizadeh, Mokhtari, Hassani, Jadbabaie, Pedarsani, *FedPAQ: A Communication-Efficient Federated
        Learning Method with Periodic Averaging and Quantization*, AISTATS 2020 (arXiv:1909.13014),
        algorithm 1.
    """
    return fedcom(
        loss_fn, codec, client_lr=client_lr, steps=steps, batch_size=batch_size, downlink=downlink
    )


@fixes(aggregator=MEMORY, uplink=CODEC)
def fedcomgate(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    client_lr: float | Array | optax.Schedule,
    steps: int,
    batch_size: int,
    server_lr: float | Array = 1.0,
    downlink: Compressor | None = None,
) -> Algorithm:
    """FedCOMGATE: FedCOM whose local directions are corrected for drift.

    Each client makes tau local steps x_i = x_i - eta (g_i - delta_i), from which
    Delta_i = Q((x - x_i) / eta).  Then x = x - eta gamma mean Delta_i and
    delta_i = delta_i + (Delta_i - mean Delta_i) / tau.  It is Scaffnew with a fixed number of steps.

    The message here is -eta times the paper's.  This makes no difference to a codec that commutes with
    scaling.

    Guarantees:
        - With full gradients it converges to the optimum, however much clients differ.  :func:`fedcom`
          does not.
        - The error of the codec tends to zero with the messages.
        - The sum of the delta_i of all clients stays zero, whichever clients come.

    Bits:
        Those of the codec up; down, the model and the aggregate message.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        codec: codec Q of the messages, unbiased.
        client_lr: step size eta of the local steps, or a schedule ``(round) -> step size``;
            :func:`fjx.theory.fedcomgate` gives a constant one that is proved.
        steps: number tau of local steps.
        batch_size: number of examples in the batch of a step; gradients are full if it is all of a
            client's.
        server_lr: step size gamma of the server.
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`, whose clients' state is delta_i.

    Raises:
        ValueError: a number is out of range.
        TypeError: (from ``init_client``) the model holds more than floating parameters.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.fedcomgate(
        ...     lambda w, x, key: (w - x).mean(), compressors.qsgd(levels=4), client_lr=0.1, steps=10,
        ...     batch_size=10)

    References:
        Haddadpour, Kamani, Mokhtari, Mahdavi, AISTATS 2021 (arXiv:2007.01154), algorithm 3.
    """
    _validate.integer("steps", steps, at_least=1)
    if not callable(client_lr):
        _validate.number("client_lr", client_lr, above=0)

    def client(rate: float | Array) -> ClientUpdate:
        return corrected(
            batch_gradient(loss_fn, batch_size),
            learning_rate=rate,
            gain=1 / steps,
            steps=lambda turn: steps,
        )

    return compose(
        client=following(client_lr, client),
        uplink=codec,
        aggregator=uniform(mean()),
        server=server_sgd(server_lr),
        downlink=downlink,
    )
