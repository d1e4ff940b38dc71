"""Aggregators: from the messages of a cohort to one message."""

from fjx.aggregators._around import aggregate as aggregate
from fjx.aggregators._around import around as around
from fjx.aggregators._around import releasing as releasing
from fjx.aggregators._around import switch as switch
from fjx.aggregators._assigned import assigned_mean as assigned_mean
from fjx.aggregators._counted import counted as counted
from fjx.aggregators._distributed import distributed as distributed
from fjx.aggregators._integers import correlated_quantization as correlated_quantization
from fjx.aggregators._integers import integer_mean as integer_mean
from fjx.aggregators._mean import mean as mean
from fjx.aggregators._mean import per_field as per_field
from fjx.aggregators._mean import scaled_sum as scaled_sum
from fjx.aggregators._mean import uniform as uniform
from fjx.aggregators._mean import weighted_sum as weighted_sum
from fjx.aggregators._private import private as private
from fjx.aggregators._reweighted import Weigh as Weigh
from fjx.aggregators._reweighted import reweighted as reweighted
from fjx.aggregators._robust.median import median as median
from fjx.aggregators._shared import perm_k as perm_k
from fjx.aggregators._shared import rotated as rotated
from fjx.aggregators._shared import shared_rand_k as shared_rand_k
from fjx.aggregators._sketches import FetchState as FetchState
from fjx.aggregators._sketches import fetch_sgd as fetch_sgd
from fjx.aggregators._sketches import sketched as sketched
from fjx.aggregators._structured import structured_mean as structured_mean
from fjx.aggregators._submodel import submodel_mean as submodel_mean
from fjx.aggregators._vectors import as_vector as as_vector
from fjx.aggregators._vectors import compressed as compressed
from fjx.aggregators._vote import majority_vote as majority_vote

__all__ = [
    "FetchState",
    "Weigh",
    "aggregate",
    "around",
    "as_vector",
    "assigned_mean",
    "compressed",
    "correlated_quantization",
    "counted",
    "distributed",
    "fetch_sgd",
    "integer_mean",
    "majority_vote",
    "mean",
    "median",
    "per_field",
    "perm_k",
    "private",
    "releasing",
    "reweighted",
    "rotated",
    "scaled_sum",
    "shared_rand_k",
    "sketched",
    "structured_mean",
    "submodel_mean",
    "switch",
    "uniform",
    "weighted_sum",
]
