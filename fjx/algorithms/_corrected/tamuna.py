"""TAMUNA and CompressedScaffnew: Scaffnew in which a few clients send each coordinate."""

from functools import partial

from fjx import _validate, clients
from fjx._base import Algorithm, Array, Compressor
from fjx.aggregators import assigned_mean
from fjx.aggregators._assigned import owned
from fjx.algorithms._corrected.scaffnew import between_coins
from fjx.algorithms._refuse import MEMORY, METHOD, fixes
from fjx.clients import LossFn
from fjx.rounds._compose import compose


@fixes(aggregator=MEMORY, uplink=METHOD)
def tamuna(
    loss_fn: LossFn,
    *,
    num_clients: int,
    clients_per_round: int,
    owners: int,
    p: float | Array,
    learning_rate: float | Array,
    batch_size: int,
    seed: int | Array = 0,
    downlink: Compressor | None = None,
) -> Algorithm:
    r"""TAMUNA: Scaffnew in which c of n clients take part, and s of them send each coordinate.

    With q_i the mask of :func:`fjx.aggregators.assigned_mean`, x = (1 / s) sum q_i x_i and

    .. math:: h_i \leftarrow h_i + (\eta / \gamma) q_i (x - x_i), \qquad \eta = p n (s - 1) / (s (n - 1))

    The h_i of clients that do not take part stay as they are.

    Guarantees:
        - With full gradients and cohorts drawn uniformly it converges to the optimum.
        - The sum of the h_i of all clients stays zero, whichever clients come or drop out, even in a
          cohort of one.
        - With s = c = n it is :func:`scaffnew`, bit for bit.
        - A coordinate that none of its owners brings stays where it was.

    Bits:
        32 ceil(d s / c) up; down, as in :func:`scaffnew`.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        num_clients: population size n.
        clients_per_round: clients per round c, 2 to n, which is the size of the sampler's cohorts.
        owners: number s of clients that send a coordinate, 2 to c; few save most, and the paper's
            choice is 2 unless n exceeds d.
        p: probability of an average after a step, in (0, 1].
        learning_rate: step size gamma; :func:`fjx.theory.tamuna` gives one that is proved, and p.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        seed: seed of the coin.
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`, whose clients' state is h_i.

    Raises:
        TypeError: a number of clients is not an integer; (from ``init_client``) the model holds more
            than floating parameters.
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.tamuna(
        ...     lambda w, x, key: (w - x).mean(), num_clients=100, clients_per_round=10, owners=2,
        ...     p=0.1, learning_rate=0.1, batch_size=10)

    References:
        Condat, Agarsky, Malinovsky, Richtarik, *TAMUNA: Doubly Accelerated Federated Learning with Local
        Training, Compression, and Partial Participation*, 2023 (arXiv:2302.09832), algorithm 1.
    """
    n = _validate.static_integer("num_clients", num_clients, at_least=2)
    c = _validate.static_integer("clients_per_round", clients_per_round, at_least=2, at_most=n)
    s = _validate.static_integer("owners", owners, at_least=2, at_most=c)
    gradient = clients.gradient(loss_fn, batch_size=batch_size)
    eta = p * (n * (s - 1) / (s * (n - 1)))
    return compose(
        client=between_coins(
            gradient, p, learning_rate, seed, gain=eta, owns=partial(owned, clients=c, owners=s)
        ),
        aggregator=assigned_mean(clients=c, owners=s),
        downlink=downlink,
    )


@fixes(aggregator=MEMORY, uplink=METHOD)
def compressed_scaffnew(
    loss_fn: LossFn,
    *,
    num_clients: int,
    owners: int,
    p: float | Array,
    learning_rate: float | Array,
    batch_size: int,
    seed: int | Array = 0,
    downlink: Compressor | None = None,
) -> Algorithm:
    """CompressedScaffnew: Scaffnew of all n clients, s of whom send each coordinate.

    It is :func:`tamuna` with c = n.

    Guarantees:
        - Those of :func:`tamuna`.

    Bits:
        32 ceil(d s / n) up; down, as in :func:`scaffnew`.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        num_clients: population size n; all clients take part.
        owners: number s of clients that send a coordinate, 2 to n.
        p: probability of an average after a step, in (0, 1].
        learning_rate: step size gamma; :func:`fjx.theory.compressed_scaffnew` gives one that is proved,
            and p.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        seed: seed of the coin.
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`, whose clients' state is h_i.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.compressed_scaffnew(
        ...     lambda w, x, key: (w - x).mean(), num_clients=100, owners=2, p=0.1,
        ...     learning_rate=0.1, batch_size=10)

    References:
        Condat, Agarsky, Richtarik, *Provably Doubly Accelerated Federated Learning: The First
        Theoretically Successful Combination of Local Training and Communication Compression*, 2022
        (arXiv:2210.13277), algorithm 1.
    """
    return tamuna(
        loss_fn,
        num_clients=num_clients,
        clients_per_round=num_clients,
        owners=owners,
        p=p,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        downlink=downlink,
    )
