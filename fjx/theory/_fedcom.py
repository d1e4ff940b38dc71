"""Local steps whose sum is sent compressed: with constants and proofs of our own.

Let a client begin with x and take tau gradient steps of size eta <= 2 / L_max on a convex,
L_max-smooth function g, and let D be the mean of the gradients on its way.  As such steps do not
enlarge gradients, the k-th point y_k is within k eta ||grad g(x)|| of x.  (With one step D is the
gradient at x, whatever eta.)  So with
u = eta L_max (tau - 1) / 2 and q = (eta L_max)^2 (tau - 1) (2 tau - 1) / 6

    ||D|| <= ||grad g(x)||,    ||D - grad g(x)|| <= u ||grad g(x)||,
    <D, x - x*> >= g(x) - g(x*) - (q / (2 L_max)) ||grad g(x)||^2,

the last as <grad g(y), x - x*> >= g(x) - g(x*) - L_max ||x - y||^2 / 2 wherever y is.  Let f be the
mean of functions g_i of the clients, F = f(x) - f*, v = u (1 + u) + omega / n and
G = mean ||grad g_i(x)||^2.  Then for the server's step x^+ = x - gamma mean Q(D_i), in expectation,

    ||x^+ - x*||^2 <= ||x - x*||^2 - 2 gamma (1 - (1 + u) gamma L) F + gamma (q / L_max + gamma v) G.

Q is of messages -eta tau D_i, gamma is eta tau server_lr, and a ``server_lr`` below one mixes x with
what a ``server_lr`` of one makes of it.
"""

import math

from fjx import _validate
from fjx.theory._theory import Theory, positive


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
    """FedCOM with unbiased codecs and full gradients: E||x - x*||^2, to a neighbourhood.

    With s = max(server_lr, 1), gamma = s eta tau, u = eta L_max (tau - 1) / 2,
    q = (eta L_max)^2 (tau - 1) (2 tau - 1) / 6, v = u (1 + u) + omega / n and F = f(x) - f*

        E||x^+ - x*||^2 <= ||x - x*||^2 - 2 gamma (1 - (1 + u) gamma L) F
        + gamma (q / L_max + gamma v) (4 L_max F + 2 mean ||grad f_i(x*)||^2)

    if server_lr is at least one; a smaller one scales what changes.  F is paid for,
    2 (1 + u) gamma L + 4 (q + gamma v L_max) <= 1, with
    eta tau s = 1 / (2 L + 4 omega L_max / n + L_max sqrt(5 (1 - 1 / tau) / s)); then the rate is
    1 - server_lr eta tau mu / 2, with (4 / mu) (q / L_max + gamma v) of noise: none where clients have
    an optimum in common.  The same holds of any smaller step.

    Args:
        L: smoothness of f.
        L_max: the largest smoothness of an f_i, all of them convex.
        mu: strong convexity of f.
        omega: of the codec, the clients' being independent.
        n: number of clients.
        steps: tau.
        server_lr: of the server.

    Returns:
        A :class:`Theory` of E||x - x*||^2, whose step is eta.

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
    return Theory(eta, 1 - server_lr * eta * steps * mu / 2, noise=noise)


def fedpaq(*, L: float, L_max: float, mu: float, omega: float, n: int, steps: int) -> Theory:
    """FedPAQ of all clients: :func:`fedcom` with a ``server_lr`` of one.

    Args:
        L: smoothness of f.
        L_max: the largest smoothness of an f_i, all of them convex.
        mu: strong convexity of f.
        omega: of the codec, the clients' being independent.
        n: number of clients.
        steps: tau.

    Returns:
        A :class:`Theory` of E||x - x*||^2, whose step is eta.

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
    """FedCOMGATE with unbiased codecs of omega below one, and full gradients.

    Its clients descend f_i(x) - <delta_i, x>, whose mean is f; so what is said of :func:`fedcom` holds
    with G = mean ||grad f_i(x) - delta_i||^2.  Let S = mean ||delta_i - grad f_i(x*)||^2 and
    eps = 1 - omega.  The next delta_i is the sum of this one and Q(D_i), less a mean, so in expectation

        S^+ <= 2 (1 + u) L_max F + (u (1 + u) + omega) G,
        G   <= (1 + eps / 2) S + (1 + 2 / eps) 2 L_max F.

    Where u (1 + u) <= eps / 6, which holds by itself, S^+ <= (1 - k) S + 2 c L_max F, with
    k = eps / 3 + 5 eps^2 / 12 and c = 2 / eps + 1 / 3 - 2 eps / 3.  With K = 4 + 8 c / k and
    s = max(server_lr, 1),

        eta tau s = 1 / (2 L + K omega L_max / n + L_max sqrt((K + 1) (1 - 1 / tau) / s)),

    and with gamma = server_lr eta tau the rate is max(1 - gamma mu / 2, 1 - k / 2), of

        ||x - x*||^2 + (4 gamma / k) (q / L_max + s eta tau v) S.

    Codecs with an omega of one or more enlarge what the delta_i remember: put more levels in the codec,
    or use :func:`diana`.

    Args:
        L: smoothness of f.
        L_max: the largest smoothness of an f_i, all of them convex.
        mu: strong convexity of f.
        omega: of the codec, the clients' being independent; below one.
        n: number of clients.
        steps: tau.
        server_lr: of the server.

    Returns:
        A :class:`Theory`, whose step is eta.

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
    return Theory(eta, max(1 - server_lr * eta * steps * mu / 2, 1 - k / 2))


def _local(
    L: float, L_max: float, omega: float, n: int, steps: int, server_lr: float, weight: float
) -> tuple[float, float, float]:
    """The eta of 2 (1 + u) gamma L + K (q + gamma v L_max) <= 1, K the weight, its q and its v."""
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
