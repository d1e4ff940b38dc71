"""Recipes: algorithms of the literature as choices of the slots of :func:`fjx.compose`."""

from fjx.algorithms._adaptive import fedadagrad as fedadagrad
from fjx.algorithms._adaptive import fedadam as fedadam
from fjx.algorithms._adaptive import fedyogi as fedyogi
from fjx.algorithms._fedavg import fedavg as fedavg
from fjx.algorithms._fedavg import fedavgm as fedavgm
from fjx.algorithms._fedavg import fedprox as fedprox
from fjx.algorithms._fedavg import fedsgd as fedsgd
from fjx.algorithms._private import dp_fedavg as dp_fedavg
from fjx.algorithms._scaffold import scaffold as scaffold

__all__ = [
    "dp_fedavg",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedprox",
    "fedsgd",
    "fedyogi",
    "scaffold",
]
