"""Differential privacy of clients: bound, add noise once, account for what ran.

A mechanism clips each client's update and adds noise to their sum; the sampler says how the cohort
came about; ``epsilon`` reads both, so a claim cannot be made for a run that did not happen::

    mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.1)
    sampler = samplers.poisson(0.01)
    aggregator = aggregators.private(mechanism, denominator=0.01 * num_clients)
    print(privacy.epsilon(mechanism, sampler, rounds=500, delta=1e-6))

A plan makes all of them from one description, and a run is then held to it::

    plan = privacy.plan(
        num_clients=num_clients, cohort=100, rounds=500, delta=1e-6, epsilon=2.0, clip_norm=1.0)
    result = fjx.simulate(..., sampler=plan.sampler, rounds=500, plan=plan)
    print(result.privacy)
"""

from fjx.privacy._calibrate import calibrate as calibrate
from fjx.privacy._calibrate import calibrate_rate as calibrate_rate
from fjx.privacy._calibrate import calibrate_rounds as calibrate_rounds
from fjx.privacy._claim import Epsilon as Epsilon
from fjx.privacy._claim import Method as Method
from fjx.privacy._claim import Unit as Unit
from fjx.privacy._clip import Bound as Bound
from fjx.privacy._clip import Clipped as Clipped
from fjx.privacy._clip import Norm as Norm
from fjx.privacy._clip import Relation as Relation
from fjx.privacy._clip import by_global_norm as by_global_norm
from fjx.privacy._clip import clip_by_global_norm as clip_by_global_norm
from fjx.privacy._mechanisms import Contribution as Contribution
from fjx.privacy._mechanisms import Mechanism as Mechanism
from fjx.privacy._mechanisms import Participation as Participation
from fjx.privacy._mechanisms import RenyiCurve as RenyiCurve
from fjx.privacy._mechanisms import gaussian as gaussian
from fjx.privacy._plan import Plan as Plan
from fjx.privacy._plan import plan as plan
from fjx.privacy._releases import Accountable as Accountable
from fjx.privacy._releases import participation as participation
from fjx.privacy._report import Report as Report
from fjx.privacy._report import report as report
from fjx.privacy._rescaled import Rescaled as Rescaled
from fjx.privacy._rescaled import rescaled as rescaled
from fjx.privacy.accounting import Ledger as Ledger
from fjx.privacy.accounting import epsilon as epsilon

__all__ = [
    "Accountable",
    "Bound",
    "Clipped",
    "Contribution",
    "Epsilon",
    "Ledger",
    "Mechanism",
    "Method",
    "Norm",
    "Participation",
    "Plan",
    "Relation",
    "RenyiCurve",
    "Report",
    "Rescaled",
    "Unit",
    "by_global_norm",
    "calibrate",
    "calibrate_rate",
    "calibrate_rounds",
    "clip_by_global_norm",
    "epsilon",
    "gaussian",
    "participation",
    "plan",
    "report",
    "rescaled",
]
