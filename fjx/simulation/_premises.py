"""The premises of a run's loss functions, checked once on examples of its dataset."""

import jax
import numpy as np

from fjx._base import Array, Tree
from fjx.clients._premises import Premises, require_premise
from fjx.data import FederatedData

_ROWS = 16
REAL, MADE_UP = "real", "made up"  # kinds of examples


def require_premises(
    premises: Premises, params: Tree, dataset: FederatedData, *, private: bool = False
) -> bool:
    """Check the loss functions of a traced program, once.

    A refusal tells something about the examples.  With a claim of privacy they are therefore made up,
    from their shapes.

    Returns:
        True unless one of them could not be checked just now.

    Raises:
        ValueError: a plain loss function, or one of its metrics, is not a mean over examples.
    """
    if not premises.known or premises.passed & {REAL, MADE_UP if private else REAL}:
        return True
    leaves = jax.tree.leaves((params, dataset.arrays))
    rows = len(jax.tree.leaves(dataset.arrays)[0])
    if rows < 2 or not all(getattr(x, "is_fully_addressable", True) for x in leaves):
        return False
    # From everywhere in the data, in an order that no period of the data meets.  Along a circle some
    # pair differs, unless all examples are alike.
    at = np.linspace(0, rows - 1, min(_ROWS, rows)).astype(np.int64)
    at = np.random.default_rng(0).permutation(at)
    at = np.stack([at, np.roll(at, -1)], axis=1)
    pairs = jax.tree.map(lambda x: _made_up(x, at) if private else _rows(x, at), dataset.arrays)
    checked = [
        require_premise(premise, params, pairs, made_up=private)
        for _, premise in premises.known.values()
    ]
    premises.passed.add(MADE_UP if private else REAL)
    return all(checked)


def _rows(x: Array | np.ndarray, at: np.ndarray) -> np.ndarray:
    """Some rows on the host; on a CPU nothing else is copied."""
    if isinstance(x, np.ndarray) or jax.default_backend() == "cpu":
        return np.asarray(x)[at]
    return np.asarray(x[at])


def _made_up(x: Array | np.ndarray, at: np.ndarray) -> np.ndarray:
    """Examples of a form: floats between zero and one, zeros and ones for integers and booleans.

    Floats are positive, because a loss or a metric may take their logarithm.
    """
    size = int(np.prod(x.shape[1:]))
    waves = np.sin(1.0 + at[..., None] * 1.7 + np.arange(size) ** 1.5).reshape(
        *at.shape, *x.shape[1:]
    )
    is_float = jax.numpy.issubdtype(x.dtype, jax.numpy.floating)
    return (0.5 + 0.45 * waves if is_float else waves > 0).astype(x.dtype)
