"""Aggregators: from the messages of a cohort to one message."""

from fjx.aggregators._around import aggregate as aggregate
from fjx.aggregators._around import around as around
from fjx.aggregators._around import releasing as releasing
from fjx.aggregators._around import switch as switch
from fjx.aggregators._assigned import assigned_mean as assigned_mean
from fjx.aggregators._counted import counted as counted
from fjx.aggregators._distributed import distributed as distributed
from fjx.aggregators._grouped import grouped as grouped
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
from fjx.aggregators._robust.bulyan import bulyan as bulyan
from fjx.aggregators._robust.clipping import adaptive_clipping as adaptive_clipping
from fjx.aggregators._robust.clipping import centered_clipping as centered_clipping
from fjx.aggregators._robust.clipping import norm_bounding as norm_bounding
from fjx.aggregators._robust.coordinates import mean_around_median as mean_around_median
from fjx.aggregators._robust.coordinates import median as median
from fjx.aggregators._robust.coordinates import trimmed_mean as trimmed_mean
from fjx.aggregators._robust.filters import caf as caf
from fjx.aggregators._robust.filters import dnc as dnc
from fjx.aggregators._robust.filters import sign_guard as sign_guard
from fjx.aggregators._robust.geometric import autogm as autogm
from fjx.aggregators._robust.geometric import geometric_median as geometric_median
from fjx.aggregators._robust.mixing import bucketing as bucketing
from fjx.aggregators._robust.mixing import nearest_neighbour_mixing as nearest_neighbour_mixing
from fjx.aggregators._robust.selection import krum as krum
from fjx.aggregators._robust.selection import multi_krum as multi_krum
from fjx.aggregators._robust.subsets import mda as mda
from fjx.aggregators._robust.subsets import smea as smea
from fjx.aggregators._robust.trusted import fltrust as fltrust
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
    "adaptive_clipping",
    "aggregate",
    "around",
    "as_vector",
    "assigned_mean",
    "autogm",
    "bucketing",
    "bulyan",
    "caf",
    "centered_clipping",
    "compressed",
    "correlated_quantization",
    "counted",
    "distributed",
    "dnc",
    "fetch_sgd",
    "fltrust",
    "geometric_median",
    "grouped",
    "integer_mean",
    "krum",
    "majority_vote",
    "mda",
    "mean",
    "mean_around_median",
    "median",
    "multi_krum",
    "nearest_neighbour_mixing",
    "norm_bounding",
    "per_field",
    "perm_k",
    "private",
    "releasing",
    "reweighted",
    "rotated",
    "scaled_sum",
    "shared_rand_k",
    "sign_guard",
    "sketched",
    "smea",
    "structured_mean",
    "submodel_mean",
    "switch",
    "trimmed_mean",
    "uniform",
    "weighted_sum",
]
