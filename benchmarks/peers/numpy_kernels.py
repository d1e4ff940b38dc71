"""What NumPy takes for the same work, for :mod:`benchmarks.kernels`: the host's way of doing it."""

import sys

import numpy as np

from benchmarks.kernels import SIZE, Kernel, work

rng = np.random.default_rng(0)


def quantise(x: np.ndarray) -> np.ndarray:
    scale = np.float32(127) / np.abs(x).max()
    return np.floor(x * scale + rng.random(x.size, np.float32)).astype(np.int8)


def top_k(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept = np.argpartition(np.abs(x), -(x.size // 100))[-(x.size // 100) :]
    return x[kept], kept


def kernels() -> list[Kernel]:
    x = rng.standard_normal(SIZE, np.float32)
    return [
        ("quantise to 8 bits, packed", quantise, x),
        ("sign, packed", lambda x: np.packbits(x < 0), x),
        ("top-k 1 %", top_k, x),
        ("rand-k 1 %", lambda x: x[rng.choice(x.size, x.size // 100, replace=False)], x),
    ]


if __name__ == "__main__":
    x = np.arange(SIZE, dtype=np.float32)
    work(kernels(), ("copy", lambda x: x * np.float32(1.5) + np.float32(1), x), int(sys.argv[1]))
