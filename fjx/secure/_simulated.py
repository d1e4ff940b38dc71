"""A compiled round that pays for a protocol and gives up where the protocol would."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Algorithm, Cohort, Executor, Key, Metrics, Runs, Traffic, Tree
from fjx.data import FederatedData
from fjx.privacy import DistributedMechanism
from fjx.secure._halves import Layout, halves
from fjx.secure._play import play
from fjx.secure._protocol import Protocol
from fjx.secure._run import least_of


def simulated(
    algorithm: Algorithm,
    protocol: Protocol,
    dataset: FederatedData,
    *,
    clients: int,
    bits: int = 32,
) -> Algorithm:
    """The same algorithm with the traffic and the aborts of a protocol, for simulation only.

    There is no security in it: :func:`fjx.simulate` adds as before, and no key is made.  Use it to learn
    what a protocol would cost, and how often it would give up, before you take :func:`run`.

    Guarantees:
        - In a round from which nobody drops out the model is that of ``algorithm``.
        - A round in which fewer clients are present than the protocol needs is one to which nobody came.
          The metric ``given_up`` counts it.
        - ``traffic`` is that of one client in a sum of ``clients`` from which nobody drops out.

    A plan whose noise is added once, on the server, refuses this algorithm: on cohorts of random size
    one client more may decide whether a round is given up, and no epsilon covers that.

    The aborts are those of clients that drop out before the first step.  Those of SecAgg+ that come from
    the neighbours of one client are not reproduced.

    Bits:
        Those that the messages of :func:`play` have for vectors of zeros, with headers, keys and shares.
        They are measured when ``traffic`` is called, by a sum of ``clients`` parties on the host.

    Args:
        algorithm: algorithm that :func:`run` can run.
        protocol: protocol of the sums.
        dataset: clients' examples, of which only the shapes are read.
        clients: size of a cohort.
        bits: width of a coordinate in messages.

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
    fewest = max(protocol.fewest(clients), least_of(algorithm))

    def round(
        key: Key, state: Any, rows: Tree, cohort: Cohort, *, executor: Executor | None = None
    ) -> tuple[Any, Tree, Metrics]:
        present = cohort.weights > 0 if cohort.present is None else cohort.present
        enough = jnp.sum(present) >= fewest
        cohort = cohort._replace(
            weights=jnp.where(enough, cohort.weights, 0), present=present & enough
        )
        state, rows, metrics = algorithm.round(key, state, rows, cohort, executor=executor)
        given_up = {"given_up": (~enough).astype(jnp.int32)}
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
