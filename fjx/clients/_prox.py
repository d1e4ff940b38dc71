"""The proximal term of FedProx, as a gradient transformation."""

import jax
import jax.numpy as jnp
import optax

from fjx import _validate
from fjx._base import Array, Tree


def proximal(mu: float | Array) -> optax.GradientTransformation:
    """Gradient transformation that adds the proximal term mu (w - w_0) of FedProx.

    w_0 are the parameters at initialisation.  A client initialises its optimiser with the broadcast
    model, so ``optax.chain(proximal(mu), optax.sgd(lr))`` minimises f(w) + mu/2 ||w - w_0||^2
    around the broadcast.

    Args:
        mu: strength, non-negative; may be traced.

    Returns:
        An optax transformation whose state is w_0.

    Raises:
        ValueError: ``mu`` is negative.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import clients
        >>> prox = clients.proximal(0.5)
        >>> gradient, _ = prox.update(jnp.array(1.0), prox.init(jnp.array(2.0)), jnp.array(4.0))
        >>> float(gradient)
        2.0

    References:
        Li et al., *Federated Optimization in Heterogeneous Networks*, MLSys 2020 (arXiv:1812.06127),
        equation 2.
    """
    _validate.number("mu", mu, at_least=0)

    def update(gradient: Tree, anchor: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        if params is None:
            raise ValueError("proximal needs the parameters: call update(gradient, state, params)")

        def pull(g: Array, w: Array, w0: Array) -> Array:
            return g + jnp.asarray(mu, w.dtype) * (w - w0)

        return jax.tree.map(pull, gradient, params, anchor), anchor

    return optax.GradientTransformation(lambda params: params, update)
