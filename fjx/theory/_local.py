"""Local training: how fast a corrected method converges, in each local step."""

import math

from fjx import _validate
from fjx.theory._theory import Theory, positive


def scaffnew(*, L_max: float, mu: float) -> Theory:
    """Scaffnew: sum ||x_i - x*||^2 + (gamma / p)^2 sum ||h_i - grad f_i(x*)||^2, in each local step.

    gamma = 1 / L_max, p = sqrt(mu / L_max), and the rate 1 - min(gamma mu, p^2) in each step, of which a
    round has 1 / p in the mean.

    Args:
        L_max: the largest smoothness of an f_i.
        mu: the least strong convexity of an f_i.

    Returns:
        A :class:`Theory` whose rate is that of a step, and whose ``memory`` is p.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.scaffnew(L_max=4.0, mu=1.0)
        Theory(step_size=0.25, rate=0.75, memory=0.5, noise=0.0)

    References:
        Mishchenko, Malinovsky, Stich, Richtarik, ICML 2022 (arXiv:2202.09357), theorem 3.6.
    """
    positive(L_max=L_max, mu=mu)
    return Theory(1 / L_max, 1 - mu / L_max, memory=math.sqrt(mu / L_max))


def tamuna(*, L_max: float, mu: float, n: int, owners: int, p: float | None = None) -> Theory:
    """TAMUNA: sum ||x_i - x*||^2 + gamma^2 (n - 1) / (p^2 chi (s - 1)) sum ||h_i - grad f_i(x*)||^2.

    The sums are over all n clients, who all stand where the server does when a round begins.  With
    chi = n (s - 1) / (s (n - 1)) and gamma = 2 / (L_max + mu), the rate is
    max((1 - gamma mu)^2, 1 - p^2 chi (s - 1) / (n - 1)) in each local step, of which a round has 1 / p
    in the mean, whatever the size of the cohorts.  By default p = min(1, sqrt(n mu / (s L_max))).

    Args:
        L_max: the largest smoothness of an f_i.
        mu: the least strong convexity of an f_i.
        n: number of clients.
        owners: s, of each coordinate, 2 to n.
        p: of an average.

    Returns:
        A :class:`Theory` whose rate is that of a step, and whose ``memory`` is p.

    Raises:
        TypeError: ``n`` or ``owners`` is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.tamuna(L_max=4.0, mu=1.0, n=3, owners=3, p=0.8)
        Theory(step_size=0.4, rate=0.36, memory=0.8, noise=0.0)

    References:
        Condat, Agarsky, Malinovsky, Richtarik, 2023 (arXiv:2302.09832), theorem 1.
    """
    positive(L_max=L_max, mu=mu)
    _validate.integer("n", n, at_least=2)
    _validate.integer("owners", owners, at_least=2, at_most=n)
    if p is None:
        p = min(1.0, math.sqrt(n * mu / (owners * L_max)))
    _validate.number("p", p, above=0, at_most=1)
    gamma = 2 / (L_max + mu)
    chi = n * (owners - 1) / (owners * (n - 1))
    rate = max((1 - gamma * mu) ** 2, 1 - p**2 * chi * (owners - 1) / (n - 1))
    return Theory(gamma, rate, memory=p)


def compressed_scaffnew(
    *, L_max: float, mu: float, n: int, owners: int, p: float | None = None
) -> Theory:
    """CompressedScaffnew: :func:`tamuna`, whose rate does not depend on who is idle.

    Args:
        L_max: the largest smoothness of an f_i.
        mu: the least strong convexity of an f_i.
        n: number of clients.
        owners: s, of each coordinate, 2 to n.
        p: of an average; as for :func:`tamuna` by default.

    Returns:
        A :class:`Theory` whose rate is that of a step, and whose ``memory`` is p.

    Raises:
        TypeError: ``n`` or ``owners`` is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.compressed_scaffnew(L_max=4.0, mu=1.0, n=2, owners=2).memory
        0.5

    References:
        Condat, Agarsky, Richtarik, 2022 (arXiv:2210.13277), theorem 1.
    """
    return tamuna(L_max=L_max, mu=mu, n=n, owners=owners, p=p)
