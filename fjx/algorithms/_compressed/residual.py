"""Gradient descent with compressed gradients, with and without a memory of the compression error."""

from fjx import clients
from fjx._base import Algorithm, Array, Compressor
from fjx.aggregators import majority_vote, mean, uniform
from fjx.algorithms._refuse import CODEC, GRADIENTS, MEMORY, METHOD, fixes
from fjx.clients import LossFn
from fjx.clients._minibatch import batch_gradient
from fjx.compressors import error_feedback, shifted
from fjx.rounds._compose import compose
from fjx.servers._sgd import server_sgd


@fixes(aggregator=GRADIENTS, uplink=CODEC)
def compressed_gd(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    learning_rate: float | Array,
    batch_size: int,
    downlink: Compressor | None = None,
) -> Algorithm:
    r"""Compressed gradient descent, distributed.

    .. math:: x \leftarrow x - \gamma \, \mathrm{mean}_i \, C(\nabla f_i(x))

    Guarantees:
        - It does not converge to the optimum in general.  At a constant step it comes to rest in a
          neighbourhood that grows with gamma, omega and the gradients at the optimum.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        codec: codec C of the messages, unbiased.
        learning_rate: step size gamma; :func:`fjx.theory.compressed_gd` gives one that is proved.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.compressed_gd(
        ...     lambda w, x, key: (w - x).mean(), compressors.rand_k(0.1),
        ...     learning_rate=0.1, batch_size=10)

    References:
        Khirirat, Feyzmahdavian, Johansson, *Distributed Learning with Compressed Gradients*, 2018
        (arXiv:1806.06573).
    """
    return compose(
        client=clients.gradient(loss_fn, batch_size=batch_size),
        uplink=codec,
        aggregator=uniform(mean()),
        server=server_sgd(learning_rate),
        downlink=downlink,
    )


@fixes(aggregator=GRADIENTS, uplink=CODEC)
def ef14(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    learning_rate: float | Array,
    batch_size: int,
    downlink: Compressor | None = None,
) -> Algorithm:
    """Error feedback (EF14): compressed gradient descent that sends its error with the next message.

    It is :func:`compressed_gd` with ``error_feedback(codec)``, for contractive codecs.

    Guarantees:
        - With e the mean of the residuals of all clients, x - gamma e moves like gradient descent with
          gradients at x, exactly.
        - At a constant step it comes to rest in a neighbourhood of the optimum that shrinks with gamma,
          unless clients are alike.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        codec: codec C of the messages, with delta > 0, such as ``top_k``.
        learning_rate: step size gamma; :func:`fjx.theory.ef14` gives one that is proved.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.ef14(
        ...     lambda w, x, key: (w - x).mean(), compressors.top_k(0.1),
        ...     learning_rate=0.1, batch_size=10)

    References:
        Seide, Fu, Droppo, Li, Yu, *1-Bit Stochastic Gradient Descent*, Interspeech 2014; Stich,
        Cordonnier, Jaggi, NeurIPS 2018 (arXiv:1809.07599).
    """
    return compressed_gd(
        loss_fn,
        error_feedback(codec),
        learning_rate=learning_rate,
        batch_size=batch_size,
        downlink=downlink,
    )


@fixes(aggregator=MEMORY, uplink=CODEC)
def double_squeeze(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    learning_rate: float | Array,
    batch_size: int,
) -> Algorithm:
    """DoubleSqueeze: error feedback in both directions.

    It is :func:`ef14` with ``downlink=shifted(codec)``.  The server's model x moves by the mean of the
    clients' messages.  Clients compute at w, which moves by C(x - w); the error of the downlink is x -
    w.

    Guarantees:
        - With e the mean of the clients' residuals, x - gamma e moves like gradient descent with
          gradients at w, exactly.

    Bits:
        Those of the codec in both directions.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        codec: codec C of both directions, with delta > 0, such as ``top_k``.
        learning_rate: step size gamma; :func:`fjx.theory.double_squeeze` gives one that is proved.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.double_squeeze(
        ...     lambda w, x, key: (w - x).mean(), compressors.top_k(0.1),
        ...     learning_rate=0.1, batch_size=10)

    References:
        Tang, Yu, Lian, Zhang, Liu, *DoubleSqueeze: Parallel Stochastic Gradient Descent with Double-Pass
        Error-Compensated Compression*, ICML 2019 (arXiv:1905.05957).
    """
    return ef14(
        loss_fn,
        codec,
        learning_rate=learning_rate,
        batch_size=batch_size,
        downlink=shifted(codec),
    )


@fixes(aggregator=METHOD, uplink=METHOD)
def sign_sgd(
    loss_fn: LossFn,
    *,
    learning_rate: float | Array,
    batch_size: int,
    eta: float | Array = 1.0,
) -> Algorithm:
    """SignSGD with majority vote: one bit a coordinate, and a step of the same size in every coordinate.

    Each client votes with the signs of its stochastic gradient, or of an average of its gradients
    (Signum).

    Guarantees:
        - Half of the clients less one may vote against the others.
        - It does not converge in general if clients differ or noise is skewed, because the sign of a
          mean is not the mean of signs.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        learning_rate: size of the step.
        batch_size: number of examples in a batch.
        eta: weight of a new gradient in the average, in (0, 1].

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.sign_sgd(
        ...     lambda w, x, key: (w - x).mean(), learning_rate=0.01, batch_size=10)

    References:
        Bernstein, Wang, Azizzadenesheli, Anandkumar, *signSGD*, ICML 2018 (arXiv:1802.04434); Bernstein,
        Zhao, Azizzadenesheli, Anandkumar, *signSGD with Majority Vote*, ICLR 2019 (arXiv:1810.05291).
    """
    batch = batch_gradient(loss_fn, batch_size)
    return compose(
        client=clients.averaged(batch, eta=eta),
        aggregator=majority_vote(),
        server=server_sgd(learning_rate),
    )
