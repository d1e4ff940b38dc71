"""Recipes: algorithms of the literature as choices of the slots of :func:`fjx.compose`."""

from fjx.algorithms._adaptive import fedadagrad as fedadagrad
from fjx.algorithms._adaptive import fedadam as fedadam
from fjx.algorithms._adaptive import fedyogi as fedyogi
from fjx.algorithms._compressed import compressed_gd as compressed_gd
from fjx.algorithms._compressed import double_squeeze as double_squeeze
from fjx.algorithms._compressed import ef14 as ef14
from fjx.algorithms._compressed import sign_sgd as sign_sgd
from fjx.algorithms._dasha import DashaState as DashaState
from fjx.algorithms._dasha import dasha as dasha
from fjx.algorithms._difference import DifferenceState as DifferenceState
from fjx.algorithms._difference import Link as Link
from fjx.algorithms._difference import diana as diana
from fjx.algorithms._difference import difference as difference
from fjx.algorithms._difference import ef21 as ef21
from fjx.algorithms._difference import ef21_sgdm as ef21_sgdm
from fjx.algorithms._difference import ef_bv as ef_bv
from fjx.algorithms._difference import mcm as mcm
from fjx.algorithms._fedavg import fedavg as fedavg
from fjx.algorithms._fedavg import fedavgm as fedavgm
from fjx.algorithms._fedavg import fedprox as fedprox
from fjx.algorithms._fedavg import fedsgd as fedsgd
from fjx.algorithms._lazy import ClagState as ClagState
from fjx.algorithms._lazy import clag as clag
from fjx.algorithms._marina import MarinaServerState as MarinaServerState
from fjx.algorithms._marina import MarinaState as MarinaState
from fjx.algorithms._marina import marina as marina
from fjx.algorithms._private import dp_fedavg as dp_fedavg
from fjx.algorithms._scaffnew import ScaffnewServerState as ScaffnewServerState
from fjx.algorithms._scaffnew import ScaffnewState as ScaffnewState
from fjx.algorithms._scaffnew import scaffnew as scaffnew
from fjx.algorithms._scaffold import scaffold as scaffold

__all__ = [
    "ClagState",
    "DashaState",
    "DifferenceState",
    "Link",
    "MarinaServerState",
    "MarinaState",
    "ScaffnewServerState",
    "ScaffnewState",
    "clag",
    "compressed_gd",
    "dasha",
    "diana",
    "difference",
    "double_squeeze",
    "dp_fedavg",
    "ef14",
    "ef21",
    "ef21_sgdm",
    "ef_bv",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedprox",
    "fedsgd",
    "fedyogi",
    "marina",
    "mcm",
    "scaffnew",
    "scaffold",
    "sign_sgd",
]
