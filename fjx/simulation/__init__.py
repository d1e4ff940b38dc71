"""Running algorithms: whole runs as one program, and a host that watches over them."""

from fjx._executors import chunked as chunked
from fjx._executors import lanes as lanes
from fjx._executors import sharded as sharded
from fjx._executors import vectorized as vectorized
from fjx.simulation._evaluate import Score as Score
from fjx.simulation._evaluate import evaluation as evaluation
from fjx.simulation._evaluate import per_client as per_client
from fjx.simulation._ledger import Ledger as Ledger
from fjx.simulation._program import Evaluate as Evaluate
from fjx.simulation._program import History as History
from fjx.simulation._program import Program as Program
from fjx.simulation._program import SimulationState as SimulationState
from fjx.simulation._program import program as program
from fjx.simulation._simulate import Result as Result
from fjx.simulation._simulate import Seconds as Seconds
from fjx.simulation._simulate import simulate as simulate
from fjx.simulation._table import gather as gather
from fjx.simulation._table import host_table as host_table
from fjx.simulation._table import make_table as make_table
from fjx.simulation._table import mapped_table as mapped_table
from fjx.simulation._table import scatter as scatter

__all__ = [
    "Evaluate",
    "History",
    "Ledger",
    "Program",
    "Result",
    "Score",
    "Seconds",
    "SimulationState",
    "chunked",
    "evaluation",
    "gather",
    "host_table",
    "lanes",
    "make_table",
    "mapped_table",
    "per_client",
    "program",
    "scatter",
    "sharded",
    "simulate",
    "vectorized",
]
