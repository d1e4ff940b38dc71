"""One round of Flower's SecAgg+ workflow, with the CPU seconds and the bytes of each party.

    python -m benchmarks.peers.flower_secagg --clients 100 --length 1000000 --degree 22 --threshold 10

The server is Flower's ``SecAggPlusWorkflow`` and a client is its ``secaggplus_mod``, both as they are.
Only the grid between them is ours: it calls the clients of this process one after another, and weighs
each message as the bytes of its protocol buffer.  So no Ray, no network, no training and no
serialisation is timed.  Clients that leave fail in the stage that collects the masked vectors.
"""

import argparse
import importlib.metadata
import json
import logging
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.compat.common import recorddict_compat as compat
from flwr.server import LegacyContext
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.supercore.task_identity import TaskIdentity


class Proxy(ClientProxy):
    """A client that the strategy can count; messages go over the grid."""

    def __init__(self, node_id: int):
        super().__init__(cid=str(node_id))
        self.node_id = node_id

    def _never(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("Flower's secure workflow sends messages and never calls its proxies")

    get_properties = get_parameters = fit = evaluate = reconnect = _never


def context(node_id: int) -> Context:
    return Context(run_id=1, node_id=node_id, node_config={}, state=RecordDict(), run_config={})


class Grid:
    """The clients of this process, called one after another.

    Attributes:
        spent: CPU seconds of all clients, and of the way of messages, which is nobody's work.
        up: bytes that clients have sent.
        down: bytes that they were sent.
    """

    def __init__(self, vectors: np.ndarray, leaving: set[int]):
        self.vectors, self.leaving = vectors, leaving
        self.contexts = {i + 1: context(i + 1) for i in range(len(vectors))}
        self.spent = {"client": 0.0, "way": 0.0}
        self.up = self.down = 0

    def send_and_receive(
        self, messages: Iterable[Message], timeout: float | None = None
    ) -> list[Message]:
        return [self._reply(message) for message in messages]

    def _reply(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        message, size = self._carried(message)
        self.down += size
        stage = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
        if stage == Stage.COLLECT_MASKED_VECTORS and node in self.leaving:
            return Message(Error(code=0, reason="it has left"), reply_to=message)
        began = time.process_time()
        reply = secaggplus_mod(message, self.contexts[node], self._trained)
        self.spent["client"] += time.process_time() - began
        reply, size = self._carried(reply)
        self.up += size
        return reply

    def _carried(self, message: Message) -> tuple[Message, int]:
        """A message as it arrives, and its bytes."""
        began = time.process_time()
        proto = message_to_proto(message)
        found = message_from_proto(proto), proto.ByteSize()
        self.spent["way"] += time.process_time() - began
        return found

    def _trained(self, message: Message, _: Context) -> Message:
        """The vector of a client, as if it had been trained, with a weight of one."""
        parameters = ndarrays_to_parameters([self.vectors[message.metadata.dst_node_id - 1]])
        result = FitRes(Status(Code.OK, ""), parameters, num_examples=1, metrics={})
        return Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--length", type=int, required=True, help="numbers of a vector")
    parser.add_argument("--degree", type=int, required=True, help="neighbours of a client, even")
    parser.add_argument("--threshold", type=int, required=True)
    parser.add_argument("--dropouts", type=int, default=0)
    options = parser.parse_args()
    n = options.clients
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0

    random = np.random.default_rng(0)
    vectors = random.uniform(-1, 1, (n, options.length)).astype(np.float32)
    gone = options.dropouts
    leaving = {i + 1 for i in range(0, n, n // gone)[:gone]} if gone else set()
    manager = SimpleClientManager()
    for node in range(1, n + 1):
        manager.register(Proxy(node))
    strategy = FedAvg(fraction_fit=1.0, min_fit_clients=n, min_available_clients=n)
    legacy = LegacyContext(context(0), strategy=strategy, client_manager=manager)
    model = ndarrays_to_parameters([np.zeros(options.length, np.float32)])
    arrays = compat.parameters_to_arrayrecord(model, keep_input=False)
    legacy.state.array_records[MAIN_PARAMS_RECORD] = arrays
    legacy.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    workflow = SecAggPlusWorkflow(options.degree + 1, options.threshold, max_weight=1.0)

    grid = Grid(vectors, leaving)
    began = time.process_time()
    workflow(grid, legacy)
    whole = time.process_time() - began

    (mean,) = legacy.state.array_records[MAIN_PARAMS_RECORD].to_numpy_ndarrays()
    staying = [i for i in range(n) if i + 1 not in leaving]
    off = float(np.abs(mean - vectors[staying].mean(0)).max())
    assert off < 1e-4, f"the mean is {off} off: the sum has failed"
    record = {
        "peer": f"flwr {importlib.metadata.version('flwr')}",
        "client": grid.spent["client"] / n,
        "server": whole - sum(grid.spent.values()),
        "up": grid.up / n,
        "down": grid.down / n,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
