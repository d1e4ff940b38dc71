"""The adaptive server optimisers of Reddi et al. 2021, as optax transformations."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate
from fjx._base import Array, Tree


class AdaptiveState(NamedTuple):
    """State of :func:`adaptive`, in the paper's symbols.

    Attributes:
        m: first moment of the aggregate message Delta_t.
        v: second moment of the aggregate message.
    """

    m: Tree
    v: Tree


def adaptive(
    second_moment: Callable[[Array, Array], Array],
    *,
    learning_rate: float | Array,
    beta1: float | Array = 0.9,
    tau: float | Array = 1e-3,
) -> optax.GradientTransformation:
    """Adaptive server step X += eta m_t / (sqrt(v_t) + tau).

    The first moment is m_t = beta1 m_{t-1} + (1 - beta1) Delta_t.  The function ``second_moment`` gives
    v_t.  Unlike optax's optimisers of the same names, this one has no bias correction, and v starts at
    tau^2, as in the paper.

    Args:
        second_moment: function ``(v, square) -> v`` of the previous v and the squared message.
        learning_rate: server step size eta.
        beta1: decay of the first moment, in [0, 1).
        tau: degree of adaptivity, positive.

    Returns:
        An optax transformation.

    Raises:
        ValueError: a number is out of range.

    Examples:
        Adagrad, without a first moment:

        >>> import jax.numpy as jnp
        >>> from fjx import servers
        >>> adagrad = servers.adaptive(lambda v, square: v + square, learning_rate=1.0, beta1=0.0)
        >>> update, _ = adagrad.update(jnp.array(-3.0), adagrad.init(jnp.array(0.0)))
        >>> round(float(update), 3)
        1.0

    References:
        Reddi et al., *Adaptive Federated Optimization*, ICLR 2021 (arXiv:2003.00295), algorithm 2.
    """
    _validate.number("learning_rate", learning_rate, above=0)
    _validate.number("beta1", beta1, at_least=0, below=1)
    _validate.number("tau", tau, above=0)

    def init(params: Tree) -> AdaptiveState:
        # At least float32: squares of small updates underflow in narrower floats.
        m = jax.tree.map(lambda p: _tree.wide(jnp.zeros_like(p)), params)
        return AdaptiveState(m, jax.tree.map(lambda p: jnp.full_like(p, tau**2), m))

    def update(
        gradient: Tree, state: AdaptiveState, params: Tree | None = None
    ) -> tuple[Tree, AdaptiveState]:
        # The gradient is -Delta (see from_optax), hence the minus sign in m.
        wide = jax.tree.map(_tree.wide, gradient)
        m = jax.tree.map(lambda m, g: beta1 * m - (1 - beta1) * g, state.m, wide)
        v = jax.tree.map(lambda v, g: second_moment(v, g * g), state.v, wide)

        def step(m: Array, v: Array, g: Array) -> Array:
            return (learning_rate * m / (jnp.sqrt(v) + tau)).astype(g.dtype)

        return jax.tree.map(step, m, v, gradient), AdaptiveState(m, v)

    return optax.GradientTransformation(init, update)


def adagrad(v: Array, square: Array) -> Array:
    """Second moment of FedAdagrad: v + Delta^2.

    Args:
        v: previous second moment.
        square: squared message Delta^2.

    Returns:
        The next second moment.

    Examples:
        >>> from fjx import servers
        >>> servers.adagrad(1.0, 4.0)
        5.0

    References:
        Reddi et al., ICLR 2021 (arXiv:2003.00295), algorithm 2.
    """
    return v + square


def adam(beta2: float | Array) -> Callable[[Array, Array], Array]:
    """Second moment of FedAdam: beta2 v + (1 - beta2) Delta^2.

    Args:
        beta2: decay of the second moment, in [0, 1).

    Returns:
        A function ``(v, square) -> v`` for :func:`adaptive`.

    Raises:
        ValueError: ``beta2`` is not in [0, 1).

    Examples:
        >>> from fjx import servers
        >>> servers.adam(0.5)(1.0, 4.0)
        2.5

    References:
        Reddi et al., ICLR 2021 (arXiv:2003.00295), algorithm 2.
    """
    _validate.number("beta2", beta2, at_least=0, below=1)
    return lambda v, square: beta2 * v + (1 - beta2) * square


def yogi(beta2: float | Array) -> Callable[[Array, Array], Array]:
    """Second moment of FedYogi: v - (1 - beta2) Delta^2 sign(v - Delta^2).

    Args:
        beta2: decay of the second moment, in [0, 1).

    Returns:
        A function ``(v, square) -> v`` for :func:`adaptive`.

    Raises:
        ValueError: ``beta2`` is not in [0, 1).

    Examples:
        >>> from fjx import servers
        >>> float(servers.yogi(0.5)(1.0, 4.0))
        3.0

    References:
        Zaheer et al., *Adaptive Methods for Nonconvex Optimization*, NeurIPS 2018; Reddi et al., ICLR
        2021 (arXiv:2003.00295), algorithm 2.
    """
    _validate.number("beta2", beta2, at_least=0, below=1)
    return lambda v, square: v - (1 - beta2) * square * jnp.sign(v - square)
