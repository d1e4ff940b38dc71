"""Rounds of an algorithm whose sums are those of a protocol."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import STACK, Algorithm, Array, Cohort, Executor, Key, Tree
from fjx._plan import Plan
from fjx.data import FederatedData
from fjx.privacy import DistributedMechanism, Epsilon
from fjx.samplers import Sampler
from fjx.secure._errors import TooFew
from fjx.secure._halves import Layout, halves
from fjx.secure._play import Bill, Transport, play
from fjx.secure._protocol import Protocol
from fjx.secure._selective import Selective
from fjx.simulation._program import (
    SimulationState,
    initial_state,
    require_parts,
    round_key,
    sampling_key,
)
from fjx.simulation._table import gather, scatter

Leaves = Callable[[int, tuple[int, ...]], Mapping[int, int]]
"""``(round, ids) -> {id: step}``: the step of the protocol from which on a client sends nothing."""


class SecureRound(NamedTuple):
    """One round of a secure run.

    Attributes:
        invited: ids of the clients in the cohort.
        survivors: ids of the clients in the sum; none if the protocol gave up.
        metrics: metrics that follow from the sum.
        bill: messages of the protocol; senders and receivers are places in ``invited``.
        aborted: reason for which the protocol gave up, or None.
    """

    invited: tuple[int, ...]
    survivors: tuple[int, ...]
    metrics: Mapping[str, float]
    bill: Bill
    aborted: TooFew | None


class SecureResult(NamedTuple):
    """Result of :func:`run`.

    Attributes:
        params: model after the last round.
        state: state of server and clients after the last round.
        rounds: reports of all rounds.
        privacy: claim of the plan for all rounds, if there is a plan.  It says if it holds against the
            server.
    """

    params: Tree
    state: SimulationState
    rounds: tuple[SecureRound, ...]
    privacy: Epsilon | None = None

    @property
    def bill(self) -> Bill:
        """The messages of all rounds."""
        return Bill(tuple(m for one in self.rounds for m in one.bill.messages))


def run(
    key: Key,
    algorithm: Algorithm,
    params: Tree,
    dataset: FederatedData,
    *,
    sampler: Sampler,
    rounds: int,
    protocol: Protocol | Selective,
    bits: int = 32,
    leaves: Leaves | None = None,
    transport: Callable[[], Transport] | None = None,
    executor: Executor | None = None,
    plan: Plan | None = None,
) -> SecureResult:
    """Run an algorithm for some rounds, whose sums are found by a protocol between parties.

    The compiled half of a round that belongs to the clients gives each client's contribution.  Its
    integers travel under the protocol, and the other half of the round is given their sum.  All parties
    run in this process, so that this is an experiment and no deployment; the model that the server
    broadcasts does not travel as bytes.

    Only integers on which the next model depends are sent.  Metrics that follow from anything else, such
    as the mean loss of the clients, are not known to the server and are left out.

    Guarantees:
        - The model is that of :func:`fjx.simulate` with the same key, to the bit, if nobody drops out.
          Clients that drop out before their contribution has come count as clients that the sampler
          left out.  Under :func:`ckks`, sums of floats are less than its precision off.  For this, XLA
          must train alike in a whole round and in its half; it is given the same options for both.
        - A round in which the protocol gives up is a round to which nobody came.
        - A sum of distributed noise is known of no fewer clients than its mechanism was calibrated for,
          ``clients - dropped`` of them: with fewer, the protocol gives up before it is known.
        - The secrets of a round are new random bytes, and none follows from ``key``.  Only the public id
          of a session does, which draws the graph of :func:`secagg_plus`.  Clients that know the key
          beforehand can choose who colludes by the graph.

    Args:
        key: root key of training and sampling; round t uses ``fold_in(key, t)``.
        algorithm: algorithm whose aggregator adds integers, such as
            :func:`fjx.aggregators.integer_mean` or :func:`fjx.aggregators.distributed`; or floats, such
            as :func:`fjx.aggregators.mean`, under :func:`ckks`.
        params: initial model.
        dataset: clients' examples, on the device.
        sampler: sampler of the participants of a round.
        rounds: number of rounds.
        protocol: protocol of the sums, such as :func:`secagg_plus`; or :func:`selective`.
        bits: width of a coordinate in messages.  With 32, sums wrap where those of the compiled round
            do; with fewer, integers that could add up to more are refused.
        leaves: ``(round, ids) -> {id: step}``, the dropouts of each round; none by default.
        transport: maker of a transport for each round; :func:`in_memory` by default.
        executor: executor of the clients' half; :func:`fjx.simulation.vectorized` by default.
        plan: plan from :func:`fjx.plan`, with distributed noise; a run that differs from it is refused.

    Returns:
        A :class:`SecureResult`.

    Raises:
        TypeError: an argument of a wrong type, or the next model depends on a sum of floats.
        ValueError: an argument out of range, the aggregator stacks, the dataset is on the host, the
            integers do not fit into ``bits``, the protocol cannot add for so many clients, or the run
            is not the planned one.
        Abort: a server was sent what no honest party sends.

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import aggregators, secure
        >>> dataset = fjx.data.from_clients([jnp.array([x]) for x in (1.0, 2.0, 6.0)])
        >>> algorithm = fjx.algorithms.fedavg(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2), client_lr=0.5, batch_size=1,
        ...     aggregator=aggregators.integer_mean(0.5, bits=8, clients=3))
        >>> result = secure.run(
        ...     jax.random.key(0), algorithm, jnp.array(0.0), dataset,
        ...     sampler=fjx.samplers.full(), rounds=2, protocol=secure.secagg_plus())
        >>> float(result.params), result.rounds[0].survivors
        (3.0, (0, 1, 2))
    """
    _validate.key("key", key)
    rounds = _validate.static_integer("rounds", rounds, at_least=1)
    require_parts(algorithm, dataset, sampler)
    part = protocol if isinstance(protocol, Selective) else None
    protocol = protocol.protocol if isinstance(protocol, Selective) else protocol
    if not isinstance(protocol, Protocol):
        raise TypeError(f"protocol must be a fjx.secure.Protocol, got {protocol!r}")
    if dataset.hosted:
        raise ValueError("secure.run needs its data on the device; use data.on_device(dataset)")
    if algorithm.aggregator is not None and algorithm.aggregator.combine is STACK:
        raise ValueError(
            "the aggregator needs every message by itself, and a secure sum gives their sum only; take "
            "an aggregator that sums.  Against Byzantine clients, bound each message by "
            "aggregators.norm_bounding, or sum securely in groups and give the groups' means to a "
            "robust rule (aggregators.aggregate)"
        )
    if plan is not None:
        _require_planned(plan, part or protocol, algorithm, dataset, sampler, rounds)
    sums = Sums(protocol, bits, leaves, transport, least_of(algorithm))
    parts = halves(algorithm, executor)
    state = initial_state(algorithm, params, dataset.num_clients)
    played: list[SecureRound] = []
    layout: Layout | None = None
    for number in range(rounds):
        sample = sampler.sample(sampling_key(key), state.round, dataset.num_clients)
        cohort = dataset.cohort(sample.ids, sample.taking_part)
        start = Start(round_key(key, state.round), state, cohort)
        if layout is None:
            layout = Layout.of_round(parts, *start.inputs, reals=protocol.reals)
            sums = sums if part is None else sums._replace(protocol=part.of(layout))
        each, kept = parts.clients(*start.inputs)
        added = _added(layout, start, each, sums, number)
        counted = np.zeros(len(cohort.ids), bool)
        counted[list(added.slots)] = True
        if not np.array_equal(counted, np.asarray(cohort.present)):
            # A client that is not in the sum has not taken part: its state is the one before.
            start = start._replace(cohort=dataset.cohort(sample.ids, jnp.asarray(counted)))
            _, kept = parts.clients(*start.inputs)
        server, rows, metrics = parts.server(*start.inputs, added.total, kept)
        clients = scatter(state.clients, cohort.ids, rows)
        state = SimulationState(state.round + 1, server, clients)
        known = {name: float(metrics[name]) for name in sorted(layout.metrics)}
        played.append(added.round._replace(metrics=known))
    privacy = None if plan is None else plan._replace(protocol=part or protocol).epsilon(rounds)
    return SecureResult(state.params, state, tuple(played), privacy)


def _require_planned(
    plan: Plan,
    protocol: Protocol | Selective,
    algorithm: Algorithm,
    dataset: FederatedData,
    sampler: Sampler,
    rounds: int,
) -> None:
    """Checks that a run is the planned one, and that its claim covers rounds that are given up.

    Raises:
        ValueError: it differs, or noise is added after the sum.
    """
    sizes = np.diff(np.asarray(dataset.offsets))
    plan.check(algorithm, sampler, num_clients=dataset.num_clients, rounds=rounds, sizes=sizes)
    if plan.protocol is not None and plan.protocol.name != protocol.name:
        raise ValueError(
            f"the protocol is {protocol.name!r}, and {plan.protocol.name!r} was planned: plan with "
            "this one"
        )
    if not isinstance(plan.mechanism, DistributedMechanism):
        raise ValueError(
            "the planned noise is added after the sum, and one client may decide whether there is a "
            "sum: take a mechanism whose noise comes from the clients, such as "
            "privacy.distributed_gaussian"
        )


class Sums(NamedTuple):
    """The way in which a round adds: see the arguments of :func:`run`."""

    protocol: Protocol
    bits: int
    leaves: Leaves | None
    transport: Callable[[], Transport] | None
    least: int


def least_of(algorithm: Algorithm) -> int:
    """The fewest clients whose noise is as much as the mechanisms of an algorithm promise."""
    mechanisms = () if algorithm.aggregator is None else algorithm.aggregator.mechanisms
    return max([1, *(m.least for m in mechanisms if isinstance(m, DistributedMechanism))])


class Start(NamedTuple):
    """The inputs of a round."""

    key: Key
    state: SimulationState
    cohort: Cohort

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The arguments of both halves."""
        rows = gather(self.state.clients, self.cohort.ids)
        return self.key, self.state.algorithm, rows, self.cohort


