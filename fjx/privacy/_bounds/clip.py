"""Bound by the global L2 norm: per-client clipping."""

import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Tree
from fjx._tree import require_floating
from fjx.privacy._bounds.norms import measure, scale_to
from fjx.privacy._types import Bound, Clipped
from fjx.privacy._types import Norm as Norm


def by_global_norm(clip_norm: Array | float) -> Bound:
    """Bound on the L2 norm of the whole update, equal for every client.

    Updates are clipped by :func:`clip_by_global_norm`; the client's weight is ignored.

    Args:
        clip_norm: clip norm C, positive; may be traced.

    Returns:
        A :class:`Bound` in the L2 norm, of radius C.

    Raises:
        TypeError: ``clip_norm`` is not a real number.
        ValueError: ``clip_norm`` is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> bound = by_global_norm(2.0)
        >>> bound.sensitivity("add_or_remove_one"), bound.sensitivity("replace_one")
        (2.0, 4.0)

    References:
        McMahan, Ramage, Talwar, Zhang, ICLR 2018 (arXiv:1710.06963).
    """
    clip_norm = _validate.scalar("clip_norm", clip_norm, above=0)
    return Bound(lambda update, weight: clip_by_global_norm(update, clip_norm), "l2", clip_norm)


def clip_by_global_norm(update: Tree, clip_norm: Array | float) -> Clipped:
    r"""Scale an update so that its L2 norm over all leaves together is at most C.

    .. math:: \mathrm{clip}(x) = x \, \min(1, C / \|x\|_2)

    Noise is calibrated to this bound, so it must hold *after* rounding too.  Four steps ensure that.
    Squares are taken of x / max|x|, which neither overflow nor vanish.  They are added as a tree of
    known depth, so that the error of the computed norm has a known bound.  The target norm is smaller
    than C by twice that error bound (a few parts in 10^6).  Leaves of low precision are rounded towards
    zero.

    ===========================  =============================================================
    ``update`` and clip_norm     result
    ===========================  =============================================================
    norm 0                       zeros, not clipped
    norm tiny (1e-30)            unchanged, not clipped
    finite, but its norm is inf  of norm C, clipped; ``norm`` says inf
    any entry inf or NaN         zeros, not clipped, not finite
    clip_norm 0, or nearly       zeros: below 2^-102 sqrt(d) for d entries, about 2e-31 sqrt(d)
    clip_norm inf                unchanged; zeros if not finite
    clip_norm traced             as above; zeros if it is negative or NaN
    ===========================  =============================================================

    Guarantees:
        - The true norm of the result is at most C.
        - An update within C (1 - 2e-5) is returned bit for bit.
        - Clipping twice gives the same as clipping once.
        - The direction is kept, up to rounding.

    Args:
        update: pytree of floating arrays.
        clip_norm: clip norm C, at least 0; may be traced.

    Returns:
        A :class:`Clipped`.

    Raises:
        TypeError: a leaf is not floating; it could be neither bounded with the other leaves nor noised.
        ValueError: ``clip_norm`` is negative or NaN.

    Examples:
        >>> import jax.numpy as jnp
        >>> result = clip_by_global_norm({"w": jnp.array([3.0, 4.0])}, 1.0)
        >>> float(result.norm), bool(result.clipped)
        (5.0, True)
        >>> print(result.update["w"])
        [0.5999992 0.7999989]

    References:
        McMahan, Ramage, Talwar, Zhang, *Learning Differentially Private Recurrent Language Models*,
        ICLR 2018 (arXiv:1710.06963).
        Casacuberta, Shoemate, Vadhan, Wagaman, *Widespread Underestimation of Sensitivity in
        Differentially Private Libraries and How to Fix It*, CCS 2022 (arXiv:2207.10635), on rounding and
        sensitivity.
    """
    require_floating("update", update)
    if not (_validate.concrete(clip_norm) and np.array_equal(clip_norm, np.inf)):
        _validate.number("clip_norm", clip_norm, at_least=0)
    return scaled(update, clip_norm, "l2", operator.gt)


def scaled(
    update: Tree, clip_norm: Array | float, norm: Norm, when: Callable[[Array, Array], Array]
) -> Clipped:
    """Scale the update to norm C = ``clip_norm`` if ``when(norm, limit)``; else return it unchanged.

    ``norm`` is the computed norm of the update.  ``limit`` is C reduced by the error bound of the norm,
    and the target of the scaling is C reduced by twice that.  Hence the true norm of the result is at
    most C.
    """
    leaves, treedef = jax.tree.flatten(update)
    wide = [leaf.astype(jnp.float32) for leaf in leaves if leaf.size]
    if not wide:
        return Clipped(update, jnp.zeros(()), jnp.asarray(False), jnp.asarray(True))

    measured = measure(wide, norm)
    limit = jnp.asarray(clip_norm, jnp.float32) * (1 - measured.slack)
    clipped = measured.finite & when(measured.norm, limit)
    keep = measured.finite & (limit >= measured.least)

    def bound(x: Array) -> Array:
        kept = jnp.where(clipped, scale_to(x, measured, limit), x)
        return jnp.where(keep, kept, jnp.zeros_like(x))

    return Clipped(
        treedef.unflatten([bound(leaf) for leaf in leaves]),
        norm=jnp.where(measured.finite, measured.norm, jnp.nan),
        clipped=clipped,
        finite=measured.finite,
    )
