"""Local steps whose sum is sent compressed.

The constants and the proofs are our own; see :doc:`/theory`.  All three methods share one
inequality.  A client begins at x and makes tau gradient steps of size eta; Q compresses the message
-eta tau D_i, where D_i is the mean of the gradients on its way.  The server's step is x^+ = x -
gamma mean Q(D_i) with gamma = eta tau server_lr.  A ``server_lr`` below one mixes x with the result
of a ``server_lr`` of one.
"""

import math

from fjx import _validate
from fjx.theory._theory import Theory, positive, proved


def fedcom(
    *,
    L: float,
    L_max: float,
    mu: float,
    omega: float,
    n: int,
    steps: int,
    server_lr: float = 1.0,
) -> Theory:
    r"""Step size and rate of FedCOM with unbiased codecs and full gradients.

    The method converges to a neighbourhood of the optimum.  Let tau = ``steps`` and s =
    max(server_lr, 1).  The local step size eta satisfies

    .. math:: \eta \tau s = 1 / (2 L + 4 \omega L_{\max} / n + L_{\max} \sqrt{5 (1 - 1 / \tau) / s})

    Let u = eta L_max (tau - 1) / 2, q = (eta L_max)^2 (tau - 1) (2 tau - 1) / 6 and v = u (1 + u) +
    omega / n.

    See :doc:`/theory` for the proof.

    Guarantees:
        - E||x - x*||^2 has the rate 1 - server_lr eta tau mu / 2, with (4 / mu) (q / L_max + s eta
          tau v) of noise.
        - There is no noise if the clients have a common optimum.
        - The same holds for any smaller step size.

    Args:
        L: smoothness constant of f.
        L_max: largest smoothness constant of an f_i; all f_i are convex.
        mu: strong convexity constant of f.
        omega: variance constant of the codec; the clients' codecs are independent.
        n: number of clients.
        steps: number tau of local steps.
        server_lr: step size of the server.

    Returns:
        A :class:`Theory` of E||x - x*||^2 whose step size is eta.

    Raises:
        TypeError: ``n`` or ``steps`` is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.fedcom(L=1.0, L_max=1.0, mu=0.4, omega=0.0, n=10, steps=1)
        Theory(step_size=0.5, rate=0.9, memory=None, noise=0.0)

    References:
        Haddadpour, Kamani, Mokhtari, Mahdavi, AISTATS 2021 (arXiv:2007.01154), for the method.
    """
    positive(L=L, L_max=L_max, mu=mu)
    eta, q, v = _local(L, L_max, omega, n, steps, server_lr, 4.0)
    noise = 4 / mu * (q / L_max + max(server_lr, 1) * eta * steps * v)
    return proved(eta, 1 - server_lr * eta * steps * mu / 2, noise=noise)


def fedpaq(*, L: float, L_max: float, mu: float, omega: float, n: int, steps: int) -> Theory:
    """Step size and rate of FedPAQ with all clients: :func:`fedcom` with a ``server_lr`` of one.

    The statement is that of :func:`fedcom`.

    Guarantees:
        - E||x - x*||^2 has the rate and the noise of :func:`fedcom`.

    Args:
        L: smoothness constant of f.
        L_max: largest smoothness constant of an f_i; all f_i are convex.
        mu: strong convexity constant of f.
        omega: variance constant of the codec; the clients' codecs are independent.
        n: number of clients.
        steps: number tau of local steps.

    Returns:
        A :class:`Theory` of E||x - x*||^2 whose step size is eta.

    Raises:
        TypeError: ``n`` or ``steps`` is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.fedpaq(L=1.0, L_max=1.0, mu=0.4, omega=0.0, n=10, steps=1).step_size
        0.5

    References:
        Reisizadeh, Mokhtari, Hassani, Jadbabaie, Pedarsani, AISTATS 2020 (arXiv:1909.13014), for the
        method.
    """
    return fedcom(L=L, L_max=L_max, mu=mu, omega=omega, n=n, steps=steps)


def fedcomgate(
    *,
    L: float,
    L_max: float,
    mu: float,
    omega: float,
    n: int,
    steps: int,
    server_lr: float = 1.0,
) -> Theory:
    r"""Step size and rate of FedCOMGATE with unbiased codecs of omega below one.

    Clients use full gradients.  Let tau = ``steps``, s = max(server_lr, 1) and eps = 1 - omega.
    With k = eps / 3 + 5 eps^2 / 12, c = 2 / eps + 1 / 3 - 2 eps / 3 and K = 4 + 8 c / k, the local
    step size eta satisfies

    .. math:: \eta \tau s = 1 / (2 L + K \omega L_{\max} / n + L_{\max} \sqrt{(K + 1) (1 - 1 / \tau)
        / s})

    A codec with an omega of one or more enlarges the memories delta_i: use more levels in the
    codec, or use :func:`diana`.

    See :doc:`/theory` for the proof.

    Guarantees:
        - ||x - x*||^2 + (4 gamma / k) (q / L_max + s eta tau v) S has the rate max(1 - gamma mu /
          2, 1 - k / 2) in expectation.  Here gamma = server_lr eta tau, S = mean ||delta_i - grad
          f_i(x*)||^2, and q and v are as for :func:`fedcom`.

    Args:
        L: smoothness constant of f.
        L_max: largest smoothness constant of an f_i; all f_i are convex.
        mu: strong convexity constant of f.
        omega: variance constant of the codec, below one; the clients' codecs are independent.
        n: number of clients.
        steps: number tau of local steps.
        server_lr: step size of the server.

    Returns:
        A :class:`Theory` whose step size is eta.

    Raises:
        TypeError: ``n`` or ``steps`` is not an integer.
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import theory
        >>> theory.fedcomgate(L=1.0, L_max=1.0, mu=0.4, omega=0.0, n=10, steps=1)
        Theory(step_size=0.5, rate=0.9, memory=None, noise=0.0)

    References:
        Haddadpour, Kamani, Mokhtari, Mahdavi, AISTATS 2021 (arXiv:2007.01154), for the method.
    """
    positive(L=L, L_max=L_max, mu=mu)
    _validate.number("omega", omega, at_least=0, below=1)
    eps = 1 - omega
    k, c = eps / 3 + 5 * eps**2 / 12, 2 / eps + 1 / 3 - 2 * eps / 3
    eta, _, _ = _local(L, L_max, omega, n, steps, server_lr, 4 + 8 * c / k)
    return proved(eta, max(1 - server_lr * eta * steps * mu / 2, 1 - k / 2))


def _local(
    L: float, L_max: float, omega: float, n: int, steps: int, server_lr: float, weight: float
) -> tuple[float, float, float]:
    """Local step size eta, and its q and v.

    eta satisfies 2 (1 + u) gamma L + K (q + gamma v L_max) <= 1, where K is the weight.
    """
    positive(server_lr=server_lr)
    _validate.number("omega", omega, at_least=0)
    _validate.integer("n", n, at_least=1)
    _validate.integer("steps", steps, at_least=1)
    s = max(server_lr, 1)
    drift = L_max * math.sqrt((weight + 1) * (1 - 1 / steps) / s)
    eta = 1 / (steps * s * (2 * L + weight * omega * L_max / n + drift))
    u = eta * L_max * (steps - 1) / 2
    q = (eta * L_max) ** 2 * (steps - 1) * (2 * steps - 1) / 6
    return eta, q, u * (1 + u) + omega / n
