"""Handwritten digits of scikit-learn: real data that come with the package."""

import math

import jax
import numpy as np

from fjx import _validate
from fjx._base import Key
from fjx.data._dataset import FederatedData
from fjx.data._partition import dirichlet, iid, split


def digits(
    *,
    num_clients: int = 100,
    alpha: float | None = 0.3,
    test_fraction: float = 0.2,
    key: Key | None = None,
) -> FederatedData:
    """UCI handwritten digits, 1,797 images of 8 x 8 in ten classes, split over clients by label.

    Args:
        num_clients: number of clients; each has at least one image.
        alpha: concentration of :func:`fjx.data.dirichlet`; None or infinity splits IID.
        test_fraction: fraction of the images that is put aside as central test examples, at least one.
        key: key for the choice of test examples and for the split; by default ``jax.random.key(0)``.

    Returns:
        A :class:`fjx.data.FederatedData` of ``{"x": f32[n, 64] in [0, 1], "y": i32[n]}``, with ``test``
        of the same form.

    Raises:
        ImportError: scikit-learn is not installed (the extra ``examples``).
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import data
        >>> dataset = data.digits(num_clients=10)
        >>> dataset.num_clients, int(dataset.sizes.sum()), len(dataset.test["y"])
        (10, 1438, 359)

    References:
        Alpaydin, Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning
        Repository, 1998 (CC BY 4.0); the test part, as shipped by scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("data.digits needs scikit-learn: pip install 'fjx[examples]'") from error
    test_fraction = _validate.static_number("test_fraction", test_fraction, above=0, below=1)
    raw = load_digits()
    images = {"x": (raw.data / 16).astype(np.float32), "y": raw.target.astype(np.int32)}
    key_test, key_split = jax.random.split(jax.random.key(0) if key is None else key)
    (order,) = iid(key_test, len(images["y"]), num_clients=1)
    held_out, rest = np.split(order, [max(1, int(test_fraction * len(order)))])
    train, test = (jax.tree.map(lambda x, at=at: x[at], images) for at in (rest, held_out))
    partition = (
        iid(key_split, len(rest), num_clients=num_clients)
        if alpha is None or alpha == math.inf
        else dirichlet(key_split, train["y"], num_clients=num_clients, alpha=alpha)
    )
    return split(train, partition, test=test)
