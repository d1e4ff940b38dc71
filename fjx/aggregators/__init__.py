"""How the messages of a cohort become one."""

from fjx.aggregators._assigned import owners_mean as owners_mean
from fjx.aggregators._distributed import distributed as distributed
from fjx.aggregators._integers import correlated_quantization as correlated_quantization
from fjx.aggregators._integers import integer_sum as integer_sum
from fjx.aggregators._mean import mean as mean
from fjx.aggregators._mean import per_field as per_field
from fjx.aggregators._mean import total as total
from fjx.aggregators._mean import uniform as uniform
from fjx.aggregators._private import private as private
from fjx.aggregators._robust.median import median as median
from fjx.aggregators._shared import perm_k as perm_k
from fjx.aggregators._shared import rotated as rotated
from fjx.aggregators._shared import shared_rand_k as shared_rand_k
from fjx.aggregators._sketches import FetchState as FetchState
from fjx.aggregators._sketches import fetch_sgd as fetch_sgd
from fjx.aggregators._sketches import sketched as sketched
from fjx.aggregators._structured import structured_mean as structured_mean
from fjx.aggregators._submodel import holders_mean as holders_mean
from fjx.aggregators._vectors import VectorState as VectorState
from fjx.aggregators._vectors import as_vector as as_vector
from fjx.aggregators._vectors import coded as coded
from fjx.aggregators._vote import sign_vote as sign_vote

__all__ = [
    "FetchState",
    "VectorState",
    "as_vector",
    "coded",
    "correlated_quantization",
    "distributed",
    "fetch_sgd",
    "holders_mean",
    "integer_sum",
    "mean",
    "median",
    "owners_mean",
    "per_field",
    "perm_k",
    "private",
    "rotated",
    "shared_rand_k",
    "sign_vote",
    "sketched",
    "structured_mean",
    "total",
    "uniform",
]
