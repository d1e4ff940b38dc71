"""Gradient descent with compressed gradients, and with compressed differences of gradients."""

import math

from fjx import _validate
from fjx.theory._theory import Theory, contraction, positive, proved


def compressed_gd(*, L: float, L_max: float, mu: float, omega: float, n: int) -> Theory:
    r"""Step size and rate of compressed gradient descent with unbiased codecs.

    The method converges to a neighbourhood of the optimum.  The step size is

    .. math:: \gamma = 1 / (L + 2 \omega L_{\max} / n)

    See :doc:`/theory` for the proof.

    Guarantees:
        - E||x - x*||^2 has the rate 1 - gamma mu, with 2 gamma omega / (n mu) of noise.

    Args:
        L: smoothness constant of f.
        L_max: largest smoothness constant of an f_i; all f_i are convex.
        mu: strong convexity constant of f.
        omega: variance constant of the codec.
        n: number of clients.

    Returns:
        A :class:`Theory` of E||x - x*||^2.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.compressed_gd(L=1.0, L_max=1.0, mu=0.1, omega=0.0, n=10)
        Theory(step_size=1.0, rate=0.9, memory=None, noise=0.0)

    References:
        Gorbunov, Hanzely, Richtarik, *A Unified Theory of SGD: Variance Reduction, Sampling,
        Quantization and Coordinate Descent*, AISTATS 2020 (arXiv:1905.11261), theorem 4.1.
    """
    positive(L=L, L_max=L_max, mu=mu)
    _validate.integer("n", n, at_least=1)
    _validate.number("omega", omega, at_least=0)
    gamma = 1 / (L + 2 * omega * L_max / n)
    return proved(gamma, 1 - gamma * mu, noise=2 * gamma * omega / (n * mu))


def ef21(*, L: float, L_tilde: float, mu: float, delta: float) -> Theory:
    r"""Step size and rate of EF21 with contractive codecs.

    Let theta = 1 - sqrt(1 - delta) and beta = (1 - delta) / theta.  The step size is

    .. math:: \gamma = \min(1 / (L + \tilde L \sqrt{2 \beta / \theta}), \theta / (2 \mu))

    Guarantees:
        - f - f* + (gamma / theta) mean ||h_i - grad f_i||^2 has the rate 1 - gamma mu in every
          round.
        - It holds surely if the codec is deterministic, else in expectation.

    Args:
        L: smoothness constant of f.
        L_tilde: root mean square of the clients' smoothness constants L_i.
        mu: strong convexity constant of f, or its Polyak-Lojasiewicz constant.
        delta: contraction constant of the codec.

    Returns:
        A :class:`Theory`.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.ef21(L=1.0, L_tilde=1.0, mu=0.1, delta=1.0)
        Theory(step_size=1.0, rate=0.9, memory=None, noise=0.0)

    References:
        Richtarik, Sokolov, Fatkhullin, NeurIPS 2021 (arXiv:2106.05203), theorem 2.
    """
    positive(L=L, L_tilde=L_tilde, mu=mu)
    _validate.number("delta", delta, above=0, at_most=1)
    theta, beta = contraction(delta)
    gamma = min(1 / (L + L_tilde * math.sqrt(2 * beta / theta)), theta / (2 * mu))
    return proved(gamma, 1 - gamma * mu)


