"""Differential privacy of clients: bound, add noise once, account for what ran.

A mechanism clips each client's update and adds noise to their sum; the sampler says how the cohort
came about; ``epsilon`` reads both, so a claim cannot be made for a run that did not happen::

    mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.1)
    sampler = samplers.poisson(0.01)
    aggregator = aggregators.private(mechanism, denominator=0.01 * num_clients)
    print(privacy.epsilon(mechanism, sampler, rounds=500, delta=1e-6))
"""

from fjx.privacy import auditing as auditing
from fjx.privacy._adaptive import AdaptiveState as AdaptiveState
from fjx.privacy._adaptive import adaptive_gaussian as adaptive_gaussian
from fjx.privacy._binomial import poisson_binomial as poisson_binomial
from fjx.privacy._bounds import by_l1_norm as by_l1_norm
from fjx.privacy._bounds import by_linf_norm as by_linf_norm
from fjx.privacy._bounds import normalized as normalized
from fjx.privacy._calibrate import calibrate as calibrate
from fjx.privacy._calibrate import calibrate_rate as calibrate_rate
from fjx.privacy._calibrate import calibrate_rounds as calibrate_rounds
from fjx.privacy._central import discrete_gaussian as discrete_gaussian
from fjx.privacy._central import laplace as laplace
from fjx.privacy._claim import Epsilon as Epsilon
from fjx.privacy._claim import Method as Method
from fjx.privacy._claim import Unit as Unit
from fjx.privacy._clip import Bound as Bound
from fjx.privacy._clip import Clipped as Clipped
from fjx.privacy._clip import Norm as Norm
from fjx.privacy._clip import Relation as Relation
from fjx.privacy._clip import by_global_norm as by_global_norm
from fjx.privacy._clip import clip_by_global_norm as clip_by_global_norm
from fjx.privacy._correlated import Strategy as Strategy
from fjx.privacy._correlated import correlated as correlated
from fjx.privacy._correlated import noise_matrix as noise_matrix
from fjx.privacy._correlated import prefix_error as prefix_error
from fjx.privacy._distributed import DistributedMechanism as DistributedMechanism
from fjx.privacy._distributed import Encoded as Encoded
from fjx.privacy._distributed import distributed_gaussian as distributed_gaussian
from fjx.privacy._distributed import distributed_skellam as distributed_skellam
from fjx.privacy._examples import examples_epsilon as examples_epsilon
from fjx.privacy._local import LocalMechanism as LocalMechanism
from fjx.privacy._local import local_gaussian as local_gaussian
from fjx.privacy._local import local_laplace as local_laplace
from fjx.privacy._local import priv_unit as priv_unit
from fjx.privacy._local import randomized_response as randomized_response
from fjx.privacy._mechanisms import Contribution as Contribution
from fjx.privacy._mechanisms import Mechanism as Mechanism
from fjx.privacy._mechanisms import Participation as Participation
from fjx.privacy._mechanisms import RenyiCurve as RenyiCurve
from fjx.privacy._mechanisms import gaussian as gaussian
from fjx.privacy._optimal import optimal_buffers as optimal_buffers
from fjx.privacy._optimal import optimal_coefficients as optimal_coefficients
from fjx.privacy._plan import Plan as Plan
from fjx.privacy._plan import plan as plan
from fjx.privacy._releases import Accountable as Accountable
from fjx.privacy._releases import participation as participation
from fjx.privacy._report import Report as Report
from fjx.privacy._report import report as report
from fjx.privacy._rescaled import Rescaled as Rescaled
from fjx.privacy._rescaled import rescaled as rescaled
from fjx.privacy._toeplitz import ToeplitzState as ToeplitzState
from fjx.privacy._toeplitz import buffered_toeplitz as buffered_toeplitz
from fjx.privacy._toeplitz import square_root_coefficients as square_root_coefficients
from fjx.privacy._toeplitz import toeplitz as toeplitz
from fjx.privacy._tree import TreeState as TreeState
from fjx.privacy._tree import honaker_tree as honaker_tree
from fjx.privacy._tree import tree as tree
from fjx.privacy._wrappers import grouped as grouped
from fjx.privacy._wrappers import weighted as weighted
from fjx.privacy._wrappers import zeroed as zeroed
from fjx.privacy.accounting import Ledger as Ledger
from fjx.privacy.accounting import epsilon as epsilon

__all__ = [
    "Accountable",
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
    "Plan",
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
    "plan",
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
