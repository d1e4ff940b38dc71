"""Mechanisms: the bound, the noise and what describes them, in one value."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx._kernels import random as _random
from fjx import _validate
from fjx._base import Array, Key, Metrics, Tree, TreeLike
from fjx.privacy._bounds.clip import Bound
from fjx.privacy._bounds.clip import Clipped
from fjx.privacy._bounds.clip import Relation
from fjx.privacy._bounds.clip import by_global_norm
from fjx.privacy._bounds.clip import require_floating


class Contribution(NamedTuple):
    """What one client adds to a round, and, added up, what the server sees; zeros of an absentee.

    Attributes:
        update: the bounded message, in float32, or in int32 as steps of a grid.
        clients: ``i32[]``, one.
        clipped: ``i32[]``, whether the message was scaled down.
        norm: ``f32[]``, its norm before.
        zeroed: ``i32[]``, whether zeros took its place; None where the bound never does that.
    """

    update: Tree
    clients: Array
    clipped: Array
    norm: Array
    zeroed: Array | None = None


class Participation(NamedTuple):
    """How often one client may take part in a run, for noise that is not independent between rounds.

    Attributes:
        rounds: T, the length of the run.
        separation: b, at least 1: between two of its rounds t < t' there are t' - t >= b.
        most: k, the most rounds that it takes part in.
    """

    rounds: int
    separation: int
    most: int


class RenyiCurve(NamedTuple):
    """Renyi differential privacy of one release, where dp-accounting has no event for it.

    Attributes:
        rdp: ``(orders) -> rdp``, NumPy arrays of floats; inf at orders for which nothing is known.
        words: the mechanism and its settings, for messages.
        distance: the total variation between what is drawn in one release and the law that has this
            curve, at most; it is charged to delta.
        caveat: what a claim by this curve rests on besides its proof; empty where it rests on nothing.
    """

    rdp: Callable[[np.ndarray], np.ndarray]
    words: str
    distance: float = 0.0
    caveat: str = ""


class Mechanism(NamedTuple):
    """A sum of bounded updates plus noise, described by the object that adds the noise.

    Attributes:
        init: ``(message_like) -> state``, before the first round: an adaptive bound, past noise; ``()``
            for most mechanisms.  No key is ever in it.  An adaptive bound is public, clients clip to it;
            past noise (:func:`correlated`) is the server's own, and a deployment must not send it.
        clip: ``(update, weight, state) -> Clipped``, what one client contributes; no axis of clients.
        release: ``(key, total, state) -> (noised sum, state, metrics)``, on the :class:`Contribution` of
            all clients together: adds noise *once*, on the *sum*.  Of its metrics ``noise_std`` is that
            of a coordinate of the sum.
        noise_multiplier: z, the noise's standard deviation in units of what a client may contribute, on
            the sum; may be traced.
        sensitivity: ``(relation) -> float``, how far the sum moves between neighbours: C if a client
            comes or goes, 2 C if its data are replaced.
        event: ``(moves) -> DpEvent`` of dp-accounting (or a :class:`RenyiCurve`), one release of a sum
            that moves by at most ``moves`` times what a client may contribute.  How many that is depends
            on the relation *and* on the accountant's convention; :func:`fjx.privacy.epsilon` knows both.
        correlation: None where the noise of a round is independent of that of others, and each round is
            a release.  Else ``(Participation) -> float``: the whole run is *one* release, of a sequence
            that a client moves by at most so many times what it may contribute to a round.
    """

    init: Callable[[TreeLike], Tree]
    clip: Callable[[Tree, Array, Tree], Clipped]
    release: Callable[[Key, Contribution, Tree], tuple[Tree, Tree, Metrics]]
    noise_multiplier: Array | float
    sensitivity: Callable[[Relation], Array | float]
    event: Callable[[float], Any]
    correlation: Callable[[Participation], float] | None = None


def gaussian(*, clip_norm: Array | float | Bound, noise_multiplier: Array | float) -> Mechanism:
    r"""The Gaussian mechanism on a sum of clipped updates.

    M(x_1, ..., x_m) = sum_i clip(x_i) + N(0, (z C)^2 I), with C = ``clip_norm`` and
    z = ``noise_multiplier``: the noise is relative to the sensitivity of the *sum* to one client more
    or less.  Replacing a client moves the sum by 2 C, which counts like half the multiplier.

    The noise is drawn in float32 with ``jax.random.normal``.  Like every floating-point sampler it
    has a lattice of possible values and tails cut near 5.4 standard deviations, and a floating sum
    rounds; an adversary who reads all bits of the output can exploit that (Mironov 2012).  The
    epsilon is that of the real-valued mechanism.

    Guarantees: leaf i's noise comes from ``fold_in(key, i)``; it depends on key, shapes and dtypes
        only; equal keys give equal noise; z = 0 adds nothing (and epsilon is inf).

    Args:
        clip_norm: C > 0, see :func:`clip_by_global_norm`; may be traced.  Or a :class:`Bound` in the L2
            norm, whose radius is C.
        noise_multiplier: z >= 0; may be traced.

    Returns:
        A :class:`Mechanism`.

    Raises:
        TypeError: not a real number.
        ValueError: ``clip_norm`` is not positive, ``noise_multiplier`` is negative, or one of them
            is not finite; a bound in another norm.

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

    def release(key: Key, total: Contribution, state: Tree) -> tuple[Tree, Tree, Metrics]:
        std = deviation(noise_multiplier, bound.radius)
        return add_noise(key, total.update, std), state, {"noise_std": std}

    return Mechanism(
        init=lambda message_like: (),
        clip=lambda update, weight, state: bound.clip(update, weight),
        release=release,
        noise_multiplier=noise_multiplier,
        sensitivity=bound.sensitivity,
        event=lambda moves: gaussian_event(noise_multiplier, moves),
    )


