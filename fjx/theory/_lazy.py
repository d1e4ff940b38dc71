"""Lazy aggregation."""

import math

from fjx import _validate
from fjx.theory._theory import Theory, contraction, positive, proved


def clag(*, L: float, L_tilde: float, mu: float, delta: float, zeta: float) -> Theory:
    r"""Step size and rate of CLAG with contractive codecs.

    Let theta = 1 - sqrt(1 - delta) and B = max((1 - delta) / theta, zeta).  The step size is

    .. math:: \gamma = \min(1 / (L + \tilde L \sqrt{2 B / \theta}), \theta / (2 \mu))

    With delta = 1 the method is LAG, with zeta = 0 it is EF21.

    Guarantees:
        - f - f* + (gamma / theta) mean ||h_i - grad f_i||^2 has the rate 1 - gamma mu in every
          round.
        - It holds surely if the codec is deterministic, else in expectation.

    Args:
        L: smoothness constant of f.
        L_tilde: root mean square of the clients' smoothness constants L_i.
        mu: strong convexity constant of f, or its Polyak-Lojasiewicz constant.
        delta: contraction constant of the codec.
        zeta: constant of the trigger.

    Returns:
        A :class:`Theory`.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> constants = {"L": 1.0, "L_tilde": 1.0, "mu": 0.1, "delta": 0.5}
        >>> theory.clag(**constants, zeta=0.0) == theory.ef21(**constants)
        True

    References:
        Richtarik, Sokolov, Fatkhullin, Gasanov, Li, Gorbunov, ICML 2022 (arXiv:2202.00998).
    """
    positive(L=L, L_tilde=L_tilde, mu=mu)
    _validate.number("delta", delta, above=0, at_most=1)
    _validate.number("zeta", zeta, at_least=0)
    theta, beta = contraction(delta)
    b = max(beta, zeta)
    gamma = min(1 / (L + L_tilde * math.sqrt(2 * b / theta)), theta / (2 * mu))
    return proved(gamma, 1 - gamma * mu)
