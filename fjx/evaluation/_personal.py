"""Evaluation of the models that clients use, and baselines without a federation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _tree, _validate
from fjx._base import (
    Algorithm,
    Array,
    ClientUpdate,
    Examples,
    Key,
    Metrics,
    ServerUpdate,
    Tree,
    Turn,
)
from fjx.clients import fine_tuned
from fjx.data import FederatedData, from_packed, on_device
from fjx.data._dataset import require_examples
from fjx.rounds._compose import compose
from fjx.simulation import Evaluate, Score
from fjx.simulation._evaluate import (
    OfState,
    _client_means,
    _Static,
    _sums,
    evaluated,
    subject_of,
)
from fjx.simulation._program import as_operand
from fjx.simulation._table import gather


def personal(score: Score, dataset: FederatedData, *, batch_size: int = 256) -> Evaluate:
    """Mean scores of each client's own model on its own examples, for ``simulate(evaluate=...)``.

    The model is ``algorithm.model_of``: a client of Ditto has its own, a client of FedRep its own head
    on the common body, and a client of FedAvg the common model.  Beside
    :func:`fjx.simulation.per_client`, which scores the common model, it says what personalising is
    worth to each client; see :func:`together`.

    Args:
        score: function ``(params, batch) -> {name: f32[b]}``, such as ``model.evaluate``.
        dataset: examples to evaluate, such as each client's held-out ones; client i has those of
            client i of the run.
        batch_size: examples evaluated at a time.

    Returns:
        An evaluation whose scores are ``f32[num_clients]``; clients without examples have NaN.

    Raises:
        ValueError: ``batch_size`` is below one, or no client has an example; the run has its examples
            or its states on the host, or another number of clients (when it begins).

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import evaluation
        >>> dataset = fjx.data.from_clients([jnp.array([1.0, 1.0]), jnp.array([3.0])])
        >>> algorithm = fjx.algorithms.fedavg(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2), client_lr=0.5, batch_size=2)
        >>> result = fjx.simulate(
        ...     jax.random.key(0), algorithm, jnp.array(0.0), dataset, sampler=fjx.samplers.full(),
        ...     rounds=1, evaluate=evaluation.personal(lambda w, x: {"gap": abs(w - x)}, dataset))
        >>> [round(x, 3) for x in result.history.evaluations["gap"][-1].tolist()]
        [0.667, 1.333]
    """
    batch_size = _validate.static_integer("batch_size", batch_size, at_least=1)
    require_examples(dataset)
    static = _Static((score, batch_size))
    return OfState(jax.tree_util.Partial(_own_scores, static, on_device(dataset)))  # type: ignore[return-value]


def tuned(
    score: Score,
    client: ClientUpdate,
    train: FederatedData,
    dataset: FederatedData,
    *,
    key: Key,
    batch_size: int = 256,
) -> Evaluate:
    """Mean scores of each client after local work that begins at its model: evaluation by fine-tuning.

    It is how Per-FedAvg and Reptile are evaluated, whose models are made to be trained a little.

    Args:
        score: function ``(params, batch) -> {name: f32[b]}``, such as ``model.evaluate``.
        client: the local work, such as ``clients.local_sgd(loss_fn, optax.sgd(0.1), steps=5,
            batch_size=20)``.
        train: examples for the local work.
        dataset: examples to evaluate, of the same clients.
        key: key of the local work; that of client i is ``fold_in(key, i)``.
        batch_size: examples evaluated at a time.

    Returns:
        An evaluation whose scores are ``f32[num_clients]``; clients without examples have NaN.

    Raises:
        TypeError: a legacy key, or ``client`` is no client update.
        ValueError: ``train`` and ``dataset`` have different numbers of clients.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, fjx
        >>> from fjx import evaluation
        >>> dataset = fjx.data.from_clients([jnp.array([1.0, 1.0]), jnp.array([3.0])])
        >>> def loss_fn(w, x, key):
        ...     return jnp.mean((w - x) ** 2)
        >>> client = fjx.clients.local_sgd(loss_fn, optax.sgd(0.25), steps=1, batch_size=2)
        >>> evaluate = evaluation.tuned(
        ...     lambda w, x: {"gap": abs(w - x)}, client, dataset, dataset, key=jax.random.key(1))
        >>> result = fjx.simulate(
        ...     jax.random.key(0),
        ...     fjx.algorithms.fedavg(loss_fn, client_lr=0.5, batch_size=2), jnp.array(0.0), dataset,
        ...     sampler=fjx.samplers.full(), rounds=1, evaluate=evaluate)
        >>> [round(x, 3) for x in result.history.evaluations["gap"][-1].tolist()]
        [0.333, 0.667]
    """
    _validate.key("key", key)
    batch_size = _validate.static_integer("batch_size", batch_size, at_least=1)
    require_examples(dataset)
    if train.num_clients != dataset.num_clients:
        raise ValueError(
            f"train has {train.num_clients} clients and dataset {dataset.num_clients}; "
            "give two parts of the same clients, as data.split_examples makes them"
        )
    static = _Static((score, batch_size, fine_tuned(client)))
    operands = on_device(train), on_device(dataset), key
    return OfState(jax.tree_util.Partial(_tuned_scores, static, *operands))  # type: ignore[return-value]


def together(**evaluations: Evaluate) -> Evaluate:
    """Several evaluations as one; a score is called by the name of its evaluation and its own.

    Args:
        **evaluations: evaluations by name.

    Returns:
        An evaluation for ``simulate(evaluate=...)``.

    Raises:
        ValueError: there is no evaluation.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import evaluation
        >>> evaluate = evaluation.together(
        ...     test=lambda w: {"gap": jnp.abs(w - 2)}, model=lambda w: {"norm": jnp.abs(w)})
        >>> {name: float(x) for name, x in evaluate(jnp.array(3.0)).items()}
        {'test_gap': 1.0, 'model_norm': 3.0}
    """
    if not evaluations:
        raise ValueError("together needs at least one evaluation, such as test=...")
    operands = {name: as_operand(evaluate) for name, evaluate in evaluations.items()}
    if any(isinstance(x, OfState) for x in operands.values()):
        return OfState(jax.tree_util.Partial(_each_of_state, operands))  # type: ignore[return-value]
    return jax.tree_util.Partial(_each, operands)


def centralised(dataset: FederatedData) -> FederatedData:
    """The baseline that a federation replaces: one client with the examples of all.

    Any algorithm runs on it by the same call, with ``samplers.full()``: FedAvg is then SGD on all
    examples, one pass a round.

    Args:
        dataset: clients' examples.

    Returns:
        A :class:`fjx.data.FederatedData` of one client, with the same ``test``.

    Examples:
        >>> import jax.numpy as jnp, fjx
        >>> from fjx import evaluation
        >>> dataset = fjx.data.from_clients([jnp.array([1.0, 2.0]), jnp.array([3.0])])
        >>> evaluation.centralised(dataset).client(0).tolist()
        [1.0, 2.0, 3.0]
    """
    require_examples(dataset)
    offsets = np.asarray(dataset.offsets)
    start, end = int(offsets[0]), int(offsets[-1])
    arrays = jax.tree.map(lambda x: np.asarray(x)[start:end], dataset.arrays)
    pooled = from_packed(arrays, np.array([end - start]), test=dataset.test)
    return pooled if dataset.hosted else on_device(pooled)


def local_only(client: ClientUpdate) -> Algorithm:
    """The baseline that a federation must beat: every client trains a model of its own, alone.

    It runs by the same call as any algorithm.  Its scores are those of :func:`personal`; the common
    model stays the initial one.

    Guarantees:
        - A client's model depends on its own examples alone.

    Bits:
        None, in either direction.

    Args:
        client: local work without state, such as :func:`fjx.clients.local_sgd`.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        TypeError: ``client`` is no client update.
        ValueError: ``client`` has a state (when it runs).

    Examples:
        >>> import jax, jax.numpy as jnp, optax, fjx
        >>> from fjx import evaluation
        >>> dataset = fjx.data.from_clients([jnp.array([1.0, 1.0]), jnp.array([3.0])])
        >>> algorithm = evaluation.local_only(fjx.clients.local_sgd(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2), optax.sgd(0.5), epochs=1, batch_size=2))
        >>> result = fjx.simulate(
        ...     jax.random.key(0), algorithm, jnp.array(0.0), dataset, sampler=fjx.samplers.full(),
        ...     rounds=1, evaluate=evaluation.personal(lambda w, x: {"gap": abs(w - x)}, dataset))
        >>> result.history.evaluations["gap"][-1].tolist(), result.ledger.uplink
        ([0.0, 0.0], 0)
    """
    if not isinstance(client, ClientUpdate):
        raise TypeError(f"local_only needs a fjx.ClientUpdate, got {client!r}")

    def update(
        key: Key, broadcast: Tree, model: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        state = client.init(model)
        if jax.tree.leaves(state):
            raise ValueError("local_only needs a client without state, such as clients.local_sgd")
        step, _, metrics = client.update(key, model, state, examples, turn)
        return (), _tree.add(model, step), metrics

    alone = ClientUpdate(
        init=lambda params: params,
        update=update,
        message=lambda params: (),
        personal=lambda broadcast, model: model,
    )
    server = ServerUpdate(
        init=_Unmoved, broadcast=lambda state: (), update=lambda state, message: state
    )
    return compose(client=alone, server=server)


class _Unmoved(NamedTuple):
    """State of a server that hears nothing.

    Attributes:
        params: initial model.
    """

    params: Tree


def _own_scores(
    static: tuple[Score, int], dataset: FederatedData, model_of: Any, state: Any
) -> Metrics:
    """Scores of the clients' models, one client after another."""

    def of(id: Array, window: Examples) -> Metrics:
        return _sums(static, _model(model_of, state, id), window)

    return _mapped(of, dataset, state)


