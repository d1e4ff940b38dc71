"""Recipes: algorithms of the literature as choices of the parts of :func:`fjx.compose`."""

from fjx.algorithms._averaging.adaptive import fedadagrad as fedadagrad
from fjx.algorithms._averaging.adaptive import fedadam as fedadam
from fjx.algorithms._averaging.adaptive import fedyogi as fedyogi
from fjx.algorithms._averaging.fedavg import fedavg as fedavg
from fjx.algorithms._averaging.fedavg import fedavgm as fedavgm
from fjx.algorithms._averaging.fedavg import fedprox as fedprox
from fjx.algorithms._averaging.fedavg import fedsgd as fedsgd
from fjx.algorithms._averaging.fedexp import fedexp as fedexp
from fjx.algorithms._averaging.fedprox_adaptive import AdaptiveMuState as AdaptiveMuState
from fjx.algorithms._averaging.fedprox_adaptive import fedprox_adaptive as fedprox_adaptive
from fjx.algorithms._averaging.fedsam import fedsam as fedsam
from fjx.algorithms._averaging.normalised import fednova as fednova
from fjx.algorithms._averaging.normalised import fedshuffle as fedshuffle
from fjx.algorithms._averaging.power_of_choice import power_of_choice as power_of_choice
from fjx.algorithms._compressed.bidirectional import artemis as artemis
from fjx.algorithms._compressed.bidirectional import ef21_bc as ef21_bc
from fjx.algorithms._compressed.dasha import DashaState as DashaState
from fjx.algorithms._compressed.dasha import dasha as dasha
from fjx.algorithms._compressed.difference import diana as diana
from fjx.algorithms._compressed.difference import ef21 as ef21
from fjx.algorithms._compressed.difference import ef21_sgdm as ef21_sgdm
from fjx.algorithms._compressed.difference import ef_bv as ef_bv
from fjx.algorithms._compressed.difference import mcm as mcm
from fjx.algorithms._compressed.fedcom import fedcom as fedcom
from fjx.algorithms._compressed.fedcom import fedcomgate as fedcomgate
from fjx.algorithms._compressed.fedcom import fedpaq as fedpaq
from fjx.algorithms._compressed.fetch_sgd import fetch_sgd as fetch_sgd
from fjx.algorithms._compressed.lazy import ClagState as ClagState
from fjx.algorithms._compressed.lazy import clag as clag
from fjx.algorithms._compressed.marina import MarinaServerState as MarinaServerState
from fjx.algorithms._compressed.marina import MarinaState as MarinaState
from fjx.algorithms._compressed.marina import marina as marina
from fjx.algorithms._compressed.marina import pp_marina as pp_marina
from fjx.algorithms._compressed.onebit_adam import OneBitAdamState as OneBitAdamState
from fjx.algorithms._compressed.onebit_adam import onebit_adam as onebit_adam
from fjx.algorithms._compressed.power_sgd import PowerSgdState as PowerSgdState
from fjx.algorithms._compressed.power_sgd import power_sgd as power_sgd
from fjx.algorithms._compressed.residual import compressed_gd as compressed_gd
from fjx.algorithms._compressed.residual import double_squeeze as double_squeeze
from fjx.algorithms._compressed.residual import ef14 as ef14
from fjx.algorithms._compressed.residual import sign_sgd as sign_sgd
from fjx.algorithms._corrected.fedcomloc import fedcomloc as fedcomloc
from fjx.algorithms._corrected.feddyn import FedDynState as FedDynState
from fjx.algorithms._corrected.feddyn import fedadmm as fedadmm
from fjx.algorithms._corrected.feddyn import feddyn as feddyn
from fjx.algorithms._corrected.fedlin import FedLinState as FedLinState
from fjx.algorithms._corrected.fedlin import fedlin as fedlin
from fjx.algorithms._corrected.mime import MimeState as MimeState
from fjx.algorithms._corrected.mime import mime as mime
from fjx.algorithms._corrected.mime import mimelite as mimelite
from fjx.algorithms._corrected.moon import moon as moon
from fjx.algorithms._corrected.scaffnew import scaffnew as scaffnew
from fjx.algorithms._corrected.scaffold import scaffold as scaffold
from fjx.algorithms._corrected.tamuna import compressed_scaffnew as compressed_scaffnew
from fjx.algorithms._corrected.tamuna import tamuna as tamuna
from fjx.algorithms._decentralized.averaging import dsgd as dsgd
from fjx.algorithms._decentralized.averaging import gradient_tracking as gradient_tracking
from fjx.algorithms._decentralized.choco import choco_gossip as choco_gossip
from fjx.algorithms._decentralized.choco import choco_sgd as choco_sgd
from fjx.algorithms._fair.fedmgda import fedmgda as fedmgda
from fjx.algorithms._fair.losses import afl as afl
from fjx.algorithms._fair.losses import superquantile as superquantile
from fjx.algorithms._fair.losses import term as term
from fjx.algorithms._fair.qffl import qffl as qffl
from fjx.algorithms._hierarchical.edges import hierarchical as hierarchical
from fjx.algorithms._personal.clusters import fedem as fedem
from fjx.algorithms._personal.clusters import hypcluster as hypcluster
from fjx.algorithms._personal.clusters import ifca as ifca
from fjx.algorithms._personal.meta import per_fedavg as per_fedavg
from fjx.algorithms._personal.meta import reptile as reptile
from fjx.algorithms._personal.own_models import apfl as apfl
from fjx.algorithms._personal.own_models import ditto as ditto
from fjx.algorithms._personal.own_models import mr_mtl as mr_mtl
from fjx.algorithms._personal.own_models import pfedme as pfedme
from fjx.algorithms._personal.private_leaves import fedbn as fedbn
from fjx.algorithms._personal.private_leaves import fedper as fedper
from fjx.algorithms._personal.private_leaves import fedrep as fedrep
from fjx.algorithms._personal.private_leaves import lg_fedavg as lg_fedavg
from fjx.algorithms._private.dp_fedavg import dp_fedavg as dp_fedavg
from fjx.algorithms._private.dp_ftrl import dp_ftrl as dp_ftrl
from fjx.algorithms._robust.fltrust import fltrust as fltrust

