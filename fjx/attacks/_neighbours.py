"""The neighbouring cohorts that differ most, and the canary that is seen best."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Array, Compressor, Key, Tree
from fjx.attacks._ascent import Rows, ascend, through
from fjx.privacy import Mechanism, Norm, Relation
from fjx.privacy._types import require_relation

Statistic = Callable[[Tree, Array], Tree]
"""A function ``(messages [m, ...], weights f32[m]) -> tree``: what is released, before its noise.

A client of weight zero is absent.
"""


class Neighbours(NamedTuple):
    """Two cohorts that differ in one client, and how far their statistics are apart.

    Attributes:
        member: message of the client that is in the one cohort: the best canary that was found.
        other: message of the client in its place in the other; None if it is absent there.
        distance: ``f32[]``, the distance: a lower bound on the sensitivity.
        direction: the difference of the two statistics: what a test of membership looks for, as
            :func:`fjx.privacy.auditing.scores` does.
        found: ``f32[starts]``, the largest distance of each ascent.
    """

    member: Tree
    other: Tree | None
    distance: Array
    direction: Tree
    found: Array


def clipped_sum(mechanism: Mechanism) -> Statistic:
    """The sum to which a central mechanism adds its noise.

    Args:
        mechanism: mechanism such as :func:`fjx.privacy.gaussian`, in its first round.

    Returns:
        A :data:`Statistic` for :func:`neighbours`.

    Raises:
        TypeError: ``mechanism`` is something else.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import attacks, privacy
        >>> total = attacks.clipped_sum(privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0))
        >>> print(total(jnp.array([[0.5], [-9.0], [9.0]]), jnp.array([1.0, 1.0, 0.0])).round(4))
        [-0.5]
    """
    if not isinstance(mechanism, Mechanism):
        raise TypeError(
            "clipped_sum needs a fjx.privacy.Mechanism such as privacy.gaussian(...), got "
            f"{mechanism!r}; for another kind write a function (messages, weights) -> statistic"
        )

    def total(messages: Tree, weights: Array) -> Tree:
        state = mechanism.init(jax.tree.map(lambda x: _tree.like(x[0]), messages))

        def share(message: Tree, weight: Array) -> Tree:
            update = mechanism.clip(message, jnp.where(weight > 0, weight, 1.0), state).update
            return _tree.where(weight > 0, update, _tree.zeros_like(update))

        return jax.tree.map(lambda x: jnp.sum(x, axis=0), jax.vmap(share)(messages, weights))

    return total


def neighbours(
    key: Key,
    statistic: Statistic,
    messages: Tree,
    *,
    relation: Relation = "add_or_remove_one",
    norm: Norm = "l2",
    codec: Compressor | None = None,
    weight: float | Array = 1.0,
    starts: int = 64,
    steps: int = 50,
    reach: float | Array = 1e3,
) -> Neighbours:
    """Two cohorts that differ in one client and whose statistics gradient ascent drives apart.

    The distance is a lower bound on the sensitivity.  Above a stated sensitivity it breaks the privacy
    claim that is built on it; below it proves nothing.

    The member that was found is also a canary: put it into the data of some runs, score releases against
    ``direction``, and let :mod:`fjx.privacy.auditing` bound epsilon from below.  A random canary loses
    most of itself in a codec that selects; this one survives.

    Args:
        key: key of the starts and of the codec.
        statistic: released statistic without its noise, such as :func:`clipped_sum`.
        messages: tree of ``[m, ...]``, the other clients of the cohort, of weight one.
        relation: the member is absent in the other cohort, or has another message there.
        norm: norm of the distance.
        codec: codec that the member's message passes through; None for an arbitrary message.
        weight: weight of the member.
        starts: number of ascents.
        steps: steps of each.
        reach: largest norm of the member's message, in units of the root mean square norm of the others
            (of one, if they are zero).

    Returns:
        A :class:`Neighbours`.

    Raises:
        TypeError: a leaf of ``messages`` is not floating.
        ValueError: a word or number is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import attacks, privacy
        >>> mechanism = privacy.gaussian(clip_norm=0.5, noise_multiplier=1.0)
        >>> found = attacks.neighbours(
        ...     jax.random.key(0), attacks.clipped_sum(mechanism), jnp.ones((4, 3)), starts=4, steps=9)
        >>> print(round(float(found.distance), 3), mechanism.sensitivity("add_or_remove_one"))
        0.5 0.5

    References:
        Jagielski, Ullman, Oprea, *Auditing Differentially Private Machine Learning*, NeurIPS 2020
        (arXiv:2006.07709); Nasr et al., *Adversary Instantiation*, S&P 2021 (arXiv:2101.04535).
    """
    _validate.key("key", key)
    require_relation(relation)
    if norm not in ("l2", "l1", "linf"):
        raise ValueError(f'norm must be "l2", "l1" or "linf", got {norm!r}')
    starts = _validate.static_integer("starts", starts, at_least=1)
    steps = _validate.static_integer("steps", steps, at_least=1)
    _validate.number("reach", reach, above=0)
    _validate.number("weight", weight, above=0)
    rows = Rows.of("messages", messages)
    size = jnp.sqrt(jnp.mean(jnp.sum(jnp.square(rows.matrix), axis=1)))
    size = jnp.where(size > 0, size, 1.0)
    key_starts, key_codec = jax.random.split(key)
    present = jnp.asarray(weight, jnp.float32)

    def member(row: Array) -> Tree:
        return through(codec, jax.random.clone(key_codec), rows.message_of(size * row))

    def released(message: Tree, weight: Array) -> Tree:
        cohort = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), messages, message)
        weights = jnp.ones(rows.matrix.shape[0], jnp.float32)
        return statistic(cohort, jnp.concatenate([weights, weight[None]]))

    def difference(units: Array) -> Tree:
        with_it = released(member(units[0]), present)
        if relation == "replace_one":
            return _tree.subtract(with_it, released(member(units[1]), present))
        nobody = _tree.zeros_like(member(units[0]))
        return _tree.subtract(with_it, released(nobody, jnp.float32(0)))

    def distance(units: Array) -> Array:
        return _norm(norm, difference(units))

    mean = jnp.mean(rows.matrix, axis=0) / size
    both = jnp.stack([mean, -mean]) if relation == "replace_one" else mean[None]
    peak, found = ascend(key_starts, distance, both, starts=starts, steps=steps, reach=reach)
    return Neighbours(
        member=member(peak.rows[0]),
        other=member(peak.rows[1]) if relation == "replace_one" else None,
        distance=peak.value,
        direction=difference(peak.rows),
        found=found,
    )


def _norm(norm: Norm, tree: Tree) -> Array:
    x = _tree.wide(_tree.ravel(tree)[0])
    if norm == "l1":
        return jnp.sum(jnp.abs(x))
    if norm == "linf":
        return jnp.max(jnp.abs(x), initial=0.0)
    square = jnp.sum(jnp.square(x))
    # The root of zero has no gradient.
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
