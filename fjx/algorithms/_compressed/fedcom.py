"""FedPAQ, FedCOM and FedCOMGATE: local steps, and compressed averages of what they changed."""

import optax

from fjx import _validate, clients
from fjx._base import Algorithm, Array, Compressor
from fjx.aggregators import mean, uniform
from fjx.clients import LossFn
from fjx.clients._corrected import corrected
from fjx.clients._minibatch import batch_gradient
from fjx.rounds._compose import compose
from fjx.servers._sgd import server_sgd


def fedcom(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    client_lr: float | Array,
    steps: int,
    batch_size: int,
    server_lr: float | Array = 1.0,
    downlink: Compressor | None = None,
) -> Algorithm:
    r"""FedCOM: x = x + gamma mean Q(x_i - x), with x_i after tau local steps of SGD.

    Guarantees: with one step, full gradients and no codec, gradient descent at eta gamma; with more it
        comes to rest where local gradient descent does
        (:func:`fjx.data.local_gd_fixed_point`), not at the optimum of clients that differ;
        bits: those of the codec.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        codec: Q, unbiased.
        client_lr: eta of the local steps; :func:`fjx.theory.fedcom` gives one that is proved.
        steps: tau.
        batch_size: examples in a batch.
        server_lr: gamma; the paper's is sqrt of the number of clients, with a small eta.
        downlink: codec of the broadcast.

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
    _validate.number("client_lr", client_lr, above=0)
    return compose(
        client=clients.local_sgd(loss_fn, optax.sgd(client_lr), steps=steps, batch_size=batch_size),
        uplink=codec,
        aggregator=uniform(mean()),
        server=server_sgd(server_lr),
        downlink=downlink,
    )


def fedpaq(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    client_lr: float | Array,
    steps: int,
    batch_size: int,
    downlink: Compressor | None = None,
) -> Algorithm:
    """FedPAQ: :func:`fedcom` with gamma = 1, of a random part of the clients in each round.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        codec: Q, unbiased.
        client_lr: eta of the local steps; :func:`fjx.theory.fedpaq` gives one that is proved.
        steps: tau.
        batch_size: examples in a batch.
        downlink: codec of the broadcast.

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


def fedcomgate(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    client_lr: float | Array,
    steps: int,
    batch_size: int,
    server_lr: float | Array = 1.0,
    downlink: Compressor | None = None,
) -> Algorithm:
    r"""FedCOMGATE: :func:`fedcom` whose local directions are corrected for drift.

    tau local steps x_i = x_i - eta (g_i - delta_i); with Delta_i = Q((x - x_i) / eta),
    x = x - eta gamma mean Delta_i and delta_i = delta_i + (Delta_i - mean Delta_i) / tau.  It is
    Scaffnew with a number of steps that is fixed.  What is sent here is -eta times the paper's, which
    is the same to a codec that minds no scale.

    Guarantees: with full gradients it converges to the optimum however much clients differ, where
        :func:`fedcom` does not, and the error of the codec tends to zero with the messages; the sum of
        the delta_i of all clients stays zero, whoever comes; bits: those of the codec.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        codec: Q, unbiased.
        client_lr: eta; :func:`fjx.theory.fedcomgate` gives one that is proved.
        steps: tau.
        batch_size: examples in the batch of a step; full gradients where it is all of a client's.
        server_lr: gamma.
        downlink: codec of the broadcast.

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
    _validate.number("client_lr", client_lr, above=0)
    _validate.integer("steps", steps, at_least=1)
    return compose(
        client=corrected(
            batch_gradient(loss_fn, batch_size), learning_rate=client_lr, gain=1 / steps,
            steps=lambda turn: steps,
        ),
        uplink=codec,
        aggregator=uniform(mean()),
        server=server_sgd(server_lr),
        downlink=downlink,
    )  # fmt: skip
