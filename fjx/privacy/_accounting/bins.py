"""Renyi differential privacy of a client that takes part in one random bin of rounds."""

from collections.abc import Callable

import numpy as np

_LARGEST_ORDER = 64  # moments of larger orders are costly, and the unsampled curve is as good there


def bins_curve(bins: int, shift: float) -> Callable[[np.ndarray], np.ndarray]:
    """Curve of Gaussian noise in every round, with a client in one random bin of rounds.

    The curve is finite at integer orders from 2 to 64 and inf elsewhere.  Let L be the number of bins,
    and s the norm of the client's contributions to the rounds of its bin, in standard deviations of the
    noise.  The run is post-processing of one draw of P, with the client, or of Q, without it:

    P = (1/L) sum_b N(s e_b, I),    Q = N(0, I)  in R^L.

    The curve at order a is the larger of D_a(P || Q) and this bound on D_a(Q || P):

    (a - 1) s^2 / (2 L) + s^2 / 2.

    The derivation of both directions is in :doc:`/privacy_proofs`.

    References:
        Feldman, Shenfeld, *Privacy Amplification by Random Allocation*, 2025 (arXiv:2502.08202).
        Chua, Ghazi, Harrison, Leeman, Kamath, Kumar, Manurangsi, Sinha, Zhang, *Balls-and-Bins Sampling
        for DP-SGD*, AISTATS 2025 (arXiv:2412.16802), for the dominating pair.
    """

    def curve(orders: np.ndarray) -> np.ndarray:
        from scipy import special

        whole = (orders == np.round(orders)) & (orders >= 2) & (orders <= _LARGEST_ORDER)
        result = np.full(orders.shape, np.inf)
        if not whole.any():
            return result
        most = int(orders[whole].max())
        c = np.arange(most + 1)
        series = _power(c * (c - 1) * shift**2 / 2 - special.gammaln(c + 1), bins)
        moments = series + special.gammaln(c + 1) - c * np.log(bins)
        a = orders[whole]
        there = moments[a.astype(int)] / (a - 1)
        back = (a - 1) * shift**2 / (2 * bins) + shift**2 / 2
        result[whole] = np.maximum(there, back)
        return result

    return curve


def _power(log_series: np.ndarray, exponent: int) -> np.ndarray:
    """Truncated power of a power series, given and returned as logarithms of its coefficients."""
    result = np.full(log_series.shape, -np.inf)
    result[0] = 0.0
    while exponent:
        if exponent & 1:
            result = _product(result, log_series)
        log_series, exponent = _product(log_series, log_series), exponent >> 1
    return result


def _product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Truncated product of two power series, given as logarithms of their coefficients."""
    return np.array([np.logaddexp.reduce(x[: n + 1] + y[n::-1]) for n in range(len(x))])
