"""Bounds made of bounds: of parts of an update, without outliers, of weighted clients."""

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
    r"""Bounds parts of an update one by one: per-layer clipping.

    With parts x_g and radii C_g, the radius of the whole is sqrt(sum_g C_g^2) for L2 bounds, sum_g C_g
    for L1 and max_g C_g for L-infinity.

    ================================  ============================================================
    update and bounds                 result
    ================================  ============================================================
    every part                        as its bound says
    ``norm``                          of all parts together; inf where it overflows
    any part clipped                  clipped
    any part zeroed                   zeroed; the other parts stay
    an entry inf or NaN in any part   zeros in *all* parts, not finite
    a part without entries            counts in the radius all the same
    a radius traced                   as above; the joint radius is rounded up
    ================================  ============================================================

    Guarantees: the true norm of what a client contributes is at most the joint radius, and that of each
        part at most its own.  The sum moves by the joint radius if a client comes or goes, by twice
        that if one is replaced; noise calibrated to it covers all parts together.

    Args:
        bounds: a tree that the update's begins with, say ``{"conv": 1.0, "dense": normalized(0.5)}``
            for updates ``{"conv": {...}, "dense": {...}}``; its leaves are bounds in one norm, or
            numbers, which :func:`by_global_norm` takes.

    Returns:
        A :class:`Bound` in the norm of the parts.

    Raises:
        TypeError: a leaf is neither a Bound nor a number.
        ValueError: no leaf; a number is not positive; bounds in different norms; from ``clip``,
            ``bounds`` is not a beginning of the update's tree.

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
    r"""Lets nothing in from far out: an update of norm above ``above`` contributes zero.

    clip(x) = bound(x) if ||x|| <= ``above``, else 0.

    A broken or hostile client then counts for nothing, where clipping lets it contribute C.  How many
    there were is counted (``zeroed``), and that count is not covered by the noise: see :class:`Clipped`.

    ============================  ==============================================================
    update and ``above``          result
    ============================  ==============================================================
    norm at most ``above``        as ``bound`` says
    norm above, or it overflows   zeros, clipped, zeroed; ``norm`` says what it was
    any entry inf or NaN          zeros, not finite, not zeroed: those are counted by themselves
    ``above`` inf                 as ``bound`` says
    ``above`` traced              as above; 0, negative and NaN let at most zeros through
    ============================  ==============================================================

    Guarantees: what a client contributes is in the radius of ``bound``, and the sum moves as far as with
        that.  The norm is compared as computed, which is within 4e-5 of the true one.

    Args:
        bound: of the updates that are let in.
        above: the threshold, in the norm of ``bound``; positive, may be inf or traced.  A constant, or
            computed from what is public: estimated from the same updates it would leak.

    Returns:
        A :class:`Bound` of the norm and radius of ``bound``.

    Raises:
        TypeError: ``bound`` is not a Bound, or ``above`` not a number.
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
    r"""Clients count for their weight, up to a public maximum.

    clip(x, w) = min(w, w_max) bound(x), with w_max = ``most``: w_max takes part in the sensitivity,
    the weights do not.  The denominator of a weighted mean should be a public estimate of the sum of
    the clamped weights, never that sum.

    ============================  ==============================================================
    weight and ``most``           what is contributed
    ============================  ==============================================================
    weight in (0, w_max]          the weight times ``bound``, less a part in 4 million
    weight above w_max, or inf    w_max times ``bound``, less a part in 4 million
    weight 0, negative or NaN     zeros
    update not finite             zeros
    ``most`` traced               as above; zeros if it is not positive and finite
    ============================  ==============================================================

    Guarantees: the true norm of what a client contributes is at most w_max C, after rounding, for C the
        radius of ``bound``.  The sum moves by w_max C if a client comes or goes, by 2 w_max C if one
        is replaced, with whatever weight.

    Args:
        bound: of the update before it is weighted.
        most: w_max, positive; may be traced.

    Returns:
        A :class:`Bound` in the norm of ``bound``, of radius w_max C.

    Raises:
        TypeError: ``bound`` is not a Bound, or ``most`` not a number.
        ValueError: ``most`` is not positive, or not finite.

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
        # Smaller by the four roundings of w_max, the factor, the product and its dtype.
        factor = jnp.where(counts, jnp.minimum(weight, limit) * (1 - 2.0**-22), 0.0)

        def scale(x: Array) -> Array:
            return narrow(x.astype(jnp.float32) * factor, x.dtype)

        return result._replace(update=jax.tree.map(scale, result.update))

    return bound._replace(clip=clip, radius=most * bound.radius)


def _joint_radius(norm: Norm, radii: list[Array | float]) -> Array | float:
    """The norm of the vector of radii: on the host where all are known, else rounded up."""
    if not all(map(_validate.concrete, radii)):
        measured = joint(norm, radii)
        return measured.norm * (1 + 2 * measured.slack)
    known = [float(radius) for radius in radii]
    return {"l2": math.hypot(*known), "l1": math.fsum(known), "linf": max(known)}[norm]


def _require_bound(where: str, value: Any) -> None:
    if not isinstance(value, Bound):
        raise TypeError(
            f"{where} needs a fjx.privacy.Bound such as privacy.by_global_norm(1.0), got {value!r}"
        )
