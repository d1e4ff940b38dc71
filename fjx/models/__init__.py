"""Standard models of the field, and any flax module, as pure functions of their parameters.

The rest of fjx uses only ``model.loss``, a function ``(params, batch, key)`` that returns a mean
over the examples of the batch and some metrics.  A batch is ``{"x": inputs, "y": labels}``, both
with a leading axis of examples.

No other package of fjx imports this one, and no other one imports flax.
"""

from fjx.models._adapters import from_linen as from_linen
from fjx.models._adapters import from_nnx as from_nnx
from fjx.models._dense import logistic_regression as logistic_regression
from fjx.models._dense import mlp as mlp
from fjx.models._images import cnn as cnn
from fjx.models._images import emnist_cnn as emnist_cnn
from fjx.models._images import resnet18 as resnet18
from fjx.models._model import Model as Model
from fjx.models._model import cross_entropy as cross_entropy
from fjx.models._model import from_functions as from_functions
from fjx.models._sensors import sensor_cnn as sensor_cnn
from fjx.models._stateful import StatefulModel as StatefulModel
from fjx.models._stateful import stateful_from_linen as stateful_from_linen
from fjx.models._stateful import stateful_from_nnx as stateful_from_nnx
from fjx.models._text import char_lstm as char_lstm
from fjx.models._text import transformer as transformer

__all__ = [
    "Model",
    "StatefulModel",
    "char_lstm",
    "cnn",
    "cross_entropy",
    "emnist_cnn",
    "from_functions",
    "from_linen",
    "from_nnx",
    "logistic_regression",
    "mlp",
    "resnet18",
    "sensor_cnn",
    "stateful_from_linen",
    "stateful_from_nnx",
    "transformer",
]
