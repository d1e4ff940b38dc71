"""Every public server keeps the laws of ``fjx.testing``."""

import functools

from fjx import testing
from fjx.testing import _server
from tests.support import tables


@functools.cache
def laws(name):
    return {law.name: law for law in testing.server_laws(*tables.SERVERS[name])}


@tables.cases({name: [law.__name__ for law in _server.LAWS] for name in tables.SERVERS})
def test_law(name, law):
    laws(name)[law].check()
