"""Compression in both directions, with partial participation, and before local steps."""

import math

import numpy as np

from fjx import _validate
from fjx.theory._compressed import marina
from fjx.theory._theory import Theory, contraction, positive, proved


def ef21_bc(*, L: float, L_tilde: float, mu: float, delta: float, server_delta: float) -> Theory:
    r"""Step size and rate of EF21-BC with contractive codecs.

    Let theta = 1 - sqrt(1 - delta) and beta = (1 - delta) / theta for the clients' codec, and
    theta_s and beta_s the same for the server's codec.  Let c = (1 + sqrt(1 - delta))^2, K = 1 + 4
    c beta_s / theta_s and M = 2 beta K / theta + 4 c beta_s / theta_s.  The step size is

    .. math:: \gamma = \min(1 / (L + \tilde L \sqrt{2 M}), \theta / (2 \mu), \theta_s / (2 \mu))

    The proof follows the paper, with our own constants.

    For small delta the step is of the order of delta * server_delta.  The proof lets the errors of both
    codecs be as large as their contracts allow in every round, and add up.  Sparsifiers of ordinary
    gradients err less, so much larger steps often converge; no theorem says so.  On the quadratics of
    :func:`fjx.data.quadratic_problem` with top-k in both directions, 16 times the step converges for
    delta = 0.8, 128 times for 0.5, and 2048 times for 0.1 (``examples/proved_steps.py``).

    See :doc:`/theory` for the proof.

    Guarantees:
        - f - f* + (2 gamma K / theta) mean ||h_i - grad f_i||^2 + (2 gamma / theta_s) ||g - h||^2
          has the rate 1 - gamma mu in every round.
        - It holds surely if the codecs are deterministic, else in expectation.

    Args:
        L: smoothness constant of f.
        L_tilde: root mean square of the clients' smoothness constants L_i.
        mu: strong convexity constant of f, or its Polyak-Lojasiewicz constant.
        delta: contraction constant of the clients' codec.
        server_delta: contraction constant of the server's codec.

    Returns:
        A :class:`Theory`.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.ef21_bc(L=1.0, L_tilde=1.0, mu=0.1, delta=1.0, server_delta=1.0)
        Theory(step_size=1.0, rate=0.9, memory=None, noise=0.0)

    References:
        Fatkhullin, Sokolov, Gorbunov, Li, Richtarik, JMLR 2025 (arXiv:2110.03294), whose proof this
        follows, with constants of our own.
    """
    positive(L=L, L_tilde=L_tilde, mu=mu)
    _validate.number("delta", delta, above=0, at_most=1)
    _validate.number("server_delta", server_delta, above=0, at_most=1)
    (theta, beta), (theta_s, beta_s) = map(contraction, (delta, server_delta))
    spread = 4 * (2 - theta) ** 2 * beta_s / theta_s
    errors = 2 * beta * (1 + spread) / theta + spread
    gamma = min(1 / (L + L_tilde * math.sqrt(2 * errors)), min(theta, theta_s) / (2 * mu))
    return proved(gamma, 1 - gamma * mu)


