"""Recipes: algorithms of the literature as choices of the slots of :func:`fjx.compose`."""

from fjx.algorithms._adaptive import fedadagrad as fedadagrad
from fjx.algorithms._adaptive import fedadam as fedadam
from fjx.algorithms._adaptive import fedyogi as fedyogi
from fjx.algorithms._choco import ChocoRow as ChocoRow
from fjx.algorithms._choco import ChocoState as ChocoState
from fjx.algorithms._choco import choco as choco
from fjx.algorithms._choco import choco_gossip as choco_gossip
from fjx.algorithms._choco import choco_sgd as choco_sgd
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
from fjx.algorithms._fedcom import fedcom as fedcom
from fjx.algorithms._fedcom import fedcomgate as fedcomgate
from fjx.algorithms._fedcom import fedpaq as fedpaq
from fjx.algorithms._fedcomloc import fedcomloc as fedcomloc
from fjx.algorithms._fedlin import FedLinState as FedLinState
from fjx.algorithms._fedlin import fedlin as fedlin
from fjx.algorithms._fetch_sgd import fetch_sgd as fetch_sgd
from fjx.algorithms._ftrl import dp_ftrl as dp_ftrl
from fjx.algorithms._lazy import ClagState as ClagState
from fjx.algorithms._lazy import clag as clag
from fjx.algorithms._marina import MarinaServerState as MarinaServerState
from fjx.algorithms._marina import MarinaState as MarinaState
from fjx.algorithms._marina import marina as marina
from fjx.algorithms._marina import pp_marina as pp_marina
from fjx.algorithms._onebit_adam import OneBitAdamState as OneBitAdamState
from fjx.algorithms._onebit_adam import onebit_adam as onebit_adam
from fjx.algorithms._phases import Phase as Phase
from fjx.algorithms._phases import PhasesState as PhasesState
from fjx.algorithms._phases import two_phases as two_phases
from fjx.algorithms._power_sgd import PowerSgdState as PowerSgdState
from fjx.algorithms._power_sgd import power_sgd as power_sgd
from fjx.algorithms._private import dp_fedavg as dp_fedavg
from fjx.algorithms._replicated import Replicas as Replicas
from fjx.algorithms._replicated import ReplicatedAggregate as ReplicatedAggregate
from fjx.algorithms._replicated import ReplicatedServer as ReplicatedServer
from fjx.algorithms._replicated import artemis as artemis
from fjx.algorithms._replicated import ef21_bc as ef21_bc
from fjx.algorithms._replicated import replicated as replicated
from fjx.algorithms._scaffnew import ScaffnewServerState as ScaffnewServerState
from fjx.algorithms._scaffnew import scaffnew as scaffnew
from fjx.algorithms._scaffold import scaffold as scaffold
from fjx.algorithms._stochastic import stochastic as stochastic
from fjx.algorithms._tamuna import compressed_scaffnew as compressed_scaffnew
from fjx.algorithms._tamuna import tamuna as tamuna

__all__ = [
    "ChocoRow",
    "ChocoState",
    "ClagState",
    "DashaState",
    "DifferenceState",
    "FedLinState",
    "Link",
    "MarinaServerState",
    "MarinaState",
    "OneBitAdamState",
    "Phase",
    "PhasesState",
    "PowerSgdState",
    "Replicas",
    "ReplicatedAggregate",
    "ReplicatedServer",
    "ScaffnewServerState",
    "artemis",
    "choco",
    "choco_gossip",
    "choco_sgd",
    "clag",
    "compressed_gd",
    "compressed_scaffnew",
    "dasha",
    "diana",
    "difference",
    "double_squeeze",
    "dp_fedavg",
    "dp_ftrl",
    "ef14",
    "ef21",
    "ef21_bc",
    "ef21_sgdm",
    "ef_bv",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedcom",
    "fedcomgate",
    "fedcomloc",
    "fedlin",
    "fedpaq",
    "fedprox",
    "fedsgd",
    "fedyogi",
    "fetch_sgd",
    "marina",
    "mcm",
    "onebit_adam",
    "power_sgd",
    "pp_marina",
    "replicated",
    "scaffnew",
    "scaffold",
    "sign_sgd",
    "stochastic",
    "tamuna",
    "two_phases",
]
