"""What a client does in a round: local training, exact on ragged data."""

from fjx.clients._gradient import gradient as gradient
from fjx.clients._loss import Loss as Loss
from fjx.clients._loss import LossFn as LossFn
from fjx.clients._loss import per_example as per_example
from fjx.clients._loss import whole_batch as whole_batch
from fjx.clients._prox import proximal as proximal
from fjx.clients._scaffold import scaffold as scaffold
from fjx.clients._sgd import local_sgd as local_sgd

__all__ = [
    "Loss",
    "LossFn",
    "gradient",
    "local_sgd",
    "per_example",
    "proximal",
    "scaffold",
    "whole_batch",
]