__all__ = [
    "AdaptiveMuState",
    "ClagState",
    "DashaState",
    "FedDynState",
    "FedLinState",
    "MarinaServerState",
    "MarinaState",
    "MimeState",
    "OneBitAdamState",
    "PowerSgdState",
    "afl",
    "apfl",
    "artemis",
    "choco_gossip",
    "choco_sgd",
    "clag",
    "compressed_gd",
    "compressed_scaffnew",
    "dasha",
    "diana",
    "ditto",
    "double_squeeze",
    "dp_fedavg",
    "dp_ftrl",
    "dsgd",
    "ef14",
    "ef21",
    "ef21_bc",
    "ef21_sgdm",
    "ef_bv",
    "fedadagrad",
    "fedadam",
    "fedadmm",
    "fedavg",
    "fedavgm",
    "fedbn",
    "fedcom",
    "fedcomgate",
    "fedcomloc",
    "feddyn",
    "fedem",
    "fedexp",
    "fedlin",
    "fedmgda",
    "fednova",
    "fedpaq",
    "fedper",
    "fedprox",
    "fedprox_adaptive",
    "fedrep",
    "fedsam",
    "fedsgd",
    "fedshuffle",
    "fedyogi",
    "fetch_sgd",
    "fltrust",
    "gradient_tracking",
    "hierarchical",
    "hypcluster",
    "ifca",
    "lg_fedavg",
    "marina",
    "mcm",
    "mime",
    "mimelite",
    "moon",
    "mr_mtl",
    "onebit_adam",
    "per_fedavg",
    "pfedme",
    "power_of_choice",
    "power_sgd",
    "pp_marina",
    "qffl",
    "reptile",
    "scaffnew",
    "scaffold",
    "sign_sgd",
    "superquantile",
    "tamuna",
    "term",
]
