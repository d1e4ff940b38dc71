"""Gaussian mechanism, and the parts of it that other Gaussian mechanisms share."""

from typing import Any

import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Key, Metrics, Tree
from fjx.privacy._bounds.clip import by_global_norm
from fjx.privacy._mechanisms import grid
from fjx.privacy._types import Bound, Contribution, Mechanism


def gaussian(*, clip_norm: Array | float | Bound, noise_multiplier: Array | float) -> Mechanism:
    r"""Gaussian mechanism on a sum of clipped updates.

    .. math:: M(x_1, \ldots, x_m) = \sum_i \mathrm{clip}(x_i) + N(0, (z C)^2 I)

    C = ``clip_norm`` and z = ``noise_multiplier``: the noise is relative to the sensitivity of the *sum*
    when one client is added or removed.  Replacing a client moves the sum by 2 C, which counts like half
    the multiplier.

    Nothing is assumed of floats.  :func:`fjx.aggregators.private` adds whole steps of z C / 500,000, to
    which each client's update is rounded towards zero.  Integer sums are exact in any order.  The noise
    is normal noise rounded to whole steps; its tails reach 15 standard deviations.  The result is a
    function of the real-valued mechanism's, up to a total variation of 2^-138 a round, which is charged
    to delta.  The proof is in :doc:`/privacy_proofs`.

    Guarantees:
        - The noise depends on key and shapes only.
        - Equal keys give equal noise.
        - z = 0 adds nothing, and epsilon is then inf.
        - A round of more than 500,000 clients gives NaN; no smaller sum overflows.

    Args:
        clip_norm: clip norm C > 0, see :func:`clip_by_global_norm`; may be traced.  A :class:`Bound` in
            the L2 norm is also accepted; its radius is C.
        noise_multiplier: noise multiplier z >= 0; may be traced.

    Returns:
        A :class:`Mechanism`.

    Raises:
        TypeError: an argument is not a real number.
        ValueError: ``clip_norm`` is not between 2^-64 and 2^100, ``noise_multiplier`` is negative or
            not finite, or their product is above 2^120; the bound is in another norm than L2.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> mechanism = gaussian(clip_norm=2.0, noise_multiplier=0.5)
        >>> mechanism.sensitivity("replace_one")
        4.0
        >>> nothing = Contribution(jnp.zeros(10_000), jnp.int32(0), jnp.int32(0), jnp.zeros(()))
        >>> noise, _, _ = mechanism.release(jax.random.key(0), nothing, ())
        >>> print(f"{jnp.std(noise):.1f}")  # z C = 1
        1.0

    References:
        Dwork, Roth, *The Algorithmic Foundations of Differential Privacy*, 2014, appendix A.
        McMahan, Ramage, Talwar, Zhang, *Learning Differentially Private Recurrent Language Models*,
        ICLR 2018 (arXiv:1710.06963).
        Mironov, *On Significance of the Least Significant Bits for Differential Privacy*, CCS 2012.
    """
    bound = as_bound(clip_norm)
    noise_multiplier = _validate.scalar("noise_multiplier", noise_multiplier, at_least=0)

    grid.require_range(noise_multiplier, bound.radius)

    def release(key: Key, total: Contribution, state: Tree) -> tuple[Tree, Tree, Metrics]:
        noised = grid.noised(
            grid.GAUSSIAN, key, total.update, total.clients, noise_multiplier, bound.radius
        )
        return noised, state, {"noise_std": deviation(noise_multiplier, bound.radius)}

    return Mechanism(
        init=lambda message_like: (),
        clip=lambda update, weight, state: bound.clip(update, weight),
        release=release,
        noise_multiplier=noise_multiplier,
        sensitivity=bound.sensitivity,
        event=lambda moves: gaussian_event(noise_multiplier, moves),
        to_steps=lambda update, state: grid.in_steps(
            grid.GAUSSIAN, update, noise_multiplier, bound.radius
        ),
        distance=grid.DISTANCE,
    )


def as_bound(clip_norm: Array | float | Bound) -> Bound:
    """Convert a number to :func:`by_global_norm`; return a bound unchanged if Gaussian noise covers it.

    Raises:
        ValueError: the bound is in another norm than L2.
    """
    bound = clip_norm if isinstance(clip_norm, Bound) else by_global_norm(clip_norm)
    if bound.norm != "l2":
        raise ValueError(
            f"Gaussian noise is calibrated to an L2 norm, and clip_norm bounds the {bound.norm} norm; "
            "pass a number or privacy.by_global_norm"
        )
    return bound


def deviation(noise_multiplier: Array | float, radius: Array | float) -> Array:
    """Standard deviation z C of the noise, in float32."""
    return jnp.asarray(noise_multiplier, jnp.float32) * jnp.asarray(radius, jnp.float32)


def gaussian_event(noise_multiplier: Array | float, moves: float) -> Any:
    """Gaussian event of one release, for dp-accounting.

    Raises:
        TypeError: ``noise_multiplier`` is traced.
    """
    import dp_accounting

    return dp_accounting.GaussianDpEvent(on_host(noise_multiplier) / moves)


def on_host(noise_multiplier: Array | float) -> float:
    """Noise multiplier as a Python number.

    Raises:
        TypeError: it is traced.
    """
    if not _validate.concrete(noise_multiplier):
        raise TypeError(
            "noise_multiplier is traced here and privacy is accounted on the host: call epsilon "
            "outside jit and vmap, with a mechanism of Python numbers"
        )
    return float(noise_multiplier)
