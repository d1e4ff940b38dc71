"""The laws of what a compressor's contract promises."""

import jax.numpy as jnp
import numpy as np

from fjx.testing import _laws
from fjx.testing._codec_trial import DRAWS, GROUP, Trial
from fjx.testing._laws import SIGMAS, require

SENT = "the message of seed 3, encoded 2000 times"


def is_unbiased_as_declared(trial: Trial) -> None:
    """If the contract says unbiased, the mean of 2000 draws is within 6 standard errors of x.

    The error of a coordinate is pooled over its leaf: one that rounds up once in 10,000 draws shows
    no spread of its own.  A second bound, on the mean shrinkage, has the power that this costs.
    """
    remedy = (
        "round at random: floor(x + u) with u uniform on [0, 1) has mean x; rescale by the inverse of "
        "the probability with which a coordinate is kept; or leave unbiased=False"
    )
    draws = trial.draws
    for (name, x), rounding, (total, squares) in zip(
        draws["message"], draws["rounding"], draws["sums"], strict=True
    ):
        bias = total / DRAWS
        variance = np.maximum(squares / DRAWS - bias**2, 0)
        pooled = np.sqrt(variance.mean())
        error = np.maximum(np.sqrt(variance), pooled) / np.sqrt(DRAWS)
        slack = rounding * np.abs(x).max()
        worst = np.max(np.abs(bias) - SIGMAS * error)
        found = (
            f"at {name} the mean error is {np.abs(bias).max():.3g}, {SIGMAS:g} standard errors are "
        )
        require(worst < slack, SENT, f"{found}{SIGMAS * error.max():.3g}", remedy)
        shrinkage = np.mean(bias * np.sign(x))
        bound = SIGMAS * pooled / np.sqrt(DRAWS * x.size) + slack
        found = f"at {name} all coordinates are off by {shrinkage:.3g} on average away from zero"
        require(abs(shrinkage) < bound, SENT, f"{found}, the bound is {bound:.3g}", remedy)


def errors_of_clients_average_out(trial: Trial) -> None:
    """If the contract says unbiased, the mean of ten draws has a tenth of the squared error of one.

    Both sides are estimates of one variance; the bound is 6 standard errors of the first.
    """
    one, ten = trial.draws["errors"].mean(), trial.draws["means"]
    slack = SIGMAS * ten.std() / np.sqrt(len(ten))
    require(
        abs(ten.mean() - one / GROUP) <= slack + 1e-9,
        SENT,
        f"the squared error of a mean of ten is {ten.mean():.4g}, a tenth of one's {one / GROUP:.4g}",
        "draw every random number from the client's own key; a shared key gives shared errors",
    )


def errs_as_declared(trial: Trial) -> None:
    """The mean squared error of many draws is at most what omega and delta say.

    The bound has 6 standard errors of slack.  It is checked on a random message, and on others that are
    hard: flat, with a spike, with two extremes, far from zero.  A contract that was derived for a chain
    or a wrapper must hold on all of them.
    """
    contract = trial.contract
    messages = {SENT: (trial.squared_norm(), trial.draws["errors"])}
    for name, of_one in trial.draws["hard"].items():
        messages[f"a message whose leaves are {name}, encoded 100 times"] = of_one
    for given, (norm, errors) in messages.items():
        # Sums of squares in float32 are right to a part in a million.
        slack = SIGMAS * errors.std() / np.sqrt(len(errors)) + 1e-6 * errors.mean() + 1e-9 * norm
        relative = errors.mean() / norm
        for name, value, bound in (
            ("omega", contract.omega, contract.omega),
            ("1 - delta", contract.delta, None if contract.delta is None else 1 - contract.delta),
        ):
            if value is not None and bound is not None:
                require(
                    errors.mean() <= bound * norm + slack,
                    given,
                    f"E||C(x) - x||^2 / ||x||^2 is {relative:.4g}, and {name} is {bound:.4g}",
                    "derive the bound for the message's shapes, or declare None",
                )


def is_linear_as_declared(trial: Trial) -> None:
    """If the contract says linear, C(x) + C(y) = C(x + y) for one key."""
    parts = [trial.received(g) for g in ("the message of seed 0", "2 x + 1", "x + (2 x + 1)")]
    for (name, x), (_, y), (_, both) in zip(*map(_laws.floats, parts), strict=True):
        x, y, both = (np.asarray(part, np.float64) for part in (x, y, both))
        dtype = dict(_laws.floats(trial.like))[name].dtype
        slack = 100 * float(jnp.finfo(dtype).eps) * np.abs(both).max()
        # Relative to the largest: a coordinate may be a sum that cancels.
        require(
            np.abs(x + y - both).max() <= slack,
            "x, y = 2 x + 1 and x + y with one key",
            f"C(x) + C(y) - C(x + y) is {np.abs(x + y - both).max():.3g} at {name}",
            "a linear codec chooses coordinates by the key alone and does not round; or linear=False",
        )


def is_a_projection_as_declared(trial: Trial) -> None:
    """If the contract says projection, ||x||^2 = ||C(x)||^2 + ||x - C(x)||^2 in every draw."""
    draws, norm = trial.draws, trial.squared_norm()
    off = np.abs(draws["norms"] + draws["errors"] - norm).max() / norm
    require(
        off <= 1e-5,
        SENT,
        f"the two sides differ by {off:.3g} of ||x||^2",
        "a projection keeps some coordinates as they are and drops the others; or projection=False",
    )
