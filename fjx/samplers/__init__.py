"""Samplers: the clients that take part in a round.

A sampler draws the clients of a round into a fixed number of slots, as a pure function of a key and
the number of the round.  It describes its own subsampling, so privacy is accounted for the sampler
that actually ran::

    sampler = samplers.poisson(0.01)
    sampler.sample(key, round, num_clients)  # Sample(ids, taking_part, truncated)
    sampler.capacity(num_clients)            # the number of slots
    sampler.subsampling                      # Poisson(rate=0.01, ...)
"""

from fjx.samplers._clustered import clustered as clustered
from fjx.samplers._cyclic import cyclic as cyclic
from fjx.samplers._cyclic import cyclic_poisson as cyclic_poisson
from fjx.samplers._cyclic import full as full
from fjx.samplers._dropout import dropout as dropout
from fjx.samplers._poisson import poisson as poisson
from fjx.samplers._scheduled import available as available
from fjx.samplers._scheduled import balls_in_bins as balls_in_bins
from fjx.samplers._scheduled import min_separation as min_separation
from fjx.samplers._scheduled import random_check_in as random_check_in
from fjx.samplers._types import BallsInBins as BallsInBins
from fjx.samplers._types import Cyclic as Cyclic
from fjx.samplers._types import CyclicPoisson as CyclicPoisson
from fjx.samplers._types import FixedSize as FixedSize
from fjx.samplers._types import Full as Full
from fjx.samplers._types import MinSeparated as MinSeparated
from fjx.samplers._types import Poisson as Poisson
from fjx.samplers._types import Sample as Sample
from fjx.samplers._types import Sampler as Sampler
from fjx.samplers._types import Scheduled as Scheduled
from fjx.samplers._uniform import uniform as uniform

__all__ = [
    "BallsInBins",
    "Cyclic",
    "CyclicPoisson",
    "FixedSize",
    "Full",
    "MinSeparated",
    "Poisson",
    "Sample",
    "Sampler",
    "Scheduled",
    "available",
    "balls_in_bins",
    "clustered",
    "cyclic",
    "cyclic_poisson",
    "dropout",
    "full",
    "min_separation",
    "poisson",
    "random_check_in",
    "uniform",
]
