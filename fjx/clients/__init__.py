"""Work of one client in a round: local training, exact on clients of different sizes."""

from fjx.clients._average import AveragedState as AveragedState
from fjx.clients._average import averaged as averaged
from fjx.clients._by_round import by_round as by_round
from fjx.clients._clusters import Mixture as Mixture
from fjx.clients._dp_sgd import dp_sgd as dp_sgd
from fjx.clients._gradient import gradient as gradient
from fjx.clients._loss import Loss as Loss
from fjx.clients._loss import LossFn as LossFn
from fjx.clients._loss import per_example as per_example
from fjx.clients._loss import whole_batch as whole_batch
from fjx.clients._personal import fine_tuned as fine_tuned
from fjx.clients._prox import proximal as proximal
from fjx.clients._scaffold import scaffold as scaffold
from fjx.clients._sgd import local_sgd as local_sgd
from fjx.clients._structured import Subspace as Subspace
from fjx.clients._structured import fixed_mask as fixed_mask
from fjx.clients._structured import random_low_rank as random_low_rank
from fjx.clients._structured import random_mask as random_mask
from fjx.clients._structured import structured as structured
from fjx.clients._submodel import Units as Units
from fjx.clients._submodel import federated_dropout as federated_dropout
from fjx.clients._submodel import held_coordinates as held_coordinates
from fjx.clients._submodel import ordered_dropout as ordered_dropout
from fjx.clients._submodel import submodel as submodel

__all__ = [
    "AveragedState",
    "Loss",
    "LossFn",
    "Mixture",
    "Subspace",
    "Units",
    "averaged",
    "by_round",
    "dp_sgd",
    "federated_dropout",
    "fine_tuned",
    "fixed_mask",
    "gradient",
    "held_coordinates",
    "local_sgd",
    "ordered_dropout",
    "per_example",
    "proximal",
    "random_low_rank",
    "random_mask",
    "scaffold",
    "structured",
    "submodel",
    "whole_batch",
]
