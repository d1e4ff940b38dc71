"""Laws for components of one's own: one call, and a failure that names the law and the remedy.

Every check runs the laws that the library's own components keep::

    testing.check_compressor(my_codec)
"""

from fjx.testing._aggregator import aggregator_laws as aggregator_laws
from fjx.testing._aggregator import check_aggregator as check_aggregator
from fjx.testing._compressor import check_compressor as check_compressor
from fjx.testing._compressor import compressor_laws as compressor_laws
from fjx.testing._compressor import message_like as message_like
from fjx.testing._laws import Law as Law
from fjx.testing._laws import LawError as LawError
from fjx.testing._mechanism import check_mechanism as check_mechanism
from fjx.testing._mechanism import mechanism_laws as mechanism_laws
from fjx.testing._sampler import check_sampler as check_sampler
from fjx.testing._sampler import sampler_laws as sampler_laws
from fjx.testing._server import check_server_update as check_server_update
from fjx.testing._server import server_laws as server_laws
