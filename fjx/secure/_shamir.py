"""Shamir's secret sharing over a prime field."""

import functools
from collections.abc import Mapping, Sequence

from fjx import _validate

PRIME = 2**257 - 93
"""A prime field in which every secret of 32 bytes has a place; one share takes 33 bytes."""


def split_secret(
    secret: int, coefficients: Sequence[int], points: Sequence[int], *, prime: int = PRIME
) -> dict[int, int]:
    """Shares of a secret, by the point at which each was taken.

    The secret is the constant of a polynomial of degree t - 1 over the integers modulo a prime.  A share
    is the value of the polynomial at one point.

    Guarantees:
        - Any t shares give the secret.
        - If the coefficients are uniform and independent, any t - 1 shares are uniform, whatever the
          secret is.

    Args:
        secret: secret, from 0 to ``prime - 1``.
        coefficients: the other t - 1 coefficients, each uniform from 0 to ``prime - 1`` and used once.
        points: distinct points of the holders, from 1 to ``prime - 1``.
        prime: size of the field.

    Returns:
        Shares by point.

    Raises:
        ValueError: a number is outside of the field, a point is zero or occurs twice, or there are
            fewer points than coefficients of the polynomial.

    Examples:
        >>> from fjx import secure
        >>> shares = secure.split_secret(5, [3], points=[1, 2, 3], prime=17)
        >>> shares
        {1: 8, 2: 11, 3: 14}
        >>> secure.join_shares({1: 8, 3: 14}, prime=17)
        5

    References:
        Shamir, *How to Share a Secret*, Communications of the ACM 1979.
    """
    _require_points(points, prime)
    for name, number in [("secret", secret), *(("coefficients", c) for c in coefficients)]:
        if not 0 <= number < prime:
            raise ValueError(f"{name} must be from 0 to {prime - 1}, got {number}")
    if len(points) <= len(coefficients):
        raise ValueError(
            f"a threshold of {len(coefficients) + 1} needs as many points, got {len(points)}"
        )

    def value(point: int) -> int:
        total = 0
        for coefficient in [*reversed(coefficients), secret]:  # Horner
            total = (total * point + coefficient) % prime
        return total

    return {point: value(point) for point in points}


def join_shares(shares: Mapping[int, int], *, prime: int = PRIME) -> int:
    """The secret, from shares by point.

    The caller gives at least as many shares as the threshold.  Fewer give a number that says nothing
    about the secret, and nothing shows that they were too few.

    Args:
        shares: shares by point, as made by :func:`split_secret`.
        prime: size of the field.

    Returns:
        The value at zero of the polynomial of least degree through the shares.

    Raises:
        ValueError: there is no share, or a point or share is outside of the field.

    Examples:
        >>> from fjx import secure
        >>> secure.join_shares({1: 8, 2: 11}, prime=17)
        5
    """
    _validate_some(shares)
    _require_points(list(shares), prime)
    if not all(0 <= share < prime for share in shares.values()):
        raise ValueError(f"shares must be from 0 to {prime - 1}")
    points = tuple(sorted(shares))
    weights = _at_zero(points, prime)
    return sum(w * shares[p] for w, p in zip(weights, points, strict=True)) % prime


@functools.lru_cache(maxsize=4096)
def _at_zero(points: tuple[int, ...], prime: int) -> tuple[int, ...]:
    """Lagrange's weights of the values at some points, for the value at zero."""
    weights = []
    for i in points:
        above = below = 1
        for j in points:
            if i != j:
                above = above * j % prime
                below = below * (j - i) % prime
        weights.append(above * pow(below, -1, prime) % prime)
    return tuple(weights)


def _validate_some(shares: Mapping[int, int]) -> None:
    if not shares:
        raise ValueError("join_shares needs at least one share, got none")


def _require_points(points: Sequence[int], prime: int) -> None:
    _validate.static_integer("prime", prime, at_least=2)
    if not all(0 < point < prime for point in points) or len(set(points)) < len(points):
        raise ValueError(
            f"points must be distinct and from 1 to {prime - 1}, got {list(points)}; the value at 0 is "
            "the secret itself"
        )
