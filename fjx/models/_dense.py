"""Models of dense layers."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array
from fjx.models._adapters import from_linen
from fjx.models._model import Model


def logistic_regression(*, features: int, classes: int) -> Model:
    """Multinomial logistic regression, z = W x + b: convex, and a good first model.

    Guarantees:
        - ``features * classes + classes`` parameters, for example 7,850 for 784 features and 10
          classes.
        - Parameters start at zero, so ``init`` does not depend on its key.

    Args:
        features: number of values in an example.
        classes: number of classes.

    Returns:
        A :class:`Model` of ``x: f[b, ...]``, flattened to ``[b, features]``.

    Raises:
        ValueError: a size is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> model = logistic_regression(features=784, classes=10)
        >>> params = model.init(jax.random.key(0))
        >>> model.apply(params, jnp.ones((3, 28, 28))).shape
        (3, 10)
    """
    features = _validate.static_integer("features", features, at_least=1)
    classes = _validate.static_integer("classes", classes, at_least=1)
    module = _Dense(hidden=(), classes=classes, output_init=nn.initializers.zeros)
    return from_linen(module, jax.ShapeDtypeStruct((1, features), jnp.float32))


def mlp(*, features: int, hidden: Sequence[int] = (200, 200), classes: int) -> Model:
    """Multilayer perceptron with ReLU; the default is the 2NN of McMahan et al.

    Guarantees:
        - 199,210 parameters at 784-200-200-10, the paper's count (section 3).

    Args:
        features: number of values in an example.
        hidden: widths of the hidden layers.
        classes: number of classes.

    Returns:
        A :class:`Model` of ``x: f[b, ...]``, flattened to ``[b, features]``.

    Raises:
        ValueError: a size is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> model = mlp(features=784, classes=10)
        >>> params = model.init(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        199210

    References:
        McMahan, Moore, Ramage, Hampson, Aguera y Arcas, *Communication-Efficient Learning of Deep
        Networks from Decentralized Data*, AISTATS 2017 (arXiv:1602.05629).
    """
    features = _validate.static_integer("features", features, at_least=1)
    classes = _validate.static_integer("classes", classes, at_least=1)
    for width in hidden:
        _validate.static_integer("hidden", width, at_least=1)
    module = _Dense(hidden=tuple(hidden), classes=classes)
    return from_linen(module, jax.ShapeDtypeStruct((1, features), jnp.float32))


class _Dense(nn.Module):
    hidden: tuple[int, ...]
    classes: int
    output_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.classes, kernel_init=self.output_init)(x)
