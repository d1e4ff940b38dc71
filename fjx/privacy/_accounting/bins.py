"""Renyi differential privacy of a client that hides in a random bin."""

from collections.abc import Callable

import numpy as np

_LARGEST_ORDER = 64  # beyond, moments are costly, and the unsampled curve is as good


def bins_curve(bins: int, shift: float) -> Callable[[np.ndarray], np.ndarray]:
    """Gaussian noise in every round, and a client in one random bin: at integer orders, elsewhere inf.

    With L bins and s the norm of what the client adds to the rounds of its bin, in deviations of the
    noise, the run is post-processing of one draw of P, with the client, or of Q, without:

    P = (1/L) sum_b N(s e_b, I),    Q = N(0, I)  in R^L.

    (A round's sum along the direction of the client's contribution is a coordinate; where the
    contribution is smaller, or depends on earlier rounds, scale the coordinate and add noise.)

    *With against without.*  The moment of dP/dQ = (1/L) sum_b exp(s x_b - s^2/2) of order a is

    E_Q[(dP/dQ)^a] = L^-a sum_{c_1 + ... + c_L = a} a! / prod_b c_b! exp(sum_b c_b (c_b - 1) s^2 / 2),

    a! / L^a times a coefficient of the L-th power of sum_c z^c exp(c (c - 1) s^2 / 2) / c!.

    *Without against with.*  A mean is at least a geometric one, dP/dQ >= exp(mean_b (s x_b) - s^2/2), so

    D_a(Q || P) <= (a - 1) s^2 / (2 L) + s^2 / 2.

    The curve is the larger of the two.

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
    """A power of a power series, by the logarithms of coefficients, as far as it is given."""
    result = np.full(log_series.shape, -np.inf)
    result[0] = 0.0
    while exponent:
        if exponent & 1:
            result = _product(result, log_series)
        log_series, exponent = _product(log_series, log_series), exponent >> 1
    return result


def _product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([np.logaddexp.reduce(x[: n + 1] + y[n::-1]) for n in range(len(x))])
