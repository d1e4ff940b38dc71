"""Toeplitz strategies of least error for a given run, found by descent on the host."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fjx import _validate
from fjx.privacy._correlated.toeplitz import blt_coefficients, overlay, square_root_coefficients
from fjx.privacy._types import Participation

_LARGEST = 20.0  # of a logarithm or a logit: decays stay below 1 in float64
_ADDED_SCALE = np.log(0.02)  # of a new buffer: small, so that it begins as a small change
_ADDED_DECAYS = np.array([0.1, 0.5, 0.9, 0.98])  # its memory is short, middle or long


def optimal_coefficients(bands: int, participation: Participation) -> np.ndarray:
    """Coefficients of b bands that minimise :func:`prefix_error`.

    They minimise the sensitivity times the root mean squared noise of the running sums, over c_1, ...,
    c_{b-1} with c_0 = 1.  L-BFGS starts from the coefficients of the square root.

    Guarantees:
        - The error is at most that of :func:`square_root_coefficients`.
        - Descent is local, so nothing more is promised.

    Args:
        bands: number of bands b, at least 1 and at most T.
        participation: number of rounds T, and limits on how often one client takes part: once, or in
            rounds at least b apart, because only then is the sensitivity exact for all coefficients.

    Returns:
        ``f64[bands]``, for :func:`toeplitz`.

    Raises:
        TypeError: ``bands`` is not a Python integer.
        ValueError: ``bands`` is below 1, above the number of rounds, or above the separation.

    Examples:
        >>> from fjx.privacy import prefix_error, toeplitz
        >>> often = Participation(rounds=64, separation=16, most=4)
        >>> for c in (square_root_coefficients(4), optimal_coefficients(4, often)):
        ...     print(f"{prefix_error(toeplitz(c), often):.2f}")
        6.70
        6.48

    References:
        McKenna, *Scaling up the Banded Matrix Factorization Mechanism for Differentially Private ML*,
        ICLR 2025 (arXiv:2405.15913).
    """
    bands = _validate.static_integer("bands", bands, at_least=1, at_most=participation.rounds)
    if bands > participation.separation and participation.most > 1:
        raise ValueError(
            f"bands must be at most the separation of a client's rounds, {participation.separation}, "
            f"got {bands}; ask for fewer, or use optimal_buffers"
        )
    if bands == 1:
        return np.ones(1)

    def loss(tail: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = _log_error(np.concatenate([[1.0], tail]), participation)
        return value, gradient[1:]

    return np.concatenate([[1.0], _descend(loss, square_root_coefficients(bands)[1:])[1]])


def optimal_buffers(buffers: int, participation: Participation) -> tuple[np.ndarray, np.ndarray]:
    """Scales and decays of d buffers that minimise :func:`prefix_error`.

    The coefficients of the square root are moments, c_k = int_0^1 u^k du / (pi sqrt(u (1 - u))).  One
    start of L-BFGS is a sum over d nodes u, whose memories 1 / (1 - u) are spread geometrically between
    2 and T.  The other starts are the best d - 1 buffers and one more, with a short, a middle or a long
    memory.  The best result is kept.

    Guarantees:
        - omega > 0 and 0 < theta < 1.
        - The error is at most that of d - 1 buffers.
        - Descent is local, so nothing more is promised.  In tests, the error is within 0.1 % of the best
          of many random starts.
        - If there are more buffers than the run needs, some coincide.

    Args:
        buffers: number of buffers d, at least 1.
        participation: number of rounds T, and limits on how often one client takes part.

    Returns:
        Omega and theta, each ``f64[d]``, in falling order of theta, for :func:`buffered_toeplitz`.

    Raises:
        TypeError: ``buffers`` is not a Python integer.
        ValueError: ``buffers`` is below 1.

    Examples:
        >>> from fjx.privacy import buffered_toeplitz, prefix_error
        >>> once = Participation(rounds=256, separation=256, most=1)
        >>> for d in (1, 2, 3):
        ...     print(f"{prefix_error(buffered_toeplitz(*optimal_buffers(d, once)), once):.3f}")
        2.770
        2.622
        2.617

    References:
        McMahan, Xu, Zhang, EMNLP 2024 (arXiv:2408.08868).
    """
    from scipy import special

    buffers = _validate.static_integer("buffers", buffers, at_least=1)
    rounds = participation.rounds
    powers = np.arange(max(rounds - 1, 0))

    def unpack(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_omega, logit_theta = np.split(x, 2)
        return np.exp(log_omega), special.expit(logit_theta)  # positive; in (0, 1)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        omega, theta = unpack(x)
        value, gradient = _log_error(blt_coefficients(omega, theta, rounds), participation)
        by_omega = theta[:, None] ** powers @ gradient[1:]
        # d theta^k = k theta^{k-1} d theta, and d theta = theta (1 - theta) dx.
        by_theta = omega * (1 - theta) * (powers * theta[:, None] ** powers @ gradient[1:])
        return value, np.concatenate([omega * by_omega, by_theta])

    def starts(fewer: np.ndarray) -> list[np.ndarray]:
        """Spread nodes; then the best buffers so far with one split in two, or with one added."""
        log_omega, logit_theta = np.split(fewer, 2)
        count = log_omega.size + 1
        gap = np.geomspace(0.5, 1 / max(rounds, 2), count + 2)[1:-1]
        scale = np.sqrt(gap) / np.sqrt(gap).sum() / 2
        found = [np.concatenate([np.log(scale), np.log(1 / gap - 1)])]
        if count > 1:
            half = log_omega[-1:] - np.log(2)
            halves = np.concatenate([log_omega[:-1], half, half])
            found.append(np.concatenate([halves, logit_theta, logit_theta[-1:]]))
        added = zip(*np.broadcast_arrays(_ADDED_SCALE, special.logit(_ADDED_DECAYS)), strict=True)
        found += [np.concatenate([log_omega, [a], logit_theta, [b]]) for a, b in added]
        return found

    best = np.zeros(0)
    for _ in range(buffers):
        found = [_descend(loss, start, most=_LARGEST) for start in starts(best)]
        best = min(found, key=lambda one: one[0])[1]
    omega, theta = unpack(best)
    order = np.argsort(-theta)
    return omega[order], theta[order]


def _log_error(c: np.ndarray, participation: Participation) -> tuple[float, np.ndarray]:
    """Value log(sens(C)^2 ||A C^-1||_F^2) for the Toeplitz C with first column ``c``, and its gradient.

    As a power series, the column of A C^-1 is beta(x) = 1 / ((1 - x) c(x)), and beta_t is in T - t rows.
    Hence d beta / d c_j = -x^j beta(x) / c(x).
    """
    from scipy import signal

    rounds = participation.rounds
    beta = signal.lfilter([1.0], c, np.ones(rounds))
    weighted = np.arange(rounds, 0, -1) * beta
    error = weighted @ beta
    falling = signal.lfilter([1.0], c, beta)
    if not np.isfinite(weighted @ falling):  # C^-1 grows without limit: a step was too long
        return np.inf, np.zeros(c.size)
    by_error = -2 * signal.correlate(weighted, falling, "full")[rounds - 1 :][: c.size]

    total = overlay(c, participation)
    square = total @ total
    by_square = np.zeros(c.size)
    for start in range(0, rounds, participation.separation)[: participation.most]:
        part = total[start : start + c.size]
        by_square[: part.size] += 2 * part
    return np.log(error) + np.log(square), by_error / error + by_square / square


def _descend(
    loss: Callable[[np.ndarray], Any], start: np.ndarray, *, most: float = np.inf
) -> tuple[float, np.ndarray]:
    """Loss and place of a local minimum; all coordinates stay within ``most``."""
    from scipy import optimize

    options = {"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-8}
    with np.errstate(over="ignore", invalid="ignore"):  # a step of the line search may be too long
        bounds = [(-most, most)] * start.size
        found = optimize.minimize(
            loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
    return (found.fun if np.isfinite(found.fun) else np.inf), found.x
