"""Error feedback, whose residuals are of whole gradients: with constants and proofs of our own.

Both methods have a virtual iterate x~ that moves by -gamma grad f(w), w where clients compute.  With
F = f(w) - f* and gamma <= 1 / (4 L),

    ||x~^+ - x*||^2 <= (1 - gamma mu / 2) ||x~ - x*||^2 - gamma F + gamma (4 L + mu) ||x~ - w||^2.

For 2 <grad f(w), x~ - x*> is at least the sum of 2 F + mu ||w - x*||^2, where ||w - x*||^2 >=
||x~ - x*||^2 / 2 - ||x~ - w||^2, and of -||grad f(w)||^2 / (4 L) - 4 L ||x~ - w||^2; and
||grad f(w)||^2 <= 2 L F.
"""

import math

from fjx import _validate
from fjx.theory._theory import Theory, contraction, positive


def ef14(*, L: float, L_max: float, mu: float, delta: float) -> Theory:
    """EF14 with contractive codecs: ||x~ - x*||^2 + a mean ||e_i||^2, to a neighbourhood.

    Here e_i are the residuals, of gradients, and x~ = x - gamma mean e_i moves by -gamma grad f(x).
    With F = f(x) - f*, theta = 1 - sqrt(1 - delta) and beta = (1 - delta) / theta, in expectation

        ||x~^+ - x*||^2  <= (1 - gamma mu / 2) ||x~ - x*||^2 - gamma F
        + gamma^3 (4 L + mu) mean ||e_i||^2,
        mean ||e_i^+||^2 <= (1 - theta) mean ||e_i||^2 + beta (4 L_max F + 2 mean ||grad f_i(x*)||^2),

    the first for gamma <= 1 / (4 L).  With M = 2 beta / theta,
    gamma = min(1 / (4 L), 1 / (2 sqrt((4 L + mu) L_max M))), where gamma mu <= theta holds by itself,
    a = 2 gamma^3 (4 L + mu) / theta, and the rate is 1 - gamma mu / 2, with
    4 gamma^2 (4 L + mu) M / mu of noise, in every round and surely where the codec is deterministic.
    The same holds of any smaller step: the noise falls with its square.

    Args:
        L: smoothness of f.
        L_max: the largest smoothness of an f_i, all of them convex.
        mu: strong convexity of f.
        delta: of the codec.

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
    """DoubleSqueeze with contractive codecs, to a neighbourhood.

    Besides the clients' residuals e_i, of gradients, there is the server's, r = x - w with w where
    clients compute.  x~ = x - gamma mean e_i moves by -gamma grad f(w), and x by -gamma times the mean
    of what is sent, which is no longer than 1 + sqrt(1 - delta) = 2 - theta times what was to be sent.
    With G = 4 L_max F + 2 mean ||grad f_i(x*)||^2 and F = f(w) - f*, in expectation

        ||x~^+ - x*||^2  <= (1 - gamma mu / 2) ||x~ - x*||^2 - gamma F
        + 2 gamma (4 L + mu) (||r||^2 + gamma^2 mean ||e_i||^2),
        mean ||e_i^+||^2 <= (1 - theta) mean ||e_i||^2 + beta G,
        ||r^+||^2        <= (1 - theta) ||r||^2 + 2 beta (2 - theta)^2 gamma^2 (mean ||e_i||^2 + G),

    theta and beta as for :func:`ef14`.  With S = 4 (2 - theta)^2 beta / theta and
    M = 4 (1 + S) beta / theta + 2 S, step, rate and noise are those of :func:`ef14` with this M, of

        ||x~ - x*||^2 + (4 gamma (4 L + mu) / theta) (||r||^2 + gamma^2 (1 + S) mean ||e_i||^2),

    r being that of the round's own broadcast.

    Args:
        L: smoothness of f.
        L_max: the largest smoothness of an f_i, all of them convex.
        mu: strong convexity of f.
        delta: of the codec, of both directions.

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
    return Theory(gamma, 1 - gamma * mu / 2, noise=4 * gamma**2 * (4 * L + mu) * errors / mu)
