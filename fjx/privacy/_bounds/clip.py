"""Bounding what one client can contribute."""

import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _tree, _validate
from fjx._base import Array, Tree
from fjx.privacy._bounds.norms import Norm as Norm
from fjx.privacy._bounds.norms import measure
from fjx.privacy._bounds.norms import scale_to

Relation = Literal["add_or_remove_one", "replace_one"]
"""What makes two populations neighbours: one client more or less, or one client's data replaced."""


class Clipped(NamedTuple):
    """A bounded update, and what was found on the way.

    ``norm``, ``clipped`` and ``finite`` are about one client's private data: releasing them, alone or
    averaged, is not covered by the noise on the sum.

    Attributes:
        update: the bounded update, of the structure, shapes and dtypes of the input.
        norm: ``f32[]``, the norm of the input, in which it is bounded; NaN if the input is not finite.
        clipped: ``bool[]``, whether the update was scaled to the bound, or to zero.
        finite: ``bool[]``, whether it had finite entries only; if not, ``update`` is zero.
        zeroed: ``bool[]``, whether it was replaced by zeros for being too far out, although finite;
            None where the bound never does that.
    """

    update: Tree
    norm: Array
    clipped: Array
    finite: Array
    zeroed: Array | None = None


class Bound(NamedTuple):
    """What one client may add to a sum: how it is enforced, and how far it then moves the sum.

    Attributes:
        clip: ``(update, weight) -> Clipped``, what one client contributes; no axis of clients.  The
            weight is positive; most bounds count every client alike and do not look at it.
        norm: in which norm the sum is bounded: ``"l2"``, ``"l1"`` or ``"linf"``.
        radius: C: what one client contributes has at most this norm, whatever it sends.  A sum of such
            contributions moves by at most C if a client comes or goes, by 2 C if its data are replaced.
            May be traced.
    """

    clip: Callable[[Tree, Array], Clipped]
    norm: Norm
    radius: Array | float

    def sensitivity(self, relation: Relation) -> Array | float:
        """How far the sum moves between neighbours, in :attr:`norm`."""
        require_relation(relation)
        return self.radius if relation == "add_or_remove_one" else 2 * self.radius


def by_global_norm(clip_norm: Array | float) -> Bound:
    """Every client counts alike, with an L2 norm of at most C: :func:`clip_by_global_norm`.

    Args:
        clip_norm: C, positive; may be traced.

    Returns:
        A :class:`Bound` in the L2 norm.

    Raises:
        TypeError: not a real number.
        ValueError: not positive, or not finite.

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
    r"""Scales an update so that its L2 norm over all leaves together is at most C = ``clip_norm``.

    clip(x) = x min(1, C / ||x||_2).

    The bound is a promise that noise is calibrated to, so it holds *after* rounding too.  Squares
    are taken of x / max|x|, which neither overflow nor vanish; they are added as a tree of known
    depth, so the error of the computed norm has a bound; the result is smaller than C by twice that
    bound (a few parts in 10^6) and leaves of low precision are rounded towards zero.

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

    Guarantees: the true norm of the result is at most C; an update within C (1 - 2e-5) is returned
        bit for bit; clipping twice changes nothing; the direction is kept, up to rounding.

    Args:
        update: pytree of floating arrays.
        clip_norm: C, at least 0; may be traced.

    Returns:
        A :class:`Clipped`.

    Raises:
        TypeError: a leaf is not floating: it can be neither bounded with the rest nor noised.
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
        ICLR 2018 (arXiv:1710.06963).  On rounding and sensitivity: Casacuberta, Shoemate, Vadhan,
        Wagaman, *Widespread Underestimation of Sensitivity in Differentially Private Libraries and
        How to Fix It*, CCS 2022 (arXiv:2207.10635).
    """
    require_floating("update", update)
    if not (_validate.concrete(clip_norm) and np.array_equal(clip_norm, np.inf)):
        _validate.number("clip_norm", clip_norm, at_least=0)
    return scaled(update, clip_norm, "l2", operator.gt)


def scaled(
    update: Tree, clip_norm: Array | float, norm: Norm, when: Callable[[Array, Array], Array]
) -> Clipped:
    """The update scaled to norm C = ``clip_norm`` if ``when(its norm, C)``, else as it is.

    The limit that ``when`` is given is below C by the error of the norm, and the target of scaling by
    twice that, so that the true norm of the result is at most C.
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


def require_relation(relation: Any) -> None:
    """Raises unless ``relation`` is one of :data:`Relation`.

    Raises:
        ValueError: naming those that are.
    """
    if relation not in get_args(Relation):
        raise ValueError(f"relation must be one of {get_args(Relation)}, got {relation!r}")


def require_floating(name: str, tree: Tree) -> None:
    """Raises unless every leaf is floating.

    Raises:
        TypeError: naming the first leaf that is not.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not _tree.is_float(leaf):
            where = jax.tree_util.keystr(path) or "the only leaf"
            raise TypeError(
                f"{name} must have floating leaves only, got {jnp.result_type(leaf)} at {where}: it "
                "cannot be bounded and noised together with the others; keep it out of the message"
            )
