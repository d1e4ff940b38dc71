"""FedAvg by pfl's own ``FederatedAveraging`` on its ``SimulatedBackend``, with torch models.

pfl reads a user's examples in the order in which they are given, so that whoever makes the user's
dataset shuffles it, here anew in each round.  Users are taken in turn, which makes the cohorts those
of the workload.
"""

import argparse
import importlib.metadata

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn

from benchmarks import worker, workloads
from benchmarks.peers import torch_loop
from benchmarks.workloads import Workload


class Trained(nn.Module):
    """A model with the two methods that pfl asks for."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.loss_fn = net, nn.CrossEntropyLoss()

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.loss_fn(self.net(x), y.flatten())

    @torch.no_grad()
    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Weighted]:
        return {"loss": Weighted(self.loss(x, y).item() * len(y), len(y))}


def make(workload: Workload, options: argparse.Namespace) -> worker.Worker:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    start = workloads.parameters(workload)
    net = torch_loop.start_of(workload, start)
    module = Trained(net)
    model = PyTorchModel(
        module, torch.optim.SGD, torch.optim.SGD(torch_loop.trained(module), lr=1.0)
    )

    x, y = torch_loop.examples(workload)
    ends = np.cumsum(workloads.sizes(workload)).tolist()
    windows = list(zip([0, *ends], ends, strict=False))

    def user(client: int) -> PyTorchTensorDataset:
        first, last = windows[client]
        order = torch.randperm(last - first).add_(first)
        return PyTorchTensorDataset((x[order], y[order]), user_id=str(client))

    cohorts = [workloads.cohort(workload, t) for t in range(workload.cohorts)]
    sampler = MinimizeReuseUserSampler(np.concatenate(cohorts).tolist())
    users = FederatedDataset(user, sampler)
    backend = SimulatedBackend(users, users, postprocessors=[WeightByDatapoints()])
    training = NNTrainHyperParams(
        local_num_epochs=workload.epochs,
        local_learning_rate=workloads.LEARNING_RATE,
        local_batch_size=workload.batch_size,
    )
    algorithm, done = FederatedAveraging(), 0

    def advance(rounds: int) -> None:
        nonlocal done
        done += rounds  # the algorithm knows how many it has run
        settings = NNAlgorithmParams(
            central_num_iterations=done,
            evaluation_frequency=10**9,  # before the first round, and then no more
            train_cohort_size=workload.clients,
            val_cohort_size=None,
        )
        algorithm.run(settings, backend, model, training, send_metrics_to_platform=False)

    about = {
        "peer": "pfl",
        "pfl": importlib.metadata.version("pfl"),
        "torch": torch.__version__,
        "threads": options.threads,
    }
    return worker.Worker(advance, lambda: torch_loop.read(net, start), about)


if __name__ == "__main__":
    worker.main(make, worker.parser(__doc__).parse_args())
