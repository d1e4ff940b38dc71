"""Audits: lower bounds on epsilon from attacks that were run.

An upper bound is proved about the algorithm on paper.  An audit looks at the program, whatever it
claims.  Canaries are put into the data, a score measures how well each one can be seen in what was
released, and the scores bound epsilon from below.  A bound above the claim is a violation.  A bound
below it proves nothing::

    canaries = auditing.canaries(key, message_like, count=1000, norm=clip_norm)
    ...                                    # each canary takes part if its coin says so
    scores = auditing.scores(released, canaries)
    auditing.one_run(scores, took_part, delta=1e-5) > claimed
"""

from fjx.privacy.auditing._bound import LowerBound as LowerBound
from fjx.privacy.auditing._canaries import canaries as canaries
from fjx.privacy.auditing._canaries import scores as scores
from fjx.privacy.auditing._one_run import one_run as one_run
from fjx.privacy.auditing._one_run import one_run_gaussian_dp as one_run_gaussian_dp
from fjx.privacy.auditing._runs import clopper_pearson as clopper_pearson
from fjx.privacy.auditing._runs import gaussian_dp as gaussian_dp
from fjx.privacy.auditing._separation import auroc as auroc
from fjx.privacy.auditing._separation import tpr_at_fpr as tpr_at_fpr

__all__ = [
    "LowerBound",
    "auroc",
    "canaries",
    "clopper_pearson",
    "gaussian_dp",
    "one_run",
    "one_run_gaussian_dp",
    "scores",
    "tpr_at_fpr",
]