def _tuned_scores(
    static: tuple[Score, int, Any],
    train: FederatedData,
    dataset: FederatedData,
    key: Key,
    model_of: Any,
    state: Any,
) -> Metrics:
    score, batch_size, tune = static

    def of(id: Array, window: Examples) -> Metrics:
        ids = id[None]
        own = jax.tree.map(lambda x: x[0], train.examples(ids)._replace(arrays=()))
        examples = own._replace(arrays=train.arrays)
        turn = Turn(state.round, id, jnp.int32(0))
        own_key = jax.random.fold_in(jax.random.clone(key), id)
        model = tune(own_key, _model(model_of, state, id), examples, turn)
        return _sums(_Static((score, batch_size)), model, window)

    return _mapped(of, dataset, state)


def _model(model_of: Any, state: Any, id: Array) -> Tree:
    """The model of one client."""
    row = jax.tree.map(lambda x: x[0], gather(state.clients, id[None]))
    return model_of(state.algorithm, row)


def _mapped(
    of: Callable[[Array, Examples], Metrics], dataset: FederatedData, state: Any
) -> Metrics:
    """Means of the clients from their sums; NaN for clients without examples."""
    clients = {x.shape[0] for x in jax.tree.leaves(state.clients)} - {dataset.num_clients}
    if clients:
        raise ValueError(
            f"the run has {clients.pop()} clients, and the dataset to evaluate has "
            f"{dataset.num_clients}; client i is evaluated on the examples of client i"
        )
    ids = jnp.arange(dataset.num_clients, dtype=jnp.int32)
    windows = dataset.examples(ids)
    sums = jax.lax.map(
        lambda client: of(client[0], Examples(windows.arrays, *client[1:])),
        (ids, windows.offset, windows.size),
    )
    with jax.debug_nans(False):
        return _client_means(sums, dataset.sizes)


def _each(operands: dict[str, Any], params: Tree) -> Metrics:
    return _named({name: evaluate(params) for name, evaluate in operands.items()})


def _each_of_state(operands: dict[str, Any], model_of: Any, state: Any) -> Metrics:
    return _named(
        {
            name: evaluated(evaluate, model_of, subject_of(evaluate, state))
            for name, evaluate in operands.items()
        }
    )


def _named(scores: dict[str, Metrics]) -> Metrics:
    return {f"{of}_{name}": x for of, found in scores.items() for name, x in found.items()}
