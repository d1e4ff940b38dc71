"""Running algorithms: a whole run as one program, or in blocks that a host watches."""

from fjx.rounds._executors import chunked as chunked
from fjx.rounds._executors import lanes as lanes
from fjx.rounds._executors import sharded as sharded
from fjx.rounds._executors import vectorized as vectorized
from fjx.simulation._callbacks import Callback as Callback
from fjx.simulation._callbacks import csv_writer as csv_writer
from fjx.simulation._callbacks import jsonl_writer as jsonl_writer
from fjx.simulation._callbacks import tensorboard_writer as tensorboard_writer
from fjx.simulation._compile import cache_compilations as cache_compilations
from fjx.simulation._curves import Curve as Curve
from fjx.simulation._curves import curve as curve
from fjx.simulation._curves import plot as plot
from fjx.simulation._devices import use_cpu_devices as use_cpu_devices
from fjx.simulation._evaluate import Score as Score
from fjx.simulation._evaluate import evaluation as evaluation
from fjx.simulation._evaluate import per_client as per_client
from fjx.simulation._fastest import ExecutorChoice as ExecutorChoice
from fjx.simulation._fastest import fastest as fastest
from fjx.simulation._ledger import Ledger as Ledger
from fjx.simulation._memory import Memory as Memory
from fjx.simulation._memory import memory as memory
from fjx.simulation._memory import widest_chunk as widest_chunk
from fjx.simulation._program import Evaluate as Evaluate
from fjx.simulation._program import History as History
from fjx.simulation._program import Program as Program
from fjx.simulation._program import SimulationState as SimulationState
from fjx.simulation._program import program as program
from fjx.simulation._simulate import Result as Result
from fjx.simulation._simulate import Timing as Timing
from fjx.simulation._simulate import simulate as simulate
from fjx.simulation._table import gather as gather
from fjx.simulation._table import host_table as host_table
from fjx.simulation._table import make_table as make_table
from fjx.simulation._table import mapped_table as mapped_table
from fjx.simulation._table import scatter as scatter

__all__ = [
    "Callback",
    "Curve",
    "Evaluate",
    "ExecutorChoice",
    "History",
    "Ledger",
    "Memory",
    "Program",
    "Result",
    "Score",
    "SimulationState",
    "Timing",
    "cache_compilations",
    "chunked",
    "csv_writer",
    "curve",
    "evaluation",
    "fastest",
    "gather",
    "host_table",
    "jsonl_writer",
    "lanes",
    "make_table",
    "mapped_table",
    "memory",
    "per_client",
    "plot",
    "program",
    "scatter",
    "sharded",
    "simulate",
    "tensorboard_writer",
    "use_cpu_devices",
    "vectorized",
    "widest_chunk",
]