def ef21_sgdm(*, L: float, L_tilde: float, mu: float, delta: float, eta: float) -> Theory:
    r"""Step size and rate of EF21-SGDM with contractive codecs and full gradients.

    Let theta and beta be as for :func:`ef21`, J = 4 beta eta^2 / theta and M = J + 2 (1 + J) (1 -
    eta)^2 / eta^2.  The step size is

    .. math:: \gamma = \min(1 / (L + \tilde L \sqrt{2 M}), \theta / (2 \mu), \eta / (2 \mu))

    With eta = 1 it is the step size of :func:`ef21`, up to a factor of two.  The constants are our
    own.

    See :doc:`/theory` for the proof.

    Guarantees:
        - f - f* + (2 gamma / theta) G + (2 gamma (1 + J) / eta) P has the rate 1 - gamma mu in
          every round.  Here G = mean ||h_i - v_i||^2 and P = mean ||v_i - grad f_i||^2 after the
          round.
        - It holds surely if the codec is deterministic, else in expectation.

    Args:
        L: smoothness constant of f.
        L_tilde: root mean square of the clients' smoothness constants L_i.
        mu: strong convexity constant of f, or its Polyak-Lojasiewicz constant.
        delta: contraction constant of the codec.
        eta: weight eta of a new gradient in the averages.

    Returns:
        A :class:`Theory`.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.ef21_sgdm(L=1.0, L_tilde=1.0, mu=0.1, delta=1.0, eta=1.0)
        Theory(step_size=1.0, rate=0.9, memory=None, noise=0.0)

    References:
        Fatkhullin, Tyurin, Richtarik, NeurIPS 2023 (arXiv:2305.15155), for the method.
    """
    positive(L=L, L_tilde=L_tilde, mu=mu)
    _validate.number("delta", delta, above=0, at_most=1)
    _validate.number("eta", eta, above=0, at_most=1)
    theta, beta = contraction(delta)
    j = 4 * beta * eta**2 / theta
    errors = j + 2 * (1 + j) * (1 / eta - 1) ** 2
    gamma = min(1 / (L + L_tilde * math.sqrt(2 * errors)), min(theta, eta) / (2 * mu))
    return proved(gamma, 1 - gamma * mu)


def diana(*, L_max: float, mu: float, omega: float, n: int) -> Theory:
    r"""Step size and rate of DIANA with unbiased codecs.

    Let a = 1 / (1 + omega).  The step size is

    .. math:: \gamma = 1 / (L_{\max} (1 + 6 \omega / n))

    See :doc:`/theory` for the proof.

    Guarantees:
        - E||x - x*||^2 + (4 omega gamma^2 / (a n)) mean ||h_i - grad f_i(x*)||^2 has the rate max(1
          - gamma mu, 1 - a / 2).

    Args:
        L_max: largest smoothness constant of an f_i; all f_i are convex.
        mu: strong convexity constant of f.
        omega: variance constant of the codec.
        n: number of clients.

    Returns:
        A :class:`Theory` whose ``memory`` is a, the ``lam`` of :func:`fjx.algorithms.diana`.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.diana(L_max=1.0, mu=0.1, omega=0.0, n=10)
        Theory(step_size=1.0, rate=0.9, memory=1.0, noise=0.0)

    References:
        Mishchenko, Gorbunov, Takac, Richtarik, 2019 (arXiv:1901.09269); Horvath, Kovalev, Mishchenko,
        Stich, Richtarik, 2019 (arXiv:1904.05115).
    """
    positive(L_max=L_max, mu=mu)
    _validate.integer("n", n, at_least=1)
    _validate.number("omega", omega, at_least=0)
    a = 1 / (1 + omega)
    gamma = 1 / (L_max * (1 + 6 * omega / n))
    return proved(gamma, max(1 - gamma * mu, 1 - a / 2), memory=a)


def ef_bv(*, L: float, L_tilde: float, mu: float, omega: float, n: int) -> Theory:
    r"""Step size and rate of EF-BV with unbiased codecs.

    Let lambda = 1 / (1 + omega), nu = 1 / (1 + omega / n), r = 1 - lambda, r' = 1 - nu, s = sqrt((1
    + r) / (2 r)) - 1 and theta = s (1 + s) r / r'. The step size is

    .. math:: \gamma = 1 / (L + \tilde L \sqrt{r' / r} / s)

    Guarantees:
        - f - f* + (gamma / (2 theta)) mean ||h_i - grad f_i||^2 has the rate max(1 - gamma mu, (1 +
          r) / 2).

    Args:
        L: smoothness constant of f.
        L_tilde: root mean square of the clients' smoothness constants L_i.
        mu: Polyak-Lojasiewicz constant of f.
        omega: variance constant of the codec; the clients' codecs are independent.  For omega = 0 the
            step size is its limit, 1 / L.
        n: number of clients.

    Returns:
        A :class:`Theory` whose ``memory`` is lambda.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.ef_bv(L=1.0, L_tilde=1.0, mu=0.1, omega=1.0, n=10).memory
        0.5

    References:
        Condat, Yi, Richtarik, NeurIPS 2022 (arXiv:2205.04180), theorem 1.
    """
    positive(L=L, L_tilde=L_tilde, mu=mu)
    _validate.number("omega", omega, at_least=0)
    _validate.integer("n", n, at_least=1)
    lam = 1 / (1 + omega)
    r = omega / (1 + omega)
    # 1 / s = (sqrt(2 r (1 + r)) + 2 r) / (1 - r), and r' / r = (1 + omega) / (n + omega).
    inverse = (math.sqrt(2 * r * (1 + r)) + 2 * r) / lam
    gamma = 1 / (L + L_tilde * math.sqrt((1 + omega) / (n + omega)) * inverse)
    return proved(gamma, max(1 - gamma * mu, 1 - lam / 2), memory=lam)