def artemis(*, L_max: float, mu: float, omega: float, server_omega: float, n: int) -> Theory:
    r"""Step size and rate of Artemis with unbiased codecs and full gradients.

    Let a = 1 / (1 + omega).  The step size is

    .. math:: \gamma = 1 / ((1 + \omega_s) L_{\max} (1 + 6 \omega / n))

    with omega_s = ``server_omega``.  The proof is that of :func:`diana`, because the server's codec
    enlarges E||g||^2 by the factor 1 + omega_s.

    See :doc:`/theory` for the proof.

    Guarantees:
        - E||x - x*||^2 + (4 omega (1 + omega_s) gamma^2 / (a n)) mean ||h_i - grad f_i(x*)||^2 has
          the rate max(1 - gamma mu, 1 - a / 2).

    Args:
        L_max: largest smoothness constant of an f_i; all f_i are convex.
        mu: strong convexity constant of f.
        omega: variance constant of the clients' codec.
        server_omega: variance constant of the server's codec.
        n: number of clients.

    Returns:
        A :class:`Theory` whose ``memory`` is a, the ``lam`` of :func:`fjx.algorithms.artemis`.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.artemis(L_max=1.0, mu=0.1, omega=0.0, server_omega=1.0, n=10)
        Theory(step_size=0.5, rate=0.95, memory=1.0, noise=0.0)

    References:
        Philippenko, Dieuleveut, 2020 (arXiv:2006.14591), with the constants of Horvath, Kovalev,
        Mishchenko, Stich, Richtarik, 2019 (arXiv:1904.05115).
    """
    positive(L_max=L_max, mu=mu)
    _validate.number("omega", omega, at_least=0)
    _validate.number("server_omega", server_omega, at_least=0)
    _validate.integer("n", n, at_least=1)
    a = 1 / (1 + omega)
    gamma = 1 / ((1 + server_omega) * L_max * (1 + 6 * omega / n))
    return proved(gamma, max(1 - gamma * mu, 1 - a / 2), memory=a)


def mcm(*, L: float, L_max: float, mu: float, omega: float, n: int) -> Theory:
    r"""Step size and rate of MCM with unbiased codecs and full gradients.

    Let a = 1 / (1 + omega), l = L + 6 omega L_max / n and K = 16 L omega / a^2.  The step size is
    the largest gamma with

    .. math:: \gamma (1 + \gamma K) l \le 1

    The constants and the proof are our own.

    See :doc:`/theory` for the proof.

    Guarantees:
        - ||x - x*||^2 + (8 gamma L omega / a) ||x - H||^2 + (4 gamma^2 (1 + gamma K) omega / (a n))
          S has the rate max(1 - gamma mu, 1 - a / 4) in expectation.  Here x is the server's model,
          H the memory of the downlink, and S = mean ||h_i - grad f_i(x*)||^2.

    Args:
        L: smoothness constant of f.
        L_max: largest smoothness constant of an f_i; all f_i are convex.
        mu: strong convexity constant of f.
        omega: variance constant of the codec of both directions.
        n: number of clients.

    Returns:
        A :class:`Theory` whose ``memory`` is a, the ``lam`` of :func:`fjx.algorithms.mcm`.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.mcm(L=1.0, L_max=1.0, mu=0.1, omega=0.0, n=10)
        Theory(step_size=1.0, rate=0.9, memory=1.0, noise=0.0)

    References:
        Philippenko, Dieuleveut, NeurIPS 2021 (arXiv:2102.12528), for the method.
    """
    positive(L=L, L_max=L_max, mu=mu)
    _validate.number("omega", omega, at_least=0)
    _validate.integer("n", n, at_least=1)
    a = 1 / (1 + omega)
    smooth, memory = L + 6 * omega * L_max / n, 16 * L * omega / a**2
    gamma = 2 / (smooth + math.sqrt(smooth**2 + 4 * memory * smooth))
    return proved(gamma, max(1 - gamma * mu, 1 - a / 4), memory=a)


