"""Evaluation and reports: sweeps with intervals, statistics over clients, ratios, tables and plots."""

from fjx.evaluation._clients import ClientStatistics as ClientStatistics
from fjx.evaluation._clients import client_statistics as client_statistics
from fjx.evaluation._clients import gini as gini
from fjx.evaluation._clients import quantiles as quantiles
from fjx.evaluation._clients import variance as variance
from fjx.evaluation._clients import worst as worst
from fjx.evaluation._counts import Count as Count
from fjx.evaluation._counts import confusion as confusion
from fjx.evaluation._counts import counts as counts
from fjx.evaluation._counts import counts_per_client as counts_per_client
from fjx.evaluation._counts import score_histogram as score_histogram
from fjx.evaluation._intervals import Interval as Interval
from fjx.evaluation._intervals import bootstrap_interval as bootstrap_interval
from fjx.evaluation._intervals import paired_difference as paired_difference
from fjx.evaluation._intervals import t_interval as t_interval
from fjx.evaluation._personal import centralised as centralised
from fjx.evaluation._personal import local_only as local_only
from fjx.evaluation._personal import personal as personal
from fjx.evaluation._personal import together as together
from fjx.evaluation._personal import tuned as tuned
from fjx.evaluation._plots import plot as plot
from fjx.evaluation._ratios import Auc as Auc
from fjx.evaluation._ratios import accuracy as accuracy
from fjx.evaluation._ratios import auc as auc
from fjx.evaluation._ratios import f1 as f1
from fjx.evaluation._ratios import precision as precision
from fjx.evaluation._ratios import recall as recall
from fjx.evaluation._rows import history_of as history_of
from fjx.evaluation._rows import rows as rows
from fjx.evaluation._rows import write_csv as write_csv
from fjx.evaluation._rows import write_jsonl as write_jsonl
from fjx.evaluation._rows import write_tensorboard as write_tensorboard
from fjx.evaluation._sweep import Make as Make
from fjx.evaluation._sweep import Sweep as Sweep
from fjx.evaluation._sweep import init_key as init_key
from fjx.evaluation._sweep import sweep as sweep
from fjx.evaluation._tables import latex_table as latex_table

__all__ = [
    "Auc",
    "ClientStatistics",
    "Count",
    "Interval",
    "Make",
    "Sweep",
    "accuracy",
    "auc",
    "bootstrap_interval",
    "centralised",
    "client_statistics",
    "confusion",
    "counts",
    "counts_per_client",
    "f1",
    "gini",
    "history_of",
    "init_key",
    "latex_table",
    "local_only",
    "paired_difference",
    "personal",
    "plot",
    "precision",
    "quantiles",
    "recall",
    "rows",
    "score_histogram",
    "sweep",
    "t_interval",
    "together",
    "tuned",
    "variance",
    "worst",
    "write_csv",
    "write_jsonl",
    "write_tensorboard",
]
