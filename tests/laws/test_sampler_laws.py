"""Every public sampler keeps the laws of ``fjx.testing``."""

import functools

from fjx import testing
from tests.support import tables

RARER = {"poisson_rare", "poisson_certain", "cyclic_poisson", "random_check_in", "available"}
LONGER = {"min_separation", "dropout"}


@functools.cache
def laws(name):
    return {law.name: law for law in testing.sampler_laws(tables.SAMPLERS[name])}


@tables.cases(
    {name: [law.name for law in testing.sampler_laws(s)] for name, s in tables.SAMPLERS.items()},
    lambda name, law: tables.tier(name, tables.SAMPLERS.keys() - RARER - LONGER, LONGER),
)
def test_law(name, law):
    laws(name)[law].check()
