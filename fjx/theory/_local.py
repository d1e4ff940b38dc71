"""Local training: the rate of corrected methods in each local step."""

import math

from fjx import _validate
from fjx.theory._theory import Theory, positive, proved


def scaffnew(*, L_max: float, mu: float) -> Theory:
    """Step size and rate of Scaffnew, in each local step.

    The step size is gamma = 1 / L_max, and the probability of an average is p = sqrt(mu / L_max).
    A round has 1 / p local steps on average.

    Guarantees:
        - sum ||x_i - x*||^2 + (gamma / p)^2 sum ||h_i - grad f_i(x*)||^2 has the rate 1 - min(gamma
          mu, p^2) in each local step.

    Args:
        L_max: largest smoothness constant of an f_i.
        mu: smallest strong convexity constant of an f_i.

    Returns:
        A :class:`Theory` whose rate is that of a local step, and whose ``memory`` is p.

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
    return proved(1 / L_max, 1 - mu / L_max, memory=math.sqrt(mu / L_max))


def tamuna(*, L_max: float, mu: float, n: int, owners: int, p: float | None = None) -> Theory:
    r"""Step size and rate of TAMUNA, in each local step.

    Let chi = n (s - 1) / (s (n - 1)).  The step size is gamma = 2 / (L_max + mu), and the rate of
    each local step is

    .. math:: \max((1 - \gamma \mu)^2, 1 - p^2 \chi (s - 1) / (n - 1))

    A round has 1 / p local steps on average.  The rate does not depend on the size of the cohorts.

    Guarantees:
        - sum ||x_i - x*||^2 + gamma^2 (n - 1) / (p^2 chi (s - 1)) sum ||h_i - grad f_i(x*)||^2 has
          this rate.  The sums are over all n clients; when a round begins, every client stands at
          the server's model.

    Args:
        L_max: largest smoothness constant of an f_i.
        mu: smallest strong convexity constant of an f_i.
        n: number of clients.
        owners: number s of owners of each coordinate, 2 to n.
        p: probability of an average; by default min(1, sqrt(n mu / (s L_max))).

    Returns:
        A :class:`Theory` whose rate is that of a local step, and whose ``memory`` is p.

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
    return proved(gamma, rate, memory=p)


def compressed_scaffnew(
    *, L_max: float, mu: float, n: int, owners: int, p: float | None = None
) -> Theory:
    """Step size and rate of CompressedScaffnew: those of :func:`tamuna`.

    The rate of TAMUNA does not depend on the idle clients, so it holds here too.

    Guarantees:
        - The Lyapunov function of :func:`tamuna` has the rate of :func:`tamuna` in each local step.

    Args:
        L_max: largest smoothness constant of an f_i.
        mu: smallest strong convexity constant of an f_i.
        n: number of clients.
        owners: number s of owners of each coordinate, 2 to n.
        p: probability of an average; by default min(1, sqrt(n mu / (s L_max))).

    Returns:
        A :class:`Theory` whose rate is that of a local step, and whose ``memory`` is p.

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
