"""ByzFL's rules for :mod:`benchmarks.robust`, on NumPy arrays or on PyTorch tensors."""

import os
import sys
from collections.abc import Callable
from typing import Any

import byzfl
import numpy as np
import torch

from benchmarks.robust import BYZANTINE, messages, serve

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def main() -> None:
    kind, clients, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    x: Any = messages(clients, size)
    x = x if kind == "numpy" else torch.from_numpy(x)
    f = BYZANTINE
    rules = {
        "krum": byzfl.Krum(f),
        "multi_krum": byzfl.MultiKrum(f),
        "geometric_median": byzfl.GeometricMedian(),
        "median": byzfl.Median(),
        "trimmed_mean": byzfl.TrMean(f),
        "mean_around_median": byzfl.Meamed(f),
        "centered_clipping": byzfl.CenteredClipping(),
        "caf": byzfl.CAF(f),
        "nearest_neighbour_mixing": lambda x: byzfl.Average()(byzfl.NNM(f)(x)),
    }

    def make(rule: str) -> Callable[[], Any]:
        return lambda: np.asarray(rules[rule](x))

    serve(make)


if __name__ == "__main__":
    main()
