"""Compression of both directions, of some clients' messages, and of what precedes local steps."""

import math

import numpy as np

from fjx import _validate
from fjx.theory._compressed import marina
from fjx.theory._theory import Theory, contraction, positive


def ef21_bc(*, L: float, L_tilde: float, mu: float, delta: float, server_delta: float) -> Theory:
    """EF21-BC with contractive codecs: f - f* + a mean ||h_i - grad f_i||^2 + b ||g - h||^2.

    With theta = 1 - sqrt(1 - delta) and beta = (1 - delta) / theta of the clients' codec, theta_s and
    beta_s of the server's, and c = (1 + sqrt(1 - delta))^2, by which h may move more than it errs,

        ||g - grad f||^2 <= 2 mean ||h_i - grad f_i||^2 + 2 ||g - h||^2,
        ||h^+ - h||^2    <= 2 c mean ||h_i - grad f_i||^2 + 2 c L_tilde^2 ||x^+ - x||^2,

    from which b = 2 gamma / theta_s, a = (2 gamma / theta) K with K = 1 + 4 c beta_s / theta_s, and with
    M = 2 beta K / theta + 4 c beta_s / theta_s: gamma = min(1 / (L + L_tilde sqrt(2 M)),
    theta / (2 mu), theta_s / (2 mu)), and the rate 1 - gamma mu, in every round and surely where the
    codecs are deterministic.

    Args:
        L: smoothness of f.
        L_tilde: root of the mean of the squares of the clients' L_i.
        mu: strong convexity, or the constant of Polyak and Lojasiewicz, of f.
        delta: of the clients' codec.
        server_delta: of the server's.

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
    return Theory(gamma, 1 - gamma * mu)


def artemis(*, L_max: float, mu: float, omega: float, server_omega: float, n: int) -> Theory:
    """Artemis with unbiased codecs and full gradients.

    As the server's codec enlarges E||g||^2 by 1 + server_omega, the proof of :func:`diana` goes through
    with gamma = 1 / ((1 + server_omega) L_max (1 + 6 omega / n)): with a = 1 / (1 + omega),
    E||x - x*||^2 + (4 omega (1 + server_omega) gamma^2 / (a n)) mean ||h_i - grad f_i(x*)||^2 shrinks at
    the rate max(1 - gamma mu, 1 - a / 2).

    Args:
        L_max: the largest smoothness of an f_i, all of them convex.
        mu: strong convexity of f.
        omega: of the clients' codec.
        server_omega: of the server's.
        n: number of clients.

    Returns:
        A :class:`Theory`, whose ``memory`` is a, the ``lam`` of :func:`fjx.algorithms.artemis`.

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
    return Theory(gamma, max(1 - gamma * mu, 1 - a / 2), memory=a)


def mcm(*, L: float, L_max: float, mu: float, omega: float, n: int) -> Theory:
    """MCM with unbiased codecs and full gradients, with constants and a proof of our own.

    Let w be where clients compute, H the memory before it, F = f(w) - f*, a = 1 / (1 + omega),
    S = mean ||h_i - grad f_i(x*)||^2 and g the aggregate.  As E w = x, and E||w - x||^2 is at most
    omega ||x - H||^2, in expectation

        ||x^+ - x*||^2  <= (1 - gamma mu) ||x - x*||^2 - 2 gamma F + 2 gamma L omega ||x - H||^2
        + gamma^2 ||g||^2,
        ||x^+ - H^+||^2 <= (1 - a / 2) ||x - H||^2 + (2 gamma^2 / a) ||g||^2,
        S^+             <= (1 - a) S + 2 a L_max F,
        ||g||^2         <= (2 L + 4 omega L_max / n) F + (2 omega / n) S:

    the first from <grad f(w), w - x*> >= F + mu ||w - x*||^2 / 2 and <grad f(w) - grad f(x), w - x> <=
    L ||w - x||^2.  With l = L + 6 omega L_max / n, K = 16 L omega / a^2 and the largest gamma of
    gamma (1 + gamma K) l <= 1, the rate is max(1 - gamma mu, 1 - a / 4), of

        ||x - x*||^2 + (8 gamma L omega / a) ||x - H||^2 + (4 gamma^2 (1 + gamma K) omega / (a n)) S.

    Args:
        L: smoothness of f.
        L_max: the largest smoothness of an f_i, all of them convex.
        mu: strong convexity of f.
        omega: of the codec, of both directions.
        n: number of clients.

    Returns:
        A :class:`Theory`, whose ``memory`` is a, the ``lam`` of :func:`fjx.algorithms.mcm`.

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
    return Theory(gamma, max(1 - gamma * mu, 1 - a / 4), memory=a)


def choco_gossip(*, mixing: np.ndarray, delta: float) -> Theory:
    """CHOCO-Gossip: sum ||x_i - mean||^2 + sum ||x_i - z_i||^2, z_i as of the next message.

    With rho the spectral gap of W, beta = ||I - W||_2 and delta of the codec,
    gamma = rho^2 delta / (16 rho + rho^2 + 4 beta^2 + 2 rho beta^2 - 8 rho delta), and the rate
    1 - rho^2 delta / 82.

    Args:
        mixing: W, symmetric with rows that sum to one.
        delta: of the codec.

    Returns:
        A :class:`Theory`, whose step is the ``step_size`` of :func:`fjx.algorithms.choco_gossip`.

    Raises:
        ValueError: ``delta`` is out of range, W is not such a matrix, or it does not mix.

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
        raise ValueError("mixing must join all nodes, with some weight of each on itself")
    below = 16 * rho + rho**2 + 4 * beta**2 + 2 * rho * beta**2 - 8 * rho * delta
    return Theory(rho**2 * delta / below, 1 - rho**2 * delta / 82)


def pp_marina(
    *, L: float, L_hat: float, mu: float, omega: float, participants: int, p: float
) -> Theory:
    """PP-MARINA with unbiased codecs: f - f*, up to the first estimate's error.

    gamma = min(1 / (L + L_hat sqrt(2 (1 - p) (1 + omega) / (p r))), p / (2 mu)), and the rate
    1 - gamma mu: that of :func:`marina` with (1 + omega) / r, the variance of r clients drawn from all
    and of their codecs, in the place of omega / n.

    Args:
        L: smoothness of f.
        L_hat: mean ||grad f_i(x) - grad f_i(y)||^2 <= L_hat^2 ||x - y||^2.
        mu: the constant of Polyak and Lojasiewicz of f.
        omega: of the codec, the clients' being independent.
        participants: r.
        p: of a whole gradient of all.

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
    """FedLin with whole gradients: f - f*, in each step of the method, which is two rounds.

    With gamma = eta H and eta <= 1 / (L_max H), a local function's gradients are ||g|| at most, as
    gradient steps on it do not enlarge them; so clients are within eta H ||g|| of x, and x moves by
    -gamma (g + e) with ||e|| <= gamma L_max ||g|| / 2.  Then
    f^+ <= f - (gamma / 2) (1 - gamma^2 L_max^2 / 4) ||g||^2, which for gamma = 1 / L_max is the rate
    1 - 3 mu / (4 L_max).

    Args:
        L_max: the largest smoothness of an f_i, all of them convex.
        mu: strong convexity, or the constant of Polyak and Lojasiewicz, of f.
        steps: H.

    Returns:
        A :class:`Theory`, whose rate is that of two rounds.

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
    return Theory(1 / (L_max * steps), 1 - 0.75 * mu / L_max)
