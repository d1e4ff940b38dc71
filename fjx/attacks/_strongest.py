"""The strongest attack on an aggregator that gradient ascent finds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Aggregator, Array, Compressor, Key, Tree
from fjx.aggregators import aggregate
from fjx.aggregators._around import require_aggregator
from fjx.attacks._ascent import Rows, ascend, through

Damage = Callable[[Tree, Tree], Array]
"""A function ``(aggregate, honest [n, ...]) -> f32[]``: how bad a result is."""


class Strongest(NamedTuple):
    """The worst case that :func:`strongest` found; ``print`` shows it beside what is proved.

    Attributes:
        lies: tree of ``[f, ...]``, the messages of the attackers.
        damage: ``f32[]``, the damage that they do: a lower bound on the worst.
        found: ``f32[starts]``, the largest damage of each ascent.
        proved: proved bound on the damage, or None.
    """

    lies: Tree
    damage: Array
    found: Array
    proved: Any = None

    def __str__(self) -> str:
        words = f"worst damage found {float(self.damage):.4g}, by {self.found.shape[-1]} ascents"
        return words if self.proved is None else f"{words}; proved at most {float(self.proved):.4g}"


def distortion(aggregate: Tree, honest: Tree) -> Array:
    r"""Squared distance of an aggregate from the honest mean, in units of the honest variance.

    .. math:: \|F - \bar x\|^2 \Big/ \tfrac{1}{n} \sum_i \|x_i - \bar x\|^2

    An aggregator is (f, kappa)-robust if this is at most kappa for any f lies among any messages.

    Args:
        aggregate: result of an aggregator.
        honest: tree of ``[n, ...]``, the honest messages.

    Returns:
        ``f32[]``; zero if the aggregate is the honest mean, even where the variance is zero.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import attacks
        >>> float(attacks.distortion(jnp.array(4.0), jnp.array([1.0, 3.0])))
        4.0

    References:
        Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, *Fixing by Mixing*, AISTATS 2023
        (arXiv:2302.01772), definition 2.
    """
    rows = Rows.of("honest", honest).matrix
    mean = jnp.mean(rows, axis=0)
    moved = jnp.sum(jnp.square(_tree.ravel(aggregate)[0].astype(mean.dtype) - mean))
    variance = jnp.mean(jnp.sum(jnp.square(rows - mean[None]), axis=1))
    return jnp.where(moved > 0, moved / variance, 0.0)


def strongest(
    key: Key,
    aggregator: Aggregator,
    honest: Tree,
    f: int,
    *,
    damage: Damage = distortion,
    codec: Compressor | None = None,
    proved: float | Array | None = None,
    starts: int = 64,
    steps: int = 50,
    reach: float | Array = 1e3,
) -> Strongest:
    """The worst lies of f attackers among honest messages that gradient ascent finds.

    The ascent goes through the codec, the clip, the aggregator with its noise, and all that ``damage``
    does with the result, such as a server step and a loss.  The gradient passes straight through a
    codec.  An aggregator that selects has the gradient of the selected messages.  If there is none,
    because noise is added to integers or a message is ignored, the better side of a random line is
    taken.

    The damage that is found is certain, and a larger one may exist.  Below a proved bound it supports
    the proof.  Above it there is a fault in one of the two.

    The function is pure: ``jax.vmap`` it over keys, over honest messages, and over traced parameters of
    an aggregator.  Memory is that of ``starts`` aggregations.

    Args:
        key: key of the starts, of codecs and of the aggregator's noise; one draw of noise for all.
        aggregator: the aggregator; one that adds will do.
        honest: tree of ``[n, ...]``, the honest messages as the server decodes them.
        f: number of attackers.
        damage: function ``(aggregate, honest) -> f32[]``.  For the harm to a model make it a loss after
            the server's step: ``lambda step, honest: loss(server.update(state, step).params)``.
        codec: codec that lies must pass through; None for arbitrary ones.
        proved: proved bound on the damage, to print beside it; see :mod:`fjx.theory`.
        starts: number of ascents.
        steps: steps of each.
        reach: largest distance of a lie from the honest mean, in units of the honest standard deviation.

    Returns:
        A :class:`Strongest`.

    Raises:
        TypeError: an argument is of another kind, or a leaf of ``honest`` is not floating.
        ValueError: a number is out of range, or there is no honest message.

    Examples:
        One attacker moves a mean as far as it likes, and a median hardly:

        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators, attacks
        >>> honest = jnp.array([[1.0], [2.0], [3.0], [4.0]])
        >>> for defence in (aggregators.mean(), aggregators.median()):
        ...     print(attacks.strongest(jax.random.key(0), defence, honest, 1, starts=8, steps=20))
        worst damage found 4e+04, by 8 ascents
        worst damage found 0.2, by 8 ascents
    """
    _validate.key("key", key)
    require_aggregator("strongest", aggregator)
    f = _validate.static_integer("f", f, at_least=1)
    starts = _validate.static_integer("starts", starts, at_least=1)
    steps = _validate.static_integer("steps", steps, at_least=1)
    _validate.number("reach", reach, above=0)
    rows = Rows.of("honest", honest)
    mean = jnp.mean(rows.matrix, axis=0)
    spread = jnp.sqrt(jnp.mean(jnp.sum(jnp.square(rows.matrix - mean[None]), axis=1)))
    spread = jnp.where(spread > 0, spread, 1.0)
    key_starts, key_codec, key_round = jax.random.split(key, 3)

    def lies(units: Array) -> Tree:
        keys = jax.random.split(jax.random.clone(key_codec), f)
        sent = rows.trees(mean[None] + spread * units)
        return jax.vmap(lambda key, message: through(codec, key, message))(keys, sent)

    def harm(units: Array) -> Array:
        messages = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), honest, lies(units))
        result, _, _ = aggregate(jax.random.clone(key_round), aggregator, messages)
        return damage(result, honest)

    peak, found = ascend(
        key_starts,
        harm,
        jnp.broadcast_to(mean[None], (f, mean.size)),
        starts=starts,
        steps=steps,
        reach=reach,
    )
    return Strongest(lies(peak.rows), peak.value, found, proved)
