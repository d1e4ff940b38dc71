"""Bounding what one client can contribute."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _tree, _validate
from fjx._base import Array, Tree

Relation = Literal["add_or_remove_one", "replace_one"]
"""What makes two populations neighbours: one client more or less, or one client's data replaced."""

Norm = Literal["l2", "l1", "linf"]
"""The norms in which a contribution can be bounded."""

_BLOCK = 64  # additions in a row, see _sum


class Clipped(NamedTuple):
    """A bounded update, and what was found on the way.

    ``norm``, ``clipped`` and ``finite`` are about one client's private data: releasing them, alone or
    averaged, is not covered by the noise on the sum.

    Attributes:
        update: the bounded update, of the structure, shapes and dtypes of the input.
        norm: ``f32[]``, the L2 norm of the input; NaN if the input is not finite.
        clipped: ``bool[]``, whether the update was scaled down.
        finite: ``bool[]``, whether it had finite entries only; if not, ``update`` is zero.
    """

    update: Tree
    norm: Array
    clipped: Array
    finite: Array


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
    _validate.number("clip_norm", clip_norm, above=0)
    return Bound(lambda update, weight: clip_by_global_norm(update, clip_norm), "l2", clip_norm)


def clip_by_global_norm(update: Tree, clip_norm: Array | float) -> Clipped:
    r"""Scales an update so that its L2 norm over all leaves together is at most C = ``clip_norm``.

    clip(x) = x min(1, C / ||x||_2).

    The bound is a promise that noise is calibrated to, so it holds *after* rounding too.  Squares
    are taken of x / max|x|, which neither overflow nor vanish; they are added as a tree of known
    depth, so the error of the computed norm has a bound; the result is smaller than C by twice that
    bound (a few parts in 10^6) and leaves of low precision are rounded towards zero.

    ===========================  =====================================================
    ``update`` and clip_norm     result
    ===========================  =====================================================
    norm 0                       zeros, not clipped
    norm tiny (1e-30)            unchanged, not clipped
    finite, but its norm is inf  of norm C, clipped; ``norm`` says inf
    any entry inf or NaN         zeros, not clipped, not finite
    clip_norm 0                  zeros
    clip_norm inf                unchanged; zeros if not finite
    clip_norm traced             as above; zeros if it is negative or NaN
    ===========================  =====================================================

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
    clip_norm = jnp.asarray(clip_norm, jnp.float32)
    leaves, treedef = jax.tree.flatten(update)
    wide = [leaf.astype(jnp.float32) for leaf in leaves if leaf.size]
    if not wide:
        return Clipped(update, jnp.zeros(()), jnp.asarray(False), jnp.asarray(True))

    finite = _tree.all_finite(wide)  # a maximum would not do: XLA's may drop a NaN
    peak = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in wide]))
    # Of a divisor in these bounds the reciprocal, by which XLA may multiply instead, is normal.
    divisor = jnp.clip(peak, 2.0**-125, 2.0**125)
    ratio = jnp.sqrt(_sum(jnp.stack([_sum(jnp.square(x / divisor)) for x in wide])))
    norm = divisor * ratio

    slack = _rounding_error([x.size for x in wide])
    limit = clip_norm * (1 - slack)
    clipped = finite & (norm > limit)
    scale = limit * (1 - slack) / jnp.where(ratio > 0, ratio, 1)
    keep = finite & (limit > 0)

    def bound(x: Array) -> Array:
        scaled = _narrow(x.astype(jnp.float32) / divisor * scale, x.dtype)
        return jnp.where(keep, jnp.where(clipped, scaled, x), jnp.zeros_like(x))

    return Clipped(
        treedef.unflatten([bound(leaf) for leaf in leaves]),
        norm=jnp.where(finite, norm, jnp.nan),
        clipped=clipped,
        finite=finite,
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


def _sum(x: Array) -> Array:
    """The sum of all entries in blocks of blocks, so that no chain of additions is long."""
    x = x.ravel()
    while x.size > 1:
        x = jnp.pad(x, (0, -x.size % _BLOCK)).reshape(-1, _BLOCK).sum(axis=1)
    return x[0]


def _rounding_error(sizes: list[int]) -> float:
    """A bound on the relative error of a norm computed with :func:`_sum`, and of the scaling by it.

    A sum of non-negative numbers, none of which passes through more than k additions, errs by at
    most k u relatively (Higham, *Accuracy and Stability of Numerical Algorithms*, 4.2), u = 2^-24;
    the square root halves that.  The single operations (conversion of clip_norm, division, square,
    root, three products, a quotient) are given 12 u, the approximate reciprocals of accelerators
    included.
    """

    def additions(n: int) -> int:
        return 0 if n == 1 else min(n, _BLOCK) - 1 + additions(math.ceil(n / _BLOCK))

    return (additions(max(sizes)) / 2 + additions(len(sizes)) / 2 + 12) * 2.0**-24


def _narrow(x: Array, dtype: jnp.dtype) -> Array:
    """``x`` (float32) in ``dtype``, rounded towards zero."""
    if jnp.finfo(dtype).bits >= 32:
        return x.astype(dtype)
    # Without the barrier XLA may elide the round trip, excess precision being allowed.
    rounded = jax.lax.optimization_barrier(x.astype(dtype))
    outward = jnp.abs(rounded.astype(jnp.float32)) > jnp.abs(x)
    bits = jax.lax.bitcast_convert_type(rounded, f"uint{jnp.finfo(dtype).bits}")
    # One less in sign and magnitude is one step towards zero.
    return jax.lax.bitcast_convert_type(bits - outward.astype(bits.dtype), dtype)
