"""What mechanisms are attacked with, and what the accountant says that attacks may find."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fjx import privacy, samplers
from fjx._base import Tree
from fjx.testing._laws import SIGMAS, attempt, require

DELTAS = (0.3, 0.05, 1e-3)


def flat(tree: Tree) -> np.ndarray:
    """``f64[draws, d]`` from a tree of ``[draws, ...]``."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    return np.concatenate([x.reshape(len(x), -1) for x in leaves], axis=1)


NORMS: dict[str, Callable[[np.ndarray], float]] = {
    "l2": lambda x: float(np.sqrt(np.sum(x**2))),
    "l1": lambda x: float(np.sum(np.abs(x))),
    "linf": lambda x: float(np.max(np.abs(x), initial=0)),
}


ACCOUNT = (
    "event(moves) is one release of a sum that moves by moves times C: "
    "dp_accounting.GaussianDpEvent(noise_multiplier / moves), or a fjx.privacy.RenyiCurve"
)


def epsilon_of(mechanism: Any, rounds: int, delta: float) -> float:
    given = f"delta = {delta}, {rounds} rounds of every client"
    with attempt(given, ACCOUNT):
        return float(
            privacy.epsilon(
                mechanism,
                samplers.full(),
                rounds=rounds,
                delta=delta,
                method="best",
                relation="add_or_remove_one",
                grid=1e-3,
            )
        )


def attacked(there: np.ndarray, absent: np.ndarray, epsilon: float, delta: float) -> str | None:
    """A threshold test that does better than (epsilon, delta) allows, by more than 6 standard errors."""
    if not math.isfinite(epsilon):
        return None
    there, absent = np.sort(there), np.sort(absent)
    thresholds = np.quantile(np.concatenate([there, absent]), np.linspace(0.002, 0.998, 250))
    p, q = (1 - np.searchsorted(x, thresholds, "right") / len(x) for x in (there, absent))
    growth = math.exp(min(epsilon, 50.0))
    # Of rates that may be zero: at least one draw.
    spread = np.maximum(p * (1 - p), 1 / len(there)) / len(there)
    spread = spread + growth**2 * np.maximum(q * (1 - q), 1 / len(absent)) / len(absent)
    excess = p - growth * q - delta - SIGMAS * np.sqrt(spread)
    i = int(excess.argmax())
    if excess[i] <= 0:
        return None
    return (
        f"a test finds the client in {p[i]:.4f} of the rounds with it and in {q[i]:.4f} of those "
        f"without, and epsilon = {epsilon:.3f} is accounted"
    )


def grows_with_rounds(mechanism: Any) -> None:
    """Raises unless epsilon is positive, finite where there is noise, and grows with rounds."""
    one, two = (epsilon_of(mechanism, rounds, 1e-3) for rounds in (1, 2))
    noisy = float(mechanism.noise_multiplier) > 0
    require(
        0 < one <= two and (math.isfinite(two) or not noisy),
        "delta = 1e-3, every client in every round",
        f"epsilon is {one:.4g} for one round and {two:.4g} for two",
        ACCOUNT,
    )
