"""Partitions: assignments of the examples of a central dataset to clients.

A partition is a list with one array of example indices per client.  It is made once, on the host.
:func:`split` then packs the examples of each client.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fjx import _validate
from fjx._base import Key, Tree
from fjx.data._columns import arrays_of, complete
from fjx.data._dataset import FederatedData, pack

Partition = Sequence[np.ndarray]
"""One array of example indices per client; no index is repeated."""


def split(
    examples: Tree, partition: Partition, *, test: Tree | None = None, hosted: bool = False
) -> FederatedData:
    """Federated dataset from central examples and a partition.

    Args:
        examples: pytree of ``[n, ...]``.  A table of pandas, Polars, Arrow or Hugging Face is read as a
            dict of its columns.
        partition: indices of the examples of each client.
        test: central test examples.
        hosted: True to keep the dataset on the host, for data larger than the device; see
            :func:`fjx.data.on_host`.

    Returns:
        A :class:`fjx.data.FederatedData`.

    Raises:
        TypeError: the partition holds a mask or floats in place of indices; a leaf or a column holds
            texts, dates or objects.
        ValueError: there are no clients; an index is out of range or repeated; a column of a table has
            missing values.

    Examples:
        >>> import numpy as np
        >>> from fjx import data
        >>> data.split(np.array([10, 11, 12]), [[2], [0, 1]]).arrays.tolist()
        [12, 10, 11]
    """
    arrays = arrays_of(examples)
    shapes = [x.shape for x in jax.tree.leaves(arrays)]
    if len({shape[:1] for shape in shapes}) != 1 or not shapes[0]:
        raise ValueError(f"examples must have one leading axis, got arrays of shapes {shapes}")
    if not len(partition):
        raise ValueError("a partition needs at least one client, got none")
    (total,) = shapes[0][:1]
    order = np.concatenate([indices("partition", part) for part in partition])
    if order.size and (order.min() < 0 or order.max() >= total):
        raise ValueError(
            f"partition must hold indices in [0, {total}), got {order.min()} to {order.max()}"
        )
    if np.unique(order).size != order.size:
        raise ValueError("partition must give each example to one client; an index occurs twice")
    lengths = np.array([len(part) for part in partition])
    arrays = jax.tree.map(lambda x: x[order], arrays)
    return pack(arrays, lengths, test=test, hosted=hosted)


def iid(key: Key, num_examples: int, *, num_clients: int) -> Partition:
    """Uniformly random partition into parts of equal size.

    Guarantees:
        - Every example is used.
        - Sizes differ by at most one.

    Args:
        key: a typed key.
        num_examples: number of examples n.
        num_clients: number of clients, at most n.

    Returns:
        A partition.

    Raises:
        ValueError: there are more clients than examples.

    Examples:
        >>> import jax
        >>> from fjx import data
        >>> [len(part) for part in data.iid(jax.random.key(0), 10, num_clients=3)]
        [4, 3, 3]
    """
    _enough(num_examples, num_clients, 1, remedy="num_clients")
    return np.array_split(generator(key).permutation(num_examples), num_clients)


def dirichlet(
    key: Key, labels: Any, *, num_clients: int, alpha: float, min_size: int = 1
) -> Partition:
    """Label skew: each class is distributed over the clients in Dirichlet(alpha) proportions.

    For each class independently p ~ Dir(alpha 1) over the clients, and client k gets a share p_k of the
    class.  With a small alpha clients have few classes and unequal sizes; with a large alpha the
    partition is nearly IID.

    Shares are rounded to whole examples.  A client that gets less than its share of one class is owed
    the rest, and comes first in the next class.  So the size of a client is near the sum of its shares,
    even if there are more clients than examples of a class.

    Afterwards a client with fewer than ``min_size`` examples receives random examples of the largest
    client, one at a time.  Hence the partition exists for any number of classes and clients.

    Guarantees:
        - Every example is used.
        - Every client has at least ``min_size`` examples.
        - Sizes grow more equal as alpha grows, for any number of clients; as alpha tends to infinity
          they differ by at most one.
        - The construction always terminates.

    Args:
        key: a typed key.
        labels: ``i[n]``.
        num_clients: number of clients, at most ``n / min_size``.
        alpha: concentration, positive.
        min_size: smallest number of examples of a client.

    Returns:
        A partition.

    Raises:
        ValueError: a number is out of range, a label is missing (NaN), or there are too few examples.

    Examples:
        >>> import jax, numpy as np
        >>> from fjx import data
        >>> parts = data.dirichlet(
        ...     jax.random.key(0), np.arange(200) % 10, num_clients=5, alpha=0.1)
        >>> sum(map(len, parts)), min(map(len, parts)) >= 1
        (200, True)

    References:
        Yurochkin et al., *Bayesian Nonparametric Federated Learning of Neural Networks*, ICML 2019
        (arXiv:1905.12022), for proportions by class; Hsu, Qi, Brown 2019 (arXiv:1909.06335) draw
        them by client.
    """
    alpha = _validate.static_number("alpha", alpha, above=0)
    alpha = min(float(alpha), 1e9)  # practically infinite, and sums of gamma draws do not overflow
    labels = _vector("labels", labels)
    _enough(len(labels), num_clients, min_size)
    rng = generator(key)
    owner, owed = np.empty(len(labels), np.int64), np.zeros(num_clients)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        owed += rng.dirichlet(np.full(num_clients, alpha)) * len(members)
        counts = _dealt(owed, len(members))
        owed -= counts
        owner[members] = np.repeat(np.arange(num_clients), counts)
    return _topped_up(rng, owner, num_clients, min_size)


def shards(key: Key, labels: Any, *, num_clients: int, shards_per_client: int = 2) -> Partition:
    """Pathological label skew: examples sorted by label, cut into equal shards, assigned at random.

    Guarantees:
        - Every client has ``shards_per_client`` shards of ``n // (num_clients * shards_per_client)``
          examples, hence examples of about ``shards_per_client`` classes.
        - A remainder of less than one example per shard, the last by label, is left out.

    Args:
        key: a typed key.
        labels: ``i[n]``.
        num_clients: number of clients.
        shards_per_client: number of shards of each client, 2 in the paper.

    Returns:
        A partition.

    Raises:
        ValueError: there are fewer examples than shards, or a label is missing (NaN).

    Examples:
        >>> import jax, numpy as np
        >>> from fjx import data
        >>> labels = np.repeat(np.arange(10), 60)
        >>> parts = data.shards(jax.random.key(0), labels, num_clients=10)
        >>> [len(set(labels[part])) <= 2 for part in parts] == [True] * 10
        True

    References:
        McMahan et al., AISTATS 2017 (arXiv:1602.05629), section 3, the non-IID partition.
    """
    shards_per_client = _validate.static_integer("shards_per_client", shards_per_client, at_least=1)
    labels = _vector("labels", labels)
    _enough(len(labels), num_clients, shards_per_client, remedy="num_clients or shards_per_client")
    count = num_clients * shards_per_client
    by_label = np.argsort(labels, kind="stable")[: len(labels) // count * count]
    dealt = generator(key).permutation(by_label.reshape(count, -1))
    return list(dealt.reshape(num_clients, -1))


def lognormal_sizes(
    key: Key, num_examples: int, *, num_clients: int, sigma: float, min_size: int = 1
) -> Partition:
    """Quantity skew: sizes proportional to log-normal draws, with examples at random.

    Guarantees:
        - Every example is used.
        - Every client has at least ``min_size`` examples.

    Args:
        key: a typed key.
        num_examples: number of examples n.
        num_clients: number of clients, at most ``n / min_size``.
        sigma: standard deviation of the logarithm of a size; 0 is IID.
        min_size: smallest number of examples of a client.

    Returns:
        A partition.

    Raises:
        ValueError: a number is out of range, or there are too few examples.

    Examples:
        >>> import jax
        >>> from fjx import data
        >>> parts = data.lognormal_sizes(jax.random.key(0), 1000, num_clients=8, sigma=1.0)
        >>> sum(map(len, parts)), min(map(len, parts)) >= 1
        (1000, True)
    """
    sigma = _validate.static_number("sigma", sigma, at_least=0)
    _enough(num_examples, num_clients, min_size)
    rng = generator(key)
    logs = sigma * rng.standard_normal(num_clients)
    weights = np.exp(logs - logs.max())
    cuts = np.round(np.cumsum(weights / weights.sum())[:-1] * num_examples).astype(np.int64)
    owner = np.empty(num_examples, np.int64)
    for client, part in enumerate(np.split(rng.permutation(num_examples), cuts)):
        owner[part] = client
    return _topped_up(rng, owner, num_clients, min_size)


def by_id(ids: Any) -> tuple[Partition, np.ndarray]:
    """The natural partition: one client per distinct id.

    Args:
        ids: ``[n]`` of integers or strings, the owner of each example.

    Returns:
        The partition, with each client's examples in their original order, and the sorted distinct ids.

    Raises:
        TypeError: texts and numbers are mixed.
        ValueError: ``ids`` is not a vector, is empty, or has missing values.

    Examples:
        >>> from fjx import data
        >>> parts, names = data.by_id(["b", "a", "b"])
        >>> [part.tolist() for part in parts], names.tolist()
        ([[1], [0, 2]], ['a', 'b'])
    """
    ids = _vector("ids", ids)
    names, owner = np.unique(ids, return_inverse=True)
    return _parts(owner, len(names)), names


def generator(key: Key) -> np.random.Generator:
    """NumPy generator that a JAX key determines."""
    _validate.key("key", key)
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).astype(np.uint32))


def indices(name: str, values: Any) -> np.ndarray:
    """Indices as ``i64[n]``; a mask or floats raise TypeError."""
    found = np.asarray(values)
    if found.size and found.dtype.kind not in "iu":
        raise TypeError(
            f"{name} must hold integer indices, got {found.dtype}; for a mask use "
            "np.flatnonzero(mask)"
        )
    return found.astype(np.int64).reshape(-1)


def _vector(name: str, values: Any) -> np.ndarray:
    """Non-empty vector without missing values, or ValueError."""
    values = complete(name, values)
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"{name} must be a vector with at least one entry, got shape {list(values.shape)}"
        )
    return values


def _enough(
    num_examples: int, num_clients: int, min_size: int, *, remedy: str = "num_clients or min_size"
) -> None:
    """Raise ValueError if there are too few examples for so many clients of the smallest size."""
    num_examples = _validate.static_integer("num_examples", num_examples, at_least=0)
    num_clients = _validate.static_integer("num_clients", num_clients, at_least=1)
    min_size = _validate.static_integer("min_size", min_size, at_least=0)
    if num_clients * min_size > num_examples:
        raise ValueError(
            f"{num_clients} clients of at least {min_size} examples need "
            f"{num_clients * min_size} examples, got {num_examples}; lower {remedy}"
        )


def _dealt(owed: np.ndarray, count: int) -> np.ndarray:
    """Numbers of examples, ``count`` in all: each example goes to the client that is owed the most.

    ``owed`` sums to ``count``; entries may be negative.  A client is thus never given more than its
    ``owed``, rounded up.
    """
    times = np.maximum(np.floor(owed) + 1, 0).astype(np.int64)
    client = np.repeat(np.arange(len(owed)), times)
    nth = np.arange(len(client)) - np.repeat(np.cumsum(times) - times, times)
    first = np.argsort(nth - owed[client], kind="stable")[:count]
    return np.bincount(client[first], minlength=len(owed))


def _parts(owner: np.ndarray, num_clients: int) -> list[np.ndarray]:
    """Partition from the owner of each example."""
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=num_clients))
    return np.split(order, ends[:-1])


def _topped_up(
    rng: np.random.Generator, owner: np.ndarray, num_clients: int, min_size: int
) -> list[np.ndarray]:
    """Partition after the largest clients have given the smallest ones the examples that they lack."""
    parts = [list(rng.permutation(part)) for part in _parts(owner, num_clients)]
    sizes = np.array([len(part) for part in parts])
    for client in np.flatnonzero(sizes < min_size):
        while sizes[client] < min_size:
            largest = int(np.argmax(sizes))
            parts[client].append(parts[largest].pop())
            sizes[client] += 1
            sizes[largest] -= 1
    return [np.sort(np.array(part, np.int64)) for part in parts]