def marina(*, L: float, L_hat: float, mu: float, omega: float, n: int, p: float) -> Theory:
    r"""Step size and rate of MARINA with unbiased codecs.

    The step size is

    .. math:: \gamma = \min(1 / (L + \hat L \sqrt{2 (1 - p) \omega / (p n)}), p / (2 \mu))

    Guarantees:
        - f - f*, up to the error of the first estimate, has the rate 1 - gamma mu.

    Args:
        L: smoothness constant of f.
        L_hat: constant with mean ||grad f_i(x) - grad f_i(y)||^2 <= L_hat^2 ||x - y||^2.
        mu: Polyak-Lojasiewicz constant of f.
        omega: variance constant of the codec; the clients' codecs are independent.
        n: number of clients.
        p: probability of a whole gradient.

    Returns:
        A :class:`Theory`.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.marina(L=1.0, L_hat=1.0, mu=0.1, omega=3.0, n=10, p=1.0)
        Theory(step_size=1.0, rate=0.9, memory=None, noise=0.0)

    References:
        Gorbunov, Burlachenko, Li, Richtarik, ICML 2021 (arXiv:2102.07845), theorem 2.2.
    """
    positive(L=L, L_hat=L_hat, mu=mu)
    _validate.integer("n", n, at_least=1)
    _validate.number("omega", omega, at_least=0)
    _validate.number("p", p, above=0, at_most=1)
    gamma = min(1 / (L + L_hat * math.sqrt(2 * (1 - p) * omega / (p * n))), p / (2 * mu))
    return proved(gamma, 1 - gamma * mu)


def dasha(*, L: float, L_hat: float, mu: float, omega: float, n: int) -> Theory:
    r"""Step size and rate of DASHA with unbiased codecs.

    Let a = 1 / (2 omega + 1).  The step size is

    .. math:: \gamma = \min(1 / (L + \hat L \sqrt{40 \omega (2 \omega + 1) / n}), a / (4 \mu))

    Guarantees:
        - f - f*, up to the errors of the first estimates, has the rate 1 - gamma mu.

    Args:
        L: smoothness constant of f.
        L_hat: constant with mean ||grad f_i(x) - grad f_i(y)||^2 <= L_hat^2 ||x - y||^2.
        mu: Polyak-Lojasiewicz constant of f.
        omega: variance constant of the codec; the clients' codecs are independent.
        n: number of clients.

    Returns:
        A :class:`Theory` whose ``memory`` is a, the ``momentum`` of :func:`fjx.algorithms.dasha`.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.dasha(L=1.0, L_hat=1.0, mu=0.1, omega=0.0, n=10)
        Theory(step_size=1.0, rate=0.9, memory=1.0, noise=0.0)

    References:
        Tyurin, Richtarik, ICLR 2023 (arXiv:2202.01268), theorem for the Polyak-Lojasiewicz condition.
    """
    positive(L=L, L_hat=L_hat, mu=mu)
    _validate.integer("n", n, at_least=1)
    _validate.number("omega", omega, at_least=0)
    a = 1 / (2 * omega + 1)
    gamma = min(1 / (L + L_hat * math.sqrt(40 * omega * (2 * omega + 1) / n)), a / (4 * mu))
    return proved(gamma, 1 - gamma * mu, memory=a)
