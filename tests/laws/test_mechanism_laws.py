"""Every public mechanism keeps the laws of ``fjx.testing``."""

import functools

from fjx import testing
from tests.support import tables

RARER = {"toeplitz", "buffered_toeplitz", "honaker_tree", "distributed_skellam", "local_laplace"}
LONGER = {"priv_unit", "local_gaussian", "poisson_binomial", "distributed_gaussian"}


@functools.cache
def laws(name):
    return {law.name: law for law in testing.mechanism_laws(tables.MECHANISMS[name])}


@tables.cases(
    {
        name: [law.name for law in testing.mechanism_laws(m)]
        for name, m in tables.MECHANISMS.items()
    },
    lambda name, law: tables.tier(name, tables.MECHANISMS.keys() - RARER - LONGER, LONGER),
)
def test_law(name, law):
    laws(name)[law].check()
