"""Federated data: packed examples, partitions, loaders, and synthetic problems with a known optimum."""

from fjx.data._dataset import FederatedData as FederatedData
from fjx.data._dataset import from_clients as from_clients
from fjx.data._digits import digits as digits
from fjx.data._files import from_leaf_json as from_leaf_json
from fjx.data._files import from_npz as from_npz
from fjx.data._held_out import split_clients as split_clients
from fjx.data._held_out import split_examples as split_examples
from fjx.data._held_out import take_clients as take_clients
from fjx.data._host import from_packed as from_packed
from fjx.data._host import on_device as on_device
from fjx.data._host import on_host as on_host
from fjx.data._host import open as open
from fjx.data._host import save as save
from fjx.data._partition import Partition as Partition
from fjx.data._partition import by_id as by_id
from fjx.data._partition import dirichlet as dirichlet
from fjx.data._partition import iid as iid
from fjx.data._partition import lognormal_sizes as lognormal_sizes
from fjx.data._partition import shards as shards
from fjx.data._partition import split as split
from fjx.data._statistics import Statistics as Statistics
from fjx.data._statistics import plot_partition as plot_partition
from fjx.data._statistics import statistics as statistics
from fjx.data._synthetic import Problem as Problem
from fjx.data._synthetic import leaf_synthetic as leaf_synthetic
from fjx.data._synthetic import local_gd_fixed_point as local_gd_fixed_point
from fjx.data._synthetic import logistic_problem as logistic_problem
from fjx.data._synthetic import quadratic_problem as quadratic_problem

__all__ = [
    "FederatedData",
    "Partition",
    "Problem",
    "Statistics",
    "by_id",
    "digits",
    "dirichlet",
    "from_clients",
    "from_leaf_json",
    "from_npz",
    "from_packed",
    "iid",
    "leaf_synthetic",
    "local_gd_fixed_point",
    "logistic_problem",
    "lognormal_sizes",
    "on_device",
    "on_host",
    "open",
    "plot_partition",
    "quadratic_problem",
    "save",
    "shards",
    "split",
    "split_clients",
    "split_examples",
    "statistics",
    "take_clients",
]