class Added(NamedTuple):
    """The sum of a round, the slots of the clients in it, and the report without metrics."""

    total: Tree
    slots: tuple[int, ...]
    round: SecureRound


def session_words(key: Key) -> Array:
    """The id of a round's session, ``u32[4]``, from the round's key: public, and it draws the graph."""
    return jax.random.bits(jax.random.fold_in(key, _SESSION), (4,), jnp.uint32)


_SESSION = 2**32 - 2
"""A number by which nothing else is folded into the key of a round."""


def _added(layout: Layout, start: Start, each: Tree, sums: Sums, number: int) -> Added:
    """The sum of the contributions of a cohort under the protocol."""
    cohort = start.cohort
    ids, present = np.asarray(cohort.ids), np.asarray(cohort.present)
    slots = np.flatnonzero(ids < int(cohort.population))
    invited = tuple(int(i) for i in ids[slots])
    schedule = {} if sums.leaves is None else dict(sums.leaves(number, invited))
    if not set(schedule) <= set(invited):
        raise ValueError(
            f"leaves names clients {sorted(set(schedule) - set(invited))} in round {number}, and only "
            f"{invited} are invited"
        )
    left = {place: schedule[i] for place, i in enumerate(invited) if i in schedule}
    left |= {place: 0 for place, slot in enumerate(slots) if not present[slot]}
    vectors = layout.vectors(jax.tree.map(lambda x: np.asarray(x)[slots], each), sums.bits)
    try:
        outcome = play(
            sums.protocol,
            vectors,
            bits=sums.bits,
            leaves=left,
            least=sums.least,
            round=number,
            session_id=np.asarray(session_words(start.key)).astype("<u4").tobytes(),
            transport=None if sums.transport is None else sums.transport(),
        )
    except TooFew as abort:
        return Added(layout.zeros(), (), SecureRound(invited, (), {}, abort.bill, abort))
    survivors = tuple(invited[place] for place in outcome.survivors)
    return Added(
        layout.totals(outcome.total, outcome.signed),
        tuple(int(slots[place]) for place in outcome.survivors),
        SecureRound(invited, survivors, {}, outcome.bill, None),
    )
