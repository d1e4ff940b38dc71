"""Evaluation on held-out examples: over all of them, or for each client."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Examples, Metrics, Tree
from fjx.data import FederatedData, on_device

Score = Callable[[Tree, Tree], Metrics]
"""A function ``(params, batch) -> {name: f32[b]}``, one number for each example of the batch."""


def evaluation(score: Score, examples: Tree, *, batch_size: int = 256) -> jax.tree_util.Partial:
    """Mean scores over a set of held-out examples, for ``simulate(evaluate=...)``.

    Guarantees:
        - The mean is over all examples; the short last batch counts with its real examples only.

    Args:
        score: function ``(params, batch) -> {name: f32[b]}``, such as ``model.evaluate``.
        examples: pytree of ``[n, ...]``, such as ``dataset.test``.
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
    arrays = jax.tree.map(jnp.asarray, examples)
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

    Args:
        score: function ``(params, batch) -> {name: f32[b]}``.
        dataset: clients to evaluate, one after another.  The whole dataset is put on the device;
            evaluate a part of a large one with :func:`fjx.data.take_clients`.
        batch_size: examples evaluated at a time.

    Returns:
        A function ``(params) -> {name: f32[num_clients]}``; clients without examples have NaN.

    Raises:
        ValueError: ``batch_size`` is below one.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import data, simulation
        >>> dataset = data.from_clients([jnp.array([1.0, 3.0]), jnp.array([5.0])])
        >>> evaluate = simulation.per_client(lambda w, x: {"error": (w - x) ** 2}, dataset)
        >>> evaluate(jnp.array(1.0))["error"].tolist()
        [2.0, 16.0]
    """
    batch_size = _validate.static_integer("batch_size", batch_size, at_least=1)
    return jax.tree_util.Partial(_client_scores, _Static((score, batch_size)), on_device(dataset))


@jax.tree_util.register_static
class _Static(tuple):
    """Parts of an evaluation that are not arrays."""


def _mean_scores(static: tuple[Score, int], arrays: Tree, params: Tree) -> Metrics:
    size = jax.tree.leaves(arrays)[0].shape[0]
    return _scores(static, params, Examples(arrays, jnp.int32(0), jnp.int32(size)))


@jax.jit
def _client_scores(static: tuple[Score, int], dataset: FederatedData, params: Tree) -> Metrics:
    windows = dataset.examples(jnp.arange(dataset.num_clients, dtype=jnp.int32))
    return jax.lax.map(
        lambda window: _scores(static, params, Examples(windows.arrays, *window)),
        (windows.offset, windows.size),
    )


def _scores(static: tuple[Score, int], params: Tree, examples: Examples) -> Metrics:
    score, batch_size = static

    def add(step: Array, total: Metrics) -> Metrics:
        batch, mask = examples.batch(step, batch_size)
        values = score(params, batch)
        return {
            name: total[name] + jnp.sum(jnp.where(mask, values[name].astype(jnp.float32), 0.0))
            for name in total
        }

    names = jax.eval_shape(lambda: score(params, examples.batch(0, batch_size)[0]))
    if not isinstance(names, Mapping):
        raise TypeError(f"score must return a dict of arrays, got {type(names).__name__}")
    for name, value in names.items():
        if value.shape != (batch_size,):
            raise ValueError(
                f"score must return one number per example: {name!r} has shape "
                f"{list(value.shape)}, wanted [{batch_size}]"
            )
    batches = -(-examples.size // batch_size)
    total = jax.lax.fori_loop(0, batches, add, dict.fromkeys(names, jnp.float32(0)))
    return {name: value / examples.size.astype(jnp.float32) for name, value in total.items()}
