"""Every public client update keeps the laws of ``fjx.testing``."""

import functools

from fjx import testing
from fjx.testing import _client
from tests.support import tables

RARER = {
    *("proximal", "whole_batch", "structured_low_rank", "structured_fixed_mask"),
    *("submodel_federated_dropout", "averaged", "by_round"),
}
LONGER = {"structured_random_mask", "dp_sgd", "submodel_ordered_dropout"}


@functools.cache
def laws(name):
    client, others = tables.CLIENTS[name]
    return {law.name: law for law in testing.client_laws(client, **others)}


@tables.cases(
    {name: [law.__name__ for law in _client.LAWS] for name in tables.CLIENTS},
    lambda name, law: tables.tier(name, tables.CLIENTS.keys() - RARER - LONGER, LONGER),
)
def test_law(name, law):
    laws(name)[law].check()
