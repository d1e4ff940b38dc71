"""FedAvg by Flower's own strategy, in its simulation on Ray, with torch models.

There are as many nodes as clients in a cohort, and in each round a node plays the client at its place
in the round's cohort, so that the cohorts are those of the workload.  Each processor has one worker of
one thread.  The simulation is started once and waits between visits.
"""

import argparse
import functools
import importlib.metadata
import logging
import queue
import threading

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

from benchmarks import worker, workloads
from benchmarks.peers import torch_loop
from benchmarks.workloads import Workload


@functools.cache
def _belongings(workload: Workload) -> tuple[nn.Module, torch.Tensor, torch.Tensor, list[int]]:
    """What a worker keeps between clients: a model, all examples, and where a client's begin."""
    torch.set_num_threads(1)
    model = torch_loop.start_of(workload, workloads.parameters(workload))
    starts = np.concatenate([[0], np.cumsum(workloads.sizes(workload))])
    return model, *torch_loop.examples(workload), starts.tolist()


def client_app(workload: Workload) -> ClientApp:
    """What a node does with a message."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model, x, y, starts = _belongings(workload)
        config = message.content["config"]
        round = config["first"] + config["server-round"] - 1
        client = workloads.cohort(workload, round)[context.node_config["partition-id"]]
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(torch_loop.trained(model), lr=workloads.LEARNING_RATE)
        loss_fn = nn.CrossEntropyLoss()
        first, last = starts[client], starts[client + 1]
        for _ in range(workload.epochs):
            order = torch.randperm(last - first).add_(first)
            for rows in order.split(workload.batch_size):
                optimizer.zero_grad()
                loss_fn(model(x[rows]), y[rows].flatten()).backward()
                optimizer.step()
        reply = {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": last - first}),
        }
        return Message(RecordDict(reply), reply_to=message)

    return app


def make(workload: Workload, options: argparse.Namespace) -> worker.Worker:
    start = workloads.parameters(workload)
    model = torch_loop.start_of(workload, start)
    orders: queue.Queue[int] = queue.Queue()
    reports: queue.Queue[ArrayRecord] = queue.Queue()
    server = ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = FedAvg(
            fraction_train=1.0,
            fraction_evaluate=0.0,
            min_train_nodes=workload.clients,
            min_available_nodes=workload.clients,  # else a round takes those who are there already
        )
        arrays, first = ArrayRecord(model.state_dict()), 0
        while rounds := orders.get():
            config = ConfigRecord({"first": first})
            arrays = strategy.start(grid, arrays, rounds, train_config=config).arrays
            first += rounds
            reports.put(arrays)

    def simulate() -> None:
        backend = {
            "init_args": {"num_cpus": options.threads, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        }
        run_simulation(server, client_app(workload), workload.clients, backend_config=backend)

    logging.getLogger("flwr").setLevel(logging.WARNING)
    simulation = threading.Thread(target=simulate)
    simulation.start()

    def advance(rounds: int) -> None:
        orders.put(rounds)
        model.load_state_dict(reports.get().to_torch_state_dict())

    def close() -> None:
        orders.put(0)
        simulation.join()

    about = {
        "peer": "flower",
        "flwr": importlib.metadata.version("flwr"),
        "ray": importlib.metadata.version("ray"),
        "torch": torch.__version__,
        "threads": options.threads,
    }
    return worker.Worker(advance, lambda: torch_loop.read(model, start), about, close)


def main() -> None:
    # By its name, so that Ray's workers import what they run and keep what it caches.
    from benchmarks.peers import flower_round

    worker.main(flower_round.make, worker.parser(__doc__).parse_args())


if __name__ == "__main__":
    main()
