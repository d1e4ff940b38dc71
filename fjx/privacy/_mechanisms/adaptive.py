"""Adaptive clipping: the clip norm follows a quantile of the updates' norms, privately."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Key, Metrics, Tree, TreeLike
from fjx.privacy._bounds.clip import by_global_norm
from fjx.privacy._mechanisms import grid
from fjx.privacy._mechanisms.gaussian import as_bound, deviation, gaussian_event
from fjx.privacy._types import Bound, Clipped, Contribution, Mechanism, Relation

LEAST, MOST = 2.0**-64, 2.0**64  # limits of C: noise scaled by C neither vanishes nor overflows


class AdaptiveState(NamedTuple):
    """State of :func:`adaptive_gaussian`.

    Attributes:
        clip_norm: ``f32[]``, the clip norm C_t; public.
    """

    clip_norm: Array


def adaptive_gaussian(
    *,
    initial_clip: Array | float,
    noise_multiplier: Array | float,
    cohort_size: Array | float,
    target_quantile: Array | float = 0.5,
    learning_rate: Array | float = 0.2,
    count_noise: Array | float | None = None,
    bound: Callable[[Array | float], Bound] = by_global_norm,
) -> Mechanism:
    r"""Gaussian mechanism whose clip norm follows a quantile of the norms of the updates.

    Use it when no good clip norm is known in advance.  Let b_i = 1 if client i was not clipped at C_t,
    and 0 if it was.  With m = ``cohort_size``, gamma = ``target_quantile``, eta = ``learning_rate`` and
    sigma_b = ``count_noise``, the server sees in round t

        sum_i clip(x_i; C_t) + N(0, (z_delta C_t)^2 I)   and
        b~ = 1/2 + (sum_i (b_i - 1/2) + N(0, sigma_b^2)) / m.

    It then updates the clip norm, which falls if too many updates fit:

    .. math:: C_{t+1} = C_t \exp(-\eta (\tilde b - \gamma))

    *Privacy.*  Sum and count are accounted as one Gaussian release of multiplier z =
    ``noise_multiplier``, for every C_t, because z_delta = (z^-2 - (2 sigma_b)^-2)^(-1/2).  Do not
    account them as two separately sampled releases of multipliers z_delta and 2 sigma_b: they use the
    same cohort, and that would claim too small an epsilon.  The proof is in :doc:`/privacy_proofs`.

    All numbers may be traced.

    ============================  ==============================================================
    round                         result
    ============================  ==============================================================
    no client took part           noise is added to zeros; b~ is 1/2 plus noise
    a client of weight zero       contributes to neither
    an update not finite          contributes to neither
    an update zeroed by `bound`   zeros, and counts as clipped
    C would leave [2^-64, 2^64]   it stays at the end: the noise neither vanishes nor overflows
    ============================  ==============================================================

    Guarantees:
        - Epsilon is that of ``gaussian`` with the same z.
        - C stays positive and finite under any history.
        - If all updates are clipped and the count has no noise, C grows by exp(eta gamma) a round.
        - If ``count_noise`` is traced and too small, the noise is NaN.

    Args:
        initial_clip: first clip norm C_0 in [2^-64, 2^64].  Prefer a value that is too small, because C
            grows and falls by factors.
        noise_multiplier: noise multiplier z >= 0 of sum and count together.
        cohort_size: expected number m > 0 of participants; public, and not the number that took part.
        target_quantile: quantile gamma in [0, 1].
        learning_rate: step size eta >= 0 of the clip norm.
        count_noise: standard deviation sigma_b > z / 2 of the noise on the count; None for m / 20.
        bound: ``(C_t) -> Bound`` in the L2 norm, with a radius proportional to C_t; for example
            ``lambda c: privacy.zeroed(privacy.by_global_norm(c), above=10 * c)``.

    Returns:
        A :class:`Mechanism` whose state is an :class:`AdaptiveState`.  Its ``sensitivity`` is that of
        the first round; in later rounds it has the same ratio to C_t as it had to C_0.  Its metrics are
        public: ``clip_norm`` (C_t), ``noised_unclipped`` (b~) and ``noise_std``.

    Raises:
        TypeError: an argument is not a real number.
        ValueError: an argument is out of range; ``count_noise`` is at most z / 2, which leaves nothing
            for the sum; the bound is in another norm than L2.

    Examples:
        >>> from fjx import aggregators, privacy, samplers
        >>> mechanism = adaptive_gaussian(initial_clip=0.1, noise_multiplier=1.0, cohort_size=100)
        >>> aggregator = aggregators.private(mechanism, denominator=100)
        >>> claims = [
        ...     privacy.epsilon(m, samplers.poisson(0.01), rounds=1000, delta=1e-5, method="rdp")
        ...     for m in (mechanism, privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0))]
        >>> claims[0] == claims[1]
        True

    References:
        Andrew, Thakkar, McMahan, Ramaswamy, *Differentially Private Learning with Adaptive Clipping*,
        NeurIPS 2021 (arXiv:1905.03871), algorithm 1 and theorem 1.
    """
    initial_clip = _validate.scalar("initial_clip", initial_clip, at_least=LEAST, at_most=MOST)
    noise_multiplier = _validate.scalar("noise_multiplier", noise_multiplier, at_least=0)
    cohort_size = _validate.scalar("cohort_size", cohort_size, above=0)
    target_quantile = _validate.scalar("target_quantile", target_quantile, at_least=0, at_most=1)
    learning_rate = _validate.scalar("learning_rate", learning_rate, at_least=0)
    sigma_b = cohort_size / 20 if count_noise is None else count_noise
    sigma_b = _validate.scalar("count_noise", sigma_b, at_least=0)
    on_sum = split_noise(noise_multiplier, sigma_b)

    def bound_at(clip_norm: Array | float) -> Bound:
        return as_bound(bound(clip_norm))

    bound_at(initial_clip)  # called for its checks

    def init(message_like: TreeLike) -> AdaptiveState:
        return AdaptiveState(jnp.asarray(initial_clip, jnp.float32))

    def clip(update: Tree, weight: Array, state: AdaptiveState) -> Clipped:
        return bound_at(state.clip_norm).clip(update, weight)

    def release(
        key: Key, total: Contribution, state: AdaptiveState
    ) -> tuple[Tree, AdaptiveState, Metrics]:
        radius = bound_at(state.clip_norm).radius
        leaves, dtypes, treedef = grid.parts(grid.GAUSSIAN, total.update, on_sum, radius)
        # A client counts +1/2 or -1/2 on a grid of its own.
        on_count = grid.step_of(grid.GAUSSIAN, 2 * sigma_b, 0.5)
        half = grid.in_steps(grid.GAUSSIAN, jnp.float32(0.5), 2 * sigma_b, 0.5)
        balance = total.clients - 2 * total.clipped
        counted = grid.Steps(tuple(balance * digit for digit in half.digits))

        shapes = grid.shapes_of([*leaves, counted])
        *noise, own = grid.draw(grid.GAUSSIAN, key, shapes)
        noise = [grid.shrunk(x, on_sum) for x in noise]
        step = grid.step_of(grid.GAUSSIAN, on_sum, radius)
        noised = grid.assemble(leaves, noise, step, total.clients, dtypes, treedef)
        count = grid.value(counted, grid.shrunk(own, 2 * sigma_b), on_count)
        unclipped = count / jnp.asarray(cohort_size, jnp.float32) + 0.5
        change = jnp.asarray(learning_rate, jnp.float32) * (unclipped - target_quantile)
        clip_norm = jnp.clip(state.clip_norm * jnp.exp(-change), LEAST, MOST)
        metrics = {
            "clip_norm": state.clip_norm,
            "noised_unclipped": unclipped,
            "noise_std": deviation(on_sum, radius),
        }
        return noised, AdaptiveState(clip_norm), metrics

    def to_steps(update: Tree, state: AdaptiveState) -> Tree:
        radius = bound_at(state.clip_norm).radius
        return grid.in_steps(grid.GAUSSIAN, update, on_sum, radius)

    def sensitivity(relation: Relation) -> Array | float:
        return bound_at(initial_clip).sensitivity(relation)

    return Mechanism(
        init=init,
        clip=clip,
        release=release,
        noise_multiplier=noise_multiplier,
        sensitivity=sensitivity,
        event=lambda moves: gaussian_event(noise_multiplier, moves),
        to_steps=to_steps,
        distance=grid.DISTANCE,
    )


def split_noise(noise_multiplier: Array | float, count_noise: Array | float) -> Array | float:
    """Multiplier z_delta of the noise on the sum, beside a count noised with sigma_b.

    Raises:
        ValueError: sigma_b is at most z / 2.
    """
    if _validate.concrete(noise_multiplier) and _validate.concrete(count_noise):
        z, sigma_b = float(noise_multiplier), float(count_noise)
        if z == 0:
            return 0.0
        if z >= 2 * sigma_b:
            raise ValueError(
                f"count_noise must be greater than noise_multiplier / 2 = {z / 2:g}, got {sigma_b:g}: "
                "the count alone would spend all of the privacy; raise it (for count_noise=None, "
                "raise cohort_size)"
            )
        return z * (1 - (z / (2 * sigma_b)) ** 2) ** -0.5
    spent, half = (jnp.asarray(x, jnp.float32) for x in (noise_multiplier, count_noise))
    share = jnp.where(spent > 0, spent / (2 * half), 0.0)
    # The product avoids the cancellation of 1 - share^2 near 1.
    return jnp.where(share < 1, spent / jnp.sqrt((1 - share) * (1 + share)), jnp.nan)
