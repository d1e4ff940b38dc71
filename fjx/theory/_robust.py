"""Robustness coefficients of aggregation rules.

A rule F of n messages is (f, kappa)-robust if for all messages and every set S of n - f of them

    ||F(x) - mean_S||^2 <= kappa / (n - f) sum_{i in S} ||x_i - mean_S||^2.

So its error is at most kappa times the variance of the honest messages, whoever is honest.
"""

from fjx import _validate


def kappa_lower_bound(n: int, f: int) -> float:
    """The robustness coefficient that no rule can beat: f / (n - 2 f).

    Take n - f messages 0 and f messages 1.  If the zeros are the honest ones, the result has to be 0,
    because they do not vary.  If honest are the ones and n - 2 f zeros, an error of f^2 / (n - f)^2
    meets a variance of f (n - 2 f) / (n - f)^2.

    Args:
        n: number of messages.
        f: number of Byzantine messages, less than n / 2.

    Returns:
        The number kappa.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: ``f`` is negative, or not less than n / 2.

    Examples:
        >>> from fjx import theory
        >>> theory.kappa_lower_bound(n=10, f=2)
        0.3333333333333333

    References:
        Allouah et al., *Fixing by Mixing*, AISTATS 2023 (arXiv:2302.01772).
    """
    _require(n, f)
    return f / (n - 2 * f)


def kappa_trimmed_mean(n: int, f: int) -> float:
    r"""The robustness coefficient of :func:`fjx.aggregators.trimmed_mean`.

    .. math:: \kappa = \frac{6 f}{n - 2 f} \left(1 + \frac{f}{n - 2 f}\right)

    Args:
        n: number of messages.
        f: number of Byzantine messages, less than n / 2.

    Returns:
        The number kappa.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: ``f`` is negative, or not less than n / 2.

    Examples:
        >>> from fjx import theory
        >>> round(theory.kappa_trimmed_mean(n=10, f=2), 3)
        2.667

    References:
        Allouah et al., *Fixing by Mixing*, AISTATS 2023 (arXiv:2302.01772).
    """
    _require(n, f)
    return 6 * f / (n - 2 * f) * _ratio(n, f)


def kappa_median(n: int, f: int) -> float:
    r"""The robustness coefficient of :func:`fjx.aggregators.median`.

    .. math:: \kappa = 4 \left(1 + \frac{f}{n - 2 f}\right)^2

    Args:
        n: number of messages.
        f: number of Byzantine messages, less than n / 2.

    Returns:
        The number kappa.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: ``f`` is negative, or not less than n / 2.

    Examples:
        >>> from fjx import theory
        >>> round(theory.kappa_median(n=10, f=2), 3)
        7.111

    References:
        Allouah et al., *Fixing by Mixing*, AISTATS 2023 (arXiv:2302.01772).
    """
    _require(n, f)
    return 4 * _ratio(n, f) ** 2


def kappa_geometric_median(n: int, f: int) -> float:
    r"""The robustness coefficient of :func:`fjx.aggregators.geometric_median`.

    .. math:: \kappa = 4 \left(1 + \frac{f}{n - 2 f}\right)^2

    It is that of the exact minimiser.

    Args:
        n: number of messages.
        f: number of Byzantine messages, less than n / 2.

    Returns:
        The number kappa.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: ``f`` is negative, or not less than n / 2.

    Examples:
        >>> from fjx import theory
        >>> round(theory.kappa_geometric_median(n=10, f=2), 3)
        7.111

    References:
        Allouah et al., *Fixing by Mixing*, AISTATS 2023 (arXiv:2302.01772).
    """
    _require(n, f)
    return 4 * _ratio(n, f) ** 2


def kappa_krum(n: int, f: int) -> float:
    r"""The robustness coefficient of :func:`fjx.aggregators.krum` and ``multi_krum``.

    .. math:: \kappa = 6 \left(1 + \frac{f}{n - 2 f}\right)

    For multi-Krum, the mean of the n - f smallest scores is at most the mean score of the honest
    messages, which is all that the proof for Krum needs; :doc:`/theory` has both.

    Args:
        n: number of messages.
        f: number of Byzantine messages, less than n / 2.

    Returns:
        The number kappa.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: ``f`` is negative, or not less than n / 2.

    Examples:
        >>> from fjx import theory
        >>> theory.kappa_krum(n=10, f=2)
        8.0

    References:
        Allouah et al., *Fixing by Mixing*, AISTATS 2023 (arXiv:2302.01772).
    """
    _require(n, f)
    return 6 * _ratio(n, f)