def as_bound(clip_norm: Array | float | Bound) -> Bound:
    """A number as :func:`by_global_norm`; a bound as it is, if Gaussian noise covers it.

    Raises:
        ValueError: a bound in another norm than L2.
    """
    bound = clip_norm if isinstance(clip_norm, Bound) else by_global_norm(clip_norm)
    if bound.norm != "l2":
        raise ValueError(
            f"Gaussian noise is calibrated to an L2 norm, and clip_norm bounds the {bound.norm} norm; "
            "pass a number or privacy.by_global_norm"
        )
    return bound


def deviation(noise_multiplier: Array | float, radius: Array | float) -> Array:
    """The standard deviation z C, in float32."""
    return jnp.asarray(noise_multiplier, jnp.float32) * jnp.asarray(radius, jnp.float32)


def add_noise(key: Key, total: Tree, std: Array) -> Tree:
    """``total`` plus independent normal noise of deviation ``std``, see :func:`draw_noise`.

    Raises:
        TypeError: a leaf is not floating, or the key is none.
    """
    require_floating("total", total)
    return add(total, draw_noise(key, total, std))


def draw_noise(key: Key, like: TreeLike, std: Array) -> Tree:
    """Normal noise in float32, in the shapes of ``like``: leaf i's from ``fold_in(key, i)``.

    Raises:
        TypeError: the key is none.
    """
    _validate.key("key", key)

    def draw(i: int, shape: tuple[int, ...]) -> Array:
        return std * _random.normal(jax.random.fold_in(key, i), shape)

    leaves, treedef = jax.tree.flatten(like)
    return treedef.unflatten([draw(i, leaf.shape) for i, leaf in enumerate(leaves)])


def add(total: Tree, noise: Tree) -> Tree:
    """``total + noise``, leaf by leaf, in the dtype of ``total``."""
    return jax.tree.map(lambda x, draw: x + draw.astype(x.dtype), total, noise)


def gaussian_event(noise_multiplier: Array | float, moves: float) -> Any:
    """The Gaussian event of one release.

    Raises:
        TypeError: ``noise_multiplier`` is traced.
    """
    import dp_accounting

    return dp_accounting.GaussianDpEvent(on_host(noise_multiplier) / moves)


def on_host(noise_multiplier: Array | float) -> float:
    """The multiplier as a Python number.

    Raises:
        TypeError: it is traced.
    """
    if not _validate.concrete(noise_multiplier):
        raise TypeError(
            "noise_multiplier is traced here and privacy is accounted on the host: call epsilon "
            "outside jit and vmap, with a mechanism of Python numbers"
        )
    return float(noise_multiplier)
