"""Rounds in which some candidates are chosen by a score of the current model on their data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import (
    Algorithm,
    Array,
    Cohort,
    Examples,
    Executor,
    Key,
    Metrics,
    Traffic,
    Tree,
)
from fjx.rounds._executors import vectorized
from fjx.rounds._metrics import bytes_of_a_cohort, bytes_sent
from fjx.rounds._state import invited, require_rows

Score = Callable[[Key, Tree, Examples], Array]
"""A number ``(key, model, examples) -> f32[]``, such as :func:`fjx.clients.mean_loss`."""

Choose = Callable[[Key, Array, Array, int], tuple[Array, Array]]
"""The chosen slots ``(key, scores, weights, size) -> (i32[size], f32[size])`` and their weights."""


def selecting(algorithm: Algorithm, score: Score, *, choose: Choose, size: int) -> Algorithm:
    """The algorithm on some of the cohort's clients, chosen by a score of the model on their data.

    The sampler draws the candidates.  Each candidate is sent the model and returns a score; the server
    chooses ``size`` of them, which play the round of ``algorithm``.  All of it is one compiled round.

    Guarantees:
        - Candidates that are not chosen keep their rows bit for bit.
        - The choice depends neither on the order of slots nor on padding.
        - A candidate that drops out, or without examples, is not chosen: its score does not count.
        - A candidate whose score is not finite is chosen last, and counts as ``nonfinite``.
        - With as many candidates as ``size``, and :func:`highest`, it is ``algorithm``.

    Bits:
        Those of the chosen clients' messages, and 32 for each candidate's score; down, the model for
        each candidate.

    Args:
        algorithm: any algorithm without a privacy claim.
        score: ``(key, model, examples) -> f32[]``, such as ``clients.mean_loss(loss_fn, batch_size=32)``
            or ``clients.gradient_norm(...)``.  ``model`` is that of the server, before a downlink codec.
        choose: :func:`highest` or :func:`proportional`, or a function of yours
            ``(key, scores, weights, size) -> (slots, weights)``: distinct slots, ``i32[size]``, and the
            weights that they have in the round.
        size: number of clients that are chosen.

    Returns:
        An :class:`fjx.Algorithm` with the states of ``algorithm``.  Its metrics are those of
        ``algorithm`` with ``invited`` counting candidates, and ``uplink_bytes``.

    Raises:
        TypeError: ``algorithm`` is not an algorithm; a function is not callable.
        ValueError: the algorithm adds noise for privacy: who takes part then depends on data, which no
            accountant covers; (when traced) there are fewer slots than ``size``.

    Examples:
        Power-of-choice: of ten random candidates, the three with the largest losses:

        >>> import jax.numpy as jnp, fjx
        >>> def loss_fn(w, x, key):
        ...     return jnp.mean((w - x) ** 2)
        >>> algorithm = fjx.rounds.selecting(
        ...     fjx.algorithms.fedavg(loss_fn, client_lr=0.1, batch_size=10),
        ...     fjx.clients.mean_loss(loss_fn, batch_size=10), choose=fjx.rounds.highest, size=3)
        >>> sampler = fjx.samplers.uniform(10)

    References:
        Cho, Wang, Joshi, *Towards Understanding Biased Client Selection in Federated Learning*, AISTATS
        2022 (arXiv:2010.01243), section 4.
    """
    if not isinstance(algorithm, Algorithm):
        raise TypeError(f"algorithm must be an fjx.Algorithm, got {type(algorithm).__name__}")
    for name, function in (("score", score), ("choose", choose)):
        if not callable(function):
            raise TypeError(f"{name} must be a function, got {function!r}")
    size = _validate.static_integer("size", size, at_least=1)
    if algorithm.aggregator is not None and algorithm.aggregator.mechanisms:
        raise ValueError(
            "algorithm adds noise for privacy, and selecting decides by the clients' data who takes "
            "part, which is itself a release without noise: choose clients by a sampler"
        )

    def play(
        key: Key, state: Any, rows: Tree, cohort: Cohort, *, executor: Executor | None = None
    ) -> tuple[Any, Tree, Metrics]:
        _validate.key("key", key)
        require_rows(rows, cohort)
        slots = cohort.ids.shape[0]
        if slots < size:
            raise ValueError(
                f"size must be at most the number of candidates, {slots}, got {size}; let the sampler "
                "draw more clients"
            )
        key_scores, key_choice = (
            jax.random.fold_in(jax.random.clone(key), 2**32 - 2 - i) for i in range(2)
        )
        execute = vectorized() if executor is None else executor
        shared = _Shared(key_scores, state.params, cohort.examples.arrays)
        candidates = _Candidate(cohort.ids, cohort.examples.offset, cohort.examples.size)
        _, scores = execute(_scored(score), shared, candidates, cohort.examples.size)

        broken = (cohort.weights > 0) & ~jnp.isfinite(scores)
        fits = (cohort.weights > 0) & ~broken
        scores = jnp.where(fits, scores.astype(jnp.float32), -jnp.inf)
        by_id = jnp.argsort(cohort.ids)  # so that the choice does not depend on the order of slots
        chosen, weights = choose(key_choice, scores[by_id], cohort.weights[by_id], size)
        chosen = by_id[chosen]
        after, own, metrics = algorithm.round(
            key, state, _at(rows, chosen), _part(cohort, chosen, weights), executor=executor
        )
        rows = jax.tree.map(lambda x, new: x.at[chosen].set(new), rows, own)
        metrics = _billed(algorithm.traffic(state.params), metrics, cohort)
        # A chosen client counts as broken by its message.
        broken = broken.at[chosen].set(broken[chosen] & (weights <= 0))
        failed = metrics["nonfinite"] + jnp.sum(broken, dtype=jnp.int32)
        return after, rows, {**metrics, "nonfinite": failed}

    def traffic(params: Tree) -> Traffic:
        inner = algorithm.traffic(params)
        return inner._replace(uplink=inner.uplink + 32)

    return algorithm._replace(round=play, traffic=traffic, runs=None, expected=None)


class _Shared(NamedTuple):
    key: Key
    model: Tree
    arrays: Tree


class _Candidate(NamedTuple):
    id: Array
    offset: Array
    size: Array


def _scored(score: Score) -> Callable[[_Shared, _Candidate], tuple[Tree, Array]]:
    def one(shared: _Shared, slot: _Candidate) -> tuple[Tree, Array]:
        examples = Examples(shared.arrays, slot.offset, slot.size)
        return (), score(jax.random.fold_in(shared.key, slot.id), shared.model, examples)

    return one


def _at(tree: Tree, slots: Array) -> Tree:
    return jax.tree.map(lambda x: x[slots], tree)


def _part(cohort: Cohort, slots: Array, weights: Array) -> Cohort:
    """The cohort of the chosen slots."""
    examples = cohort.examples._replace(
        offset=cohort.examples.offset[slots], size=cohort.examples.size[slots]
    )
    there = cohort.weights[slots] > 0
    return cohort._replace(
        ids=cohort.ids[slots],
        weights=jnp.where(there, weights, 0.0),
        examples=examples,
        present=None if cohort.present is None else cohort.present[slots] & (weights > 0),
    )


def _billed(traffic: Traffic, metrics: Metrics, cohort: Cohort) -> Metrics:
    """The metrics with the bytes of scores, and with the candidates as those who were sent the model."""
    told = jnp.sum(cohort.weights > 0, dtype=jnp.int32)
    low, high = bytes_sent(jax.ShapeDtypeStruct((), jnp.float32), told)
    if "uplink_bytes" in metrics:
        whole = metrics["uplink_bytes"]
        low, high = low + (whole & 0xFFFF), high + (whole >> 16)
    else:
        message = jax.ShapeDtypeStruct((traffic.uplink // 8,), jnp.uint8)
        sent = bytes_sent(message, metrics["participants"] + metrics["nonfinite"])
        low, high = low + sent[0], high + sent[1]
    return {
        **metrics,
        "invited": invited(cohort),
        "uplink_bytes": bytes_of_a_cohort(low, high),
    }


def highest(key: Key, scores: Array, weights: Array, size: int) -> tuple[Array, Array]:
    """Choice of the candidates with the highest scores, with the weights that they have.

    With the loss as the score it is power-of-choice.  The mean of their updates is biased towards
    clients with large losses, on purpose: it converges faster, and not to the same point.

    Args:
        key: key of the choice; not used.
        scores: ``f32[m]``; -infinity for a candidate that cannot be chosen.
        weights: ``f32[m]``, weights of the candidates.
        size: number that is chosen.

    Returns:
        The chosen slots, ``i32[size]``, and their weights.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import rounds
        >>> scores, weights = jnp.array([1.0, 3.0, 2.0]), jnp.array([5.0, 6.0, 7.0])
        >>> slots, kept = rounds.highest(jax.random.key(0), scores, weights, 2)
        >>> slots.tolist(), kept.tolist()
        ([1, 2], [6.0, 7.0])

    References:
        Cho, Wang, Joshi, AISTATS 2022 (arXiv:2010.01243), pow-d.
    """
    _, slots = jax.lax.top_k(scores, size)
    return slots, weights[slots]


def proportional(key: Key, scores: Array, weights: Array, size: int) -> tuple[Array, Array]:
    r"""Choice by importance: a candidate is chosen with a probability in proportion to weight x score.

    Inclusion probabilities pi_k = min(1, c w_k s_k) sum to ``size``; the constant c follows.  Exactly
    ``size`` candidates are drawn, by systematic sampling, and a chosen one has the weight
    w_k / (pi_k W), where W is the sum of all candidates' weights.  With the norms of the updates as
    scores, these are the probabilities of the least variance among independent choices.

    Guarantees:
        - Candidates are distinct, and each is chosen with probability pi_k.
        - With ``aggregator=aggregators.weighted_sum()`` the aggregate is unbiased: its mean over the
          choice is sum_k w_k x_k / W, the weighted mean over all candidates.
        - With :func:`fjx.aggregators.mean` it is a ratio of two unbiased sums, and so biased by the
          order of 1 / ``size``.
        - A candidate whose score is zero is never chosen while others can be, so its update must be
          zero for the mean to be unbiased.

    Args:
        key: key of the choice.
        scores: ``f32[m]``, not negative; -infinity for a candidate that cannot be chosen.
        weights: ``f32[m]``, weights of the candidates.
        size: number that is chosen.

    Returns:
        The chosen slots, ``i32[size]``, and their weights; zero where fewer candidates can be chosen.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import rounds
        >>> slots, weights = rounds.proportional(
        ...     jax.random.key(0), jnp.array([9.0, 0.5, 0.5]), jnp.ones(3), 2)
        >>> 0 in slots.tolist(), sorted(round(float(w), 3) for w in weights)
        (True, [0.333, 0.667])

    References:
        Chen, Horvath, Richtarik, *Optimal Client Sampling for Federated Learning*, TMLR 2022
        (arXiv:2010.13723), equation 7; systematic sampling with unequal probabilities is that of Madow,
        Annals of Mathematical Statistics 1949.
    """
    key_order, key_start = jax.random.split(key)
    can = (weights > 0) & jnp.isfinite(scores)
    sizes = jnp.where(can, weights * jnp.maximum(scores, 0.0), 0.0)
    # If nobody has a positive score, all are alike.
    sizes = jnp.where(jnp.any(sizes > 0), sizes, jnp.where(can, weights, 0.0))
    inclusion = inclusion_probabilities(sizes, size)

    # Systematic sampling: a comb of step one, with a random start, on the probabilities in a row.
    # Padding comes last, and the first numbers of a key do not depend on how many are drawn.
    order = jnp.argsort(jax.random.uniform(key_order, scores.shape))
    ends = jnp.cumsum(inclusion[order])
    # Rounding must not lose the last one.
    ends = jnp.where(ends > ends[-1] - 1e-4, jnp.round(ends[-1]), ends)
    start = jax.random.uniform(key_start)
    comb = start + jnp.arange(size, dtype=jnp.float32)
    places = jnp.searchsorted(ends, comb, side="right")
    slots = order.at[places].get(mode="clip")
    there = comb < ends[-1]
    # Slots that the comb does not reach are those of candidates without a chance, each once.
    rest = jnp.argsort(jnp.zeros(scores.size, jnp.int32).at[slots].add(there.astype(jnp.int32)))
    slots = jnp.where(there, slots, rest[:size][jnp.cumsum(~there) - 1]).astype(jnp.int32)
    whole = jnp.sum(jnp.where(can, weights, 0.0))
    share = weights[slots] / (inclusion[slots] * whole)
    return slots, jnp.where(there & (inclusion[slots] > 0), share, 0.0)


def inclusion_probabilities(sizes: Array, count: int) -> Array:
    """``f32[m]``: min(1, c sizes) with the sum ``count``; ones if at most that many are positive."""
    order = jnp.argsort(-sizes)
    ranked = sizes[order]
    places = jnp.arange(sizes.size, dtype=jnp.int32)
    # With the j largest certain, c is (count - j) over the sum of the others.  The least j that fits.
    rest = jnp.cumsum(ranked[::-1])[::-1]
    left = (count - places).astype(sizes.dtype)
    certain = jnp.argmax((left * ranked <= rest) | (left <= 0))
    c = jnp.maximum(left[certain], 0.0) / jnp.where(rest[certain] > 0, rest[certain], 1.0)
    bounded = jnp.where(places < certain, 1.0, jnp.minimum(c * ranked, 1.0))
    few = jnp.sum(sizes > 0) <= count
    chances = jnp.where(few, (ranked > 0).astype(sizes.dtype), bounded.astype(sizes.dtype))
    return jnp.zeros_like(sizes).at[order].set(chances)
