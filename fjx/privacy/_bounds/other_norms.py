"""Bounds in the L1 and L-infinity norms, and normalised updates."""

import operator

import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Tree
from fjx._tree import require_floating
from fjx.privacy._bounds.clip import scaled
from fjx.privacy._types import Bound, Clipped


def by_l1_norm(clip_norm: Array | float) -> Bound:
    r"""Bound on the L1 norm of the whole update, equal for every client; Laplace noise needs it.

    .. math:: \mathrm{clip}(x) = x \, \min(1, C / \|x\|_1)

    The norm is the sum of the magnitudes of all entries, over all leaves together.

    ===========================  ===============================================================
    update and clip_norm         result
    ===========================  ===============================================================
    norm 0                       zeros, not clipped
    norm tiny (1e-30)            unchanged, not clipped
    finite, but its norm is inf  of norm C, clipped; ``norm`` says inf
    any entry inf or NaN         zeros, not clipped, not finite
    clip_norm nearly 0           zeros: below 2^-102 d for d entries, about 2e-31 d
    clip_norm traced             as above; zeros if it is 0, negative or NaN; unchanged if it is inf
    ===========================  ===============================================================

    Guarantees:
        - The true L1 norm of a client's contribution is at most C, after rounding.
        - An update within C (1 - 4e-5) is returned bit for bit.
        - The direction is kept, up to rounding.
        - The sum moves by at most C if a client is added or removed, and by at most 2 C if one is
          replaced.

    Args:
        clip_norm: clip norm C, positive; may be traced.

    Returns:
        A :class:`Bound` in the L1 norm, of radius C.

    Raises:
        TypeError: ``clip_norm`` is not a real number; from ``clip``, a leaf is not floating.
        ValueError: ``clip_norm`` is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> bound = by_l1_norm(2.0)
        >>> bound.norm, bound.sensitivity("replace_one")
        ('l1', 4.0)
        >>> print(bound.clip(jnp.array([3.0, -1.0]), 1.0).update.round(4))
        [ 1.5 -0.5]

    References:
        Dwork, Roth, *The Algorithmic Foundations of Differential Privacy*, 2014, section 3.3.
    """
    clip_norm = _validate.scalar("clip_norm", clip_norm, above=0)

    def clip(update: Tree, weight: Array) -> Clipped:
        require_floating("update", update)
        return scaled(update, clip_norm, "l1", operator.gt)

    return Bound(clip, "l1", clip_norm)


def by_linf_norm(clip_norm: Array | float) -> Bound:
    r"""Bound on the magnitude of every coordinate, equal for every client.

    .. math:: \mathrm{clip}(x) = x \, \min(1, C / \max_j |x_j|)

    The whole update is scaled, so that its direction is kept.  It is not cut coordinate by coordinate.

    ===========================  ===============================================================
    update and clip_norm         result
    ===========================  ===============================================================
    norm 0                       zeros, not clipped
    norm tiny (1e-30)            unchanged, not clipped
    norm 3e38                    of norm C, clipped
    any entry inf or NaN         zeros, not clipped, not finite
    clip_norm nearly 0           zeros: below 2^-102, about 2e-31
    clip_norm traced             as above; zeros if it is 0, negative or NaN; unchanged if it is inf
    ===========================  ===============================================================

    Guarantees:
        - No coordinate of a client's contribution is above C in magnitude, after rounding.
        - An update within C (1 - 2e-6) is returned bit for bit.
        - The direction is kept, up to rounding.
        - No coordinate of the sum moves by more than C if a client is added or removed, or by more than
          2 C if one is replaced.  All d coordinates may move, so the sum moves by up to d C in the L1
          norm and sqrt(d) C in the L2 norm.

    Args:
        clip_norm: clip norm C, positive; may be traced.

    Returns:
        A :class:`Bound` in the L-infinity norm, of radius C.

    Raises:
        TypeError: ``clip_norm`` is not a real number; from ``clip``, a leaf is not floating.
        ValueError: ``clip_norm`` is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> bound = by_linf_norm(2.0)
        >>> bound.norm, bound.sensitivity("replace_one")
        ('linf', 4.0)
        >>> print(bound.clip(jnp.array([4.0, -1.0]), 1.0).update.round(4))
        [ 2.  -0.5]
    """
    clip_norm = _validate.scalar("clip_norm", clip_norm, above=0)

    def clip(update: Tree, weight: Array) -> Clipped:
        require_floating("update", update)
        return scaled(update, clip_norm, "linf", operator.gt)

    return Bound(clip, "linf", clip_norm)


def normalized(clip_norm: Array | float) -> Bound:
    r"""Bound that scales every update to L2 norm C, so that a client contributes only its direction.

    .. math:: \mathrm{clip}(x) = C \, x / \|x\|_2

    The norm of an update is lost.  Hence no update is too small for the noise, and there is no clip norm
    to tune: C scales signal and noise alike.  The price is that clients near their optimum count as much
    as clients far from it.

    ===========================  ===============================================================
    update and clip_norm         result
    ===========================  ===============================================================
    norm 0                       zeros, not clipped
    all entries below 2^-126     unchanged, not clipped: XLA takes subnormal numbers for zeros
    norm tiny (1e-30)            of norm C, clipped
    finite, but its norm is inf  of norm C, clipped; ``norm`` says inf
    any entry inf or NaN         zeros, not clipped, not finite
    clip_norm nearly 0           zeros: below 2^-102 sqrt(d) for d entries, about 2e-31 sqrt(d)
    clip_norm traced             as above; zeros if it is not positive and finite
    ===========================  ===============================================================

    Guarantees:
        - The true norm of a client's contribution is at most C, after rounding.
        - In float32 it is at least C (1 - 4e-5), except in the first two rows of the table.
        - Multiplying an update by a power of two does not change a bit of the result.
        - The sum moves by at most C if a client is added or removed, and by at most 2 C if one is
          replaced.

    Args:
        clip_norm: norm C of every contribution, positive; may be traced.

    Returns:
        A :class:`Bound` in the L2 norm, of radius C.

    Raises:
        TypeError: ``clip_norm`` is not a real number; from ``clip``, a leaf is not floating.
        ValueError: ``clip_norm`` is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> bound = normalized(2.5)
        >>> for x in (jnp.array([3e-9, 4e-9]), jnp.array([3e9, 4e9])):
        ...     print(bound.clip(x, 1.0).update.round(4))
        [1.5 2. ]
        [1.5 2. ]

    References:
        Das, Hashemi, Sanghavi, Dhillon, *Differentially Private Federated Learning with Normalized
        Updates*, OPT 2022 (arXiv:2106.07094).
    """
    clip_norm = _validate.scalar("clip_norm", clip_norm, above=0)

    def clip(update: Tree, weight: Array) -> Clipped:
        require_floating("update", update)
        target = jnp.asarray(clip_norm, jnp.float32)
        target = jnp.where(target < jnp.inf, target, 0.0)
        return scaled(update, target, "l2", lambda norm, limit: norm > 0)

    return Bound(clip, "l2", clip_norm)
