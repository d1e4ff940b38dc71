"""Differential privacy of clients: bound, add noise once, account for what ran.

A mechanism clips each client's update and adds noise to their sum; the sampler says how the cohort
came about; ``epsilon`` reads both, so a claim cannot be made for a run that did not happen::

    mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.1)
    sampler = samplers.poisson(0.01)
    aggregator = aggregators.private(mechanism, denominator=0.01 * num_clients)
    print(privacy.epsilon(mechanism, sampler, rounds=500, delta=1e-6))
"""

from fjx.privacy._binomial import poisson_binomial as poisson_binomial
from fjx.privacy._clip import Bound as Bound
from fjx.privacy._clip import Clipped as Clipped
from fjx.privacy._clip import Norm as Norm
from fjx.privacy._clip import Relation as Relation
from fjx.privacy._clip import by_global_norm as by_global_norm
from fjx.privacy._clip import clip_by_global_norm as clip_by_global_norm
from fjx.privacy._distributed import DistributedMechanism as DistributedMechanism
from fjx.privacy._distributed import Encoded as Encoded
from fjx.privacy._distributed import distributed_gaussian as distributed_gaussian
from fjx.privacy._distributed import distributed_skellam as distributed_skellam
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
from fjx.privacy.accounting import Epsilon as Epsilon
from fjx.privacy.accounting import Method as Method
from fjx.privacy.accounting import calibrate as calibrate
from fjx.privacy.accounting import epsilon as epsilon

__all__ = [
    "Bound",
    "Clipped",
    "Contribution",
    "DistributedMechanism",
    "Encoded",
    "Epsilon",
    "LocalMechanism",
    "Mechanism",
    "Method",
    "Norm",
    "Participation",
    "Relation",
    "RenyiCurve",
    "by_global_norm",
    "calibrate",
    "clip_by_global_norm",
    "distributed_gaussian",
    "distributed_skellam",
    "epsilon",
    "gaussian",
    "local_gaussian",
    "local_laplace",
    "poisson_binomial",
    "priv_unit",
    "randomized_response",
]
