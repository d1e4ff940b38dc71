"""Work of one client in a round: local training, exact on clients of different sizes."""

from fjx.clients._average import AveragedState as AveragedState
from fjx.clients._average import averaged as averaged
from fjx.clients._by_round import Listed as Listed
from fjx.clients._by_round import by_round as by_round
from fjx.clients._by_round import listed as listed
from fjx.clients._clusters import Mixture as Mixture
from fjx.clients._contrastive import contrastive as contrastive
from fjx.clients._dp_sgd import dp_sgd as dp_sgd
from fjx.clients._dual import DualState as DualState
from fjx.clients._dual import dual as dual
from fjx.clients._gradient import gradient as gradient
from fjx.clients._loss import Loss as Loss
from fjx.clients._loss import LossFn as LossFn
from fjx.clients._loss import per_example as per_example
from fjx.clients._loss import whole_batch as whole_batch
from fjx.clients._personal import fine_tuned as fine_tuned
from fjx.clients._prox import proximal as proximal
from fjx.clients._scaffold import scaffold as scaffold
from fjx.clients._scores import Score as Score
from fjx.clients._scores import gradient_norm as gradient_norm
from fjx.clients._scores import mean_loss as mean_loss
from fjx.clients._sgd import local_sgd as local_sgd
from fjx.clients._sharpness import sharpness_aware as sharpness_aware
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
from fjx.clients._telling import Trained as Trained
from fjx.clients._telling import telling as telling

__all__ = [
    "AveragedState",
    "DualState",
    "Listed",
    "Loss",
    "LossFn",
    "Mixture",
    "Score",
    "Subspace",
    "Trained",
    "Units",
    "averaged",
    "by_round",
    "contrastive",
    "dp_sgd",
    "dual",
    "federated_dropout",
    "fine_tuned",
    "fixed_mask",
    "gradient",
    "gradient_norm",
    "held_coordinates",
    "listed",
    "local_sgd",
    "mean_loss",
    "ordered_dropout",
    "per_example",
    "proximal",
    "random_low_rank",
    "random_mask",
    "scaffold",
    "sharpness_aware",
    "structured",
    "submodel",
    "telling",
    "whole_batch",
]
