"""The four workloads, as NumPy arrays: whoever is timed reads the same numbers.

Every client trains for one epoch in batches of 20 with SGD of rate 0.1, and the server takes the mean
weighted by examples.  Numbers of examples are lognormal, as in practice ragged.  There are three
cohorts, run in turn, so that whatever depends on a cohort's shapes shows: client i belongs to cohort
i mod 3.

This module needs NumPy alone, because it runs in every peer's environment.
"""

import math
from typing import NamedTuple

import numpy as np

SEED = 13
LEARNING_RATE = 0.1
PIXELS, CLASSES = 784, 62
TIME, VOCABULARY = 80, 90

_SHAPES = {
    "cnn": {
        "Conv_0": {"kernel": (3, 3, 1, 32), "bias": (32,)},
        "Conv_1": {"kernel": (3, 3, 32, 64), "bias": (64,)},
        "Dense_0": {"kernel": (12 * 12 * 64, 128), "bias": (128,)},
        "Dense_1": {"kernel": (128, CLASSES), "bias": (CLASSES,)},
    },
    "logistic": {"Dense_0": {"kernel": (PIXELS, CLASSES), "bias": (CLASSES,)}},
    "mlp": {
        "Dense_0": {"kernel": (PIXELS, 128), "bias": (128,)},
        "Dense_1": {"kernel": (128, CLASSES), "bias": (CLASSES,)},
    },
    "lstm": {
        "Embed_0": {"embedding": (VOCABULARY, 8)},
        "_Lstm_0": {
            "Dense_0": {"kernel": (8, 1024), "bias": (1024,)},
            "recurrent_kernel": (256, 1024),
        },
        "_Lstm_1": {
            "Dense_0": {"kernel": (256, 1024), "bias": (1024,)},
            "recurrent_kernel": (256, 1024),
        },
        "Dense_0": {"kernel": (256, VOCABULARY), "bias": (VOCABULARY,)},
    },
}
"""Parameters by model, named and laid out as flax does: kernels are ``[..., in, out]``."""

# Multiplications of one example's forward pass: in the first layer, which needs no gradient of its
# inputs, and in all others.
_MULTIPLICATIONS = {
    "cnn": (26 * 26 * 9 * 32, 24 * 24 * 9 * 32 * 64 + 12 * 12 * 64 * 128 + 128 * CLASSES),
    "logistic": (PIXELS * CLASSES, 0),
    "mlp": (PIXELS * 128, 128 * CLASSES),
    "lstm": (0, TIME * (8 * 1024 + 256 * 1024 + 2 * 256 * 1024 + 256 * VOCABULARY)),
}


class Workload(NamedTuple):
    """One workload.

    Attributes:
        name: as on the command line.
        title: for a human.
        model: ``"cnn"``, ``"logistic"``, ``"mlp"`` or ``"lstm"``.
        clients: in a cohort.
        cohorts: run in turn.
        batch_size: examples in a batch.
        epochs: local passes.
        alike: whether all examples of a client are the same.
    """

    name: str
    title: str
    model: str
    clients: int
    cohorts: int = 3
    batch_size: int = 20
    epochs: int = 1
    alike: bool = False


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W1", "EMNIST CNN, 20 clients", "cnn", 20),
        Workload("W1-100", "EMNIST CNN, 100 clients", "cnn", 100),
        Workload("W2", "logistic regression, 1000 clients", "logistic", 1000),
        Workload("W3", "MLP, 100 clients", "mlp", 100),
        Workload("W4", "char-LSTM, 10 clients", "lstm", 10),
    )
}


def deterministic(workload: Workload) -> Workload:
    """A small relative of which everybody must compute the same, however it shuffles and pads."""
    return workload._replace(clients=4, cohorts=1, alike=True)


def sizes(workload: Workload) -> np.ndarray:
    """Examples of every client: ``i64[cohorts * clients]``, 10 to 400, about 100 in the mean."""
    rng = np.random.default_rng(SEED)
    drawn = rng.lognormal(np.log(100) - 0.18, 0.6, size=workload.cohorts * workload.clients)
    return np.clip(np.round(drawn), 10, 400).astype(np.int64)


def cohort(workload: Workload, round: int) -> np.ndarray:
    """The clients of a round."""
    first = round % workload.cohorts
    return np.arange(first, workload.cohorts * workload.clients, workload.cohorts)


def examples(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels of all clients, one client after another.

    Inputs are ``f32[n, 28, 28]`` for the CNN, ``f32[n, 784]`` for dense models and ``i32[n, 80]`` for
    the LSTM, whose labels are the tokens that follow: ``i32[n, 80]``; other labels are ``i32[n]``.
    """
    rng = np.random.default_rng([SEED, 1])
    each = sizes(workload)
    total = len(each) if workload.alike else int(each.sum())
    if workload.model == "lstm":
        text = rng.integers(VOCABULARY, size=(total, TIME + 1), dtype=np.int32)
        x, y = np.ascontiguousarray(text[:, :-1]), np.ascontiguousarray(text[:, 1:])
    else:
        x = rng.standard_normal((total, PIXELS), dtype=np.float32)
        y = rng.integers(CLASSES, size=total, dtype=np.int32)
    if workload.model == "cnn":
        x = x.reshape(-1, 28, 28)
    return (np.repeat(x, each, axis=0), np.repeat(y, each, axis=0)) if workload.alike else (x, y)


def by_client(workload: Workload) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same, client by client: views."""
    x, y = examples(workload)
    cuts = np.cumsum(sizes(workload))[:-1]
    return list(zip(np.split(x, cuts), np.split(y, cuts), strict=True))


def parameters(workload: Workload) -> dict:
    """The initial model: nested dicts of arrays, kernels normal with variance 1 / fan-in."""
    rng = np.random.default_rng([SEED, 2])

    def fill(shape: dict | tuple[int, ...]) -> dict | np.ndarray:
        if isinstance(shape, dict):
            return {name: fill(inner) for name, inner in shape.items()}
        if len(shape) == 1:
            return np.zeros(shape, np.float32)
        return rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(math.prod(shape[:-1])))

    return fill(_SHAPES[workload.model])


def flops(workload: Workload) -> float:
    """Floating-point operations that a round needs, in the mean over the cohorts.

    A multiplication and its addition are two; a step goes over each layer three times (forward, and
    backward to its weights and to its inputs) except over the first, whose inputs are data.  Masked
    rows, shuffling and averaging are not counted: they are overhead.
    """
    first, others = _MULTIPLICATIONS[workload.model]
    seen = workload.epochs * sizes(workload).sum() / workload.cohorts
    return float(seen * (4 * first + 6 * others))
