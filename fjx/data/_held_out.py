"""Held-out data: some examples of every client, or some whole clients."""

import itertools
from collections.abc import Sequence

import jax
import numpy as np

from fjx import _validate
from fjx._base import Key
from fjx.data._dataset import FederatedData, pack
from fjx.data._partition import generator, indices


def split_examples(
    key: Key, dataset: FederatedData, *, held_out: float
) -> tuple[FederatedData, FederatedData]:
    """Random split of each client's examples into a training and a held-out dataset.

    Both datasets have the same clients.  Each is weighted by its own numbers of examples.

    Guarantees:
        - A client with n >= 2 examples holds out ``round(held_out * n)`` of them, but at least one and
          not all.
        - A client with fewer than two examples holds out none.

    Args:
        key: a typed key.
        dataset: dataset to split.
        held_out: fraction of the examples, in (0, 1).

    Returns:
        The training dataset and the held-out dataset.

    Raises:
        ValueError: ``held_out`` is out of range.

    Examples:
        >>> import jax, numpy as np
        >>> from fjx import data
        >>> dataset = data.from_clients([np.arange(10), np.arange(1)])
        >>> train, test = data.split_examples(jax.random.key(0), dataset, held_out=0.2)
        >>> train.sizes.tolist(), test.sizes.tolist()
        ([8, 1], [2, 0])
    """
    held_out = _validate.static_number("held_out", held_out, above=0, below=1)
    rng = generator(key)
    offsets = np.asarray(dataset.offsets)
    train, test = [], []
    for start, end in itertools.pairwise(offsets):
        size = end - start
        count = int(np.clip(round(held_out * size), 1, size - 1)) if size >= 2 else 0
        rows = start + rng.permutation(size)
        test.append(np.sort(rows[:count]))
        train.append(np.sort(rows[count:]))
    return _rows(dataset, train), _rows(dataset, test)


def split_clients(
    key: Key, dataset: FederatedData, *, held_out: float
) -> tuple[FederatedData, FederatedData]:
    """Random split of the clients into a training and a held-out dataset.

    ``round(held_out * num_clients)`` clients are held out, but at least one and not all.

    Args:
        key: a typed key.
        dataset: dataset of at least two clients.
        held_out: fraction of the clients, in (0, 1).

    Returns:
        The dataset of the remaining clients and the dataset of the held-out clients, each in their
        original order.

    Raises:
        ValueError: ``held_out`` is out of range, or there is only one client.

    Examples:
        >>> import jax, numpy as np
        >>> from fjx import data
        >>> dataset = data.from_clients([np.full(1, i) for i in range(10)])
        >>> train, test = data.split_clients(jax.random.key(0), dataset, held_out=0.2)
        >>> train.num_clients, test.num_clients
        (8, 2)
    """
    held_out = _validate.static_number("held_out", held_out, above=0, below=1)
    n = dataset.num_clients
    if n < 2:
        raise ValueError("split_clients needs at least two clients, got one")
    count = int(np.clip(round(held_out * n), 1, n - 1))
    order = generator(key).permutation(n)
    return (
        take_clients(dataset, np.sort(order[count:]).tolist()),
        take_clients(dataset, np.sort(order[:count]).tolist()),
    )


def take_clients(dataset: FederatedData, ids: Sequence[int]) -> FederatedData:
    """Dataset of the clients ``ids``, which become clients 0, 1, ... in the given order.

    Args:
        dataset: dataset to choose from.
        ids: distinct client ids in range.

    Returns:
        A dataset with their examples and weights, and the same ``test``.

    Raises:
        TypeError: ``ids`` is a mask or holds floats.
        ValueError: an id is out of range or repeated, or there are no ids.

    Examples:
        >>> import numpy as np
        >>> from fjx import data
        >>> dataset = data.from_clients([np.full(1, i) for i in range(4)])
        >>> data.take_clients(dataset, [3, 1]).arrays.tolist()
        [3, 1]
    """
    chosen = indices("ids", ids)
    bad = (chosen < 0) | (chosen >= dataset.num_clients)
    if bad.any() or np.unique(chosen).size != chosen.size or not chosen.size:
        raise ValueError(
            f"ids must be distinct and in [0, {dataset.num_clients}), at least one; got {list(ids)}"
        )
    offsets = np.asarray(dataset.offsets)
    rows = [np.arange(offsets[i], offsets[i + 1]) for i in chosen]
    return _rows(dataset, rows).with_weights(np.asarray(dataset.weights)[chosen])


def _rows(dataset: FederatedData, rows: Sequence[np.ndarray]) -> FederatedData:
    """Dataset of the given rows for each client."""
    order = np.concatenate([*rows, np.zeros(0, np.int64)]).astype(np.int64)
    arrays = jax.tree.map(lambda x: np.asarray(x)[order], dataset.arrays)
    lengths = np.array([len(r) for r in rows])
    return pack(arrays, lengths, test=dataset.test, hosted=dataset.hosted)
