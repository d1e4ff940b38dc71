"""A compiled round that pays for a protocol and gives up where the protocol would."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Algorithm, Array, Cohort, Executor, Key, Metrics, Runs, Traffic, Tree
from fjx.data import FederatedData
from fjx.privacy import DistributedMechanism
from fjx.secure._graph import neighbours
from fjx.secure._halves import Layout, halves
from fjx.secure._play import play
from fjx.secure._protocol import Protocol
from fjx.secure._run import least_of, session_words
from fjx.secure._survivors import survivors

Steps = Callable[[Array, Array], Array]
"""``(round, ids) -> i32[m]``: the step of the protocol from which on each client sends nothing."""


def simulated(
    algorithm: Algorithm,
    protocol: Protocol,
    dataset: FederatedData,
    *,
    clients: int,
    bits: int = 32,
    leaves: Steps | None = None,
) -> Algorithm:
    """The same algorithm with the traffic and the aborts of a protocol, for simulation only.

    There is no security in it: :func:`fjx.simulate` adds as before, and no key is made.  Use it to learn
    what a protocol would cost, and how often it would give up, before you take :func:`run`.

    Clients drop out where the sampler says so, before the first step, and at the steps that ``leaves``
    names.  The graph of SecAgg+ is drawn in each round as :func:`run` draws it, so that a round is also
    given up for the neighbours of a single client.

    Guarantees:
        - Under the same key and the same dropouts, the model is that of :func:`run` after each round,
          and the same rounds are given up.  A cohort for which :func:`run` raises ValueError is one of
          them.
        - A round that is given up is one to which nobody came.  The metric ``given_up`` counts it.
        - ``traffic`` is that of one client in a sum of ``clients`` from which nobody drops out.  A
          client that stays pays no more in a sum from which others drop out.

    The ledger multiplies this traffic by the clients in the sum: it leaves out the messages of clients
    that dropped out and of rounds that were given up.  :func:`run` counts these.

    A plan whose noise is added once, on the server, refuses this algorithm: on cohorts of random size
    one client more may decide whether a round is given up, and no epsilon covers that.

    Bits:
        Those that the messages of :func:`play` have for vectors of zeros, with headers, keys and shares.
        They are measured when ``traffic`` is called, by a sum of ``clients`` parties on the host.

    Args:
        algorithm: algorithm that :func:`run` can run.
        protocol: protocol of the sums.
        dataset: clients' examples, of which only the shapes are read.
        clients: size of a cohort.
        bits: width of a coordinate in messages.
        leaves: ``(round, ids) -> i32[m]``, traced: the step from which on each client sends nothing.  A
            client that stays has the number of steps, ``len(protocol.steps)``, or more.  By default
            nobody leaves.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        TypeError: ``clients`` or ``bits`` is not an integer; the next model depends on a sum of floats
            (from ``traffic``).
        ValueError: ``clients`` or ``bits`` is out of range, or the protocol cannot add for so many
            clients.

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import aggregators, secure
        >>> dataset = fjx.data.from_clients([jnp.array([x]) for x in (1.0, 2.0, 6.0)])
        >>> algorithm = fjx.algorithms.fedavg(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2), client_lr=0.5, batch_size=1,
        ...     aggregator=aggregators.integer_mean(0.5, bits=8, clients=3))
        >>> paid = secure.simulated(algorithm, secure.bonawitz(), dataset, clients=3)
        >>> algorithm.traffic(jnp.array(0.0)).uplink, paid.traffic(jnp.array(0.0)).uplink
        (8, 4536)
    """
    clients = _validate.static_integer("clients", clients, at_least=1)
    bits = _validate.static_integer("bits", bits, at_least=1, at_most=64)
    protocol.fewest(clients)  # raises for cohorts that it cannot add
    least, summed = least_of(algorithm), protocol.steps.index("input")

    def counted(key: Key, round: Array, cohort: Cohort) -> Array:
        """The clients in the sum, of those that are present; none if the protocol gives up."""
        slots = len(cohort.ids)
        invited = cohort.ids < cohort.population
        count = jnp.sum(invited)
        present = cohort.weights > 0 if cohort.present is None else cohort.present
        left = slots * [len(protocol.steps)] if leaves is None else leaves(round, cohort.ids)
        steps = jnp.arange(len(protocol.steps))[:, None]
        there = (invited & present)[None, :] & (steps < jnp.asarray(left)[None, :])
        if protocol.degree is None:
            near = jnp.ones((slots, slots), bool)
        else:
            degree = jnp.asarray(_by_count(protocol.degree, slots))[count]
            near = neighbours(session_words(key), round, invited, degree)
        threshold = jnp.asarray(_by_count(protocol.fewest, slots))[count]
        found = survivors(near, threshold, there, summed)
        return found & (jnp.sum(found) >= least)

    def round(
        key: Key, state: Any, rows: Tree, cohort: Cohort, *, executor: Executor | None = None
    ) -> tuple[Any, Tree, Metrics]:
        present = counted(key, state.round, cohort)
        weights = jnp.where(present, cohort.weights, 0)
        cohort = cohort._replace(weights=weights, present=present)
        state, rows, metrics = algorithm.round(key, state, rows, cohort, executor=executor)
        given_up = {"given_up": (~jnp.any(present)).astype(jnp.int32)}
        return state, rows, _validate.disjoint(metrics, given_up)

    def traffic(params: Tree) -> Traffic:
        bill = play(protocol, np.zeros((clients, _coordinates(params)), np.int32), bits=bits).bill
        client = bill.of(0)
        return Traffic(
            uplink=8 * client.up, downlink=algorithm.traffic(params).downlink + 8 * client.down
        )

    def _coordinates(params: Tree) -> int:
        """The integers that a client sends."""

        def inputs() -> tuple[Any, ...]:
            model = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)
            row = algorithm.init_client(model)
            rows = jax.tree.map(lambda x: jnp.stack([x] * clients), row)
            cohort = dataset.cohort(jnp.arange(clients, dtype=jnp.int32))
            return jax.random.key(0), algorithm.init(model), rows, cohort

        shapes = jax.eval_shape(inputs)
        return Layout.of_round(halves(algorithm), *shapes, reals=protocol.reals).size

    return algorithm._replace(
        round=round, traffic=traffic, expected=None, runs=_runs(algorithm, round)
    )


def _by_count(number: Callable[[int], int], most: int) -> list[int]:
    """A number of the protocol for each size of a cohort; one more than it has where it cannot add."""
    pair = number(2)  # a sum of fewer clients than two is one that they do not reach

    def of(count: int) -> int:
        try:
            return number(max(count, 2)) if count >= 2 else pair
        except ValueError:
            return count + 1

    return [of(count) for count in range(most + 1)]


def _runs(algorithm: Algorithm, round: Any) -> Runs | None:
    """What the round runs; None if no claim of a plan covers that a round is given up.

    Whether enough clients are present may depend on one client, and then all of the sum does.  Only
    distributed noise is accounted for cohorts of fixed size, of which the count is public.
    """
    aggregator = algorithm.aggregator
    if aggregator is None or not algorithm.runs_its_aggregator:
        return None
    if not all(isinstance(one, DistributedMechanism) for one in aggregator.mechanisms):
        return None
    return Runs(aggregator, round)
