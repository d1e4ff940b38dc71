"""Central mechanisms with Laplace noise, and with discrete Gaussian noise on a grid."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Key, Metrics, Tree
from fjx.privacy._bounds.clip import by_global_norm, clip_by_global_norm
from fjx.privacy._bounds.other_norms import by_l1_norm
from fjx.privacy._mechanisms import grid
from fjx.privacy._mechanisms.gaussian import deviation, on_host
from fjx.privacy._mechanisms.integer_noise import LARGEST, WRAPS
from fjx.privacy._mechanisms.integer_noise import discrete_gaussian as discrete_gaussian_noise
from fjx.privacy._types import Bound, Clipped, Contribution, Mechanism, RenyiCurve


def laplace(*, clip_norm: Array | float | Bound, noise_multiplier: Array | float) -> Mechanism:
    r"""Laplace mechanism on a sum of updates of bounded L1 norm.

    .. math:: M(x_1, \ldots, x_m) = \sum_i \mathrm{clip}(x_i) + \mathrm{Laplace}(z C)^d

    One release is (1/z)-differentially private (delta = 0) if one client is added or removed, and
    (2/z)-differentially private if its data are replaced.

    Nothing is assumed of floats: sums and noise are whole steps of z C / 500,000, as those of
    :func:`gaussian`.  The tails reach 133 z C.  The total variation from the law, 2^-138 a round, is
    charged to delta.

    Guarantees:
        - The noise has standard deviation sqrt(2) z C.
        - The noise depends on key and shapes only.
        - z = 0 adds nothing.

    Args:
        clip_norm: clip norm C > 0 of the L1 norm; may be traced.  A :class:`Bound` in the L1 norm is
            also accepted; its radius is C.
        noise_multiplier: *scale* z >= 0 of the noise in units of C; may be traced.

    Returns:
        A :class:`Mechanism`.

    Raises:
        TypeError: an argument is not a real number; from ``event``, ``noise_multiplier`` is traced.
        ValueError: an argument is out of range, or the bound is in another norm than L1.

    Examples:
        >>> from fjx import privacy, samplers
        >>> mechanism = privacy.laplace(clip_norm=1.0, noise_multiplier=4.0)
        >>> mechanism.event(2.0).noise_multiplier  # epsilon is 1/2
        2.0

    References:
        Dwork, McSherry, Nissim, Smith, *Calibrating Noise to Sensitivity in Private Data Analysis*, TCC
        2006.
    """
    bound = clip_norm if isinstance(clip_norm, Bound) else by_l1_norm(clip_norm)
    if bound.norm != "l1":
        raise ValueError(
            f"Laplace noise is calibrated to an L1 norm, and clip_norm bounds the {bound.norm} norm; "
            "pass a number or privacy.by_l1_norm"
        )
    noise_multiplier = _validate.scalar("noise_multiplier", noise_multiplier, at_least=0)

    grid.require_range(noise_multiplier, bound.radius)

    def release(key: Key, total: Contribution, state: Tree) -> tuple[Tree, Tree, Metrics]:
        noised = grid.noised(
            grid.LAPLACE, key, total.update, total.clients, noise_multiplier, bound.radius
        )
        std = math.sqrt(2) * deviation(noise_multiplier, bound.radius)
        return noised, state, {"noise_std": std}

    def event(moves: float) -> Any:
        import dp_accounting

        return dp_accounting.LaplaceDpEvent(on_host(noise_multiplier) / moves)

    return Mechanism(
        init=lambda message_like: (),
        clip=lambda update, weight, state: bound.clip(update, weight),
        release=release,
        noise_multiplier=noise_multiplier,
        sensitivity=bound.sensitivity,
        event=event,
        to_steps=lambda update, state: grid.in_steps(
            grid.LAPLACE, update, noise_multiplier, bound.radius
        ),
        distance=grid.DISTANCE,
    )


def discrete_gaussian(
    *, clip_norm: float, noise_multiplier: float, granularity: float, dimension: int
) -> Mechanism:
    """Discrete Gaussian mechanism on a grid, which leaks nothing through the bits of floats.

    Every client's update is clipped to C - gamma sqrt(d) / 2 and rounded to the nearest multiple of
    gamma, so that its norm is at most C.  The client contributes the multiples as ``int32``.  The server
    adds to their sum integers drawn from the discrete Gaussian of parameter z C / gamma, and converts
    the result to floats.

    The rounding is biased.  It errs by at most gamma / 2 for each client and coordinate.  If
    C <= gamma sqrt(d), it leaves nothing of a message whose norm is spread over all coordinates.

    Guarantees:
        - The Renyi curve is that of the Gaussian mechanism of multiplier z, a moves^2 / (2 z^2), without
          the leaks of floating-point noise.
        - Sums of integers are exact modulo 2^32, in any order and for any number of clients.  The output
          is therefore a function of the exact sum plus the noise, even if it wraps.
        - The table of the noise differs from the ideal law by less than 2^-170 in total variation.  The
          curve states that distance, and it is charged to delta.
        - If the number of clients times C / gamma does not fit in 31 bits, coordinates may have wrapped.
          This costs accuracy and no privacy; the metric ``unnoised_may_wrap`` is then 1.

    Args:
        clip_norm: clip norm C, positive.
        noise_multiplier: noise multiplier z >= 0.
        granularity: step gamma of the grid, a power of two; at least z C / 3000 and C / 2^22.
        dimension: largest number d of coordinates of a message.

    Returns:
        A :class:`Mechanism` for :func:`fjx.aggregators.private`.  Its ``clip`` returns ``int32`` leaves,
        and its ``release`` takes their sum.

    Raises:
        TypeError: an argument is not a Python number of its kind (a table is computed from it); from
            ``release``, the sum is not one of ``int32`` multiples.
        ValueError: an argument is out of range, or d is so large that rounding leaves nothing of C; from
            ``clip``, the message has more than d coordinates.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import privacy
        >>> mechanism = privacy.discrete_gaussian(
        ...     clip_norm=1.0, noise_multiplier=2.0, granularity=2.0**-8, dimension=2)
        >>> own = mechanism.clip(jnp.array([3.0, 4.0]), jnp.float32(1), ())
        >>> own.update.tolist()
        [153, 204]

    References:
        Canonne, Kamath, Steinke, *The Discrete Gaussian for Differential Privacy*, NeurIPS 2020
        (arXiv:2004.00010).
        Mironov, *On Significance of the Least Significant Bits for Differential Privacy*, CCS 2012.
    """
    clip_norm = _validate.static_number("clip_norm", clip_norm, above=0)
    z = _validate.static_number("noise_multiplier", noise_multiplier, at_least=0)
    gamma = _validate.static_number("granularity", granularity, above=2.0**-100, at_most=2.0**100)
    if math.frexp(gamma)[0] != 0.5:
        raise ValueError(f"granularity must be a power of two, such as 2**-8, got {granularity!r}")
    dimension = _validate.static_integer("dimension", dimension, at_least=1)
    radius, sd = clip_norm / gamma, z * clip_norm / gamma
    if radius > 2**22:
        raise ValueError(
            f"granularity must be at least clip_norm / 2^22, got {granularity!r}: float32 cannot "
            "represent fractions of such a fine step"
        )
    if sd > LARGEST:
        raise ValueError(
            f"granularity must be at least noise_multiplier * clip_norm / {LARGEST:g}, got "
            f"{granularity!r}: the noise would be {sd:.4g} steps wide"
        )
    margin = gamma * math.sqrt(dimension) / 2
    if clip_norm - margin <= gamma / 2:
        raise ValueError(
            f"rounding {dimension} coordinates to multiples of {gamma!r} may add {margin:.4g} to a "
            f"norm, and clip_norm = {clip_norm!r} minus that is too little left for a single step; use "
            "a finer granularity"
        )
    noise = discrete_gaussian_noise(sd) if sd > 0 else None
    tail = noise.tail(1, WRAPS / dimension) if noise else 0.0
    most = min(math.floor((2**31 - 1 - tail) / radius), 2**31 - 1)

    def clip(update: Tree, weight: Array, state: Tree) -> Clipped:
        size = sum(leaf.size for leaf in jax.tree.leaves(update))
        if size > dimension:
            raise ValueError(
                f"the mechanism is accounted for {dimension} coordinates and the message has {size}; "
                f"make it with dimension={size}"
            )
        own = clip_by_global_norm(update, (clip_norm - margin) * (1 - 2.0**-22))
        # The quotient is exact because gamma is a power of two; the conversion is exact because the
        # magnitude is at most 2^22.
        return own._replace(
            update=jax.tree.map(
                lambda x: jnp.round(x / np.float32(gamma)).astype(jnp.int32), own.update
            )
        )

    def release(key: Key, total: Contribution, state: Tree) -> tuple[Tree, Tree, Metrics]:
        _validate.key("key", key)
        leaves, treedef = jax.tree.flatten(total.update)
        if any(leaf.dtype != jnp.int32 for leaf in leaves):
            raise TypeError(
                "total must be a sum of int32 steps, as clip makes them, got "
                f"{sorted({str(leaf.dtype) for leaf in leaves})}"
            )

        def add(i: int, x: Array) -> Array:
            drawn = noise.sample(jax.random.fold_in(key, i), x.shape) if noise else 0
            return (x + drawn).astype(jnp.float32) * np.float32(gamma)

        noised = treedef.unflatten([add(i, x) for i, x in enumerate(leaves)])
        std = jnp.float32(gamma * math.sqrt(noise.variance) if noise else 0.0)
        may_wrap = (total.clients > most).astype(jnp.int32)
        return noised, state, {"noise_std": std, "unnoised_may_wrap": may_wrap}

    def event(moves: float) -> RenyiCurve:
        words = f"discrete Gaussian noise of multiplier {z:.4g}, steps of {gamma:.4g}"
        if noise is None:
            return RenyiCurve(lambda orders: np.full(np.shape(orders), np.inf), words)
        return RenyiCurve(
            lambda orders: np.asarray(orders) * moves**2 / (2 * z**2),
            words,
            distance=dimension * noise.distance,
            symmetric=True,
        )

    return Mechanism(
        init=lambda message_like: (),
        clip=clip,
        release=release,
        noise_multiplier=z,
        sensitivity=by_global_norm(clip_norm).sensitivity,
        event=event,
        to_steps=lambda update, state: update,  # of clip, which are whole steps already
    )
