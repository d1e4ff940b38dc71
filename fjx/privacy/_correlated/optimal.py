"""Toeplitz strategies of least error for a given run, found by descent on the host."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fjx import _validate
from fjx.privacy._correlated.toeplitz import blt_coefficients, overlay, square_root_coefficients
from fjx.privacy._types import Participation


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

    return np.concatenate([[1.0], _descend(loss, square_root_coefficients(bands)[1:])])


def optimal_buffers(buffers: int, participation: Participation) -> tuple[np.ndarray, np.ndarray]:
    """Scales and decays of d buffers that minimise :func:`prefix_error`.

    The coefficients of the square root are moments, c_k = int_0^1 u^k du / (pi sqrt(u (1 - u))).  L-BFGS
    starts from a sum over d nodes u, whose memories 1 / (1 - u) are spread geometrically between 2 and
    T.

    Guarantees:
        - omega > 0 and 0 < theta < 1.
        - Descent is local, so nothing is promised about the error.
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
        return np.exp(x[:buffers]), special.expit(x[buffers:])  # positive; in (0, 1)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        omega, theta = unpack(x)
        value, gradient = _log_error(blt_coefficients(omega, theta, rounds), participation)
        by_omega = theta[:, None] ** powers @ gradient[1:]
        # d theta^k = k theta^{k-1} d theta, and d theta = theta (1 - theta) dx.
        by_theta = omega * (1 - theta) * (powers * theta[:, None] ** powers @ gradient[1:])
        return value, np.concatenate([omega * by_omega, by_theta])

    gap = np.geomspace(0.5, 1 / max(rounds, 2), buffers + 2)[1:-1]
    scale = np.sqrt(gap) / np.sqrt(gap).sum() / 2
    omega, theta = unpack(_descend(loss, np.concatenate([np.log(scale), np.log(1 / gap - 1)])))
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
    by_error = -2 * signal.correlate(weighted, falling, "full")[rounds - 1 :][: c.size]

    total = overlay(c, participation)
    square = total @ total
    by_square = np.zeros(c.size)
    for start in range(0, rounds, participation.separation)[: participation.most]:
        part = total[start : start + c.size]
        by_square[: part.size] += 2 * part
    return np.log(error) + np.log(square), by_error / error + by_square / square


def _descend(loss: Callable[[np.ndarray], Any], start: np.ndarray) -> np.ndarray:
    from scipy import optimize

    options = {"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-8}
    return optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
