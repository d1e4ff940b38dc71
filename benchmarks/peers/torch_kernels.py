"""What PyTorch takes for the same work, for :mod:`benchmarks.kernels`."""

import os
import sys

import torch

from benchmarks.kernels import SIZE, Kernel, work

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def quantise(x: torch.Tensor) -> torch.Tensor:
    scale = 127 / x.abs().max()
    return torch.floor(x * scale + torch.rand_like(x)).to(torch.int8)


def top_k(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    kept = torch.topk(x.abs(), x.numel() // 100, sorted=False).indices
    return x[kept], kept


def power_sgd(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    basis, _ = torch.linalg.qr(matrix @ torch.ones(matrix.shape[1], 2))
    return basis, matrix.T @ basis


def kernels() -> list[Kernel]:
    x = torch.randn(SIZE)
    return [
        ("quantise to 8 bits, packed", quantise, x),
        ("top-k 1 %", top_k, x),
        ("rand-k 1 %", lambda x: x[torch.randperm(x.numel())[: x.numel() // 100]], x),
        ("PowerSGD rank 2", power_sgd, x[: SIZE // 1024 * 1024].reshape(-1, 1024)),
    ]


if __name__ == "__main__":
    x = torch.arange(SIZE, dtype=torch.float32)
    work(kernels(), ("copy", lambda x: x * 1.5 + 1, x), int(sys.argv[1]))
