"""Evaluation on held-out examples: over all of them, or for each client."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Examples, Metrics, Tree
from fjx.data import FederatedData, on_device
from fjx.data._columns import arrays_of
from fjx.data._dataset import require_examples

Score = Callable[[Tree, Tree], Metrics]
"""A function ``(params, batch) -> {name: f32[b]}``, one number for each example of the batch."""


def evaluation(score: Score, examples: Tree, *, batch_size: int = 256) -> jax.tree_util.Partial:
    """Mean scores over a set of held-out examples, for ``simulate(evaluate=...)``.

    A ratio such as recall, F1 or AUC is no mean over examples: :func:`fjx.evaluation.counts` adds the
    counts from which it is computed.

    Guarantees:
        - The mean is over all examples; the short last batch counts with its real examples only.

    Args:
        score: function ``(params, batch) -> {name: f32[b]}``, such as ``model.evaluate``.
        examples: pytree of ``[n, ...]``, such as ``dataset.test``.  A table is read as a dict of its
            columns.
        batch_size: examples evaluated at a time.

    Returns:
        A function ``(params) -> {name: f32[]}``; it is a pytree whose leaves are the examples.

    Raises:
        ValueError: there are no examples; ``batch_size`` is below one.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import simulation
        >>> evaluate = simulation.evaluation(
        ...     lambda w, x: {"error": (w - x) ** 2}, jnp.array([0.0, 2.0, 4.0]), batch_size=2)
        >>> round(float(evaluate(jnp.array(2.0))["error"]), 4)
        2.6667
    """
    batch_size = _validate.static_integer("batch_size", batch_size, at_least=1)
    arrays = jax.tree.map(jnp.asarray, arrays_of(examples))
    sizes = {x.shape[0] if x.ndim else 0 for x in jax.tree.leaves(arrays)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"evaluation needs examples: at least one, and as many in every leaf; got {sizes}"
        )
    return jax.tree_util.Partial(_mean_scores, _Static((score, batch_size)), arrays)


def per_client(
    score: Score, dataset: FederatedData, *, batch_size: int = 256
) -> jax.tree_util.Partial:
    """Mean scores of every client, for fairness, personal accuracy and worst cases.

    In ``simulate(evaluate=...)`` its scores are kept after each block, as ``[evaluations, num_clients]``
    in the history.  They cost 4 bytes a score, client and evaluation, on the host and in each
    checkpoint, and each evaluation costs a pass over all examples of ``dataset``.

    Args:
        score: function ``(params, batch) -> {name: f32[b]}``.
        dataset: clients to evaluate, one after another.  The whole dataset is put on the device;
            evaluate a part of a large one with :func:`fjx.data.take_clients`.
        batch_size: examples evaluated at a time.

    Returns:
        A function ``(params) -> {name: f32[num_clients]}``; clients without examples have NaN.

    Raises:
        ValueError: ``batch_size`` is below one, or no client has an example.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import data, simulation
        >>> dataset = data.from_clients([jnp.array([1.0, 3.0]), jnp.array([5.0])])
        >>> evaluate = simulation.per_client(lambda w, x: {"error": (w - x) ** 2}, dataset)
        >>> evaluate(jnp.array(1.0))["error"].tolist()
        [2.0, 16.0]
    """
    batch_size = _validate.static_integer("batch_size", batch_size, at_least=1)
    require_examples(dataset)
    return jax.tree_util.Partial(_client_scores, _Static((score, batch_size)), on_device(dataset))


@jax.tree_util.register_static
class _Static(tuple):
    """Parts of an evaluation that are not arrays."""


def _mean_scores(static: tuple[Score, int], arrays: Tree, params: Tree) -> Metrics:
    size = jax.tree.leaves(arrays)[0].shape[0]
    sums = _sums(static, params, Examples(arrays, jnp.int32(0), jnp.int32(size)))
    return {name: total / size for name, total in sums.items()}


def _client_scores(static: tuple[Score, int], dataset: FederatedData, params: Tree) -> Metrics:
    sums = _client_sums(static, dataset, params)
    with jax.debug_nans(False):  # which searches for NaN that nobody intends, such as in the sums
        return _client_means(sums, dataset.sizes)


@jax.jit
def _client_sums(static: tuple[Score, int], dataset: FederatedData, params: Tree) -> Metrics:
    windows = dataset.examples(jnp.arange(dataset.num_clients, dtype=jnp.int32))
    return jax.lax.map(
        lambda window: _sums(static, params, Examples(windows.arrays, *window)),
        (windows.offset, windows.size),
    )


@jax.jit
def _client_means(sums: Metrics, sizes: Array) -> Metrics:
    """Means of the clients; a client without examples has a NaN that is selected, not computed."""
    count = jnp.maximum(sizes, 1).astype(jnp.float32)
    return {name: jnp.where(sizes > 0, total / count, jnp.nan) for name, total in sums.items()}


def _sums(static: tuple[Score, int], params: Tree, examples: Examples) -> Metrics:
    score, batch_size = static

    def add(step: Array, total: Metrics) -> Metrics:
        batch, mask = examples.batch(step, batch_size)
        values = score(params, batch)
        return {
            name: total[name] + jnp.sum(jnp.where(mask, values[name].astype(jnp.float32), 0.0))
            for name in total
        }

    with leaving_jax("score"):
        names = jax.eval_shape(lambda: score(params, examples.batch(0, batch_size)[0]))
    if not isinstance(names, Mapping):
        raise TypeError(f"score must return a dict of arrays, got {type(names).__name__}")
    for name, value in names.items():
        if value.shape != (batch_size,):
            raise ValueError(
                f"score must return one number per example: {name!r} has shape "
                f"{list(value.shape)}, wanted [{batch_size}]; a ratio (recall, F1, AUC) is no "
                "mean over examples: fjx.evaluation.counts adds up what it is made of"
            )
    batches = -(-examples.size // batch_size)
    return jax.lax.fori_loop(0, batches, add, dict.fromkeys(names, jnp.float32(0)))


class OfState(NamedTuple):
    """An evaluation of the models that clients use, which need their states.

    Attributes:
        scores: function ``(model_of, state) -> {name: scores}``, where ``model_of`` is that of the
            algorithm and ``state`` a :class:`fjx.simulation.SimulationState`.
    """

    scores: jax.tree_util.Partial


def subject_of(evaluate: Any, state: Any) -> Any:
    """The part of a run's state that an evaluation reads: all of it, or the common model."""
    return state if isinstance(evaluate, OfState) else state.params


def function_of(evaluate: Any) -> Any:
    """The function in an evaluation, without the arrays that it reads."""
    evaluate = evaluate.scores if isinstance(evaluate, OfState) else evaluate
    return getattr(evaluate, "func", evaluate)


def evaluated(evaluate: Any, model_of: Callable[[Any, Tree], Tree], subject: Any) -> Metrics:
    """The scores, with an error of its own if an evaluation needs values on the host."""
    with leaving_jax("evaluate"):
        if isinstance(evaluate, OfState):
            return evaluate.scores(model_of, subject)
        return evaluate(subject)


@contextlib.contextmanager
def leaving_jax(name: str) -> Iterator[None]:
    """Context of a call of the traced function ``name``.

    Raises:
        TypeError: the function asks for the values of a traced array, as NumPy and scikit-learn do.
    """
    try:
        yield
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        raise TypeError(
            f"{name} is compiled by JAX and cannot read the values of arrays, as NumPy and "
            "scikit-learn do; use jax.numpy, or run that part on the host: "
            "jax.pure_callback(function, jax.ShapeDtypeStruct((), jnp.float32), params), where "
            "function returns a numpy.float32"
        ) from error
