"""FedAvg in plain PyTorch: a loop over clients and batches, all examples in memory."""

import argparse

import numpy as np
import torch
from torch import nn

from benchmarks import worker, workloads
from benchmarks.workloads import Workload


class Cnn(nn.Module):
    """The convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.dense0, self.dense1 = nn.Linear(9216, 128), nn.Linear(128, workloads.CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu(self.conv0(x))
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv1(x)), 2)
        return self.dense1(nn.functional.relu(self.dense0(x.flatten(1))))


class Lstm(nn.Module):
    """The character model."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(workloads.VOCABULARY, 8)
        self.lstm = nn.LSTM(8, 256, 2, batch_first=True)
        self.dense = nn.Linear(256, workloads.VOCABULARY)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.lstm(self.embedding(x))[0]).flatten(0, 1)


def build(name: str) -> nn.Module:
    """A model by its name among the workloads."""
    if name == "cnn":
        return Cnn()
    if name == "lstm":
        return Lstm()
    if name == "logistic":
        return nn.Sequential(nn.Linear(workloads.PIXELS, workloads.CLASSES))
    return nn.Sequential(
        nn.Linear(workloads.PIXELS, 128), nn.ReLU(), nn.Linear(128, workloads.CLASSES)
    )


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's parameters by their names among the workloads, as views in that layout."""

    def dense(layer: nn.Linear) -> dict[str, torch.Tensor]:
        return {"kernel": layer.weight.T, "bias": layer.bias}

    def conv(layer: nn.Conv2d) -> dict[str, torch.Tensor]:
        return {"kernel": layer.weight.permute(2, 3, 1, 0), "bias": layer.bias}

    if isinstance(model, Cnn):
        # Torch flattens channels first: [128, 64, 12, 12] -> [12, 12, 64, 128].
        first = model.dense0.weight.view(128, 64, 12, 12).permute(2, 3, 1, 0)
        found = {
            "Conv_0": conv(model.conv0),
            "Conv_1": conv(model.conv1),
            "Dense_0": {"kernel": first, "bias": model.dense0.bias},
            "Dense_1": dense(model.dense1),
        }
    elif isinstance(model, Lstm):
        found = {"Embed_0": {"embedding": model.embedding.weight}, "Dense_0": dense(model.dense)}
        for layer in range(2):
            of = {n: getattr(model.lstm, f"{n}_l{layer}") for n in ("weight_ih", "weight_hh")}
            found[f"_Lstm_{layer}"] = {
                "Dense_0": {
                    "kernel": of["weight_ih"].T,
                    "bias": getattr(model.lstm, f"bias_ih_l{layer}"),
                },
                "recurrent_kernel": of["weight_hh"].T,
            }
    else:
        layers = [layer for layer in model if isinstance(layer, nn.Linear)]
        found = {f"Dense_{i}": dense(layer) for i, layer in enumerate(layers)}
    return found


@torch.no_grad()
def load(model: nn.Module, params: dict) -> None:
    """Fills the model with the workload's initial parameters."""
    if isinstance(model, Lstm):  # one bias is enough, and two would learn at twice the rate
        for name, value in model.lstm.named_parameters():
            if name.startswith("bias_hh"):
                value.zero_().requires_grad_(False)
    wanted = worker.flatten(params)
    views = flat(tensors(model))
    assert wanted.keys() == views.keys()
    for name, view in views.items():
        view.copy_(torch.from_numpy(wanted[name].reshape(view.shape)))


def flat(found: dict, prefix: str = "") -> dict[str, torch.Tensor]:
    """Nested dicts as one."""
    result = {}
    for name, value in found.items():
        inner = (
            flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
        )
        result |= inner
    return result


@torch.no_grad()
def read(model: nn.Module, params: dict) -> dict:
    """The model's parameters in the shapes of ``params``."""
    views, like = flat(tensors(model)), worker.flatten(params)
    return {name: views[name].numpy().reshape(like[name].shape).copy() for name in like}


def start_of(workload: Workload, params: dict) -> nn.Module:
    """The model of a workload, with these parameters."""
    model = build(workload.model)
    load(model, params)
    if workload.model == "cnn":
        model = model.to(memory_format=torch.channels_last)  # a tenth faster on a CPU
    return model


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn."""
    return [p for p in model.parameters() if p.requires_grad]


def examples(workload: Workload) -> tuple[torch.Tensor, torch.Tensor]:
    """All inputs and labels, in the types that torch's layers and losses want."""
    x, y = (torch.from_numpy(a) for a in workloads.examples(workload))
    if workload.model == "cnn":
        x = x[:, None]
    return (x.long() if workload.model == "lstm" else x), y.long()


def make(workload: Workload, options: argparse.Namespace) -> worker.Worker:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    start = workloads.parameters(workload)
    model = start_of(workload, start)
    x, y = examples(workload)
    ends = np.cumsum(workloads.sizes(workload)).tolist()
    windows = list(zip([0, *ends], ends, strict=False))

    learning = trained(model)
    optimizer = torch.optim.SGD(learning, lr=workloads.LEARNING_RATE)
    loss_fn = nn.CrossEntropyLoss()
    current = [p.detach().clone() for p in learning]
    total = [torch.empty_like(p) for p in current]
    done = 0

    def train(client: int) -> None:
        first, last = windows[client]
        for _ in range(workload.epochs):
            order = torch.randperm(last - first).add_(first)
            for rows in order.split(workload.batch_size):
                optimizer.zero_grad(set_to_none=True)
                loss_fn(model(x[rows]), y[rows].flatten()).backward()
                optimizer.step()

    def one_round(round: int) -> None:
        clients = workloads.cohort(workload, round).tolist()
        seen = sum(windows[c][1] - windows[c][0] for c in clients)
        torch._foreach_zero_(total)
        for client in clients:
            with torch.no_grad():
                torch._foreach_copy_(learning, current)
            train(client)
            share = (windows[client][1] - windows[client][0]) / seen
            with torch.no_grad():
                torch._foreach_add_(total, learning, alpha=share)
        torch._foreach_copy_(current, total)

    def advance(rounds: int) -> None:
        nonlocal done
        for _ in range(rounds):
            one_round(done)
            done += 1

    def params() -> dict:
        with torch.no_grad():
            torch._foreach_copy_(learning, current)
        return read(model, start)

    about = {"peer": "torch", "torch": torch.__version__, "threads": options.threads}
    return worker.Worker(advance, params, about)


if __name__ == "__main__":
    worker.main(make, worker.parser(__doc__).parse_args())
