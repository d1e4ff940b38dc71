"""Federated learning in JAX: pure functions to compose, compiled as one program."""

from fjx import aggregators as aggregators
from fjx import algorithms as algorithms
from fjx import attacks as attacks
from fjx import clients as clients
from fjx import compressors as compressors
from fjx import data as data
from fjx import evaluation as evaluation
from fjx import layers as layers
from fjx import privacy as privacy
from fjx import rounds as rounds
from fjx import samplers as samplers
from fjx import secure as secure
from fjx import servers as servers
from fjx import simulation as simulation
from fjx import testing as testing
from fjx import theory as theory
from fjx import wire as wire
from fjx._base import STACK as STACK
from fjx._base import SUM as SUM
from fjx._base import Aggregator as Aggregator
from fjx._base import Algorithm as Algorithm
from fjx._base import ClientUpdate as ClientUpdate
from fjx._base import Cohort as Cohort
from fjx._base import Compressor as Compressor
from fjx._base import Contract as Contract
from fjx._base import Examples as Examples
from fjx._base import Executor as Executor
from fjx._base import Public as Public
from fjx._base import Runs as Runs
from fjx._base import ServerUpdate as ServerUpdate
from fjx._base import Stateful as Stateful
from fjx._base import Steps as Steps
from fjx._base import Template as Template
from fjx._base import Traffic as Traffic
from fjx._base import Turn as Turn
from fjx._plan import Plan as Plan
from fjx._plan import plan as plan
from fjx._plan_examples import ExamplesPlan as ExamplesPlan
from fjx._plan_examples import plan_examples as plan_examples
from fjx.rounds._compose import compose as compose
from fjx.simulation import Result as Result
from fjx.simulation import simulate as simulate
from fjx.simulation._devices import devices_by_default as _make_devices

_make_devices()

__version__ = "0.1.0"

__all__ = [
    "STACK",
    "SUM",
    "Aggregator",
    "Algorithm",
    "ClientUpdate",
    "Cohort",
    "Compressor",
    "Contract",
    "Examples",
    "ExamplesPlan",
    "Executor",
    "Plan",
    "Public",
    "Result",
    "Runs",
    "ServerUpdate",
    "Stateful",
    "Steps",
    "Template",
    "Traffic",
    "Turn",
    "aggregators",
    "algorithms",
    "attacks",
    "clients",
    "compose",
    "compressors",
    "data",
    "evaluation",
    "layers",
    "plan",
    "plan_examples",
    "privacy",
    "rounds",
    "samplers",
    "secure",
    "servers",
    "simulate",
    "simulation",
    "testing",
    "theory",
    "wire",
]
