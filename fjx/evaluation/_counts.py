"""Counts that are added over examples and clients: confusion matrices and histograms of scores."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Examples, Metrics, Tree
from fjx.data import FederatedData, on_device
from fjx.data._columns import arrays_of
from fjx.data._dataset import require_examples
from fjx.simulation._evaluate import leaving_jax

Count = Callable[[Tree, Tree, Array], Metrics]
"""A function ``(params, batch, mask) -> {name: sums}``.

A sum is over the examples of the batch where ``mask`` (``bool[b]``) is true, in any shape.  Sums of
integers are exact below 2^31.
"""


def counts(count: Count, examples: Tree, *, batch_size: int = 256) -> jax.tree_util.Partial:
    """Sums over a set of held-out examples, for ``simulate(evaluate=...)``.

    A ratio of sums is no mean over examples: divide after everything was added, as :func:`f1` does.

    Args:
        count: function ``(params, batch, mask) -> {name: sums}``, such as :func:`confusion`.
        examples: pytree of ``[n, ...]``, such as ``dataset.test``.
        batch_size: examples counted at a time.

    Returns:
        A function ``(params) -> {name: sums}``; it is a pytree whose leaves are the examples.

    Raises:
        ValueError: there are no examples; ``batch_size`` is below one.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import evaluation
        >>> count = evaluation.confusion(lambda w, batch: batch["x"] > w, classes=2)
        >>> test = {"x": jnp.array([0.1, 0.6, 0.9]), "y": jnp.array([0, 0, 1])}
        >>> evaluation.counts(count, test)(jnp.array(0.5))["confusion"].tolist()
        [[1, 1], [0, 1]]
    """
    batch_size = _validate.static_integer("batch_size", batch_size, at_least=1)
    arrays = jax.tree.map(jnp.asarray, arrays_of(examples))
    sizes = {x.shape[0] if x.ndim else 0 for x in jax.tree.leaves(arrays)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"counts needs examples: at least one, and as many in every leaf; got {sizes}"
        )
    return jax.tree_util.Partial(_whole, _Static((count, batch_size)), arrays)


def counts_per_client(
    count: Count, dataset: FederatedData, *, batch_size: int = 256
) -> jax.tree_util.Partial:
    """Sums over each client's examples; their sum over clients is that over all examples.

    Args:
        count: function ``(params, batch, mask) -> {name: sums}``, such as :func:`confusion`.
        dataset: clients to evaluate, one after another.
        batch_size: examples counted at a time.

    Returns:
        A function ``(params) -> {name: [num_clients, ...]}``; clients without examples have zeros.

    Raises:
        ValueError: ``batch_size`` is below one, or no client has an example.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import data, evaluation
        >>> count = evaluation.confusion(lambda w, batch: batch["x"] > w, classes=2)
        >>> one = {"x": jnp.array([0.1, 0.6]), "y": jnp.array([0, 0])}
        >>> two = {"x": jnp.array([0.9]), "y": jnp.array([1])}
        >>> evaluate = evaluation.counts_per_client(count, data.from_clients([one, two]))
        >>> tables = evaluate(jnp.array(0.5))["confusion"]
        >>> tables.tolist(), evaluation.recall(tables.sum(0), average=None).tolist()
        ([[[1, 1], [0, 0]], [[0, 0], [0, 1]]], [0.5, 1.0])
    """
    batch_size = _validate.static_integer("batch_size", batch_size, at_least=1)
    require_examples(dataset)
    return jax.tree_util.Partial(_by_client, _Static((count, batch_size)), on_device(dataset))


def confusion(predict: Callable[[Tree, Tree], Array], *, classes: int, labels: str = "y") -> Count:
    """Count of a confusion matrix: rows are true classes, and columns are predictions.

    Args:
        predict: function ``(params, batch) -> i[b]``, the predicted classes, such as
            ``jnp.argmax(model.apply(params, batch["x"]), -1)``.  Booleans are classes 0 and 1.
        classes: number of classes.
        labels: name of the true classes in a batch.  A negative label is padding.

    Returns:
        A :data:`Count` of ``{"confusion": i32[classes, classes], "outside": i32[]}``.  An example whose
        label or prediction is no class is in no cell; ``outside`` is their number.

    Raises:
        TypeError: predictions or labels are floats (when it is traced).
        ValueError: ``classes`` is below two; the shapes of predictions and labels differ.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import evaluation
        >>> count = evaluation.confusion(lambda _, batch: batch["guess"], classes=3)
        >>> batch = {"guess": jnp.array([0, 2, 1]), "y": jnp.array([0, 1, 1])}
        >>> count((), batch, jnp.array([True, True, False]))["confusion"].tolist()
        [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    """
    classes = _validate.static_integer("classes", classes, at_least=2)

    def count(params: Tree, batch: Tree, mask: Array) -> Metrics:
        guess, truth = predict(params, batch), batch[labels]
        for name, x in (("predict", guess), (f"batch[{labels!r}]", truth)):
            if jnp.issubdtype(x.dtype, jnp.inexact):
                raise TypeError(
                    f"{name} must be classes, which are integers, got {x.dtype}; "
                    "jnp.argmax(scores, -1) gives them"
                )
        if guess.shape != truth.shape:
            raise ValueError(
                f"predict must return one class for each of the labels {list(truth.shape)}, "
                f"got shape {list(guess.shape)}"
            )
        guess, truth = guess.astype(jnp.int32), truth.astype(jnp.int32)
        shown = mask.reshape(-1, *(1,) * (truth.ndim - 1)) & (truth >= 0)
        known = (truth < classes) & (guess >= 0) & (guess < classes)
        # An index past the end is dropped; one below zero would count from the end.
        row = jnp.where(shown & known, truth, classes)
        table = jnp.zeros((classes, classes), jnp.int32).at[row, guess].add(1, mode="drop")
        return {"confusion": table, "outside": jnp.sum(shown & ~known, dtype=jnp.int32)}

    return count


def score_histogram(
    predict: Callable[[Tree, Tree], Array], *, bins: int = 1000, labels: str = "y"
) -> Count:
    """Count of a histogram of scores between 0 and 1, for :func:`auc`.

    Args:
        predict: function ``(params, batch) -> f[b]``, scores between 0 and 1 that are larger for class
            1, such as ``jax.nn.sigmoid`` of a logit.  Scores outside fall into the outer bins.
        bins: number of bins of equal width.
        labels: name of the true classes in a batch, 0 or 1.  A negative one is padding.

    Returns:
        A :data:`Count` of ``{"histogram": i32[2, bins + 1]}``, a row for each class; the last column
        counts scores that are NaN.

    Raises:
        ValueError: ``bins`` is below two; the shapes of scores and labels differ (when it is traced).

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import evaluation
        >>> count = evaluation.score_histogram(lambda _, batch: batch["score"], bins=2)
        >>> batch = {"score": jnp.array([0.2, 0.9, 1.0]), "y": jnp.array([0, 0, 1])}
        >>> count((), batch, jnp.ones(3, bool))["histogram"].tolist()
        [[1, 1, 0], [0, 1, 0]]
    """
    bins = _validate.static_integer("bins", bins, at_least=2)

    def count(params: Tree, batch: Tree, mask: Array) -> Metrics:
        score, truth = predict(params, batch), batch[labels].astype(jnp.int32)
        if score.shape != truth.shape:
            raise ValueError(
                f"predict must return one score for each of the labels {list(truth.shape)}, "
                f"got shape {list(score.shape)}"
            )
        unknown = jnp.isnan(score)
        place = jnp.where(unknown, jnp.zeros_like(score), jnp.clip(score, 0, 1)) * bins
        place = jnp.where(unknown, bins, jnp.minimum(place.astype(jnp.int32), bins - 1))
        row = jnp.where(mask & (truth >= 0), truth, 2)
        table = jnp.zeros((2, bins + 1), jnp.int32)
        return {"histogram": table.at[row, place].add(1, mode="drop")}

    return count


@jax.tree_util.register_static
class _Static(tuple):
    """Parts of an evaluation that are not arrays."""


def _whole(static: tuple[Count, int], arrays: Tree, params: Tree) -> Metrics:
    size = jax.tree.leaves(arrays)[0].shape[0]
    return _added(static, params, Examples(arrays, jnp.int32(0), jnp.int32(size)))


@jax.jit
def _by_client(static: tuple[Count, int], dataset: FederatedData, params: Tree) -> Metrics:
    windows = dataset.examples(jnp.arange(dataset.num_clients, dtype=jnp.int32))
    return jax.lax.map(
        lambda window: _added(static, params, Examples(windows.arrays, *window)),
        (windows.offset, windows.size),
    )


def _added(static: tuple[Count, int], params: Tree, examples: Examples) -> Metrics:
    """Sums over the batches of one window of examples."""
    count, batch_size = static

    def of(step: Array) -> Metrics:
        return count(params, *examples.batch(step, batch_size))

    with leaving_jax("count"):
        like = jax.eval_shape(of, jnp.int32(0))
    if not isinstance(like, Mapping):
        raise TypeError(f"count must return a dict of arrays, got {type(like).__name__}")
    total = {name: jnp.zeros(x.shape, x.dtype) for name, x in like.items()}
    batches = -(-examples.size // batch_size)
    return jax.lax.fori_loop(
        0, batches, lambda step, total: jax.tree.map(jnp.add, total, dict(of(step))), total
    )
