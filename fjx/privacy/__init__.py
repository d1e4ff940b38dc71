"""Differential privacy of clients: bound each update, add noise once, account for the run.

A mechanism clips each client's update and adds noise to their sum.  A sampler draws the cohorts.
:func:`epsilon` reads both objects, so a claim cannot be made for a run that did not happen::

    mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.1)
    sampler = samplers.poisson(0.01)
    aggregator = aggregators.private(mechanism, denominator=0.01 * num_clients)
    print(privacy.epsilon(mechanism, sampler, rounds=500, delta=1e-6))
"""

from fjx.privacy import auditing as auditing
from fjx.privacy._accounting.calibrate import calibrate as calibrate
from fjx.privacy._accounting.calibrate import calibrate_rate as calibrate_rate
from fjx.privacy._accounting.calibrate import calibrate_rounds as calibrate_rounds
from fjx.privacy._accounting.claim import Epsilon as Epsilon
from fjx.privacy._accounting.claim import Method as Method
from fjx.privacy._accounting.claim import Unit as Unit
from fjx.privacy._accounting.epsilon import Ledger as Ledger
from fjx.privacy._accounting.epsilon import epsilon as epsilon
from fjx.privacy._accounting.examples import examples_epsilon as examples_epsilon
from fjx.privacy._accounting.releases import participation as participation
from fjx.privacy._accounting.report import Report as Report
from fjx.privacy._accounting.report import report as report
from fjx.privacy._accounting.rescaled import Rescaled as Rescaled
from fjx.privacy._accounting.rescaled import rescaled as rescaled
from fjx.privacy._accounting.terms import Accounting as Accounting
from fjx.privacy._bounds.clip import Norm as Norm
from fjx.privacy._bounds.clip import by_global_norm as by_global_norm
from fjx.privacy._bounds.clip import clip_by_global_norm as clip_by_global_norm
from fjx.privacy._bounds.other_norms import by_l1_norm as by_l1_norm
from fjx.privacy._bounds.other_norms import by_linf_norm as by_linf_norm
from fjx.privacy._bounds.other_norms import normalized as normalized
from fjx.privacy._bounds.wrappers import grouped as grouped
from fjx.privacy._bounds.wrappers import weighted as weighted
from fjx.privacy._bounds.wrappers import zeroed as zeroed
from fjx.privacy._correlated.mechanism import Strategy as Strategy
from fjx.privacy._correlated.mechanism import correlated as correlated
from fjx.privacy._correlated.mechanism import noise_matrix as noise_matrix
from fjx.privacy._correlated.mechanism import prefix_error as prefix_error
from fjx.privacy._correlated.optimal import optimal_buffers as optimal_buffers
from fjx.privacy._correlated.optimal import optimal_coefficients as optimal_coefficients
from fjx.privacy._correlated.toeplitz import ToeplitzState as ToeplitzState
from fjx.privacy._correlated.toeplitz import buffered_toeplitz as buffered_toeplitz
from fjx.privacy._correlated.toeplitz import square_root_coefficients as square_root_coefficients
from fjx.privacy._correlated.toeplitz import toeplitz as toeplitz
from fjx.privacy._correlated.tree import TreeState as TreeState
from fjx.privacy._correlated.tree import honaker_tree as honaker_tree
from fjx.privacy._correlated.tree import tree as tree
from fjx.privacy._distributed.binomial import poisson_binomial as poisson_binomial
from fjx.privacy._distributed.rounded import distributed_gaussian as distributed_gaussian
from fjx.privacy._distributed.rounded import distributed_skellam as distributed_skellam
from fjx.privacy._local.mechanisms import local_gaussian as local_gaussian
from fjx.privacy._local.mechanisms import local_laplace as local_laplace
from fjx.privacy._local.mechanisms import priv_unit as priv_unit
from fjx.privacy._local.mechanisms import randomized_response as randomized_response
from fjx.privacy._mechanisms.adaptive import AdaptiveState as AdaptiveState
from fjx.privacy._mechanisms.adaptive import adaptive_gaussian as adaptive_gaussian
from fjx.privacy._mechanisms.central import discrete_gaussian as discrete_gaussian
from fjx.privacy._mechanisms.central import laplace as laplace
from fjx.privacy._mechanisms.gaussian import gaussian as gaussian
from fjx.privacy._types import Accountable as Accountable
from fjx.privacy._types import Bound as Bound
from fjx.privacy._types import Clipped as Clipped
from fjx.privacy._types import Contribution as Contribution
from fjx.privacy._types import DistributedMechanism as DistributedMechanism
from fjx.privacy._types import Encoded as Encoded
from fjx.privacy._types import LocalMechanism as LocalMechanism
from fjx.privacy._types import Mechanism as Mechanism
from fjx.privacy._types import Participation as Participation
from fjx.privacy._types import Places as Places
from fjx.privacy._types import Relation as Relation
from fjx.privacy._types import RenyiCurve as RenyiCurve

__all__ = [
    "Accountable",
    "Accounting",
    "AdaptiveState",
    "Bound",
    "Clipped",
    "Contribution",
    "DistributedMechanism",
    "Encoded",
    "Epsilon",
    "Ledger",
    "LocalMechanism",
    "Mechanism",
    "Method",
    "Norm",
    "Participation",
    "Places",
    "Relation",
    "RenyiCurve",
    "Report",
    "Rescaled",
    "Strategy",
    "ToeplitzState",
    "TreeState",
    "Unit",
    "adaptive_gaussian",
    "auditing",
    "buffered_toeplitz",
    "by_global_norm",
    "by_l1_norm",
    "by_linf_norm",
    "calibrate",
    "calibrate_rate",
    "calibrate_rounds",
    "clip_by_global_norm",
    "correlated",
    "discrete_gaussian",
    "distributed_gaussian",
    "distributed_skellam",
    "epsilon",
    "examples_epsilon",
    "gaussian",
    "grouped",
    "honaker_tree",
    "laplace",
    "local_gaussian",
    "local_laplace",
    "noise_matrix",
    "normalized",
    "optimal_buffers",
    "optimal_coefficients",
    "participation",
    "poisson_binomial",
    "prefix_error",
    "priv_unit",
    "randomized_response",
    "report",
    "rescaled",
    "square_root_coefficients",
    "toeplitz",
    "tree",
    "weighted",
    "zeroed",
]