def choco_gossip(*, mixing: np.ndarray, delta: float) -> Theory:
    r"""Step size and rate of CHOCO-Gossip with contractive codecs.

    Let rho be the spectral gap of W and beta = ||I - W||_2.  The step size is

    .. math:: \gamma = \rho^2 \delta / (16 \rho + \rho^2 + 4 \beta^2 + 2 \rho \beta^2 - 8 \rho
        \delta)

    Guarantees:
        - sum ||x_i - mean||^2 + sum ||x_i - z_i||^2 has the rate 1 - rho^2 delta / 82, with z_i as
          of the next message.

    Args:
        mixing: mixing matrix W, symmetric with rows that sum to one.
        delta: contraction constant of the codec.

    Returns:
        A :class:`Theory` whose step size is the ``step_size`` of
        :func:`fjx.algorithms.choco_gossip`.

    Raises:
        ValueError: ``delta`` is out of range, W is not such a matrix, or W does not mix.

    Examples:
        >>> import numpy as np
        >>> from fjx import theory
        >>> theory.choco_gossip(mixing=np.full((4, 4), 0.25), delta=1.0).rate == 1 - 1 / 82
        True

    References:
        Koloskova, Stich, Jaggi, ICML 2019 (arXiv:1902.00340), theorem 2.
    """
    _validate.number("delta", delta, above=0, at_most=1)
    values = np.linalg.eigvalsh(_validate.mixing(mixing))
    rho = float(1 - np.sort(np.abs(values))[-2]) if len(values) > 1 else 1.0
    beta = float(np.abs(1 - values).max())
    if rho < 1e-9:
        raise ValueError("mixing must join all nodes and give each node some weight on itself")
    below = 16 * rho + rho**2 + 4 * beta**2 + 2 * rho * beta**2 - 8 * rho * delta
    return proved(rho**2 * delta / below, 1 - rho**2 * delta / 82)


def pp_marina(
    *, L: float, L_hat: float, mu: float, omega: float, participants: int, p: float
) -> Theory:
    r"""Step size and rate of PP-MARINA with unbiased codecs.

    The step size is

    .. math:: \gamma = \min(1 / (L + \hat L \sqrt{2 (1 - p) (1 + \omega) / (p r)}), p / (2 \mu))

    This is :func:`marina` with (1 + omega) / r in place of omega / n: the variance of r clients
    drawn from all and of their codecs.

    Guarantees:
        - f - f*, up to the error of the first estimate, has the rate 1 - gamma mu.

    Args:
        L: smoothness constant of f.
        L_hat: constant with mean ||grad f_i(x) - grad f_i(y)||^2 <= L_hat^2 ||x - y||^2.
        mu: Polyak-Lojasiewicz constant of f.
        omega: variance constant of the codec; the clients' codecs are independent.
        participants: number r of clients in a round.
        p: probability of a whole gradient of all clients.

    Returns:
        A :class:`Theory`.

    Raises:
        TypeError: ``participants`` is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.pp_marina(L=1.0, L_hat=1.0, mu=0.1, omega=3.0, participants=2, p=1.0)
        Theory(step_size=1.0, rate=0.9, memory=None, noise=0.0)

    References:
        Gorbunov, Burlachenko, Li, Richtarik, ICML 2021 (arXiv:2102.07845), theorem on PP-MARINA.
    """
    _validate.number("omega", omega, at_least=0)
    _validate.integer("participants", participants, at_least=1)
    return marina(L=L, L_hat=L_hat, mu=mu, omega=1 + omega, n=participants, p=p)


def fedlin(*, L_max: float, mu: float, steps: int) -> Theory:
    """Step size and rate of FedLin with full gradients, in each step of two rounds.

    The step size of a local step is eta = 1 / (L_max H), so that gamma = eta H = 1 / L_max.

    See :doc:`/theory` for the proof.

    Guarantees:
        - f - f* has the rate 1 - 3 mu / (4 L_max) in each step of the method, which is two rounds.

    Args:
        L_max: largest smoothness constant of an f_i; all f_i are convex.
        mu: strong convexity constant of f, or its Polyak-Lojasiewicz constant.
        steps: number H of local steps.

    Returns:
        A :class:`Theory` whose rate is that of two rounds.

    Raises:
        TypeError: ``steps`` is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.fedlin(L_max=1.0, mu=0.4, steps=4)
        Theory(step_size=0.25, rate=0.7, memory=None, noise=0.0)

    References:
        Mitra, Jaafar, Pappas, Hassani, NeurIPS 2021 (arXiv:2102.07053), theorem 1, which has a sixth of
        the step.
    """
    positive(L_max=L_max, mu=mu)
    _validate.integer("steps", steps, at_least=1)
    return proved(1 / (L_max * steps), 1 - 0.75 * mu / L_max)
