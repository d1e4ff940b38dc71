"""Laws for components of your own: one call each, and a failure that names the remedy.

The library's own components keep the same laws, through the same functions::

    testing.check_compressor(my_codec)
    testing.check_aggregator(my_aggregator)
    testing.check_client_update(my_client, params, dataset)
    testing.check_server_update(my_server)
    testing.check_sampler(my_sampler)
    testing.check_mechanism(my_mechanism)
    testing.check_algorithm(my_algorithm, params, dataset)

A check raises :class:`LawError` for the first law that does not hold.  In a test suite give each law a
test of its own::

    @pytest.mark.parametrize("law", testing.compressor_laws(my_codec), ids=lambda law: law.name)
    def test_law(law):
        law.check()
"""

from fjx.testing._aggregator import aggregator_laws as aggregator_laws
from fjx.testing._aggregator import check_aggregator as check_aggregator
from fjx.testing._algorithm import algorithm_laws as algorithm_laws
from fjx.testing._algorithm import check_algorithm as check_algorithm
from fjx.testing._client import check_client_update as check_client_update
from fjx.testing._client import client_laws as client_laws
from fjx.testing._compressor import check_compressor as check_compressor
from fjx.testing._compressor import compressor_laws as compressor_laws
from fjx.testing._compressor import message_like as message_like
from fjx.testing._laws import Law as Law
from fjx.testing._laws import LawError as LawError
from fjx.testing._mechanism import check_mechanism as check_mechanism
from fjx.testing._mechanism import mechanism_laws as mechanism_laws
from fjx.testing._problem import Problem as Problem
from fjx.testing._problem import linear_regression as linear_regression
from fjx.testing._sampler import check_sampler as check_sampler
from fjx.testing._sampler import sampler_laws as sampler_laws
from fjx.testing._server import check_server_update as check_server_update
from fjx.testing._server import server_laws as server_laws

__all__ = [
    "Law",
    "LawError",
    "Problem",
    "aggregator_laws",
    "algorithm_laws",
    "check_aggregator",
    "check_algorithm",
    "check_client_update",
    "check_compressor",
    "check_mechanism",
    "check_sampler",
    "check_server_update",
    "client_laws",
    "compressor_laws",
    "linear_regression",
    "mechanism_laws",
    "message_like",
    "sampler_laws",
    "server_laws",
]