def kappa_mean_around_median(n: int, f: int) -> float:
    r"""The robustness coefficient of :func:`fjx.aggregators.mean_around_median`.

    .. math:: \kappa = \frac{4 f}{n - f} \left(1 + 4 \left(1 + \frac{f}{n - 2 f}\right)^2\right)

    The proof is in :doc:`/theory`.

    Args:
        n: number of messages.
        f: number of Byzantine messages, less than n / 2.

    Returns:
        The number kappa.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: ``f`` is negative, or not less than n / 2.

    Examples:
        >>> from fjx import theory
        >>> round(theory.kappa_mean_around_median(n=10, f=2), 3)
        8.111
    """
    _require(n, f)
    return 4 * f / (n - f) * (1 + kappa_median(n, f))


def kappa_mda(n: int, f: int) -> float:
    r"""The robustness coefficient of :func:`fjx.aggregators.mda`.

    .. math:: \kappa = \frac{8 f^2}{n - f}

    The proof is in :doc:`/theory`.

    Args:
        n: number of messages.
        f: number of Byzantine messages, less than n / 2.

    Returns:
        The number kappa.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: ``f`` is negative, or not less than n / 2.

    Examples:
        >>> from fjx import theory
        >>> theory.kappa_mda(n=10, f=2)
        4.0
    """
    _require(n, f)
    return 8 * f**2 / (n - f)


def kappa_smea(n: int, f: int) -> float:
    r"""The robustness coefficient of :func:`fjx.aggregators.smea`.

    .. math:: \kappa = \frac{4 f}{n - f} \left(1 + \frac{f}{n - 2 f}\right)^2

    It holds even if the variance of the honest messages is replaced by its largest part in one
    direction, the largest eigenvalue of their covariance.

    Args:
        n: number of messages.
        f: number of Byzantine messages, less than n / 2.

    Returns:
        The number kappa.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: ``f`` is negative, or not less than n / 2.

    Examples:
        >>> from fjx import theory
        >>> round(theory.kappa_smea(n=10, f=2), 3)
        1.778

    References:
        Allouah et al., *On the Privacy-Robustness-Utility Trilemma in Distributed Learning*, ICML 2023
        (arXiv:2302.04787).
    """
    _require(n, f)
    return 4 * f / (n - f) * _ratio(n, f) ** 2


def kappa_nearest_neighbour_mixing(kappa: float, n: int, f: int) -> float:
    r"""The coefficient of a robust rule behind :func:`fjx.aggregators.nearest_neighbour_mixing`.

    .. math:: \kappa' = \frac{8 f}{n - f} (\kappa + 1)

    If f is a small part of n, so is the coefficient, which no median or Krum has by itself.

    Args:
        kappa: robustness coefficient of the rule, at least 0.
        n: number of messages.
        f: number of Byzantine messages, less than n / 2.

    Returns:
        The number kappa'.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: ``kappa`` is negative; ``f`` is negative, or not less than n / 2.

    Examples:
        >>> from fjx import theory
        >>> kappa = theory.kappa_krum(n=100, f=5)
        >>> round(kappa, 2), round(theory.kappa_nearest_neighbour_mixing(kappa, n=100, f=5), 2)
        (6.33, 3.09)

    References:
        Allouah et al., *Fixing by Mixing*, AISTATS 2023 (arXiv:2302.01772).
    """
    _require(n, f)
    _validate.number("kappa", kappa, at_least=0)
    return 8 * f / (n - f) * (kappa + 1)


def _ratio(n: int, f: int) -> float:
    """The number 1 + f / (n - 2 f) = (n - f) / (n - 2 f)."""
    return (n - f) / (n - 2 * f)


def _require(n: int, f: int) -> None:
    """Raise unless 0 <= f < n / 2.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: ``f`` is out of range.
    """
    _validate.static_integer("n", n, at_least=1)
    _validate.static_integer("f", f, at_least=0)
    if 2 * f >= n:
        raise ValueError(
            f"f must be less than n / 2, got f = {f} of n = {n}: no rule withstands half of the clients"
        )
