"""Server updates: steps of the model after the aggregate message has arrived."""

from fjx.servers._adaptive import AdaptiveState as AdaptiveState
from fjx.servers._adaptive import adagrad as adagrad
from fjx.servers._adaptive import adam as adam
from fjx.servers._adaptive import adaptive as adaptive
from fjx.servers._adaptive import yogi as yogi
from fjx.servers._mapped import mapped as mapped
from fjx.servers._optax import OptaxState as OptaxState
from fjx.servers._optax import from_optax as from_optax
from fjx.servers._projected import projected as projected
from fjx.servers._scaffold import ScaffoldServerState as ScaffoldServerState
from fjx.servers._scaffold import scaffold as scaffold

__all__ = [
    "AdaptiveState",
    "OptaxState",
    "ScaffoldServerState",
    "adagrad",
    "adam",
    "adaptive",
    "from_optax",
    "mapped",
    "projected",
    "scaffold",
    "yogi",
]
