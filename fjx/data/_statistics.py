"""Statistics and pictures of a partition."""

from typing import Any, NamedTuple

import numpy as np

from fjx.data._columns import complete
from fjx.data._dataset import FederatedData, require_examples


class Statistics(NamedTuple):
    """Distribution of examples and labels over the clients of a dataset.

    Attributes:
        sizes: ``i64[num_clients]``, number of examples of each client.
        labels: the distinct labels, sorted.
        counts: ``i64[num_clients, labels]``, number of examples of each label at each client.
        label_skew: ``f64[num_clients]``, total-variation distance of a client's label distribution
            from that of all clients together.  0 is IID, close to 1 is disjoint; NaN for a client
            without examples.
        effective_classes: ``f64[num_clients]``, exp(entropy) of a client's label distribution: the
            number of equally frequent classes with that entropy; NaN for a client without examples.
    """

    sizes: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    label_skew: np.ndarray
    effective_classes: np.ndarray


def statistics(dataset: FederatedData, labels: Any) -> Statistics:
    """Sizes and label distributions of the clients.

    Args:
        dataset: the federated dataset.
        labels: ``[total]``, label of each example in the dataset's order, such as
            ``dataset.arrays["y"]``.

    Returns:
        A :class:`Statistics`.

    Raises:
        ValueError: the number of labels differs from the number of examples, or a label is missing
            (NaN).

    Examples:
        >>> import numpy as np
        >>> from fjx import data
        >>> dataset = data.from_clients([np.array([0, 0]), np.array([0, 1])])
        >>> found = data.statistics(dataset, dataset.arrays)
        >>> found.counts.tolist(), found.label_skew.tolist(), found.effective_classes.tolist()
        ([[2, 0], [1, 1]], [0.25, 0.25], [1.0, 2.0])
    """
    offsets, labels = np.asarray(dataset.offsets).astype(np.int64), complete("labels", labels)
    if labels.shape != (offsets[-1],):
        raise ValueError(f"labels must be a vector of {offsets[-1]}, got {list(labels.shape)}")
    sizes = np.diff(offsets)
    names, code = np.unique(labels, return_inverse=True)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.zeros((len(sizes), len(names)), np.int64)
    np.add.at(counts, (owner, code), 1)
    share = counts / np.where(sizes > 0, sizes, np.nan)[:, None]
    skew = np.abs(share - counts.sum(0) / max(len(labels), 1)).sum(1) / 2
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1)), axis=1)
    return Statistics(sizes, names, counts, skew, np.exp(entropy))


def plot_partition(dataset: FederatedData, labels: Any, *, most: int = 40) -> Any:
    """Picture of the clients' label counts: stacked bars, or a heat map for more than ten labels.

    Args:
        dataset: the federated dataset.
        labels: ``[total]``, label of each example in the dataset's order.
        most: number of clients to draw, the first ones.

    Returns:
        A matplotlib Figure.

    Raises:
        ImportError: matplotlib is not installed (the extra ``examples``).
        ValueError: the number of labels differs from the number of examples, a label is missing (NaN),
            or no client has an example.

    Examples:
        >>> import numpy as np
        >>> from fjx import data
        >>> dataset = data.from_clients([np.array([0, 0]), np.array([0, 1])])
        >>> figure = data.plot_partition(dataset, dataset.arrays)
        >>> len(figure.axes)
        1
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'fjx[examples]'") from error
    require_examples(dataset)
    found = statistics(dataset, labels)
    drawn = found.counts[:most]
    figure = Figure(figsize=(8, 0.9 + 0.17 * len(drawn)), layout="constrained")
    axes = figure.add_subplot()
    if len(found.labels) <= 10:  # the number of colours that readers can tell apart
        left = np.zeros(len(drawn))
        for label, column in zip(found.labels, drawn.T, strict=True):
            axes.barh(np.arange(len(drawn)), column, left=left, height=0.9, label=str(label))
            left += column
        axes.set(xlabel="examples", ylabel="client", ylim=(-0.6, len(drawn) - 0.4))
        axes.legend(title="label", loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        image = axes.imshow(drawn, aspect="auto", origin="lower", cmap="Blues")
        axes.set(xlabel="label, by rank", ylabel="client")
        figure.colorbar(image, label="examples")
    axes.set_title(
        f"{len(drawn)} of {dataset.num_clients} clients, mean label skew "
        f"{np.nanmean(found.label_skew):.2f}"
    )
    return figure
