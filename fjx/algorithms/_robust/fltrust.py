"""FLTrust: the server trains on examples of its own, and trusts clients that move its way."""

from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, aggregators
from fjx._base import Algorithm, Array, Cohort, Examples, Executor, Key, Metrics, Runs, Tree, Turn
from fjx.algorithms._refuse import TRUST, fixes
from fjx.clients import LossFn
from fjx.clients._minibatch import client_sgd
from fjx.rounds._compose import Codecs, compose
from fjx.rounds._state import RoundState
from fjx.servers._sgd import server_sgd


@fixes(aggregator=TRUST)
def fltrust(
    loss_fn: LossFn,
    *,
    server_examples: Tree,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    server_lr: float | Array = 1.0,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    """FLTrust: FedAvg in which clients' messages are weighed by a message of the server.

    In each round the server trains on a small, clean set of examples as a client would.  Its message
    is the reference of :func:`fjx.aggregators.fltrust`.  It starts from the model itself, even if a
    downlink codec changes what clients start from.

    Guarantees:
        - In each round the model moves at most as far as the server's message is long, times the
          server's step size, and makes no obtuse angle with it, whatever any number of clients send.
        - If the server's message is not finite, the model stays.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        server_examples: examples of the server, a tree of arrays ``[k, ...]`` like one client's; the
            paper takes 100.
        client_lr: step size of SGD, of the clients and of the server's own training, or a schedule
            ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        server_lr: step size of the server along the aggregate.
        **codecs: ``uplink`` and ``downlink`` of :func:`fjx.compose`.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        ValueError: the server has no examples.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fltrust(
        ...     lambda w, x, key: ((w - x) ** 2).mean(), server_examples=jnp.ones(4),
        ...     client_lr=0.1, batch_size=2)

    References:
        Cao, Fang, Liu, Gong, *FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping*,
        NDSS 2021 (arXiv:2012.13995), algorithm 2.
    """
    sizes = {len(x) for x in jax.tree.leaves(server_examples)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            "fltrust: server_examples must be arrays with the same number of examples, at least one, "
            f"got lengths {sorted(sizes)}"
        )
    own = Examples(server_examples, jnp.int32(0), jnp.int32(sizes.pop()))
    client = client_sgd(loss_fn, client_lr, epochs, batch_size)
    inner = compose(
        client=client, aggregator=aggregators.fltrust(), server=server_sgd(server_lr), **codecs
    )

    def round(
        key: Key,
        state: RoundState,
        rows: Tree,
        cohort: Cohort,
        *,
        executor: Executor | None = None,
    ) -> tuple[RoundState, Tree, Metrics]:
        key_server, key_round = jax.random.split(key)
        params = state.params
        turn = Turn(state.round, cohort.population)  # an id that no client has
        message, _, _ = client.update(key_server, params, client.init(params), own, turn)
        message = _tree.where(_tree.all_finite(message), message, _tree.zeros_like(message))
        state = state._replace(aggregator=jax.tree.map(_tree.wide, message))
        return inner.round(key_round, state, rows, cohort, executor=executor)

    assert inner.aggregator is not None
    return inner._replace(round=round, runs=Runs(inner.aggregator, round, client))
