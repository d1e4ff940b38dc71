"""Bounds made from other bounds: per group, without outliers, with weights."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _tree, _validate
from fjx._base import Array, Tree
from fjx.privacy._bounds.clip import Norm, by_global_norm
from fjx.privacy._bounds.norms import joint, narrow
from fjx.privacy._types import Bound, Clipped


def grouped(bounds: Tree) -> Bound:
    """Bound that clips the parts of an update one by one, such as per-layer clipping.

    With parts x_g and radii C_g, the joint radius is sqrt(sum_g C_g^2) for L2 bounds, sum_g C_g for L1
    bounds and max_g C_g for L-infinity bounds.

    ================================  ============================================================
    update and bounds                 result
    ================================  ============================================================
    every part                        as its own bound says
    ``norm``                          the norm of all parts together; inf if it overflows
    any part clipped                  clipped
    any part zeroed                   zeroed; the other parts stay
    an entry inf or NaN in any part   zeros in *all* parts, not finite
    a part without entries            still counts in the radius
    a radius traced                   as above; the joint radius is rounded up
    ================================  ============================================================

    Guarantees:
        - The true norm of a client's contribution is at most the joint radius.
        - The norm of each part is at most the radius of its own bound.
        - The sum moves by at most the joint radius if a client is added or removed, and by at most twice
          that if one is replaced.  Noise calibrated to the joint radius covers all parts together.

    Args:
        bounds: a tree whose structure is a prefix of the update's, such as
            ``{"conv": 1.0, "dense": normalized(0.5)}`` for updates ``{"conv": {...}, "dense": {...}}``.
            Its leaves are bounds in one norm; a number stands for :func:`by_global_norm` of it.

    Returns:
        A :class:`Bound` in the norm of the parts.

    Raises:
        TypeError: a leaf is neither a Bound nor a number.
        ValueError: there is no leaf; a number is not positive; the bounds are in different norms; from
            ``clip``, the structure of ``bounds`` is not a prefix of the update's.

    Examples:
        >>> import jax.numpy as jnp
        >>> bound = grouped({"conv": 3.0, "dense": 4.0})
        >>> bound.sensitivity("add_or_remove_one")
        5.0
        >>> update = {"conv": jnp.array([6.0]), "dense": [jnp.array([1.0]), jnp.array([2.0])]}
        >>> result = bound.clip(update, 1.0)
        >>> print(result.update["conv"].round(4), result.update["dense"])
        [3.] [Array([1.], dtype=float32), Array([2.], dtype=float32)]

    References:
        McMahan, Ramage, Talwar, Zhang, ICLR 2018 (arXiv:1710.06963): per-layer clipping.
    """
    leaves, treedef = jax.tree.flatten(bounds, is_leaf=lambda leaf: isinstance(leaf, Bound))
    groups = [leaf if isinstance(leaf, Bound) else by_global_norm(leaf) for leaf in leaves]
    if len({group.norm for group in groups}) != 1:
        raise ValueError(
            "grouped needs at least one bound, and all in one norm, to have a joint radius; got "
            f"{[group.norm for group in groups]}"
        )
    norm = groups[0].norm

    def clip(update: Tree, weight: Array) -> Clipped:
        try:
            parts = treedef.flatten_up_to(update)
        except ValueError as error:
            raise ValueError(
                f"grouped: the bounds {treedef} must be a prefix of the update, got an update of "
                f"structure {jax.tree.structure(update)}"
            ) from error
        results = [group.clip(part, weight) for group, part in zip(groups, parts, strict=True)]
        finite = jnp.all(jnp.stack([result.finite for result in results]))
        whole = treedef.unflatten([result.update for result in results])
        zeroed = [result.zeroed for result in results if result.zeroed is not None]
        return Clipped(
            _tree.where(finite, whole, _tree.zeros_like(whole)),
            norm=jnp.where(finite, joint(norm, [result.norm for result in results]).norm, jnp.nan),
            clipped=finite & jnp.any(jnp.stack([result.clipped for result in results])),
            finite=finite,
            zeroed=finite & jnp.any(jnp.stack(zeroed)) if zeroed else None,
        )

    return Bound(clip, norm, _joint_radius(norm, [group.radius for group in groups]))


def zeroed(bound: Bound, *, above: Array | float) -> Bound:
    """Bound that lets no outliers in: an update of norm larger than ``above`` contributes zero.

    clip(x) = bound(x) if ||x|| <= ``above``, else 0.

    A broken or hostile client then contributes nothing, whereas plain clipping lets it contribute up to
    C.  The number of such clients is counted (``zeroed``).  The noise does not cover that count; see
    :class:`Clipped`.

    ============================  ==============================================================
    update and ``above``          result
    ============================  ==============================================================
    norm at most ``above``        as ``bound`` says
    norm above, or it overflows   zeros, clipped, zeroed; ``norm`` is that of the input
    any entry inf or NaN          zeros, not finite, not zeroed: those are counted separately
    ``above`` inf                 as ``bound`` says
    ``above`` traced              as above; 0, negative and NaN let at most zeros through
    ============================  ==============================================================

    Guarantees:
        - A client's contribution is within the radius of ``bound``, and the sum moves as far as with
          ``bound`` alone.
        - The computed norm is compared with ``above``.  It is within 4e-5 of the true norm, relatively.

    Args:
        bound: the bound for updates that are let in.
        above: the threshold, in the norm of ``bound``; positive; may be inf or traced.  It must be a
            constant or computed from public values.  A threshold estimated from the same updates would
            leak.

    Returns:
        A :class:`Bound` with the norm and radius of ``bound``.

    Raises:
        TypeError: ``bound`` is not a Bound, or ``above`` is not a number.
        ValueError: ``above`` is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> bound = zeroed(by_global_norm(2.5), above=100.0)
        >>> for x in (jnp.array([60.0, 80.0]), jnp.array([61.0, 80.0])):
        ...     print(bound.clip(x, 1.0).update.round(4), bound.clip(x, 1.0).zeroed)
        [1.5 2. ] False
        [0. 0.] True
    """
    _require_bound("zeroed", bound)
    if _validate.concrete(above) and np.array_equal(above, np.inf):
        above = math.inf
    else:
        above = _validate.scalar("above", above, above=0)

    def clip(update: Tree, weight: Array) -> Clipped:
        result = bound.clip(update, weight)
        far = result.finite & ~(result.norm <= jnp.asarray(above, jnp.float32))
        before = False if result.zeroed is None else result.zeroed
        return result._replace(
            update=_tree.where(far, _tree.zeros_like(result.update), result.update),
            clipped=result.clipped | far,
            zeroed=far | before,
        )

    return bound._replace(clip=clip)


def weighted(bound: Bound, *, most: Array | float) -> Bound:
    r"""Bound for weighted clients, with weights clamped to a public maximum.

    .. math:: \mathrm{clip}(x, w) = \min(w, w_{\max}) \, \mathrm{bound}(x)

    The sensitivity depends on the maximum w_max = ``most``, and not on the weights.  The denominator of
    a weighted mean should be a public estimate of the sum of the clamped weights, never that sum itself.

    ============================  ==============================================================
    weight and ``most``           contribution
    ============================  ==============================================================
    weight in (0, w_max]          the weight times ``bound``, less a part in 4 million
    weight above w_max, or inf    w_max times ``bound``, less a part in 4 million
    weight 0, negative or NaN     zeros
    update not finite             zeros
    ``most`` traced               as above; zeros if it is not positive and finite
    ============================  ==============================================================

    Guarantees:
        - The true norm of a client's contribution is at most w_max C, after rounding, with C the radius
          of ``bound``.
        - The sum moves by at most w_max C if a client is added or removed, and by at most 2 w_max C if
          one is replaced, for any weights.

    Args:
        bound: the bound for the update before weighting.
        most: largest weight w_max, positive; may be traced.

    Returns:
        A :class:`Bound` in the norm of ``bound``, of radius w_max C.

    Raises:
        TypeError: ``bound`` is not a Bound, or ``most`` is not a number.
        ValueError: ``most`` is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> bound = weighted(by_global_norm(2.5), most=10.0)
        >>> bound.sensitivity("replace_one")
        50.0
        >>> for weight in (2.0, 250.0):
        ...     print(bound.clip(jnp.array([3.0, 4.0]), jnp.array(weight)).update.round(4))
        [3. 4.]
        [15. 20.]

    References:
        McMahan, Ramage, Talwar, Zhang, ICLR 2018 (arXiv:1710.06963): weights from a cap on the
        number of examples.
    """
    _require_bound("weighted", bound)
    most = _validate.scalar("most", most, above=0)

    def clip(update: Tree, weight: Array) -> Clipped:
        result = bound.clip(update, weight)
        limit = jnp.asarray(most, jnp.float32)
        counts = (jnp.asarray(weight) > 0) & (limit > 0) & (limit < jnp.inf)
        # 2^-22 covers four roundings: of w_max, of the factor, of the product and of its dtype.
        factor = jnp.where(counts, jnp.minimum(weight, limit) * (1 - 2.0**-22), 0.0)

        def scale(x: Array) -> Array:
            return narrow(x.astype(jnp.float32) * factor, x.dtype)

        return result._replace(update=jax.tree.map(scale, result.update))

    return bound._replace(clip=clip, radius=most * bound.radius)


def _joint_radius(norm: Norm, radii: list[Array | float]) -> Array | float:
    """Norm of the vector of radii: exact on the host if all are concrete, otherwise rounded up."""
    if not all(map(_validate.concrete, radii)):
        measured = joint(norm, radii)
        return measured.norm * (1 + 2 * measured.slack)
    known = [float(radius) for radius in radii]
    return {"l2": math.hypot(*known), "l1": math.fsum(known), "linf": max(known)}[norm]


def _require_bound(where: str, value: Any) -> None:
    """Raise unless ``value`` is a :class:`Bound`.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, Bound):
        raise TypeError(
            f"{where} needs a fjx.privacy.Bound such as privacy.by_global_norm(1.0), got {value!r}"
        )
