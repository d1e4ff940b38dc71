"""The premises of a run's loss functions, checked once on examples of its dataset."""

import jax
import numpy as np

from fjx._base import Array, Tree
from fjx.clients._premises import Premises, require_premise
from fjx.data import FederatedData

_PAIRS = 8


def require_premises(premises: Premises, params: Tree, dataset: FederatedData) -> None:
    """Check the loss functions that were traced since the last call.

    Raises:
        ValueError: a plain loss function, or one of its metrics, is not a mean over examples.
    """
    if not premises.new:
        return
    leaves = jax.tree.leaves((params, dataset.arrays))
    rows = len(jax.tree.leaves(dataset.arrays)[0])
    if rows < 2 or not all(getattr(x, "is_fully_addressable", True) for x in leaves):
        return
    # Two examples of a pair are far apart, so that they are rarely of one client or one class.
    half = min(_PAIRS, rows // 2)
    at = np.linspace(0, rows - 1, 2 * half).astype(np.int64).reshape(2, half).T
    pairs = jax.tree.map(lambda x: _rows(x, at), dataset.arrays)
    while premises.new:
        require_premise(premises.new.pop(), params, pairs)


def _rows(x: Array | np.ndarray, at: np.ndarray) -> np.ndarray:
    """Some rows on the host; on a CPU nothing else is copied."""
    if isinstance(x, np.ndarray) or jax.default_backend() == "cpu":
        return np.asarray(x)[at]
    return np.asarray(x[at])
