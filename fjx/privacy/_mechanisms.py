"""Mechanisms: the bound, the noise and what describes them, in one value."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from fjx import _random, _validate
from fjx._base import Array, Key, Tree
from fjx.privacy._clip import Clipped, clip_by_global_norm, require_floating

Relation = Literal["add_or_remove_one", "replace_one"]
"""What makes two populations neighbours: one client more or less, or one client's data replaced."""


class Mechanism(NamedTuple):
    """A sum of bounded updates plus noise, described by the object that adds the noise.

    Attributes:
        clip: ``(update) -> Clipped``, what one client contributes; no axis of clients.
        noise: ``(key, total) -> total``, adds the noise to the sum.  Once a round, on the *sum*.
        clip_norm: C, the bound on one contribution's norm; may be traced.
        noise_multiplier: the noise's standard deviation in units of C, on the sum; may be traced.
        sensitivity: ``(relation) -> float``, how far the sum moves between neighbours: C if a client
            comes or goes, 2 C if its data are replaced.
        event: ``(moves) -> DpEvent`` of dp-accounting, one release of a sum that moves by at most
            ``moves`` clip norms.  How many that is depends on the relation *and* on the accountant's
            convention; :func:`fjx.privacy.epsilon` knows both.
    """

    clip: Callable[[Tree], Clipped]
    noise: Callable[[Key, Tree], Tree]
    clip_norm: Array | float
    noise_multiplier: Array | float
    sensitivity: Callable[[Relation], Array | float]
    event: Callable[[float], Any]


def gaussian(*, clip_norm: Array | float, noise_multiplier: Array | float) -> Mechanism:
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
        clip_norm: C > 0, see :func:`clip_by_global_norm`; may be traced.
        noise_multiplier: z >= 0; may be traced.

    Returns:
        A :class:`Mechanism`.

    Raises:
        TypeError: not a real number.
        ValueError: ``clip_norm`` is not positive, ``noise_multiplier`` is negative, or one of them
            is not finite.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> mechanism = gaussian(clip_norm=2.0, noise_multiplier=0.5)
        >>> mechanism.sensitivity("replace_one")
        4.0
        >>> noise = mechanism.noise(jax.random.key(0), jnp.zeros(10_000))
        >>> print(f"{jnp.std(noise):.1f}")  # z C = 1
        1.0

    References:
        Dwork, Roth, *The Algorithmic Foundations of Differential Privacy*, 2014, appendix A.
        McMahan, Ramage, Talwar, Zhang, *Learning Differentially Private Recurrent Language Models*,
        ICLR 2018 (arXiv:1710.06963).
        Mironov, *On Significance of the Least Significant Bits for Differential Privacy*, CCS 2012.
    """
    _validate.number("clip_norm", clip_norm, above=0)
    _validate.number("noise_multiplier", noise_multiplier, at_least=0)

    def noise(key: Key, total: Tree) -> Tree:
        _validate.key("key", key)
        require_floating("total", total)
        std = jnp.asarray(noise_multiplier, jnp.float32) * jnp.asarray(clip_norm, jnp.float32)

        def add(i: int, x: Array) -> Array:
            draw = std * _random.normal(jax.random.fold_in(key, i), x.shape)
            return x + draw.astype(x.dtype)

        leaves, treedef = jax.tree.flatten(total)
        return treedef.unflatten([add(i, leaf) for i, leaf in enumerate(leaves)])

    def sensitivity(relation: Relation) -> Array | float:
        require_relation(relation)
        return clip_norm if relation == "add_or_remove_one" else 2 * clip_norm

    def event(moves: float) -> Any:
        import dp_accounting

        if not _validate.concrete(noise_multiplier):
            raise TypeError(
                "noise_multiplier is traced here and privacy is accounted on the host: call epsilon "
                "outside jit and vmap, with a mechanism of Python numbers"
            )
        return dp_accounting.GaussianDpEvent(float(noise_multiplier) / moves)

    return Mechanism(
        clip=lambda update: clip_by_global_norm(update, clip_norm),
        noise=noise,
        clip_norm=clip_norm,
        noise_multiplier=noise_multiplier,
        sensitivity=sensitivity,
        event=event,
    )


def require_relation(relation: Any) -> None:
    """Raises unless ``relation`` is one of :data:`Relation`.

    Raises:
        ValueError: naming those that are.
    """
    if relation not in get_args(Relation):
        raise ValueError(f"relation must be one of {get_args(Relation)}, got {relation!r}")
