"""Error feedback whose residuals are of whole gradients.

The constants and the proofs are our own; see :doc:`/theory`.  Both methods have a virtual iterate
x~ that moves by -gamma grad f(w), where w is the model at which clients compute.
"""

import math

from fjx import _validate
from fjx.theory._theory import Theory, contraction, positive, proved


def ef14(*, L: float, L_max: float, mu: float, delta: float) -> Theory:
    r"""Step size and rate of EF14 with contractive codecs.

    The method converges to a neighbourhood of the optimum.  Let theta = 1 - sqrt(1 - delta), beta =
    (1 - delta) / theta and M = 2 beta / theta.  The step size is

    .. math:: \gamma = \min(1 / (4 L), 1 / (2 \sqrt{(4 L + \mu) L_{\max} M}))

    The residuals e_i are of gradients, and x~ = x - gamma mean e_i is the virtual iterate.

    See :doc:`/theory` for the proof.

    Guarantees:
        - ||x~ - x*||^2 + a mean ||e_i||^2 has the rate 1 - gamma mu / 2 in every round, with a = 2
          gamma^3 (4 L + mu) / theta and with 4 gamma^2 (4 L + mu) M / mu of noise.
        - It holds surely if the codec is deterministic, else in expectation.
        - The same holds for any smaller step size; the noise falls with its square.

    Args:
        L: smoothness constant of f.
        L_max: largest smoothness constant of an f_i; all f_i are convex.
        mu: strong convexity constant of f.
        delta: contraction constant of the codec.

    Returns:
        A :class:`Theory`.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.ef14(L=1.0, L_max=1.0, mu=0.4, delta=1.0)
        Theory(step_size=0.25, rate=0.95, memory=None, noise=0.0)

    References:
        Stich, Karimireddy, *The Error-Feedback Framework: Better Rates for SGD with Delayed Gradients
        and Compressed Updates*, JMLR 2020 (arXiv:1909.05350), for the virtual iterate.
    """
    positive(L=L, L_max=L_max, mu=mu)
    _validate.number("delta", delta, above=0, at_most=1)
    theta, beta = contraction(delta)
    return _fed_back(L, L_max, mu, 2 * beta / theta)


def double_squeeze(*, L: float, L_max: float, mu: float, delta: float) -> Theory:
    r"""Step size and rate of DoubleSqueeze with contractive codecs.

    The method converges to a neighbourhood of the optimum.  Let theta and beta be as for
    :func:`ef14`, S = 4 (2 - theta)^2 beta / theta and M = 4 (1 + S) beta / theta + 2 S. The step
    size is that of :func:`ef14` with this M:

    .. math:: \gamma = \min(1 / (4 L), 1 / (2 \sqrt{(4 L + \mu) L_{\max} M}))

    The clients' residuals e_i are of gradients.  The server's residual is r = x - w of the round's
    own broadcast, where w is the model at which clients compute.  The virtual iterate is x~ = x -
    gamma mean e_i.

    For small delta the step is of the order of delta^2.  The proof lets the errors of both codecs be as
    large as their contracts allow in every round, and add up.  Sparsifiers of ordinary gradients err
    less, so much larger steps often converge; no theorem says so.  On the quadratics of
    :func:`fjx.data.quadratic_problem` with top-k in both directions, 32 times the step lowers the loss
    for delta = 0.8, 256 times for 0.5, and 4096 times for 0.1 (``examples/proved_steps.py``).

    See :doc:`/theory` for the proof.

    Guarantees:
        - ||x~ - x*||^2 + (4 gamma (4 L + mu) / theta) (||r||^2 + gamma^2 (1 + S) mean ||e_i||^2)
          has the rate 1 - gamma mu / 2, with 4 gamma^2 (4 L + mu) M / mu of noise, in expectation.

    Args:
        L: smoothness constant of f.
        L_max: largest smoothness constant of an f_i; all f_i are convex.
        mu: strong convexity constant of f.
        delta: contraction constant of the codec of both directions.

    Returns:
        A :class:`Theory`.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.double_squeeze(L=1.0, L_max=1.0, mu=0.4, delta=1.0)
        Theory(step_size=0.25, rate=0.95, memory=None, noise=0.0)

    References:
        Tang, Yu, Lian, Zhang, Liu, ICML 2019 (arXiv:1905.05957), for the method.
    """
    positive(L=L, L_max=L_max, mu=mu)
    _validate.number("delta", delta, above=0, at_most=1)
    theta, beta = contraction(delta)
    spread = 4 * (2 - theta) ** 2 * beta / theta
    return _fed_back(L, L_max, mu, 4 * (1 + spread) * beta / theta + 2 * spread)


def _fed_back(L: float, L_max: float, mu: float, errors: float) -> Theory:
    gamma = 1 / max(4 * L, 2 * math.sqrt((4 * L + mu) * L_max * errors))
    return proved(gamma, 1 - gamma * mu / 2, noise=4 * gamma**2 * (4 * L + mu) * errors / mu)
